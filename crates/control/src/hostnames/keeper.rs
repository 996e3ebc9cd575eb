//! Who looks after host names: whether they are proven by now, and whether a certificate is due.
//!
//! ```text
//!  unproven ── DNS names the app, or leads here ─▶ proven ── acme? ─▶ order ─▶ certificate ── due ─▶ order …
//!     ▲  └── not yet: again, later each time          │                └── failed: again, later each time,
//!     └── another app's claim is proven better ───────┘                    and what is there stays
//! ```
//!
//! What is due stands in the database, so a restart goes on where the last process ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use api::internal::{CertificateOrder, DnsSeen, HostnameRow, HostnameView, IssueError, SealedCertificate};
use futures_util::{StreamExt, stream::FuturesUnordered};
use kit::{clock::unix_ms, report::Report};
use model::{Hostname, Timestamp};
use sqlx::SqlitePool;
use tokio::time::sleep;

use super::{
    claim::{Claim, wins},
    timing,
};
use crate::{
    Control,
    error::Error,
    store::{
        Tx,
        hostnames::{self, CertificateRow, Failure, NameRow, Source},
        orders,
    },
};

/// So many names are worked on at a time.
const AT_ONCE: usize = 8;
/// The longest sleep of the keeper.
const NAP: Duration = Duration::from_secs(60);
/// How long the keeper rests when the database fails.
const REST: Duration = Duration::from_secs(1);

impl Control {
    /// Looks after host names until the control plane ends.
    pub(crate) async fn keep_hostnames(self: Arc<Self>) {
        if let Err(error) = self.begin_keeping().await {
            tracing::error!("cannot look after host names: {}", Report(&error));
        }
        let mut under_way = FuturesUnordered::new();
        let mut busy = BTreeSet::new();
        let keeping = async {
            loop {
                let nap = match self.due(&busy).await {
                    Ok((due, nap)) => {
                        for name in due {
                            busy.insert(name.id);
                            under_way.push(self.keep_one(name));
                        }
                        nap
                    }
                    Err(error) => {
                        tracing::error!("cannot look after host names: {}", Report(&error));
                        REST
                    }
                };
                tokio::select! {
                    Some(done) = under_way.next() => drop(busy.remove(&done)),
                    () = self.hostname_news.notified() => {}
                    () = sleep(nap) => {}
                }
            }
        };
        self.stop.run_until_cancelled(keeping).await;
    }

    async fn begin_keeping(&self) -> Result<(), Error> {
        let mut tx = self.store.begin().await?;
        hostnames::hurry_after_start(&mut tx, unix_ms()).await?;
        self.store.commit(tx).await
    }

    /// What is due and nobody works on, as much as there is room for, and how long nothing more will be.
    async fn due(&self, busy: &BTreeSet<i64>) -> Result<(Vec<NameRow>, Duration), Error> {
        // Those that are worked on may still stand at the top of the list.
        let (mut due, next) = hostnames::due(self.store.reader(), unix_ms(), 2 * AT_ONCE as u32).await?;
        due.retain(|name| !busy.contains(&name.id));
        due.truncate(AT_ONCE.saturating_sub(busy.len()));
        let until = next.map_or(NAP, |next| Duration::from_millis(next.saturating_sub(unix_ms())));
        Ok((due, until.min(NAP)))
    }

    /// Looks after a name. Tells which it was.
    async fn keep_one(&self, name: NameRow) -> i64 {
        if let Err(error) = self.keep(&name).await {
            tracing::error!(hostname = %name.hostname, "cannot look after a host name: {}", Report(&error));
            sleep(REST).await;
        }
        name.id
    }

    async fn keep(&self, name: &NameRow) -> Result<(), Error> {
        let picked = name.next_at;
        let Some(name) = self.look_at_dns(name).await? else { return Ok(()) };
        if name.proven_at.is_none() {
            let next_at = timing::after_look(unix_ms(), name.failures, noise());
            return self.rest(&name, picked, next_at, name.failures + 1).await;
        }
        if !name.acme {
            return self.rest(&name, picked, unix_ms() + timing::DAY, 0).await;
        }
        let certificates = hostnames::certificates(self.store.reader(), name.id).await?;
        let ordered = certificates.iter().find(|it| it.source == Source::Acme.as_str());
        let due = match ordered {
            None => 0,
            Some(certificate) => self.note_renewal(&name, certificate).await?,
        };
        let due = due.max(name.no_order_before.map_or(0, i64::unsigned_abs));
        if due <= unix_ms() {
            return self.order(&name, ordered).await;
        }
        self.rest(&name, picked, due.min(unix_ms() + timing::DAY), name.failures).await
    }

    /// There is nothing to do for it before then.
    async fn rest(&self, name: &NameRow, picked: i64, next_at: u64, failures: u32) -> Result<(), Error> {
        let mut tx = self.store.begin().await?;
        hostnames::set_next_since(&mut tx, name.id, picked, next_at, failures).await?;
        self.store.commit(tx).await
    }

    /// Asks DNS, and notes whose the name is. Nothing if it has been removed meanwhile.
    pub(crate) async fn look_at_dns(&self, name: &NameRow) -> Result<Option<NameRow>, Error> {
        let seen = self.ports.certifier.look_up(&self.claim(name).question()).await;
        let now = unix_ms();
        let mut tx = self.store.begin().await?;
        let Some(name) = hostnames::by_id(&mut *tx, name.id).await? else { return Ok(None) };
        let claim = self.claim(&name);
        hostnames::set_seen(&mut tx, name.id, &seen, claim.leads_here(&seen), now).await?;
        let changed = name.proven_at.is_none() && self.claim_by(&mut tx, &name, &seen, now).await?;
        self.store.commit(tx).await?;
        if changed {
            tracing::info!(hostname = %name.hostname, app = %name.app, "a host name is proven to be an app's");
            self.tell_hostnames().await?;
        }
        hostnames::by_id(self.store.reader(), name.id).await
    }

    /// Makes a name its app's own, if that is proven better than whoever has it proves it by now.
    async fn claim_by(&self, tx: &mut Tx, name: &NameRow, seen: &DnsSeen, now: u64) -> Result<bool, Error> {
        let (claim, owner) = (self.claim(name), hostnames::owner(&mut **tx, &name.hostname).await?);
        let present = owner.as_ref().map(|owner| self.claim(owner).proof(seen));
        let is_below_anothers = hostnames::is_anothers(tx, &claim.names_above(), &name.org).await?;
        if !wins(claim.proof_below(seen, is_below_anothers), present) {
            return Ok(false);
        }
        if let Some(owner) = owner {
            hostnames::set_proven(tx, owner.id, None).await?;
            hostnames::hurry(tx, owner.id, now).await?;
        }
        hostnames::set_proven(tx, name.id, Some(now)).await?;
        Ok(true)
    }

    /// When an ordered certificate is to be renewed, by what its issuer says now.
    async fn note_renewal(&self, name: &NameRow, certificate: &CertificateRow) -> Result<u64, Error> {
        let window = self.ports.certifier.renewal_window(&certificate.chain_pem).await;
        // The same each time, so that a look in between does not move it.
        let noise = certificate.not_after as u32 ^ (certificate.created_at as u32).rotate_left(16);
        let at = timing::renewal(certificate.not_before, certificate.not_after, window, noise);
        let mut tx = self.store.begin().await?;
        hostnames::set_renewal(&mut tx, name.id, at).await?;
        self.store.commit(tx).await?;
        Ok(at)
    }

    async fn order(&self, name: &NameRow, before: Option<&CertificateRow>) -> Result<(), Error> {
        // Whoever has a certificate gets the next one, however many others are ordered.
        let counted = match before {
            Some(_) => None,
            None => match self.count_order(name).await? {
                Ok(counted) => Some(counted),
                Err(over) => return self.note_failed_order(name, &over).await,
            },
        };
        let order = CertificateOrder {
            hostname: name.hostname.clone(),
            reaches_edge: name.reaches_edge,
            acme_record: self.claim(name).acme_record(name.seen().as_ref()),
            replaces: before.map(|certificate| certificate.chain_pem.clone()),
        };
        let issued = self.ports.certifier.issue(&order).await.and_then(|issued| {
            let now = Timestamp(unix_ms());
            let facts = self.ports.certifier.inspect(&name.hostname, &issued.chain_pem, &issued.key_pem, now);
            let facts =
                facts.map_err(|defect| IssueError::Refused(format!("what it issued is of no use: {defect}")))?;
            Ok((issued, facts))
        });
        let (issued, facts) = match issued {
            Ok(issued) => issued,
            Err(error) => {
                if let (Some(counted), IssueError::Off | IssueError::NoMethod { .. } | IssueError::Unavailable(_)) =
                    (counted, &error)
                {
                    let mut tx = self.store.begin().await?;
                    orders::forget(&mut tx, counted).await?;
                    self.store.commit(tx).await?;
                }
                return self.note_failed_order(name, &error).await;
            }
        };
        let now = unix_ms();
        let sealed = self.seal_key(&name.hostname, &issued.key_pem);
        let mut tx = self.store.begin().await?;
        // It may have been removed meanwhile.
        let stays = hostnames::by_id(&mut *tx, name.id).await?.is_some_and(|name| name.acme);
        if stays {
            let pair = (issued.chain_pem.as_str(), sealed.as_slice());
            hostnames::put_certificate(&mut tx, name.id, Source::Acme, pair, &facts, now).await?;
            hostnames::set_issued(&mut tx, name.id, now).await?;
        }
        self.store.commit(tx).await?;
        tracing::info!(hostname = %name.hostname, issuer = facts.issuer, "a certificate was issued");
        self.tell_hostnames().await
    }

    /// Counts a first order before it is made, unless there were too many. Tells its number.
    async fn count_order(&self, name: &NameRow) -> Result<Result<i64, IssueError>, Error> {
        let (now, of_name, of_org) = (unix_ms(), timing::OF_A_NAME, timing::OF_AN_ORG);
        let mut tx = self.store.begin().await?;
        let earlier = orders::of_name(&mut tx, &name.hostname, of_name.orders - 1).await?;
        let name_until = of_name.used_up_until(earlier, now);
        let earlier = orders::of_org(&mut tx, &name.org, of_org.orders - 1).await?;
        let org_until = of_org.used_up_until(earlier, now);
        if let Some(until) = name_until.max(org_until) {
            let (whose, share) = if name_until == Some(until) { ("name", of_name) } else { ("organization", of_org) };
            let reason = format!("{} orders in {} h are all that one {whose} has", share.orders, share.hours);
            return Ok(Err(IssueError::RateLimited { reason, until: Some(Timestamp(until)) }));
        }
        let counted = orders::add(&mut tx, &name.org, &name.hostname, now, of_org.since(now)).await?;
        self.store.commit(tx).await?;
        Ok(Ok(counted))
    }

    async fn note_failed_order(&self, name: &NameRow, error: &IssueError) -> Result<(), Error> {
        tracing::warn!(hostname = %name.hostname, "no certificate was issued: {error}");
        let (now, failures) = (unix_ms(), name.failures + 1);
        let next_at = timing::after_order(now, failures, error, noise());
        let limited = matches!(error, IssueError::RateLimited { .. }).then_some(next_at);
        let failure = Failure { rate_limited_until: limited, ..Failure::of(error, now) };
        let times = (next_at, timing::no_order_before(now, next_at, error));
        let mut tx = self.store.begin().await?;
        hostnames::set_failed(&mut tx, name.id, times, failures, &failure).await?;
        self.store.commit(tx).await
    }

    /// The claim that a row stands for.
    pub(crate) fn claim<'a>(&'a self, name: &'a NameRow) -> Claim<'a> {
        let NameRow { hostname, app, org, .. } = name;
        let (domain, addresses) = (self.options.domain.as_str(), self.options.public_addresses.as_slice());
        Claim { hostname, app, org, domain, addresses }
    }

    pub(crate) fn seal_key(&self, hostname: &Hostname, key_pem: &str) -> Vec<u8> {
        self.ports.sealing_key.seal(&SealedCertificate::place(hostname), key_pem.as_bytes())
    }

    /// Tells the edge what is stored. Whoever reads later tells later, so that nothing older is told last.
    pub(crate) async fn tell_hostnames(&self) -> Result<(), Error> {
        let _told_in_order = self.telling.lock().await;
        let rows = view(self.store.reader()).await?;
        self.hostnames.send_if_modified(|told| {
            let differs = told.rows != rows;
            if differs {
                *told = Arc::new(HostnameView { generation: told.generation + 1, rows, incomplete: false });
            }
            differs
        });
        Ok(())
    }
}

/// The rows of what the edge is told.
pub(crate) async fn view(db: &SqlitePool) -> Result<BTreeMap<Hostname, Arc<HostnameRow>>, Error> {
    let mut certificates: BTreeMap<i64, Vec<SealedCertificate>> = BTreeMap::new();
    for certificate in hostnames::all_certificates(db).await? {
        certificates.entry(certificate.hostname_id).or_default().push(certificate.sealed());
    }
    let rows = hostnames::proven(db).await?.into_iter().map(|name| {
        let certificates = certificates.remove(&name.id).unwrap_or_default();
        let row = HostnameRow { hostname: name.hostname.clone(), app: name.app, certificates };
        (name.hostname, Arc::new(row))
    });
    Ok(rows.collect())
}

fn noise() -> u32 {
    u32::from_le_bytes(kit::random::bytes())
}
