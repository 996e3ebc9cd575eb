//! Images of other registries: the manifest of this host's platform, its configuration, then its layers, a few at a
//! time, each straight into the blob store with its digest checked on the way. What is here already is not fetched.

use std::{collections::HashSet, future::Future, time::Duration};

use api::internal::{ImageError, PullCredentials};
use futures_util::{StreamExt, TryStreamExt, stream};
use model::{Digest, Reference};
use sha2::{Digest as _, Sha256};

use super::{
    Puller, not_found,
    platform::choose,
    session::{Failure, Session, bounded},
    storage, store_failed,
};
use crate::{
    document::{Configuration, Descriptor, ImageManifest, MAX_DOCUMENT_BYTES, Manifest},
    layers::{check_platform, not_an_image, read_bounded, unusable},
};

/// How many layers of an image are fetched at a time.
const LAYERS_AT_ONCE: usize = 3;
/// How often one request is made before a failure counts, and the first pause between.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(400);
/// The longest pause that a registry may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

impl Puller {
    /// Brings an image of another registry into the store and returns the digest of its manifest.
    pub(super) async fn pull(
        &self,
        name: &str,
        reference: &Reference,
        credentials: PullCredentials,
    ) -> Result<Digest, ImageError> {
        let pull = Pull { puller: self, name, session: Session::new(self.client.clone(), reference, credentials) };
        let (digest, content) = match (&reference.digest, reference.tag.as_deref().unwrap_or("latest")) {
            (Some(digest), _) => pull.manifest(digest.as_str()).await?,
            (None, tag) => pull.manifest(tag).await?,
        };
        let parse = |content: &[u8]| Manifest::parse(content, None).map_err(|error| unusable(name, error));
        match parse(&content)? {
            Manifest::Image(image) => pull.image(digest, &content, &image).await,
            Manifest::Index(index) => {
                let (digest, content) = pull.manifest(choose(name, &index)?.digest.as_str()).await?;
                match parse(&content)? {
                    Manifest::Image(image) => pull.image(digest, &content, &image).await,
                    Manifest::Index(_) => Err(unusable(name, "it is an index of indexes; name one of them")),
                }
            }
        }
    }
}

/// One pull.
struct Pull<'a> {
    puller: &'a Puller,
    name: &'a str,
    session: Session,
}

impl Pull<'_> {
    /// Fetches a manifest by tag or digest.
    async fn manifest(&self, reference: &str) -> Result<(Digest, Vec<u8>), ImageError> {
        let path = format!("manifests/{reference}");
        let fetch = || async { bounded(self.session.get(&path, ACCEPT).await?, MAX_DOCUMENT_BYTES).await };
        let content = retried(fetch).await.map_err(|failure| self.explain(failure))?;
        let digest = Digest::sha256(Sha256::digest(&content).into());
        if reference.contains(':') && reference != digest.as_str() {
            return Err(unusable(self.name, format!("its registry sent the manifest {digest} for {reference}")));
        }
        Ok((digest, content))
    }

    /// Fetches what an image consists of.
    async fn image(&self, digest: Digest, content: &[u8], image: &ImageManifest) -> Result<Digest, ImageError> {
        self.check(image)?;
        let store = &self.puller.registry.store;
        let parts: Vec<&Descriptor> = std::iter::once(&image.config).chain(&image.layers).collect();
        let digests = parts.iter().map(|part| part.digest.clone()).chain([digest.clone()]).collect();
        let _pins = store.pin(digests);
        self.blob(&image.config).await?;
        self.check_configuration(&image.config)?;
        let (mut layers, mut seen) = (image.layers.clone(), HashSet::new());
        layers.retain(|layer| seen.insert(layer.digest.clone()));
        let fetching = stream::iter(layers).map(|layer| async move { self.blob(&layer).await });
        fetching.buffer_unordered(LAYERS_AT_ONCE).try_collect::<()>().await?;
        let failed = |error| store_failed(self.name, &error);
        store.put(content).map_err(failed)?;
        // From now on the grace of the collector counts for all of them alike.
        for part in parts {
            store.want(&part.digest).map_err(|error| failed(error.into()))?;
        }
        Ok(digest)
    }

    /// Refuses what is no image, or too large, before anything of it is fetched.
    fn check(&self, image: &ImageManifest) -> Result<(), ImageError> {
        if !image.is_container_image() {
            return Err(not_an_image(self.name, image));
        }
        if let Some(layer) = image.layers.iter().find(|layer| layer.is_foreign()) {
            return Err(unusable(self.name, format!("its layer {} is not in the registry by license", layer.digest)));
        }
        let limit = self.puller.options.max_image_bytes;
        let total = image.layers.iter().fold(0_u64, |total, layer| total.saturating_add(layer.size));
        if total > limit || image.config.size > MAX_DOCUMENT_BYTES as u64 {
            return Err(unusable(self.name, format!("its layers have {total} bytes together; the limit is {limit}")));
        }
        Ok(())
    }

    fn check_configuration(&self, config: &Descriptor) -> Result<(), ImageError> {
        let path = self.puller.registry.store.path(&config.digest);
        let content = read_bounded(&path).map_err(|error| storage(self.name, error))?;
        let configuration = Configuration::parse(&content).map_err(|error| unusable(self.name, error))?;
        check_platform(self.name, &configuration.platform)
    }

    /// Fetches a blob unless it is here.
    async fn blob(&self, part: &Descriptor) -> Result<(), ImageError> {
        let here = self.puller.registry.store.want(&part.digest).map_err(|error| storage(self.name, error))?;
        match here {
            Some(size) if size == part.size => Ok(()),
            Some(size) => {
                let reason = format!("its manifest says that {} has {} bytes; it has {size}", part.digest, part.size);
                Err(unusable(self.name, reason))
            }
            None => retried(|| self.download(part)).await.map_err(|failure| self.explain(failure)),
        }
    }

    async fn download(&self, part: &Descriptor) -> Result<(), Failure> {
        let response = self.session.get(&format!("blobs/{}", part.digest), "*/*").await?;
        let mut writer = self.puller.registry.store.writer(part.size).await?;
        let mut content = response.bytes_stream();
        while let Some(chunk) = content.try_next().await? {
            writer.write(&chunk).await?;
        }
        Ok(writer.commit(&part.digest).await?)
    }

    /// A failure in the words of images, with what to do next.
    fn explain(&self, failure: Failure) -> ImageError {
        let reference = self.name.to_owned();
        match failure {
            Failure::Missing(reason) => {
                let advice = "check the name and the tag; if the repository is private, give credentials";
                not_found(self.name, format!("its registry does not have it ({reason}); {advice}"))
            }
            Failure::Denied(reason) => {
                let advice = "the repository does not exist, or wants other credentials";
                not_found(self.name, format!("its registry did not let us in ({reason}); {advice}"))
            }
            Failure::Transient { reason, .. } => {
                let reason = format!("{reason} (tried {ATTEMPTS} times); check the registry's host and try again");
                ImageError::Registry { reference, reason }
            }
            Failure::Refused(reason) => ImageError::Registry { reference, reason },
            Failure::Store(error) => store_failed(self.name, &error),
        }
    }
}

/// Tries again after failures that may pass, with growing pauses.
async fn retried<T, F: Future<Output = Result<T, Failure>>>(attempt: impl Fn() -> F) -> Result<T, Failure> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(Failure::Transient { after, .. }) => {
                tokio::time::sleep(after.unwrap_or(pause).min(LONGEST_PAUSE)).await;
                pause *= 2;
            }
            done => return done,
        }
    }
    attempt().await
}
