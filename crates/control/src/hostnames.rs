//! Host names that apps bring along, by request: which an app wants, what is to be set in DNS, which certificates it has.

pub(crate) mod claim;
pub(crate) mod keeper;
pub(crate) mod proofs;
mod show;
mod timing;

use std::sync::Arc;

use api::{
    internal::HostnameView,
    public::certificates::{Certificate, CertificateList, ImportCertificate},
};
use kit::clock::unix_ms;
use model::{Hostname, Timestamp};
use tokio::sync::watch;

use crate::{
    Control,
    error::Error,
    store::{
        apps::AppRow,
        hostnames::{self, NameRow, Source},
    },
};

/// So many host names may an app have.
const MAX_PER_APP: usize = 500;
/// The longest chain or key that is imported, in bytes.
const MAX_PEM: usize = 64 * 1024;
/// How many are listed at a time unless something else is asked for, and at most.
const PAGE: (usize, usize) = (100, 500);

impl Control {
    /// The host names that are served, now and at every change.
    pub fn hostnames(&self) -> watch::Receiver<Arc<HostnameView>> {
        self.hostnames.subscribe()
    }

    /// An app's host names, by name: those that contain `filter`, from behind `cursor` on.
    pub(crate) async fn certificates(
        &self,
        app: &AppRow,
        filter: Option<&str>,
        cursor: Option<&str>,
        limit: Option<usize>,
    ) -> Result<CertificateList, Error> {
        let limit = limit.unwrap_or(PAGE.0).clamp(1, PAGE.1);
        let mut names = hostnames::of_app(self.store.reader(), app.id).await?;
        names.retain(|name| filter.is_none_or(|filter| name.hostname.as_str().contains(&filter.to_ascii_lowercase())));
        let total_count = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let mut rest =
            names.into_iter().skip_while(|name| cursor.is_some_and(|cursor| name.hostname.as_str() <= cursor));
        let mut list = CertificateList { total_count, ..CertificateList::default() };
        for name in rest.by_ref().take(limit) {
            let certificates = hostnames::certificates(self.store.reader(), name.id).await?;
            list.certificates.push(show::summary(&name, &certificates));
        }
        if rest.next().is_some() {
            list.next_cursor = list.certificates.last().map(|last| last.hostname.clone());
        }
        Ok(list)
    }

    /// One of them.
    pub(crate) async fn certificate(&self, app: &AppRow, hostname: &str) -> Result<Certificate, Error> {
        let name = self.name_row(app, hostname).await?;
        self.show_certificate(&name).await
    }

    /// Adds a host name and orders certificates for it from now on.
    pub(crate) async fn add_certificate(&self, app: &AppRow, hostname: &str) -> Result<Certificate, Error> {
        let hostname = self.new_hostname(app, hostname).await?;
        let mut tx = self.store.begin().await?;
        hostnames::add(&mut tx, app.id, &hostname, true, unix_ms()).await?;
        self.store.commit(tx).await?;
        self.hostname_news.notify_one();
        self.certificate(app, hostname.as_str()).await
    }

    /// Adds a host name with a certificate of its owner's, or puts another one in its place.
    pub(crate) async fn import_certificate(
        &self,
        app: &AppRow,
        request: ImportCertificate,
    ) -> Result<Certificate, Error> {
        let ImportCertificate { hostname, fullchain, private_key } = request;
        let hostname = self.new_hostname(app, &hostname).await?;
        for (what, pem) in [("fullchain", &fullchain), ("private_key", &private_key)] {
            if pem.len() > MAX_PEM {
                return Err(Error::invalid(format!("{what}: {} bytes; {MAX_PEM} at most", pem.len())));
            }
        }
        let now = unix_ms();
        let facts = self.ports.certifier.inspect(&hostname, &fullchain, &private_key, Timestamp(now));
        let facts = facts.map_err(|defect| Error::invalid(defect.to_string()))?;
        let sealed = self.seal_key(&hostname, &private_key);
        let mut tx = self.store.begin().await?;
        let id = hostnames::add(&mut tx, app.id, &hostname, false, now).await?;
        hostnames::put_certificate(&mut tx, id, Source::Custom, (&fullchain, &sealed), &facts, now).await?;
        self.store.commit(tx).await?;
        self.tell_hostnames().await?;
        self.hostname_news.notify_one();
        self.certificate(app, hostname.as_str()).await
    }

    /// Looks at DNS now, and has an order tried again.
    pub(crate) async fn check_certificate(&self, app: &AppRow, hostname: &str) -> Result<Certificate, Error> {
        let name = self.name_row(app, hostname).await?;
        let looked = self.look_at_dns(&name).await?.ok_or_else(|| Error::not_found("host name", hostname))?;
        let mut tx = self.store.begin().await?;
        hostnames::hurry(&mut tx, looked.id, unix_ms()).await?;
        self.store.commit(tx).await?;
        self.hostname_news.notify_one();
        self.show_certificate(&looked).await
    }

    /// Removes a host name with all its certificates.
    pub(crate) async fn remove_hostname(&self, app: &AppRow, hostname: &str) -> Result<(), Error> {
        let name = self.name_row(app, hostname).await?;
        let mut tx = self.store.begin().await?;
        hostnames::delete(&mut tx, name.id).await?;
        self.store.commit(tx).await?;
        self.tell_hostnames().await
    }

    /// Removes one kind of certificate. Without the ordered one no other is ordered.
    pub(crate) async fn remove_certificate(
        &self,
        app: &AppRow,
        hostname: &str,
        source: Source,
    ) -> Result<Certificate, Error> {
        let name = self.name_row(app, hostname).await?;
        let mut tx = self.store.begin().await?;
        hostnames::delete_certificate(&mut tx, name.id, source).await?;
        if source == Source::Acme {
            hostnames::order_none(&mut tx, name.id).await?;
        }
        self.store.commit(tx).await?;
        self.tell_hostnames().await?;
        self.certificate(app, hostname).await
    }

    async fn name_row(&self, app: &AppRow, text: &str) -> Result<NameRow, Error> {
        let hostname = Hostname::of_text(text).map_err(|_| Error::not_found("host name", text))?;
        let found = hostnames::find(self.store.reader(), app.id, &hostname).await?;
        found.ok_or_else(|| Error::not_found("host name", text))
    }

    /// A host name that an app may have.
    async fn new_hostname(&self, app: &AppRow, text: &str) -> Result<Hostname, Error> {
        app.require_living()?;
        let hostname = Hostname::of_text(text).map_err(|error| Error::invalid(error.to_string()))?;
        let (domain, name) = (&self.options.domain, hostname.as_str().trim_start_matches("*."));
        if name == domain || name.ends_with(&format!(".{domain}")) {
            return Err(Error::invalid(format!(
                "{hostname} lies below the platform's own domain {domain}, where names and certificates are made by themselves"
            )));
        }
        let present = hostnames::of_app(self.store.reader(), app.id).await?;
        if present.len() >= MAX_PER_APP && !present.iter().any(|name| name.hostname == hostname) {
            return Err(Error::invalid(format!("{} has {MAX_PER_APP} host names, more it cannot have", app.name)));
        }
        Ok(hostname)
    }
}
