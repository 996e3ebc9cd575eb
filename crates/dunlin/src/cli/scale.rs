//! `dunlin scale`: how many machines run.

use std::collections::BTreeMap;

use api::public::deploys::ScaleRequest;
use clap::Subcommand;
use model::AppName;
use serde::Serialize;

use super::{
    client::Client,
    context::Context,
    exit::{Exit, Failure},
    machine,
    output::table,
    watch,
};

/// What to do about the number of machines.
#[derive(Debug, Subcommand)]
pub enum Scale {
    /// Change how many machines run
    Count {
        /// The number, or GROUP=NUMBER for a process group
        #[arg(required = true, value_name = "[GROUP=]NUMBER")]
        counts: Vec<String>,
        /// Do not wait for its end
        #[arg(long)]
        detach: bool,
    },
    /// Show how many machines run
    Show,
}

/// Machines of a process group.
#[derive(Serialize)]
struct Row {
    group: String,
    count: usize,
    cpus: u32,
    memory_mb: u32,
    machines: Vec<String>,
}

/// Does it.
pub async fn run(context: &Context, command: Scale) -> Result<(), Failure> {
    match command {
        Scale::Show => show(context).await,
        Scale::Count { counts, detach } => count(context, &counts, detach).await,
    }
}

async fn count(context: &Context, counts: &[String], detach: bool) -> Result<(), Failure> {
    let counts = counts.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
    let (client, app) = (context.client()?, context.app()?);
    let mut wanted = BTreeMap::new();
    for (group, count) in counts {
        let group = match group {
            Some(group) => group,
            None => default_group(&client, &app).await?,
        };
        if wanted.insert(group.clone(), count).is_some() {
            return Err(Failure::usage(format!("process group `{group}` is given twice")));
        }
    }
    let deployment = client.scale(&app, &ScaleRequest { counts: wanted }).await?;
    watch::show_plan(context, &app, &deployment.plan);
    if detach { watch::detach(context, &deployment) } else { watch::finish(context, &client, deployment).await }
}

fn parse(text: &str) -> Result<(Option<String>, u32), Failure> {
    let (group, number) = text.split_once('=').map_or((None, text), |(group, number)| (Some(group), number));
    let number = number.parse().ok().filter(|number| *number <= 1000);
    match (group, number) {
        (Some(""), _) | (_, None) => {
            Err(Failure::usage(format!("{text:?} is not a number of machines")).hint("write 2, or web=2 worker=1"))
        }
        (group, Some(number)) => Ok((group.map(str::to_owned), number)),
    }
}

/// The group that a bare number is for: that of the release's own configuration.
async fn default_group(client: &Client, app: &AppName) -> Result<String, Failure> {
    let release = client.release_config(app).await.map_err(|failure| match failure.exit {
        Exit::NotFound => failure.hint("deploy the app first: `dunlin deploy`"),
        _ => failure,
    })?;
    let config = config::AppConfig::parse(&release.config)
        .map_err(|found| Failure::other(format!("the release's configuration cannot be read:\n{found}")))?;
    Ok(config.default_group().to_owned())
}

async fn show(context: &Context) -> Result<(), Failure> {
    let machines = context.client()?.machines(&context.app()?).await?;
    let mut groups: BTreeMap<String, Row> = BTreeMap::new();
    for machine in &machines {
        let (group, guest) = (machine::group(machine).to_owned(), &machine.config.guest);
        let row = groups.entry(group.clone()).or_insert_with(|| Row {
            group,
            count: 0,
            cpus: guest.cpus,
            memory_mb: guest.memory_mb,
            machines: Vec::new(),
        });
        row.count += 1;
        row.machines.push(machine.id.to_string());
    }
    let rows: Vec<Row> = groups.into_values().collect();
    let line =
        |row: &Row| [row.group.clone(), row.count.to_string(), row.cpus.to_string(), format!("{} MB", row.memory_mb)];
    context.out.data(&rows, || table(["GROUP", "COUNT", "CPUS", "MEMORY"], rows.iter().map(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_a_number_or_a_group_with_a_number() {
        assert_eq!(parse("2"), Ok((None, 2)));
        assert_eq!(parse("web=0"), Ok((Some("web".to_owned()), 0)));
        for bad in ["", "two", "=2", "web=", "-1", "1001", "a=b=1"] {
            assert_eq!(parse(bad).unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }
}
