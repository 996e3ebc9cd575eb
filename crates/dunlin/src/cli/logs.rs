//! `dunlin logs`: what machines and the platform said.

use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use model::{
    AppName, MachineId,
    log::{LogRecord, LogSource},
};

use super::{
    client::Client,
    context::Context,
    exit::{Exit, Failure},
};

/// Which lines to show.
#[derive(Debug, Args)]
pub struct Logs {
    /// Wait for more
    #[arg(long, short)]
    follow: bool,
    /// Only what came after: a duration before now (10m), or a time (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only of this machine
    #[arg(long, short, value_name = "ID")]
    machine: Option<MachineId>,
    /// The last so many lines
    #[arg(long, short = 'n', value_name = "COUNT")]
    limit: Option<u32>,
}

/// Time between two tries to reach the platform again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Shows them.
pub async fn run(context: &Context, command: Logs) -> Result<(), Failure> {
    let (client, app) = (context.client()?, context.app()?);
    let mut since = command.since.clone();
    let mut shown = None;
    loop {
        let outcome = show(context, &client, &app, &command, since.as_deref(), &mut shown).await;
        let lost = match outcome {
            Ok(()) => command.follow,
            // A log that could be read once is read on after the platform has been away.
            Err(failure) if !(command.follow && shown.is_some() && failure.exit == Exit::Unreachable) => {
                return Err(failure);
            }
            Err(_) => true,
        };
        if !lost {
            return Ok(());
        }
        since = shown.map(|last: u64| last.to_string()).or(since);
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn show(
    context: &Context,
    client: &Client,
    app: &AppName,
    command: &Logs,
    since: Option<&str>,
    shown: &mut Option<u64>,
) -> Result<(), Failure> {
    let mut query = vec![("follow", command.follow.to_string())];
    query.extend(since.map(|since| ("since", since.to_owned())));
    query.extend(command.machine.as_ref().map(|machine| ("machine", machine.to_string())));
    // What has been lost meanwhile is wanted whole.
    query.extend(command.limit.filter(|_| shown.is_none()).map(|limit| ("limit", limit.to_string())));
    let records = client.logs(app, &query).await?;
    let mut records = std::pin::pin!(records);
    while let Some(record) = records.next().await {
        let record = record?;
        *shown = Some(record.timestamp_ns);
        context.out.item(&record, || line(&record))?;
    }
    Ok(())
}

fn line(record: &LogRecord) -> String {
    let source = match record.source {
        LogSource::Stdout => "stdout",
        LogSource::Stderr => "stderr",
        LogSource::Guest => "guest",
        LogSource::Platform => "platform",
        LogSource::Access => "access",
    };
    let machine = record.machine.as_ref().map_or("-", |machine| machine.as_str());
    let time = kit::clock::rfc3339(record.timestamp_ns / 1_000_000);
    format!("{time} {machine} {} [{source}] {}", record.region, record.message)
}
