//! Why the control plane did not do what it was asked.

use api::internal::{ImageError, NodeError};
use thiserror::Error;

/// Why the control plane could not be opened.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}: check that it exists and that this user may write to it")]
    DataDirectory {
        /// The directory.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database cannot be opened or brought up to date.
    #[error("cannot open the control plane's database {path}")]
    Database {
        /// The file.
        path: String,
        /// What SQLite said.
        source: sqlx::Error,
    },
    /// A migration failed: the file is of a newer version of Dunlin, or damaged.
    #[error(
        "cannot bring the control plane's database {path} up to date: it was written by a newer version, or is damaged"
    )]
    Migration {
        /// The file.
        path: String,
        /// What failed.
        source: sqlx::migrate::MigrateError,
    },
    /// The database does not answer as it should.
    #[error("the control plane's database failed")]
    Store(#[source] Box<Error>),
}

impl From<Error> for ControlError {
    fn from(error: Error) -> Self {
        Self::Store(Box::new(error))
    }
}

/// Why a request was not done. `Display` says what and why; [`Error::hint`] says what to do next.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no such thing, or the caller may not know of it.
    #[error("{kind} not found: {name}")]
    NotFound {
        /// `app`, `machine`, `release`, `deployment`, `secret`, `lease`, `organization`, `token`, `host name`.
        kind: &'static str,
        /// What was asked for.
        name: String,
    },
    /// No token, or not a valid one.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The token does not reach so far.
    #[error("this token may not {0}")]
    Forbidden(&'static str),
    /// Another app has the name.
    #[error("Name has already been taken: {0}")]
    NameTaken(String),
    /// The request is not well-formed.
    #[error("{0}")]
    BadRequest(String),
    /// The request is well-formed but asks for what cannot be.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// The request asks for what this version does not do.
    #[error("not supported yet: {}", .0.join(", "))]
    Unsupported(Vec<String>),
    /// The app's configuration has errors.
    #[error("the configuration has errors:\n{0}")]
    Config(String),
    /// Somebody else holds the machine's lease.
    #[error("lease currently held by {owner}, expires at {until}")]
    LeaseHeld {
        /// Who.
        owner: String,
        /// When it ends (RFC 3339).
        until: String,
    },
    /// What the request rests on is no longer so.
    #[error("{message}")]
    Conflict {
        /// What.
        message: String,
        /// What to do next.
        hint: &'static str,
    },
    /// A wait was in vain.
    #[error("timed out after {seconds} s: machine {machine} is {state}, not {wanted}")]
    WaitTimeout {
        /// How long, in seconds.
        seconds: u64,
        /// The machine.
        machine: String,
        /// Its state.
        state: String,
        /// The states waited for.
        wanted: String,
    },
    /// A wait can no longer succeed.
    #[error("machine failed to reach desired state: {0}")]
    WaitFailed(String),
    /// A queue is full.
    #[error("{0}")]
    Busy(String),
    /// The body is larger than it may be.
    #[error("the request's body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The node did not do it.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The database failed.
    #[error("the control plane's database failed")]
    Store(#[from] sqlx::Error),
    /// What the database holds cannot be read.
    #[error("the control plane's database holds a {what} that cannot be read")]
    Unreadable {
        /// What.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// There is no such thing.
    pub(crate) fn not_found(kind: &'static str, name: impl Into<String>) -> Self {
        Self::NotFound { kind, name: name.into() }
    }

    /// One thing is wrong with the request.
    pub(crate) fn invalid(problem: impl Into<String>) -> Self {
        Self::Invalid(vec![problem.into()])
    }

    /// The database holds something that cannot be read.
    pub(crate) fn unreadable(what: &'static str) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> Self {
        move |source| Self::Unreadable { what, source }
    }

    /// What to do next, where that is not plain from the message.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotFound { kind: "app", .. } => "check the name; `dunlin apps list` shows the apps that you may use",
            Self::NotFound { kind: "machine", .. } => "check the id; `dunlin machine list` shows the app's machines",
            Self::NotFound { kind: "token", .. } => "`dunlin tokens list` shows the tokens that you may revoke",
            Self::Unauthenticated(_) => "send `Authorization: Bearer <token>` with a token of this platform",
            Self::Forbidden(_) => "use a token of the organization, or the administrator's",
            Self::NameTaken(_) => "choose another name",
            Self::Unsupported(_) => "remove these keys, or give them no value",
            Self::LeaseHeld { .. } => {
                "wait for it to end, or send its nonce in the header fly-machine-lease-nonce if it is yours"
            }
            Self::Conflict { hint, .. } => hint,
            Self::WaitTimeout { .. } => "ask again, or look at the machine's events and logs",
            Self::Busy(_) => "wait for what is under way to end, then try again",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
