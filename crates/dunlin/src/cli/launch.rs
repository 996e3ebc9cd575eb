//! `dunlin launch`: looks at a directory, writes its configuration file, and creates the app. Nothing is asked, and
//! nothing is deployed: the file is there to be read first.

use std::path::{Path, PathBuf};

use api::public::machines::{App, CreateApp};
use build::Source;
use clap::Args;
use config::NewApp;
use model::{AppName, Region};
use serde::Serialize;

use super::{
    client::Client,
    config_file,
    context::{Context, app_name},
    exit::{Exit, Failure},
    image,
};

/// What to launch.
#[derive(Debug, Args)]
pub struct Launch {
    /// The app's name; made from the directory's unless given
    #[arg(long, short)]
    name: Option<String>,
    /// The app's organization
    #[arg(long, short, default_value = "")]
    org: String,
    /// Where its machines run; the platform's own region unless given
    #[arg(long, short)]
    region: Option<Region>,
    /// An image to run, instead of one built from the Dockerfile
    #[arg(long, short)]
    image: Option<String>,
    /// The Dockerfile, relative to the configuration file
    #[arg(long, conflicts_with = "image")]
    dockerfile: Option<String>,
    /// The port the app listens on; what the Dockerfile exposes, else 8080, unless given
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    internal_port: Option<u16>,
    /// Write the file only
    #[arg(long)]
    no_create: bool,
    /// Overwrite the configuration file
    #[arg(long, short)]
    force: bool,
}

/// What was launched.
#[derive(Serialize)]
struct Launched {
    app: AppName,
    config: PathBuf,
    region: Region,
    internal_port: u16,
    created: bool,
}

/// The region of a platform of one host.
const LOCAL: &str = "local";

/// Launches.
pub async fn run(context: &Context, command: Launch) -> Result<(), Failure> {
    let path = context.new_config_path();
    config_file::refuse_existing(&path, command.force)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let app = name(context, &command, directory)?;
    let found = look(&command, directory)?;
    let client = context.client()?;
    let region = region(&client, &command).await?;
    let new = NewApp {
        app: app.clone(),
        region: region.clone(),
        internal_port: command.internal_port.unwrap_or_else(|| found.port()),
        dockerfile: command.dockerfile.clone(),
        image: command.image.clone(),
        volume: found.volumes.first().cloned(),
    };
    if found.volumes.len() > 1 {
        context.out.warn(format!("the Dockerfile declares {} volumes; a machine can mount one", found.volumes.len()));
    }
    let created = !command.no_create && create(context, &client, &app, &command.org).await?;
    if let Err(failure) = config_file::write_new(&path, &config::render_new(&new), command.force) {
        if created {
            client.destroy_app(&app).await?;
        }
        return Err(failure);
    }
    context.out.say(format!("Wrote {}. Read it, then put it into effect with `dunlin deploy`.", path.display()));
    let launched = Launched { app, config: path.clone(), region, internal_port: new.internal_port, created };
    context.out.data(&launched, || path.display().to_string())
}

fn name(context: &Context, command: &Launch, directory: &Path) -> Result<AppName, Failure> {
    if let Some(name) = &command.name {
        return app_name(name);
    }
    if let Some(app) = context.app_override()? {
        return Ok(app);
    }
    let real = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name_from(&name).ok_or_else(|| {
        Failure::usage(format!("no app name can be made from the directory's name {name:?}"))
            .hint("name it with --name")
    })
}

/// An app's name made of any text: what is no letter or digit becomes a dash.
fn name_from(text: &str) -> Option<AppName> {
    let dashed: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let parts: Vec<&str> = dashed.split('-').filter(|part| !part.is_empty()).collect();
    let name: String = parts.join("-").chars().take(63).collect();
    name.trim_end_matches('-').parse().ok()
}

/// What the Dockerfile says.
fn look(command: &Launch, directory: &Path) -> Result<build::scan::Scan, Failure> {
    if command.image.is_some() {
        return Ok(build::scan::Scan::default());
    }
    let dockerfile = command.dockerfile.as_deref().map(Path::new);
    let source = Source::open(directory, dockerfile, None).map_err(image::build_failure)?;
    Ok(build::scan::scan(source.dockerfile(), &Default::default(), None))
}

/// The region the app goes to: asked of the platform, which need not be there if only a file is written.
async fn region(client: &Client, command: &Launch) -> Result<Region, Failure> {
    if let Some(region) = &command.region {
        return Ok(region.clone());
    }
    match client.platform().await {
        Ok(platform) => Ok(platform.region),
        Err(_) if command.no_create => {
            LOCAL.parse().map_err(|error: model::InvalidName| Failure::other(error.to_string()))
        }
        Err(failure) => Err(failure),
    }
}

/// Creates the app, unless it is there and one's own. Returns whether it was created.
async fn create(context: &Context, client: &Client, app: &AppName, org: &str) -> Result<bool, Failure> {
    let request = CreateApp { name: app.to_string(), org_slug: org.to_owned(), network: String::new() };
    match client.create_app(&request).await {
        Ok(App { organization, .. }) => {
            context.out.say(format!("Created app {app} in organization {}.", organization.slug));
            Ok(true)
        }
        Err(failure) if failure.exit == Exit::Conflict => {
            if client.app(app).await.is_err() {
                return Err(failure.hint("choose another name with --name"));
            }
            context.out.say(format!("App {app} exists already; its new configuration file is for it."));
            Ok(false)
        }
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_the_app_its_name() {
        for (directory, name) in [
            ("my_App", "my-app"),
            ("  Hello, World! ", "hello-world"),
            ("--x--", "x"),
            (&"long-".repeat(20), "long-long-long-long-long-long-long-long-long-long-long-long-lon"),
        ] {
            assert_eq!(name_from(directory).unwrap().as_str(), name);
        }
        assert_eq!(name_from("…"), None);
    }
}
