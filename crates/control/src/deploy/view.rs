//! Deployments and releases as the API shows them, and an app's public address.

use api::public::deploys::{Deployment, Release};
use model::{
    AppName, Timestamp,
    machine::{Handler, MachineConfig, Port},
};

use crate::{
    Control, ControlOptions,
    error::Error,
    store::{apps::AppRow, deployments::DeploymentRow, releases, releases::ReleaseRow},
};

impl Control {
    /// A deployment as the API shows it.
    pub(crate) async fn show_deployment(&self, app: &AppRow, row: DeploymentRow) -> Result<Deployment, Error> {
        let release = releases::by_id(self.store.reader(), row.release_id).await?;
        let release = release.ok_or_else(|| Error::not_found("release", row.release_id.to_string()))?;
        Ok(Deployment {
            id: row.id,
            app: app.name.clone(),
            release: release.version,
            status: row.status,
            plan: row.plan,
            created_at: Timestamp(row.created_at),
            ended_at: row.ended_at.map(Timestamp),
            failure: row.failure,
            url: self.options.url(&app.name, release.definition()?.configs()),
        })
    }
}

/// A release as the API shows it.
pub(crate) fn release(app: &AppRow, row: ReleaseRow) -> Release {
    Release {
        version: row.version,
        status: row.status,
        current: app.current_release == Some(row.id),
        image: row.image,
        digest: row.digest,
        secrets_version: row.secrets_version,
        description: row.description,
        user: row.user,
        created_at: Timestamp(row.created_at),
        reason: row.reason,
    }
}

impl ControlOptions {
    /// The host name of an app under the platform's domain.
    pub(crate) fn hostname(&self, app: &AppName) -> String {
        format!("{app}.{}", self.domain)
    }

    /// The public address of an app's first HTTP port. Plain HTTP goes first, unless it only sends on to HTTPS: the
    /// platform's own domain may have a certificate that browsers do not know.
    pub(crate) fn url<'c>(&self, app: &AppName, configs: impl Iterator<Item = &'c MachineConfig>) -> Option<String> {
        let ports: Vec<_> = configs.flat_map(|config| &config.services).flat_map(|service| &service.ports).collect();
        let http = |port: &&&Port| port.handlers.contains(&Handler::Http);
        let tls = |port: &Port| port.handlers.contains(&Handler::Tls);
        let plain = ports.iter().filter(http).find(|port| !tls(port) && !port.force_https);
        let secure = ports.iter().filter(http).find(|port| tls(port));
        let (scheme, usual, port) = match (plain, secure) {
            (Some(port), _) => ("http", 80, port),
            (None, Some(port)) => ("https", 443, port),
            (None, None) => return None,
        };
        let number = match port.port.or(port.start_port)? {
            80 => self.http_port,
            443 => self.https_port,
            other => other,
        };
        let suffix = if number == usual { String::new() } else { format!(":{number}") };
        Some(format!("{scheme}://{}{suffix}/", self.hostname(app)))
    }
}
