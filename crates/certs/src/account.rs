//! The account with an ACME server: made at the first order, kept sealed, one file per directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use api::internal::IssueError;
use instant_acme::{AccountCredentials, NewAccount};
use kit::seal::SealingKey;

use crate::{problem, transport::Transport};

/// Where an account is kept, and how it is made.
pub struct Account {
    path: PathBuf,
    directory: String,
    contact: String,
    sealing_key: SealingKey,
}

impl Account {
    /// The account with the server of a directory, kept below `accounts`.
    pub fn new(accounts: &Path, directory: String, email: &str, sealing_key: SealingKey) -> Self {
        let path = accounts.join(file_name(&directory));
        Self { path, directory, contact: format!("mailto:{email}"), sealing_key }
    }

    /// The account; registered now if there is none yet.
    pub async fn open(&self, transport: &Transport) -> Result<instant_acme::Account, IssueError> {
        let meaning = |error| problem::meaning(error, None, transport.retry_after());
        let builder = instant_acme::Account::builder_with_http(Box::new(transport.clone()));
        if let Some(credentials) = self.read() {
            return builder.from_credentials(credentials).await.map_err(meaning);
        }
        let contact = [self.contact.as_str()];
        let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) = builder.create(&new, self.directory.clone(), None).await.map_err(meaning)?;
        self.keep(&credentials).map_err(|error| {
            IssueError::Unavailable(format!("the account cannot be kept in {}: {error}", self.path.display()))
        })?;
        tracing::info!(directory = %self.directory, "registered with the issuer of certificates");
        Ok(account)
    }

    /// Forgets the account: the server no longer knows it.
    pub fn forget(&self) {
        if let Err(error) = kit::durable::remove(&self.path) {
            tracing::warn!("{} cannot be removed: {error}", self.path.display());
        }
    }

    /// The account on the disk. One that cannot be read is made anew: nothing hangs from it.
    fn read(&self) -> Option<AccountCredentials> {
        let sealed = match fs::read(&self.path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("{} cannot be read and is made anew: {error}", self.path.display());
                return None;
            }
        };
        let plain = self.sealing_key.open(&self.place(), &sealed).ok();
        let credentials = plain.and_then(|plain| serde_json::from_slice(&plain).ok());
        if credentials.is_none() {
            tracing::warn!("{} cannot be opened and is made anew", self.path.display());
        }
        credentials
    }

    fn keep(&self, credentials: &AccountCredentials) -> io::Result<()> {
        let plain = serde_json::to_vec(credentials)?;
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        kit::durable::write(&self.path, &self.sealing_key.seal(&self.place(), &plain), 0o600)
    }

    fn place(&self) -> String {
        format!("acme/{}", self.directory)
    }
}

/// A file's name for a directory's address: its letters and digits.
fn file_name(directory: &str) -> String {
    let plain = directory.trim_start_matches("https://").chars();
    let plain: String = plain.map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).take(100).collect();
    format!("{plain}.account")
}
