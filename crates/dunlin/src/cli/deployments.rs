//! `dunlin deployments`: list and watch.

use clap::Subcommand;

use super::{
    context::Context,
    exit::Failure,
    output::{ago, table},
    watch,
};

/// What to do about deployments.
#[derive(Debug, Subcommand)]
pub enum Deployments {
    /// List deployments, newest first
    #[command(visible_alias = "ls")]
    List,
    /// Watch a deployment to its end
    Watch {
        /// Its identifier; the newest one unless given
        id: Option<String>,
    },
}

/// Does it.
pub async fn run(context: &Context, command: Deployments) -> Result<(), Failure> {
    match command {
        Deployments::List => list(context).await,
        Deployments::Watch { id } => watch(context, id).await,
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let deployments = context.client()?.deployments(&context.app()?).await?;
    let now = kit::clock::unix_ms();
    let row = |deployment: &api::public::deploys::Deployment| {
        let status = format!("{:?}", deployment.status).to_lowercase();
        let reason = deployment.failure.as_ref().map(|failure| failure.summary.clone()).unwrap_or_default();
        let release = format!("v{}", deployment.release);
        [deployment.id.clone(), release, status, ago(now, deployment.created_at.0), reason]
    };
    context
        .out
        .data(&deployments, || table(["ID", "RELEASE", "STATUS", "BEGAN", "REASON"], deployments.iter().map(row)))
}

async fn watch(context: &Context, id: Option<String>) -> Result<(), Failure> {
    let (client, app) = (context.client()?, context.app()?);
    let deployment = match id {
        Some(id) if id.chars().all(|c| c.is_ascii_alphanumeric()) => client.deployment(&app, &id).await?,
        Some(id) => return Err(Failure::usage(format!("{id:?} is not the identifier of a deployment"))),
        None => {
            let mut deployments = client.deployments(&app).await?;
            if deployments.is_empty() {
                return Err(Failure::new(super::Exit::NotFound, format!("{app} has never been deployed")));
            }
            deployments.swap_remove(0)
        }
    };
    watch::finish(context, &client, deployment).await
}
