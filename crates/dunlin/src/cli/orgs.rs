//! `dunlin orgs` and `dunlin tokens`: who owns apps, and who may act.

use api::public::access::{CreateOrganization, CreateToken, Token};
use clap::{Args, Subcommand};
use model::GoDuration;

use super::{
    context::Context,
    exit::Failure,
    output::{ago, table},
};

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
    /// List the tokens that you may revoke
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this organization and its apps
        #[arg(long, short)]
        org: Option<String>,
    },
    /// Make tokens good no more, at once
    Revoke {
        /// Their ids, as `tokens list` shows them
        #[arg(required = true)]
        ids: Vec<String>,
    },
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
    match command {
        Tokens::Create(wanted) => create_token(context, wanted).await,
        Tokens::List { org } => list_tokens(context, org.as_deref()).await,
        Tokens::Revoke { ids } => revoke_tokens(context, &ids).await,
    }
}

/// Those of the app that --app names, or all.
async fn list_tokens(context: &Context, org: Option<&str>) -> Result<(), Failure> {
    let tokens = context.client()?.tokens(org, context.app_override()?.as_ref()).await?.tokens;
    let now = kit::clock::unix_ms();
    let row = |token: &Token| {
        let reaches = match (&token.org, &token.app) {
            (_, Some(app)) => format!("app {app}"),
            (Some(org), None) => format!("organization {org}"),
            (None, None) => "everything".to_owned(),
        };
        let ends = token.expires_at.map_or_else(|| "never".to_owned(), |at| kit::clock::rfc3339(at.0));
        [token.id.clone(), token.name.clone(), reaches, ago(now, token.created_at.0), ends]
    };
    context.out.data(&tokens, || table(["ID", "NAME", "REACHES", "CREATED", "EXPIRES"], tokens.iter().map(row)))
}

async fn revoke_tokens(context: &Context, ids: &[String]) -> Result<(), Failure> {
    let client = context.client()?;
    for id in ids {
        client.revoke_token(id).await?;
        context.out.say(format!("Token {id} is good no more."));
    }
    Ok(())
}

async fn create_token(context: &Context, wanted: Create) -> Result<(), Failure> {
    let Create { org, name, expiry } = wanted;
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
