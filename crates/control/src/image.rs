//! Images by name. Whose images an organization may run, the image room finds out (see [`crate::registry`]).

use api::internal::{PullCredentials, ResolvedImage};
use model::Reference;

use crate::{Control, error::Error, store::apps::AppRow};

impl Control {
    /// Brings an image into the platform's blob store.
    pub(crate) async fn resolve_image(
        &self,
        app: &AppRow,
        reference: &str,
        credentials: PullCredentials,
    ) -> Result<ResolvedImage, Error> {
        let _: Reference = reference.parse().map_err(|error| Error::invalid(format!("image: {error}")))?;
        Ok(self.ports.images.resolve(&app.org, reference, credentials).await?)
    }
}
