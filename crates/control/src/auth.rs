//! Who calls, and how far they may reach.
//!
//! A token is `dunlin_<id>_<secret>`. The id finds the row; of the secret only the SHA-256 is kept, and it is compared
//! in constant time, so neither the database nor the time an answer takes tells a secret.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    error::Error,
    store::{Store, Tx, apps::AppRow, tokens},
};

/// How far a token reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything.
    Admin,
    /// One organization.
    Org(i64),
    /// One app.
    App {
        /// Its organization.
        org: i64,
        /// The app.
        app: i64,
    },
}

impl Scope {
    /// The organization and the app it is limited to.
    pub(crate) fn ids(self) -> (Option<i64>, Option<i64>) {
        match self {
            Self::Admin => (None, None),
            Self::Org(org) => (Some(org), None),
            Self::App { org, app } => (Some(org), Some(app)),
        }
    }
}

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// How far they reach.
    pub scope: Scope,
    /// Their token's name, for people.
    pub name: String,
}

impl Caller {
    /// Refuses anyone but the administrator.
    pub(crate) fn require_admin(&self, to_do: &'static str) -> Result<(), Error> {
        if self.scope == Scope::Admin { Ok(()) } else { Err(Error::Forbidden(to_do)) }
    }

    /// Refuses those who may use the app, but not decide about it.
    pub(crate) fn require_whole_org(&self, app: &AppRow) -> Result<(), Error> {
        if self.acts_for(app.org_id) { Ok(()) } else { Err(Error::Forbidden("decide about the app as a whole")) }
    }

    /// The organization whose tokens they may see and revoke; none means all. Who reaches but one app decides about none.
    pub(crate) fn tokens_within(&self) -> Result<Option<i64>, Error> {
        match self.scope {
            Scope::Admin => Ok(None),
            Scope::Org(org) => Ok(Some(org)),
            Scope::App { .. } => Err(Error::Forbidden("see or revoke tokens")),
        }
    }

    /// Whether they may act for a whole organization.
    pub(crate) fn acts_for(&self, org: i64) -> bool {
        matches!(self.scope, Scope::Admin) || self.scope == Scope::Org(org)
    }
}

const PREFIX: &str = "dunlin";

/// A new token: what its owner is shown, and what is kept of it.
struct Minted {
    text: String,
    id: String,
    hash: [u8; 32],
}

fn mint() -> Minted {
    let id = hex::encode(kit::random::bytes::<8>());
    let secret = kit::random::token();
    Minted { text: format!("{PREFIX}_{id}_{secret}"), hash: hash(&secret), id }
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Makes a token and returns its text, which nobody can find out later.
pub(crate) async fn create_token(
    tx: &mut Tx,
    scope: Scope,
    name: &str,
    expires_at: Option<u64>,
    shown: bool,
) -> Result<String, Error> {
    let Minted { text, id, hash } = mint();
    tokens::insert(tx, tokens::NewToken { id: &id, scope, hash: &hash, name, shown, expires_at }).await?;
    Ok(text)
}

/// The administrator's first token, made anew at every start until one has been shown to someone.
pub(crate) async fn first_token(store: &Store) -> Result<Option<String>, Error> {
    let mut tx = store.begin().await?;
    if tokens::admin_was_shown(&mut tx).await? {
        return Ok(None);
    }
    tokens::delete_unshown(&mut tx).await?;
    let token = create_token(&mut tx, Scope::Admin, "admin", None, false).await?;
    store.commit(tx).await?;
    Ok(Some(token))
}

/// Who holds this token, if it is valid.
pub(crate) async fn authenticate(store: &Store, token: &str) -> Result<Option<Caller>, Error> {
    let mut parts = token.splitn(3, '_');
    let (Some(PREFIX), Some(id), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
        return Ok(None);
    };
    let Some(row) = tokens::find(store.reader(), id).await? else { return Ok(None) };
    let good: bool = hash(secret).as_slice().ct_eq(&row.hash).into();
    Ok(good.then(|| Caller { scope: row.scope(), name: row.name.clone() }))
}
