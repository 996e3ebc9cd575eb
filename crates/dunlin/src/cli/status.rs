//! `dunlin status`: an app and its machines at a glance.

use api::public::{
    deploys::Release,
    machines::{App, Machine},
};
use serde::Serialize;

use super::{
    context::Context,
    exit::Failure,
    machine,
    output::{ago, list},
};

/// An app at a glance.
#[derive(Serialize)]
struct Status {
    app: App,
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<Release>,
    machines: Vec<Machine>,
}

/// Shows it.
pub async fn run(context: &Context) -> Result<(), Failure> {
    let (client, name) = (context.client()?, context.app()?);
    let app = client.app(&name).await?;
    let (machines, releases) = tokio::try_join!(client.machines(&name), client.releases(&name))?;
    let release = releases.into_iter().find(|release| release.current);
    let status = Status { app, release, machines };
    context.out.data(&status, || people(&status))
}

fn people(status: &Status) -> String {
    let (app, now) = (&status.app, kit::clock::unix_ms());
    let release = status
        .release
        .as_ref()
        .map(|release| format!("v{} ({}), {}", release.version, release.status, ago(now, release.created_at.0)));
    let image = status.release.as_ref().map(|release| release.image.clone());
    let isolation = status.machines.iter().find_map(|machine| machine.isolation).map(|wall| wall.to_string());
    let facts = list([
        ("App", app.name.to_string()),
        ("Organization", app.organization.slug.to_string()),
        ("Status", app.status.clone()),
        ("URL", app.url.clone().unwrap_or_default()),
        ("Host name", app.hostname.clone()),
        ("Release", release.unwrap_or_else(|| "none yet".to_owned())),
        ("Image", image.unwrap_or_default()),
        ("Isolation", isolation.unwrap_or_default()),
    ]);
    if status.machines.is_empty() {
        return format!("{facts}\n\nNo machines. Put some into effect with `dunlin deploy`.");
    }
    format!("{facts}\n\n{}", machine::rows(&status.machines))
}
