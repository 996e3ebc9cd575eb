//! Facts about the platform by request.

use api::public::deploys::Platform;

use crate::{Control, auth::Caller, error::Error};

impl Control {
    /// What a client needs to know about the platform.
    pub(crate) async fn platform(&self, caller: &Caller) -> Result<Platform, Error> {
        let organizations = self.orgs(caller).await?.organizations;
        let (isolation, why) = self.ports.node.isolation();
        let options = &self.options;
        Ok(Platform {
            version: options.version.clone(),
            region: options.region.clone(),
            domain: options.domain.clone(),
            http_port: options.http_port,
            https_port: options.https_port,
            registry: options.registry_hosts.first().cloned().unwrap_or_default(),
            isolation: if why.is_empty() { isolation.to_string() } else { format!("{isolation}: {why}") },
            organizations: organizations.into_iter().map(|org| org.slug).collect(),
        })
    }

    /// Whether the database answers.
    pub(crate) async fn check_health(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(self.store.reader()).await?;
        Ok(())
    }
}
