//! `dunlin config`: the configuration file, checked, shown, fetched.

use clap::Subcommand;
use config::AppConfig;
use serde_json::json;

use super::{
    context::{Context, no_config},
    exit::{Exit, Failure},
};

/// What to do about the configuration file.
#[derive(Debug, Subcommand)]
pub enum ConfigFile {
    /// Check the configuration file and tell everything that is wrong with it; needs no platform
    Validate,
    /// Show the configuration that runs, as JSON
    Show {
        /// The file here instead
        #[arg(long)]
        local: bool,
    },
    /// Fetch the configuration file that runs
    Save {
        /// Overwrite the file here
        #[arg(long, short)]
        force: bool,
    },
}

/// Does it.
pub async fn run(context: &Context, command: ConfigFile) -> Result<(), Failure> {
    match command {
        ConfigFile::Validate => validate(context),
        ConfigFile::Show { local: true } => {
            let file = context.need_config()?;
            print(context, parse(&file.text, &file.name())?.definition())
        }
        ConfigFile::Show { local: false } => show(context).await,
        ConfigFile::Save { force } => save(context, force).await,
    }
}

/// Reads a configuration file.
///
/// # Errors
/// With everything that is wrong with it.
pub fn parse(text: &str, name: &str) -> Result<AppConfig, Failure> {
    AppConfig::parse_file(text, name).map_err(|found| invalid(&found))
}

fn invalid(found: &config::Diagnostics) -> Failure {
    Failure::new(Exit::InvalidConfig, format!("the configuration has errors:\n\n{found}"))
        .hint("correct these lines, and check again with `dunlin config validate`")
}

fn validate(context: &Context) -> Result<(), Failure> {
    let file = context.config()?.ok_or_else(no_config)?;
    let (found, valid) = match AppConfig::parse_file(&file.text, &file.name()) {
        Ok(config) => (config.warnings().clone(), true),
        Err(found) => (found, false),
    };
    if context.out.is_json() {
        let problems: Vec<_> = found.iter().collect();
        context.out.data(&json!({"file": file.name(), "valid": valid, "problems": problems}), String::new)?;
        return if valid { Ok(()) } else { Err(Failure::said(Exit::InvalidConfig)) };
    }
    if !valid {
        return Err(invalid(&found));
    }
    warn(context, &found);
    context.out.say(format!("{} is valid.", file.name()));
    Ok(())
}

/// Tells what a file asks for that has less effect than it seems.
pub fn warn(context: &Context, found: &config::Diagnostics) {
    if !found.is_empty() {
        context.out.say(found.to_string().trim_end());
    }
}

async fn show(context: &Context) -> Result<(), Failure> {
    let release = context.client()?.release_config(&context.app()?).await?;
    let config = parse(&release.config, &format!("v{}", release.version))?;
    print(context, config.definition())
}

/// A definition is JSON for people too.
fn print(context: &Context, definition: &serde_json::Value) -> Result<(), Failure> {
    context.out.data(definition, || format!("{definition:#}"))
}

async fn save(context: &Context, force: bool) -> Result<(), Failure> {
    let path = context.new_config_path();
    let release = context.client()?.release_config(&context.app()?).await?;
    write_new(&path, &release.config, force)?;
    context.out.say(format!("Wrote {} as release v{} has it.", path.display(), release.version));
    context.out.data(&json!({"file": path, "version": release.version}), || path.display().to_string())
}

/// Writes a configuration file, over an existing one only if that is wanted.
pub fn write_new(path: &std::path::Path, text: &str, force: bool) -> Result<(), Failure> {
    refuse_existing(path, force)?;
    kit::durable::write(path, text.as_bytes(), 0o644)
        .map_err(|error| Failure::other(format!("cannot write {}: {error}", path.display())))
}

/// An existing file is not overwritten unless that is wanted.
pub fn refuse_existing(path: &std::path::Path, force: bool) -> Result<(), Failure> {
    if path.exists() && !force {
        return Err(Failure::new(Exit::Conflict, format!("{} exists already", path.display()))
            .hint("name another file with --config, or overwrite it with --force"));
    }
    Ok(())
}
