//! Leases by request. While a machine is leased, whoever changes it must send the lease's nonce.

use api::public::machines::{Lease, LeaseData};
use kit::clock::{rfc3339, unix_ms};
use model::MachineId;

use crate::{
    Control,
    auth::Caller,
    error::Error,
    store::{
        apps::AppRow,
        leases::{self, LeaseRow},
    },
};

/// The longest lease, in seconds.
const MAX_TTL_S: u64 = 24 * 60 * 60;
/// What a lease lasts that says nothing about it, in seconds.
const DEFAULT_TTL_S: u64 = 30;

/// The nonce that a request came with, if any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Nonce(Option<String>);

impl Nonce {
    /// The content of the request's header field; an empty one says nothing.
    pub(crate) fn new(text: Option<&str>) -> Self {
        Self(text.filter(|text| !text.is_empty()).map(str::to_owned))
    }

    /// The request came without.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    fn opens(&self, lease: &LeaseRow) -> bool {
        self.0.as_deref() == Some(lease.nonce.as_str())
    }
}

impl Control {
    /// Refuses if somebody else holds the machine's lease.
    pub(crate) async fn check_lease(&self, id: &MachineId, nonce: &Nonce) -> Result<(), Error> {
        match leases::find(self.store.reader(), id).await? {
            Some(lease) if !nonce.opens(&lease) => Err(held(&lease)),
            _ => Ok(()),
        }
    }

    /// The lease that holds a machine now, without its nonce.
    pub(crate) async fn lease(&self, app: &AppRow, id: &MachineId) -> Result<Lease, Error> {
        self.live_machine(app, id).await?;
        let lease = leases::find(self.store.reader(), id).await?;
        let lease = lease.ok_or_else(|| Error::not_found("lease", format!("machine {id} is not leased")))?;
        Ok(show(&lease, false))
    }

    /// Takes a machine's lease; with its nonce, extends it.
    pub(crate) async fn acquire_lease(
        &self,
        caller: &Caller,
        app: &AppRow,
        id: &MachineId,
        ttl_s: u64,
        description: &str,
        nonce: &Nonce,
    ) -> Result<Lease, Error> {
        let ttl_s = if ttl_s == 0 { DEFAULT_TTL_S } else { ttl_s };
        if ttl_s > MAX_TTL_S {
            return Err(Error::invalid(format!("ttl: a lease lasts {MAX_TTL_S} s at most")));
        }
        let row = self.live_machine(app, id).await?;
        let mut tx = self.store.begin().await?;
        let nonce_text = match (leases::find(&mut *tx, id).await?, nonce) {
            (Some(lease), nonce) if nonce.opens(&lease) => lease.nonce,
            (Some(lease), _) => return Err(held(&lease)),
            (None, Nonce(Some(_))) => return Err(Error::not_found("lease", format!("machine {id} is not leased"))),
            (None, Nonce(None)) => kit::random::token(),
        };
        let lease = LeaseRow {
            machine_id: id.to_string(),
            nonce: nonce_text,
            owner: caller.name.clone(),
            description: description.chars().take(200).collect(),
            version: row.spec.version.to_string(),
            expires_at: unix_ms() + ttl_s * 1000,
            deployment_id: None,
        };
        leases::put(&mut tx, &lease).await?;
        self.store.commit(tx).await?;
        Ok(show(&lease, true))
    }

    /// Gives a machine's lease back.
    pub(crate) async fn release_lease(&self, app: &AppRow, id: &MachineId, nonce: &Nonce) -> Result<(), Error> {
        self.machine_row(app, id).await?;
        let mut tx = self.store.begin().await?;
        let lease = leases::find(&mut *tx, id).await?;
        let lease = lease.ok_or_else(|| Error::not_found("lease", format!("machine {id} is not leased")))?;
        if !nonce.opens(&lease) {
            return Err(held(&lease));
        }
        leases::delete(&mut tx, id).await?;
        self.store.commit(tx).await
    }
}

/// Somebody else holds the lease.
pub(crate) fn held(lease: &LeaseRow) -> Error {
    let until = match lease.expires_at {
        leases::NEVER => "when it ends".to_owned(),
        moment => rfc3339(moment),
    };
    Error::LeaseHeld { owner: lease.owner.clone(), until }
}

fn show(lease: &LeaseRow, with_nonce: bool) -> Lease {
    let data = LeaseData {
        nonce: with_nonce.then(|| lease.nonce.clone()),
        expires_at: i64::try_from(lease.expires_at / 1000).unwrap_or(i64::MAX),
        owner: lease.owner.clone(),
        description: lease.description.clone(),
        version: lease.version.clone(),
    };
    Lease { status: "success".to_owned(), data }
}
