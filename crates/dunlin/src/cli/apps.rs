//! `dunlin apps`: create, list, destroy.

use api::public::machines::CreateApp;
use clap::Subcommand;
use model::AppName;

use super::{
    client::Client,
    context::{Context, app_name},
    exit::{Exit, Failure},
    output::table,
    terminal,
};

/// What to do about apps.
#[derive(Debug, Subcommand)]
pub enum Apps {
    /// Create an app
    Create {
        /// Its name: the first label of its address
        name: String,
        /// Its organization
        #[arg(long, short, default_value = "")]
        org: String,
        /// Its private network; the organization's own unless given
        #[arg(long, default_value = "")]
        network: String,
    },
    /// List apps
    #[command(visible_alias = "ls")]
    List {
        /// Of this organization only
        #[arg(long, short)]
        org: Option<String>,
    },
    /// Destroy an app with its machines, volumes, secrets and log
    Destroy {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Does it.
pub async fn run(context: &Context, command: Apps) -> Result<(), Failure> {
    match command {
        Apps::Create { name, org, network } => create(context, CreateApp { name, org_slug: org, network }).await,
        Apps::List { org } => list(context, org.as_deref()).await,
        Apps::Destroy { name, yes } => destroy(context, app_name(&name)?, yes).await,
    }
}

async fn create(context: &Context, request: CreateApp) -> Result<(), Failure> {
    app_name(&request.name)?;
    let app = context.client()?.create_app(&request).await?;
    context.out.say(format!("Created app {} in organization {}.", app.name, app.organization.slug));
    context.out.data(&app, || app.name.to_string())
}

async fn list(context: &Context, org: Option<&str>) -> Result<(), Failure> {
    let apps = context.client()?.apps(org).await?.apps;
    if apps.is_empty() {
        context.out.say("There are no apps yet. Write a fly.toml with `dunlin launch`.");
    }
    let row = |app: &api::public::machines::App| {
        let url = app.url.clone().unwrap_or_default();
        [
            app.name.to_string(),
            app.organization.slug.to_string(),
            app.status.clone(),
            app.machine_count.to_string(),
            url,
        ]
    };
    context.out.data(&apps, || table(["NAME", "ORG", "STATUS", "MACHINES", "URL"], apps.iter().map(row)))
}

async fn destroy(context: &Context, app: AppName, yes: bool) -> Result<(), Failure> {
    let client = context.client()?;
    let found = client.app(&app).await?;
    if !yes {
        let volumes = found.volume_count;
        let what = format!("{app} will be destroyed with {} machines and {volumes} volumes", found.machine_count);
        terminal::confirm(app.as_str(), &what)?;
    }
    until_gone(&client, &app).await?;
    context.out.say(format!("Destroyed app {app}."));
    Ok(())
}

/// How often the platform is asked; it answers when the app is gone, or after a minute.
const MINUTES: usize = 10;

async fn until_gone(client: &Client, app: &AppName) -> Result<(), Failure> {
    for _ in 0..MINUTES {
        client.destroy_app(app).await?;
        match client.app(app).await {
            Err(failure) if failure.exit == Exit::NotFound => return Ok(()),
            Err(failure) => return Err(failure),
            Ok(_) => {}
        }
    }
    Err(Failure::new(Exit::Timeout, format!("app {app} is still being destroyed after {MINUTES} minutes"))
        .hint("it goes on by itself; see `dunlin apps list`"))
}
