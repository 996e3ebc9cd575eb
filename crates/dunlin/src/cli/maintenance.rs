//! `dunlin maintenance`: tell an app's visitors to come back later.

use api::public::maintenance::{BeginMaintenance, Maintenance as State, RETRY_AFTER_S};
use clap::Subcommand;

use super::{context::Context, exit::Failure};

/// What to do about maintenance mode.
#[derive(Debug, Subcommand)]
pub enum Maintenance {
    /// Answer every request to the app with 503, whatever its machines do
    On {
        /// What visitors read
        #[arg(long, short, default_value = "")]
        message: String,
        /// After how many seconds visitors may try again
        #[arg(long, default_value_t = RETRY_AFTER_S)]
        retry_after: u32,
    },
    /// Open the app again
    Off,
    /// Show whether the app is in maintenance mode
    Status,
}

/// Does it.
pub async fn run(context: &Context, command: Maintenance) -> Result<(), Failure> {
    let (client, app) = (context.client()?, context.app()?);
    let state = match command {
        Maintenance::On { message, retry_after } => {
            let request = BeginMaintenance { message, retry_after_s: Some(retry_after) };
            let state = client.begin_maintenance(&app, &request).await?;
            context.out.say(format!("{app} is in maintenance mode. `dunlin maintenance off` opens it again."));
            state
        }
        Maintenance::Off => {
            let state = client.end_maintenance(&app).await?;
            context.out.say(format!("{app} is open."));
            state
        }
        Maintenance::Status => client.maintenance(&app).await?,
    };
    context.out.data(&state, || text(&state))
}

fn text(state: &State) -> String {
    let State { enabled: true, since, message, .. } = state else { return "off".to_owned() };
    let since = since.map_or_else(String::new, |since| format!(" since {}", kit::clock::rfc3339(since.0)));
    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
    format!("on{since}{message}")
}
