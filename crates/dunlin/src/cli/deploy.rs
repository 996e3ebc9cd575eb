//! `dunlin deploy`: the configuration file and an image are put into effect.
//!
//! ```text
//! read and check the file ─▶ find or build the image ─▶ app (made if its name is free) ─▶ bring the image there
//!    ─▶ plan, shown ─▶ deployment ─▶ watched to its end (Ctrl-C: it goes on by itself)
//! ```

use std::{collections::BTreeMap, path::Path, path::PathBuf};

use api::public::{
    deploys::{DeployRequest, Deployment, Platform},
    machines::CreateApp,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use config::AppConfig;
use model::AppName;

use super::{
    client::Client,
    config_file,
    context::{ConfigText, Context, no_config},
    exit::{Exit, Failure},
    image::{self, Wishes},
    watch,
};

/// What to deploy, and how.
#[derive(Debug, Args)]
pub struct Deploy {
    /// An image that exists, or oci:DIR for an image layout on disk; else [build] says what to run
    #[arg(long, short, value_name = "REFERENCE")]
    image: Option<String>,
    /// The Dockerfile
    #[arg(long, value_name = "PATH", conflicts_with = "image")]
    dockerfile: Option<PathBuf>,
    /// The list of files that the build does not see
    #[arg(long, value_name = "PATH", conflicts_with = "image")]
    ignorefile: Option<PathBuf>,
    /// The stage of the Dockerfile to build
    #[arg(long, value_name = "STAGE", conflicts_with = "image")]
    build_target: Option<String>,
    /// A build argument; NAME alone takes its value from the environment
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "image")]
    build_arg: Vec<String>,
    /// Build every step again
    #[arg(long, conflicts_with = "image")]
    no_cache: bool,
    /// How the new release replaces the old one
    #[arg(long, value_parser = ["rolling", "immediate"])]
    strategy: Option<String>,
    /// The organization of an app that is made by this
    #[arg(long, short, default_value = "")]
    org: String,
    /// Why, for people
    #[arg(long, short, default_value = "")]
    message: String,
    /// Do not wait for its end
    #[arg(long)]
    detach: bool,
}

/// Deploys.
pub async fn run(context: &Context, command: Deploy) -> Result<(), Failure> {
    let client = context.client()?;
    let file = read_file(context, &client).await?;
    let config = config_file::parse(&file.text, &file.name())?;
    config_file::warn(context, config.warnings());
    let app = which_app(context, &config, &file)?;
    let wishes = command.wishes()?;
    let request = DeployRequest {
        config: sent_text(&file, &config, &app)?,
        strategy: command.strategy,
        idempotency_key: Some(kit::random::token()),
        description: command.message,
        ..DeployRequest::default()
    };

    let platform = client.platform().await?;
    let ready = image::prepare(context, &platform, &app, file.directory(), &config, &wishes).await?;
    let made = make_app(context, &client, &app, command.org).await?;
    let begun = begin(context, &client, &platform, &app, ready, request).await;
    if begun.is_err() && made {
        unmake_app(context, &client, &app).await;
    }
    let deployment = begun?;
    if command.detach { watch::detach(context, &deployment) } else { watch::finish(context, &client, deployment).await }
}

impl Deploy {
    fn wishes(&self) -> Result<Wishes, Failure> {
        Ok(Wishes {
            image: self.image.clone(),
            dockerfile: self.dockerfile.clone(),
            ignorefile: self.ignorefile.clone(),
            target: self.build_target.clone(),
            args: self.build_arg.iter().map(|text| build_arg(text)).collect::<Result<BTreeMap<_, _>, _>>()?,
            no_cache: self.no_cache,
        })
    }
}

fn build_arg(text: &str) -> Result<(String, String), Failure> {
    if let Some((name, value)) = text.split_once('=') {
        return Ok((name.to_owned(), value.to_owned()));
    }
    let value = std::env::var(text);
    value.map(|value| (text.to_owned(), value)).map_err(|_| {
        Failure::usage(format!("build argument {text} has no value, and the environment has none for it"))
            .hint("write --build-arg NAME=VALUE")
    })
}

/// The configuration file here; where there is none, that of the release which runs.
async fn read_file(context: &Context, client: &Client) -> Result<ConfigText, Failure> {
    if let Some(file) = context.config()? {
        return Ok(file);
    }
    let Some(app) = context.app_override()? else { return Err(no_config()) };
    match client.release_config(&app).await {
        Ok(release) => {
            context.out.say(format!("There is no fly.toml here; using that of release v{}.", release.version));
            Ok(ConfigText { path: PathBuf::from("fly.toml"), text: release.config })
        }
        Err(failure) if failure.exit == Exit::NotFound => Err(no_config()),
        Err(failure) => Err(failure),
    }
}

fn which_app(context: &Context, config: &AppConfig, file: &ConfigText) -> Result<AppName, Failure> {
    context.app_override()?.or_else(|| config.app.clone()).ok_or_else(|| {
        Failure::new(Exit::InvalidConfig, format!("{} does not say which app it is for", file.name()))
            .hint("add a line such as app = \"my-app\", or name the app with --app")
    })
}

/// The file as the platform gets it: with the app's own name, and with the files in it that only this client can read.
fn sent_text(file: &ConfigText, config: &AppConfig, app: &AppName) -> Result<String, Failure> {
    let directory = file.directory();
    let failed = |error: config::edit::EditError| {
        Failure::new(Exit::InvalidConfig, error.to_string()).hint("paths in the file are relative to it")
    };
    let mut text = file.text.clone();
    if !config.files.is_empty() {
        text = config::edit::inline_local_files(&text, |path| read_local(&directory.join(path))).map_err(failed)?;
    }
    if config.app.as_ref() != Some(app) {
        text = config::edit::set(&text, &["app"], app.as_str()).map_err(failed)?;
    }
    Ok(text)
}

/// More than this belongs into the image.
const MAX_FILE_BYTES: u64 = 256 << 10;

fn read_local(path: &Path) -> Result<String, String> {
    let length = path.metadata().map_err(|error| error.to_string())?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("it is larger than {} KiB; put it into the image", MAX_FILE_BYTES >> 10));
    }
    std::fs::read(path).map(|content| STANDARD.encode(content)).map_err(|error| error.to_string())
}

/// Makes the app if there is none of this name. Returns whether it was made.
async fn make_app(context: &Context, client: &Client, app: &AppName, org: String) -> Result<bool, Failure> {
    match client.app(app).await {
        Ok(_) => return Ok(false),
        Err(failure) if failure.exit != Exit::NotFound => return Err(failure),
        Err(_) => {}
    }
    let request = CreateApp { name: app.to_string(), org_slug: org, network: String::new() };
    let made = client.create_app(&request).await?;
    context.out.say(format!("Created app {app} in organization {}.", made.organization.slug));
    Ok(true)
}

/// Destroys an app that was made for a deployment which did not begin. Where that is not certain, since an answer may
/// have been lost, the app stays.
async fn unmake_app(context: &Context, client: &Client, app: &AppName) {
    let untouched = client.deployments(app).await.is_ok_and(|deployments| deployments.is_empty());
    if untouched && client.destroy_app(app).await.is_ok() {
        context.out.say(format!("Destroyed app {app} again, since nothing was deployed."));
    }
}

async fn begin(
    context: &Context,
    client: &Client,
    platform: &Platform,
    app: &AppName,
    ready: image::Ready,
    request: DeployRequest,
) -> Result<Deployment, Failure> {
    let published = image::publish(context, client, platform, app, ready).await?;
    let request = DeployRequest { image: Some(published.image), registry_auth: published.auth, ..request };
    let plan = client.plan(app, &request).await?;
    watch::show_plan(context, app, &plan);
    match client.deploy(app, &request).await {
        // Whether the first one arrived is not known; its key makes the second one the same.
        Err(failure) if failure.exit == Exit::Unreachable => client.deploy(app, &request).await,
        answer => answer,
    }
}
