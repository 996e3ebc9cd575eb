//! Secrets by request: set and removed all or none, under one version that grows with each change.
//!
//! Each value is sealed for its app and name as soon as it arrives; it is opened only to be sealed again, together
//! with the app's others, for the host that starts a machine. It is never shown.

use std::collections::BTreeMap;

use api::public::machines::{Secret, SecretList};
use kit::clock::{rfc3339, unix_ms};
use model::machine::SealedSecrets;
use sha2::{Digest as _, Sha256};

use crate::{
    Control,
    error::Error,
    store::{
        Tx,
        apps::AppRow,
        releases,
        secrets::{self, SecretRow},
    },
};

const MAX_SECRETS: usize = 300;
const MAX_VALUE_BYTES: usize = 64 * 1024;
const MAX_TOTAL_BYTES: usize = 512 * 1024;

impl Control {
    /// An app's secrets, without their values.
    pub(crate) async fn secrets(&self, app: &AppRow) -> Result<SecretList, Error> {
        let rows = secrets::at_version(self.store.reader(), app.id, app.secrets_version).await?;
        let deployed_version = match app.current_release {
            Some(id) => releases::by_id(self.store.reader(), id).await?.map(|release| release.secrets_version),
            None => None,
        };
        Ok(SecretList { secrets: rows.iter().map(show).collect(), version: app.secrets_version, deployed_version })
    }

    /// One of an app's secrets, without its value.
    pub(crate) async fn secret(&self, app: &AppRow, name: &str) -> Result<Secret, Error> {
        let rows = secrets::at_version(self.store.reader(), app.id, app.secrets_version).await?;
        rows.iter().find(|row| row.name == name).map(show).ok_or_else(|| Error::not_found("secret", name))
    }

    /// Sets and removes secrets, all or none. What changes nothing makes no new version.
    pub(crate) async fn set_secrets(
        &self,
        app: &AppRow,
        values: BTreeMap<String, Option<String>>,
    ) -> Result<SecretList, Error> {
        check(&values)?;
        let mut tx = self.store.begin().await?;
        let version = secrets::version(&mut tx, app.id).await?;
        let present = secrets::at_version(&mut *tx, app.id, version).await?;
        let mut kept: BTreeMap<&str, usize> = present.iter().map(|row| (row.name.as_str(), row.sealed.len())).collect();
        let mut changed = false;
        for (name, value) in &values {
            let before = present.iter().find(|row| row.name == *name);
            if self.is_same(app, before, value.as_deref())? {
                continue;
            }
            changed = true;
            secrets::end(&mut tx, app.id, name, version + 1).await?;
            kept.remove(name.as_str());
            if let Some(value) = value {
                secrets::add(&mut tx, app.id, version + 1, &self.seal(app, name, value, before)).await?;
                kept.insert(name, value.len());
            }
        }
        if kept.len() > MAX_SECRETS || kept.values().sum::<usize>() > MAX_TOTAL_BYTES {
            return Err(Error::invalid(format!(
                "an app has {MAX_SECRETS} secrets and {MAX_TOTAL_BYTES} bytes of them at most"
            )));
        }
        if changed {
            secrets::set_version(&mut tx, app.id, version + 1).await?;
            let oldest = oldest_needed(&mut tx, app, version).await?;
            secrets::delete_unreachable(&mut tx, app.id, oldest).await?;
        }
        self.store.commit(tx).await?;
        let version = if changed { version + 1 } else { version };
        self.secrets(&AppRow { secrets_version: version, ..app.clone() }).await
    }

    /// Removes one secret.
    pub(crate) async fn unset_secret(&self, app: &AppRow, name: &str) -> Result<SecretList, Error> {
        self.secret(app, name).await?;
        self.set_secrets(app, [(name.to_owned(), None)].into()).await
    }

    fn is_same(&self, app: &AppRow, before: Option<&SecretRow>, value: Option<&str>) -> Result<bool, Error> {
        match (before, value) {
            (None, None) => Ok(true),
            (Some(row), Some(value)) => Ok(self.open_secret(app, row)? == value),
            _ => Ok(false),
        }
    }

    fn seal(&self, app: &AppRow, name: &str, value: &str, before: Option<&SecretRow>) -> SecretRow {
        let sealed = self.ports.sealing_key.seal(&place(app, name), value.as_bytes());
        let now = unix_ms();
        SecretRow {
            name: name.to_owned(),
            // Of the sealed value, which is salted: it changes with the value and tells nothing about it.
            digest: hex::encode(&Sha256::digest(&sealed)[..8]),
            sealed,
            created_at: before.map_or(now, |row| row.created_at),
            updated_at: now,
        }
    }

    fn open_secret(&self, app: &AppRow, row: &SecretRow) -> Result<String, Error> {
        let plain = self.ports.sealing_key.open(&place(app, &row.name), &row.sealed);
        let plain = plain.map_err(|error| Error::unreadable("secret")(error.into()))?;
        String::from_utf8(plain).map_err(|error| Error::unreadable("secret")(error.into()))
    }

    /// The secrets of one version, sealed as a whole for the host that starts a machine.
    pub(crate) async fn sealed_secrets(&self, app: &AppRow, version: u64) -> Result<SealedSecrets, Error> {
        let rows = secrets::at_version(self.store.reader(), app.id, version).await?;
        if rows.is_empty() {
            return Ok(SealedSecrets { version, sealed: Vec::new() });
        }
        let open = |row: &SecretRow| Ok((row.name.clone(), self.open_secret(app, row)?));
        let values = rows.iter().map(open).collect::<Result<BTreeMap<_, _>, Error>>()?;
        let plain = crate::store::to_json(&values);
        let sealed = self.ports.sealing_key.seal(&SealedSecrets::place(&app.name), plain.as_bytes());
        Ok(SealedSecrets { version, sealed })
    }
}

/// The oldest version of the secrets that a release within reach still asks for.
async fn oldest_needed(tx: &mut Tx, app: &AppRow, newest: u64) -> Result<u64, Error> {
    let kept = releases::kept(&mut **tx, app.id).await?;
    let under_way = releases::list(&mut **tx, app.id, releases::KEPT).await?;
    let current = match app.current_release {
        Some(id) => releases::by_id(&mut **tx, id).await?,
        None => None,
    };
    let needed = kept.iter().chain(&under_way).chain(&current).map(|release| release.secrets_version);
    Ok(needed.min().unwrap_or(newest))
}

/// The place that one secret's value is sealed for.
fn place(app: &AppRow, name: &str) -> String {
    format!("secret/{}/{}/{name}", app.id, app.name)
}

fn show(row: &SecretRow) -> Secret {
    Secret {
        name: row.name.clone(),
        digest: row.digest.clone(),
        created_at: rfc3339(row.created_at),
        updated_at: rfc3339(row.updated_at),
    }
}

fn check(values: &BTreeMap<String, Option<String>>) -> Result<(), Error> {
    let mut problems = Vec::new();
    for (name, value) in values {
        let first = |c: char| c.is_ascii_alphabetic() || c == '_';
        if !name.starts_with(first) || !name.chars().all(|c| first(c) || c.is_ascii_digit()) || name.len() > 128 {
            problems
                .push(format!("{name:?} is not a secret's name: letters, digits and '_', not beginning with a digit"));
        }
        if name.starts_with("FLY_") {
            problems.push(format!("{name} belongs to the platform; choose a name that does not begin with FLY_"));
        }
        let value = value.as_deref().unwrap_or_default();
        if value.len() > MAX_VALUE_BYTES || value.contains('\0') {
            problems.push(format!("{name}: a value has {MAX_VALUE_BYTES} bytes at most, none of them NUL"));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Invalid(problems)) }
}
