//! `dunlin apps`: create, list, destroy.

use api::public::machines::CreateApp;
use clap::Subcommand;
use model::AppName;

use super::{
    context::{Context, app_name},
    exit::Failure,
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
    client.destroy_app(&app).await?;
    context.out.say(format!("Destroyed app {app}."));
    Ok(())
}
