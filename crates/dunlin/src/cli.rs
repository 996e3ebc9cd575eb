//! The command line: a client of the REST API, and nothing more.
//!
//! Standard output is data, standard error is talk. A command that prints data prints one JSON document, or one per
//! line, with `--json`. Nobody is asked anything where there is no terminal. What went wrong is said once, here, with
//! what to do next, and told by the exit status (see [`Exit`]).
//!
//! ```text
//! Cli ─▶ Context (output, client, which app, which file) ─▶ one module per noun ─▶ Exit
//! ```

mod apps;
mod auth;
mod calls;
mod certs;
mod client;
mod completion;
mod config_file;
mod context;
mod credentials;
mod deploy;
mod deployments;
mod edge;
mod exec;
mod exit;
mod image;
mod launch;
mod logs;
mod machine;
mod maintenance;
mod orgs;
mod output;
mod releases;
mod scale;
mod secrets;
mod settings;
mod status;
mod terminal;
mod version;
mod watch;

use clap::{Args, Parser, Subcommand};

use self::context::Context;
pub use self::{
    client::Client,
    exit::{Exit, Failure},
};
use crate::{
    doctor::DoctorOptions,
    serve::{ServeOptions, UpgradeOptions},
    setup::SetupOptions,
};

/// Runs apps as microVMs on servers you own.
#[derive(Debug, Parser)]
#[command(name = "dunlin", version, propagate_version = false, after_long_help = exit::help())]
#[command(arg_required_else_help = true, infer_long_args = false)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
pub struct Globals {
    /// The app; else DUNLIN_APP, FLY_APP, or what the configuration file says
    #[arg(short, long, global = true, help_heading = "Everywhere", value_name = "NAME")]
    pub app: Option<String>,
    /// The configuration file, or its directory; else fly.toml or dunlin.toml here
    #[arg(short, long, global = true, help_heading = "Everywhere", value_name = "PATH")]
    pub config: Option<std::path::PathBuf>,
    /// Print data as JSON: one document, or one per line
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Say less
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    pub quiet: bool,
    /// The platform's API; else DUNLIN_API_URL, what `auth login` stored, or http://127.0.0.1:4280
    #[arg(long, global = true, help_heading = "Everywhere", value_name = "URL")]
    pub url: Option<String>,
    /// The token; else DUNLIN_API_TOKEN, FLY_API_TOKEN, or what `auth login` stored
    #[arg(long, global = true, help_heading = "Everywhere", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the platform: control plane, registry, node, edge and names in one process
    Serve(Box<ServeOptions>),
    /// Let the running platform be succeeded by the program that lies on the disk now; no request is lost
    Upgrade(UpgradeOptions),
    /// Install what virtual machines need on this host
    Setup(SetupOptions),
    /// Check this host and the platform, and say what to do about what is wrong
    Doctor(DoctorOptions),
    /// A command that is a client of the API.
    #[command(flatten)]
    Client(ClientCommand),
}

/// Every command that is a client of the API.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Look at this directory, write its fly.toml and create the app
    Launch(launch::Launch),
    /// Put the configuration file and an image into effect
    Deploy(deploy::Deploy),
    /// Create, list and destroy apps
    #[command(subcommand, visible_alias = "app")]
    Apps(apps::Apps),
    /// Serve an app under host names of your own, with certificates
    #[command(subcommand, visible_alias = "certificates")]
    Certs(certs::Certs),
    /// Show an app and its machines
    Status,
    /// Show an app's log
    #[command(visible_alias = "log")]
    Logs(logs::Logs),
    /// Look at the proxy: live routes and connections; run one by itself
    #[command(subcommand)]
    Edge(edge::Edge),
    /// List an app's releases
    Releases,
    /// Run an earlier release again
    Rollback(releases::Rollback),
    /// List and watch deployments
    #[command(subcommand, visible_alias = "deployment")]
    Deployments(deployments::Deployments),
    /// Look at single machines and act on them
    #[command(subcommand, visible_aliases = ["machines", "m"])]
    Machine(machine::Machine),
    /// Tell an app's visitors to come back later
    #[command(subcommand)]
    Maintenance(maintenance::Maintenance),
    /// Show or change how many machines run
    #[command(subcommand)]
    Scale(scale::Scale),
    /// Set, list and remove secrets
    #[command(subcommand, visible_alias = "secret")]
    Secrets(secrets::Secrets),
    /// Check, show and fetch the configuration file
    #[command(subcommand)]
    Config(config_file::ConfigFile),
    /// Sign in, and see as whom
    #[command(subcommand)]
    Auth(auth::Auth),
    /// List and create organizations
    #[command(subcommand, visible_alias = "org")]
    Orgs(orgs::Orgs),
    /// Make, list and revoke tokens
    #[command(subcommand, visible_alias = "token")]
    Tokens(orgs::Tokens),
    /// Print the version
    Version,
    /// Print completions for a shell
    Completion(completion::Completion),
}

/// Runs a client command to its end and says what went wrong, if something did.
pub async fn run(globals: Globals, command: ClientCommand) -> Exit {
    let output = output::Output::new(globals.json, globals.quiet);
    let context = Context::new(globals, output);
    match dispatch(&context, command).await {
        Ok(exit) => exit,
        Err(failure) => {
            output.failure(&failure);
            failure.exit
        }
    }
}

async fn dispatch(context: &Context, command: ClientCommand) -> Result<Exit, Failure> {
    match command {
        ClientCommand::Launch(command) => launch::run(context, command).await?,
        ClientCommand::Deploy(command) => deploy::run(context, command).await?,
        ClientCommand::Apps(command) => apps::run(context, command).await?,
        ClientCommand::Certs(command) => certs::run(context, command).await?,
        ClientCommand::Status => status::run(context).await?,
        ClientCommand::Logs(command) => logs::run(context, command).await?,
        ClientCommand::Edge(command) => edge::run(context, command).await?,
        ClientCommand::Releases => releases::list(context).await?,
        ClientCommand::Rollback(command) => releases::rollback(context, command).await?,
        ClientCommand::Deployments(command) => deployments::run(context, command).await?,
        ClientCommand::Machine(command) => return machine::run(context, command).await,
        ClientCommand::Maintenance(command) => maintenance::run(context, command).await?,
        ClientCommand::Scale(command) => scale::run(context, command).await?,
        ClientCommand::Secrets(command) => secrets::run(context, command).await?,
        ClientCommand::Config(command) => config_file::run(context, command).await?,
        ClientCommand::Auth(command) => auth::run(context, command).await?,
        ClientCommand::Orgs(command) => orgs::run(context, command).await?,
        ClientCommand::Tokens(command) => orgs::tokens(context, command).await?,
        ClientCommand::Version => version::run(context)?,
        ClientCommand::Completion(command) => completion::run(context, &command)?,
    }
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests;
