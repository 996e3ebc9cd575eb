//! What the platform's registry asks of the control plane: who may use a repository, and which images are in use.

use api::internal::{ImagesInUse, RegistryAccess, RegistryRights};
use async_trait::async_trait;
use kit::report::Report;
use model::{Digest, OrgSlug};

use crate::{
    auth::{self, Caller, Scope},
    error::Error,
    store::{Store, apps, orgs, releases},
};

const ALL: RegistryRights = RegistryRights { pull: true, push: true, delete: true };

#[async_trait]
impl RegistryAccess for Store {
    async fn rights(&self, token: &str, repository: &str) -> Option<RegistryRights> {
        match rights(self, token, repository).await {
            Ok(rights) => rights,
            Err(error) => {
                tracing::error!(repository, "cannot decide about a repository: {}", Report(&error));
                None
            }
        }
    }

    async fn may_run(&self, org: &OrgSlug, repository: &str) -> bool {
        may_run(self, org, repository).await.unwrap_or_else(|error| {
            tracing::error!(repository, "cannot decide about a repository: {}", Report(&error));
            false
        })
    }
}

async fn rights(store: &Store, token: &str, repository: &str) -> Result<Option<RegistryRights>, Error> {
    let Some(caller) = auth::authenticate(store, token).await? else { return Ok(None) };
    let may = repository.is_empty() || reaches(store, &caller, repository).await?;
    Ok(Some(if may { ALL } else { RegistryRights::default() }))
}

/// Whether a caller may use a repository: `<app>`, `<app>/…`, or `<organization>/…` for those who act for the whole
/// of it. An app's repositories exist only while the app does.
async fn reaches(store: &Store, caller: &Caller, repository: &str) -> Result<bool, Error> {
    let first = repository.split('/').next().unwrap_or_default();
    if let Some(app) = apps::find(store.reader(), Scope::Admin, first).await? {
        let own = apps::find(store.reader(), caller.scope, first).await?.is_some();
        if own || !repository.contains('/') || app.org.as_str() != first {
            return Ok(own && !app.destroying);
        }
    }
    if !repository.contains('/') {
        return Ok(false);
    }
    Ok(orgs::by_slug(store.reader(), first).await?.is_some_and(|org| caller.acts_for(org.id)))
}

/// Whether an organization may run images of a repository.
async fn may_run(store: &Store, org: &OrgSlug, repository: &str) -> Result<bool, Error> {
    let Some(org) = orgs::by_slug(store.reader(), org.as_str()).await? else { return Ok(false) };
    reaches(store, &Caller { scope: Scope::Org(org.id), name: String::new() }, repository).await
}

#[async_trait]
impl ImagesInUse for Store {
    async fn images_in_use(&self) -> Result<Vec<Digest>, String> {
        let texts = releases::digests_in_use(self.reader()).await.map_err(|error| Report(&error).to_string())?;
        texts.into_iter().map(|text| text.parse().map_err(|error| format!("{error}"))).collect()
    }
}
