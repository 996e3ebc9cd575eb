//! Where a deployment's image comes from.
//!
//! ```text
//! --image oci:DIR ─▶ pushed as it lies there ────────────────┐
//! --image REF, [build] image ─▶ the platform fetches it ─────┼─▶ reference for the release
//! a Dockerfile ─▶ built by the local Docker engine ─▶ pushed ┘
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use api::public::deploys::{Platform, RegistryAuth};
use build::{BuildError, Credentials, Engine, Request, Source, layout};
use config::AppConfig;
use model::{AppName, Reference};

use super::{
    auth,
    client::Client,
    context::Context,
    credentials,
    exit::{Exit, Failure},
};

/// What the command line says about the image; it goes before the configuration file.
#[derive(Debug, Default)]
pub struct Wishes {
    /// An image that exists, or `oci:` and the directory of an image layout.
    pub image: Option<String>,
    /// The Dockerfile.
    pub dockerfile: Option<PathBuf>,
    /// The list of files that the build does not see.
    pub ignorefile: Option<PathBuf>,
    /// The stage to build.
    pub target: Option<String>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// Build every step again.
    pub no_cache: bool,
}

/// An image that is ready to be brought to the platform.
pub enum Ready {
    /// The platform fetches it.
    Elsewhere {
        /// Its name.
        image: String,
        /// How to sign in to its registry.
        auth: Option<RegistryAuth>,
    },
    /// It lies on disk.
    Layout(PathBuf),
    /// The Docker engine has it.
    Built {
        /// The engine.
        engine: Engine,
        /// Its name in the platform's registry.
        reference: Reference,
    },
}

/// The name of an image that exists, with how to fetch it.
pub struct Published {
    /// Its name, with its digest where the client knows it.
    pub image: String,
    /// How to sign in to its registry, if it is not the platform's own.
    pub auth: Option<RegistryAuth>,
}

/// Finds or builds the image. Nothing is changed on the platform.
pub async fn prepare(
    context: &Context,
    platform: &Platform,
    app: &AppName,
    directory: &Path,
    config: &AppConfig,
    wishes: &Wishes,
) -> Result<Ready, Failure> {
    let from_file = || config.build.image.clone().filter(|_| wishes.dockerfile.is_none());
    match wishes.image.clone().or_else(from_file) {
        Some(image) => existing(platform, &image),
        None => built(context, platform, app, directory, config, wishes).await,
    }
}

/// Brings the image to the platform, if it is not the platform that fetches it.
pub async fn publish(
    context: &Context,
    client: &Client,
    platform: &Platform,
    app: &AppName,
    ready: Ready,
) -> Result<Published, Failure> {
    match ready {
        Ready::Elsewhere { image, auth } => Ok(Published { image, auth }),
        Ready::Layout(path) => push_layout(context, client, platform, app, &path).await,
        Ready::Built { engine, reference } => {
            context.out.say(format!("Pushing {reference}"));
            let token = auth::need_token(client)?.to_owned();
            let credentials = Credentials { username: credentials::USER.to_owned(), password: token };
            let out = context.out;
            let mut progress = |line: &str| out.say(format!("  {line}"));
            let image = engine.push(&reference, &credentials, &mut progress).await.map_err(build_failure)?;
            Ok(Published { image: image.reference.to_string(), auth: None })
        }
    }
}

fn existing(platform: &Platform, image: &str) -> Result<Ready, Failure> {
    if let Some(path) = image.strip_prefix("oci:") {
        return Ok(Ready::Layout(PathBuf::from(path)));
    }
    let reference: Reference = image.parse().map_err(|error: model::InvalidName| Failure::usage(error.to_string()))?;
    let is_own = reference.registry.as_deref() == Some(platform.registry.as_str());
    let auth = if is_own { None } else { credentials::for_image(&reference) };
    Ok(Ready::Elsewhere { image: image.to_owned(), auth })
}

async fn built(
    context: &Context,
    platform: &Platform,
    app: &AppName,
    directory: &Path,
    config: &AppConfig,
    wishes: &Wishes,
) -> Result<Ready, Failure> {
    let (dockerfile, ignorefile) = (wishes.dockerfile.clone(), wishes.ignorefile.clone());
    // What stands in the file is relative to it; what stands on the command line, to where it was typed.
    let typed = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let dockerfile = dockerfile.map(typed).or_else(|| config.build.dockerfile.clone().map(PathBuf::from));
    let ignorefile = ignorefile.map(typed).or_else(|| config.build.ignorefile.clone().map(PathBuf::from));
    let source = Source::open(directory, dockerfile.as_deref(), ignorefile.as_deref()).map_err(build_failure)?;
    let mut args = config.build.args.clone();
    args.extend(wishes.args.clone());
    let target = wishes.target.as_deref().or(config.build.target.as_deref());
    let found = build::scan::scan(source.dockerfile(), &args, target);
    let engine = Engine::connect().await.map_err(build_failure)?;
    let reference = Reference {
        registry: Some(platform.registry.clone()),
        repository: app.to_string(),
        tag: Some(new_tag()),
        digest: None,
    };
    context.out.say(format!("Building {reference} with the local Docker engine"));
    let request = Request {
        source: &source,
        reference: &reference,
        target,
        args: &args,
        registries: &credentials::for_bases(&found.bases),
        no_cache: wishes.no_cache,
    };
    let out = context.out;
    let mut progress = |line: &str| out.say(format!("  {line}"));
    engine.build(&request, &mut progress).await.map_err(build_failure)?;
    Ok(Ready::Built { engine, reference })
}

async fn push_layout(
    context: &Context,
    client: &Client,
    platform: &Platform,
    app: &AppName,
    path: &Path,
) -> Result<Published, Failure> {
    let target = layout::Target {
        registry: platform.registry.clone(),
        repository: app.to_string(),
        tag: new_tag(),
        token: auth::need_token(client)?.to_owned(),
        plain_http: client.url().starts_with("http://"),
    };
    context.out.say(format!("Pushing {} to {}/{}", path.display(), target.registry, target.repository));
    let out = context.out;
    let pushed = layout::push(path, &target, |line| out.say(format!("  {line}"))).await;
    let digest = pushed.map_err(|error| Failure::other(kit::report::Report(&error).to_string()))?;
    let image = format!("{}/{}:{}@{digest}", target.registry, target.repository, target.tag);
    Ok(Published { image, auth: None })
}

/// A tag that no other deployment has, and that sorts by time.
fn new_tag() -> String {
    format!("deployment-{}", model::id::ulid(kit::clock::unix_ms(), kit::random::bytes()))
}

/// A build that failed, as the command tells it.
pub fn build_failure(error: BuildError) -> Failure {
    let exit = match error {
        BuildError::NoDockerfile(_) | BuildError::Ignore { .. } => Exit::InvalidConfig,
        _ => Exit::Failure,
    };
    Failure::new(exit, error.to_string()).hint(error.hint())
}
