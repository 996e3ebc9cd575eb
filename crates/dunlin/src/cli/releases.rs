//! `dunlin releases` and `dunlin rollback`.

use clap::Args;

use super::{
    context::Context,
    exit::Failure,
    output::{ago, table},
    watch,
};

/// Which release to run again.
#[derive(Debug, Args)]
pub struct Rollback {
    /// Its version, such as 3 or v3; the one before the current one unless given
    version: Option<String>,
    /// Do not wait for its end
    #[arg(long)]
    detach: bool,
}

/// Lists an app's releases.
pub async fn list(context: &Context) -> Result<(), Failure> {
    let releases = context.client()?.releases(&context.app()?).await?;
    let now = kit::clock::unix_ms();
    let row = |release: &api::public::deploys::Release| {
        let version = format!("v{}{}", release.version, if release.current { " (current)" } else { "" });
        let (image, created) = (release.image.clone(), ago(now, release.created_at.0));
        let why = release.reason.clone().unwrap_or_else(|| release.description.clone());
        [version, release.status.clone(), image, release.user.clone(), created, why]
    };
    let headings = ["VERSION", "STATUS", "IMAGE", "USER", "CREATED", "DESCRIPTION"];
    context.out.data(&releases, || table(headings, releases.iter().map(row)))
}

/// Runs an earlier release again.
pub async fn rollback(context: &Context, command: Rollback) -> Result<(), Failure> {
    let version = command.version.as_deref().map(version).transpose()?;
    let (client, app) = (context.client()?, context.app()?);
    let deployment = client.rollback(&app, version).await?;
    watch::show_plan(context, &app, &deployment.plan);
    if command.detach { watch::detach(context, &deployment) } else { watch::finish(context, &client, deployment).await }
}

fn version(text: &str) -> Result<u32, Failure> {
    text.strip_prefix('v')
        .unwrap_or(text)
        .parse()
        .map_err(|_| Failure::usage(format!("{text:?} is not the version of a release")).hint("see `dunlin releases`"))
}
