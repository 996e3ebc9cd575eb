//! `dunlin orgs` and `dunlin tokens`: who owns apps, and who may act.

use api::public::access::{CreateOrganization, CreateToken};
use clap::{Args, Subcommand};
use model::GoDuration;

use super::{context::Context, exit::Failure, output::table};

/// What to do about organizations.
#[derive(Debug, Subcommand)]
pub enum Orgs {
    /// List the organizations that you may act for
    #[command(visible_alias = "ls")]
    List,
    /// Create an organization; its apps share a private network that no other reaches
    Create {
        /// Its short name
        slug: String,
        /// Its name, for people
        #[arg(long, default_value = "")]
        name: String,
    },
}

/// What to do about tokens.
#[derive(Debug, Subcommand)]
pub enum Tokens {
    /// Make a token and print it; it is shown this once
    Create(Create),
}

/// What a token is good for.
#[derive(Debug, Args)]
pub struct Create {
    /// Everything of this organization; the app (--app, or the configuration file's) alone unless given
    #[arg(long, short)]
    org: Option<String>,
    /// What it is for, for people
    #[arg(long, short, default_value = "token")]
    name: String,
    /// How long it is good, such as 720h; for good unless given
    #[arg(long, short = 'x')]
    expiry: Option<GoDuration>,
}

/// Does what is to be done about organizations.
pub async fn run(context: &Context, command: Orgs) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        Orgs::List => {
            let orgs = client.organizations().await?.organizations;
            let row = |org: &api::public::machines::Organization| [org.slug.to_string(), org.name.clone()];
            context.out.data(&orgs, || table(["SLUG", "NAME"], orgs.iter().map(row)))
        }
        Orgs::Create { slug, name } => {
            let org = client.create_organization(&CreateOrganization { slug, name }).await?;
            context.out.say(format!("Created organization {}.", org.slug));
            context.out.data(&org, || org.slug.to_string())
        }
    }
}

/// Does what is to be done about tokens.
pub async fn tokens(context: &Context, command: Tokens) -> Result<(), Failure> {
    let Tokens::Create(Create { org, name, expiry }) = command;
    let client = context.client()?;
    let request = CreateToken { name, expiry: expiry.map(|expiry| expiry.to_string()) };
    let reply = match org {
        Some(org) => {
            let org: model::OrgSlug =
                org.parse().map_err(|error: model::InvalidName| Failure::usage(error.to_string()))?;
            client.create_org_token(org.as_str(), &request).await?
        }
        None => client.create_app_token(&context.app()?, &request).await?,
    };
    context.out.say("The token is shown this once:");
    context.out.data(&reply, || reply.token.clone())
}
