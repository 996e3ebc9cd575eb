//! `dunlin auth`: sign in, and see as whom.

use api::public::deploys::Platform;
use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use super::{
    client::Client,
    context::Context,
    credentials,
    exit::{Exit, Failure},
    output::list,
    settings::{self, Settings},
    terminal,
};

/// What to do about signing in.
#[derive(Debug, Subcommand)]
pub enum Auth {
    /// Store the platform's address (--url) and a token (--token, or asked for)
    Login,
    /// Forget them
    Logout,
    /// Show the platform, and what the token is good for
    Whoami,
    /// Print the token
    Token,
    /// Sign the Docker client in to the platform's registry
    Docker,
}

/// Who one is, and where.
#[derive(Serialize)]
struct Whoami<'w> {
    url: &'w str,
    #[serde(flatten)]
    platform: &'w Platform,
}

/// Does it.
pub async fn run(context: &Context, command: Auth) -> Result<(), Failure> {
    match command {
        Auth::Login => login(context).await,
        Auth::Logout => logout(context),
        Auth::Whoami => whoami(context).await,
        Auth::Token => {
            let client = context.client()?;
            let token = need_token(&client)?;
            context.out.data(&json!({"token": token}), || token.to_owned())
        }
        Auth::Docker => docker(context).await,
    }
}

/// The token that is sent.
pub fn need_token(client: &Client) -> Result<&str, Failure> {
    client.token().ok_or_else(|| {
        Failure::new(Exit::Unauthorized, "you are not signed in").hint(
            "sign in with `dunlin auth login`, or set DUNLIN_API_TOKEN; `dunlin serve` shows the first token once",
        )
    })
}

async fn login(context: &Context) -> Result<(), Failure> {
    let path = settings::path().ok_or_else(|| Failure::other("there is no place to store a token: HOME is not set"))?;
    let url = context.client()?.url().to_owned();
    let token = match context.given_token() {
        Some(token) => token,
        None => terminal::read_secret(&format!("Token for {url}"))?,
    };
    if token.is_empty() {
        return Err(Failure::usage("no token was given").hint("pass it with --token or on standard input"));
    }
    // A token that does not open the door is not stored.
    let platform = Client::new(&url, Some(token.clone()))?.platform().await?;
    Settings { url: Some(url.clone()), token: Some(token) }.save(&path)?;
    let orgs: Vec<_> = platform.organizations.iter().map(ToString::to_string).collect();
    context.out.say(format!("Signed in to {url} for {}. The token is stored in {}.", orgs.join(", "), path.display()));
    Ok(())
}

fn logout(context: &Context) -> Result<(), Failure> {
    if let Some(path) = settings::path().filter(|path| path.exists()) {
        Settings::default().save(&path)?;
    }
    context.out.say("Signed out.");
    Ok(())
}

async fn whoami(context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    let platform = client.platform().await?;
    let whoami = Whoami { url: client.url(), platform: &platform };
    context.out.data(&whoami, || {
        let orgs: Vec<_> = platform.organizations.iter().map(ToString::to_string).collect();
        list([
            ("API", client.url().to_owned()),
            ("Version", platform.version.clone()),
            ("Region", platform.region.to_string()),
            ("Apps at", format!("<app>.{}", platform.domain)),
            ("Registry", platform.registry.clone()),
            ("Isolation", platform.isolation.clone()),
            ("Organizations", orgs.join(", ")),
        ])
    })
}

async fn docker(context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    let registry = client.platform().await?.registry;
    let path = credentials::sign_docker_in(&registry, need_token(&client)?)?;
    context.out.say(format!("Docker may now push to {registry}/<app>:<tag>; {} says so.", path.display()));
    context.out.data(&json!({"registry": registry, "file": path}), || registry.clone())
}
