//! `dunlin secrets`: set, list, remove. A value is read, sent, and never printed.

use std::collections::BTreeMap;

use api::public::machines::{SecretList, SetSecrets};
use clap::{Args, Subcommand};

use super::{context::Context, exit::Failure, output::table, terminal, watch};

/// What to do about secrets.
#[derive(Debug, Subcommand)]
pub enum Secrets {
    /// Set secrets, and bring them to the machines
    Set {
        /// NAME=VALUE, or NAME=- to read the value from standard input
        #[arg(required = true, value_name = "NAME=VALUE", allow_hyphen_values = false)]
        values: Vec<String>,
        /// How they reach the machines
        #[command(flatten)]
        how: How,
    },
    /// Set the secrets that standard input names: NAME=VALUE, one a line
    Import {
        /// How they reach the machines
        #[command(flatten)]
        how: How,
    },
    /// Remove secrets
    #[command(visible_aliases = ["remove", "rm"])]
    Unset {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
        /// How that reaches the machines
        #[command(flatten)]
        how: How,
    },
    /// List the names of secrets
    #[command(visible_alias = "ls")]
    List,
}

/// How a change of secrets reaches the machines.
#[derive(Debug, Clone, Copy, Args)]
pub struct How {
    /// Leave the machines as they are; the next deployment brings the secrets to them
    #[arg(long)]
    stage: bool,
    /// Do not wait for the machines
    #[arg(long, conflicts_with = "stage")]
    detach: bool,
}

/// Does it.
pub async fn run(context: &Context, command: Secrets) -> Result<(), Failure> {
    match command {
        Secrets::List => list(context).await,
        Secrets::Set { values, how } => change(context, named(&values)?, how).await,
        Secrets::Import { how } => change(context, imported(&terminal::read_input()?)?, how).await,
        Secrets::Unset { names, how } => {
            for name in &names {
                check_name(name)?;
            }
            change(context, names.into_iter().map(|name| (name, None)).collect(), how).await
        }
    }
}

type Values = BTreeMap<String, Option<String>>;

fn named(values: &[String]) -> Result<Values, Failure> {
    let mut secrets = Values::new();
    let mut input_taken = false;
    for text in values {
        let (name, value) = pair(text)?;
        let value = if value != "-" {
            value
        } else if std::mem::replace(&mut input_taken, true) {
            return Err(Failure::usage("standard input holds one value; only one secret can be read from it"));
        } else {
            terminal::read_secret(&format!("Value of {name}"))?
        };
        secrets.insert(name, Some(value));
    }
    Ok(secrets)
}

/// Reads lines of NAME=VALUE. Empty lines and comments are left out, quotes around a value are taken away.
fn imported(text: &str) -> Result<Values, Failure> {
    let mut secrets = Values::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = pair(line.strip_prefix("export ").unwrap_or(line))?;
        let unquoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        secrets.insert(name, Some(unquoted.unwrap_or(&value).to_owned()));
    }
    if secrets.is_empty() {
        return Err(Failure::usage("standard input names no secrets").hint("write NAME=VALUE, one a line"));
    }
    Ok(secrets)
}

/// Splits NAME=VALUE. What is wrong is told without the text: it may hold a value.
fn pair(text: &str) -> Result<(String, String), Failure> {
    let (name, value) = text.split_once('=').ok_or_else(|| {
        Failure::usage("a secret is given without a value")
            .hint("write NAME=VALUE, or NAME=- to read it from standard input")
    })?;
    check_name(name.trim())?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

fn check_name(name: &str) -> Result<(), Failure> {
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(letters) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Failure::usage("a secret's name is not that of an environment variable")
            .hint("use letters, digits and underscores, and begin with a letter"));
    }
    Ok(())
}

async fn change(context: &Context, values: Values, how: How) -> Result<(), Failure> {
    let (client, app) = (context.client()?, context.app()?);
    let secrets = client.set_secrets(&app, &SetSecrets { values }).await?;
    let Some(deployed) = secrets.deployed_version else {
        return staged(context, &secrets, "The app's first deployment brings them to its machines.");
    };
    if deployed == secrets.version {
        return staged(context, &secrets, "Nothing has changed.");
    }
    if how.stage {
        return staged(context, &secrets, "The next deployment brings them to the machines.");
    }
    let deployment = client.deploy_secrets(&app).await?;
    watch::show_plan(context, &app, &deployment.plan);
    if how.detach { watch::detach(context, &deployment) } else { watch::finish(context, &client, deployment).await }
}

fn staged(context: &Context, secrets: &SecretList, what: &str) -> Result<(), Failure> {
    context.out.say(format!("The secrets are set. {what}"));
    if context.out.is_json() { context.out.data(secrets, String::new) } else { Ok(()) }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let secrets = context.client()?.secrets(&context.app()?).await?;
    if secrets.deployed_version.is_some_and(|deployed| deployed != secrets.version) {
        context.out.say("Some changes have not reached the machines yet; the next deployment brings them there.");
    }
    let row = |secret: &api::public::machines::Secret| {
        [secret.name.clone(), secret.digest.clone(), secret.updated_at.clone()]
    };
    context.out.data(&secrets.secrets, || table(["NAME", "DIGEST", "SET"], secrets.secrets.iter().map(row)))
}

#[cfg(test)]
mod tests {
    use super::{super::exit::Exit, *};

    #[test]
    fn lines_of_names_and_values_are_read_like_an_environment_file() {
        let read = imported("# mine\nA=1\n\nexport B=\"two = 2\"\nC='x'\nD=\n").unwrap();
        let value = |name: &str| read[name].as_deref().unwrap();
        assert_eq!([value("A"), value("B"), value("C"), value("D")], ["1", "two = 2", "x", ""]);
        assert_eq!(imported("# nothing\n").unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_mistake_never_shows_the_value() {
        for text in ["hunter2", "1A=hunter2", "A B=hunter2", "=hunter2"] {
            let failure = pair(text).unwrap_err();
            assert!(!format!("{failure:?}").contains("hunter2"), "{failure:?}");
        }
    }
}
