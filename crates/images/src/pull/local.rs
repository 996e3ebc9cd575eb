//! Images of the platform's own registry.

use std::sync::Arc;

use api::internal::ImageError;
use model::{Digest, OrgSlug, Reference};

use super::{Puller, not_found, platform::choose, storage};
use crate::{
    document::Manifest,
    layers::{read_bounded, unusable},
    registry::{
        Registry,
        repository::{Repository, RepositoryName},
    },
    store::absent_is_none,
};

/// How many tags a message names.
const TAGS_SHOWN: usize = 8;

impl Puller {
    /// Whether a name means this registry. An own host in it says so; without a host, it does if the organization has
    /// a repository of that name.
    pub(super) async fn is_local(&self, org: &OrgSlug, name: &str, reference: &Reference) -> Result<bool, ImageError> {
        let own = match &reference.registry {
            None => false,
            Some(host) if self.options.own_hosts.contains(host) => true,
            Some(_) => return Ok(false),
        };
        let Ok(repository) = reference.repository.parse::<RepositoryName>() else { return Ok(false) };
        let exists = self.registry.repositories.get(&repository).exists();
        let may_run = exists && self.options.access.may_run(org, repository.as_str()).await;
        if own && !may_run {
            // Whether it is another organization's or nobody's is not told.
            let reason =
                format!("organization {org} has no repository {repository} here; {}", self.push_hint(reference));
            return Err(not_found(name, reason));
        }
        Ok(may_run)
    }

    /// The manifest of this host's platform that a name of this registry stands for.
    pub(super) async fn find_local(&self, name: &str, reference: &Reference) -> Result<Digest, ImageError> {
        let (registry, name_, reference_) = (Arc::clone(&self.registry), name.to_owned(), reference.clone());
        let hint = self.push_hint(reference);
        tokio::task::spawn_blocking(move || find(&registry, &name_, &reference_, &hint))
            .await
            .unwrap_or_else(|_| Err(storage(name, "the platform is stopping")))
    }

    /// How to push an image of that name.
    fn push_hint(&self, reference: &Reference) -> String {
        let host = self.options.own_hosts.first().map_or("<this platform's registry>", String::as_str);
        let tag = reference.tag.as_deref().unwrap_or("latest");
        format!("push it first: docker push {host}/{}:{tag}", reference.repository)
    }
}

fn find(registry: &Registry, name: &str, reference: &Reference, hint: &str) -> Result<Digest, ImageError> {
    let failed = |error: std::io::Error| storage(name, error);
    let repository_name = reference.repository.parse().map_err(|error| unusable(name, error))?;
    let repository = registry.repositories.get(&repository_name);
    let digest = match (&reference.digest, reference.tag.as_deref().unwrap_or("latest")) {
        (Some(digest), _) => Some(digest.clone()),
        (None, tag) => repository.tag(tag).map_err(failed)?,
    };
    let Some(digest) = digest else { return Err(no_such_tag(name, reference, &repository, hint)) };
    let incomplete = |digest: &Digest| {
        not_found(name, format!("the repository {} has no whole manifest {digest}; {hint}", reference.repository))
    };
    if repository.manifest(&digest).map_err(failed)?.is_none() {
        return Err(incomplete(&digest));
    }
    let content = absent_is_none(read_bounded(&registry.store.path(&digest))).map_err(failed)?;
    let content = content.ok_or_else(|| incomplete(&digest))?;
    let chosen = match Manifest::parse(&content, None).map_err(|error| unusable(name, error))? {
        Manifest::Image(_) => digest,
        Manifest::Index(index) => choose(name, &index)?.digest.clone(),
    };
    if registry.want_tree(&repository, &chosen).map_err(failed)? { Ok(chosen) } else { Err(incomplete(&chosen)) }
}

fn no_such_tag(name: &str, reference: &Reference, repository: &Repository, hint: &str) -> ImageError {
    let tag = reference.tag.as_deref().unwrap_or("latest");
    let tags: Vec<String> = repository.tags().unwrap_or_default().into_iter().collect();
    let has = match tags.len() {
        0 => "it has no tags".to_owned(),
        count if count > TAGS_SHOWN => {
            format!("it has {} and {} more", tags[..TAGS_SHOWN].join(", "), count - TAGS_SHOWN)
        }
        _ => format!("it has {}", tags.join(", ")),
    };
    let elsewhere = match reference.registry {
        None => {
            format!(". (For Docker Hub's image of that name, write docker.io/library/{}:{tag}.)", reference.repository)
        }
        Some(_) => String::new(),
    };
    let repository = &reference.repository;
    not_found(name, format!("this registry has {repository}, but no tag {tag}: {has}; {hint}{elsewhere}"))
}
