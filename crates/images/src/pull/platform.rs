//! Choosing this host's image from an index.

use api::internal::ImageError;

use crate::document::{Descriptor, IndexManifest, Platform, host_architecture};

/// The entry of an index that fits this host best.
pub fn choose<'a>(name: &str, index: &'a IndexManifest) -> Result<&'a Descriptor, ImageError> {
    let fitting = index.manifests.iter().filter(|entry| entry.platform.as_ref().is_some_and(Platform::fits_host));
    if let Some(entry) = fitting.min_by_key(|entry| rank(entry.platform.as_ref())) {
        return Ok(entry);
    }
    match index.manifests.as_slice() {
        // Its configuration tells what it is for.
        [only] if only.platform.is_none() => Ok(only),
        entries => Err(ImageError::Platform {
            reference: name.to_owned(),
            wanted: format!("linux/{}", host_architecture()),
            offered: offered(entries),
        }),
    }
}

/// The plain architecture before its higher levels, which not every processor has.
fn rank(platform: Option<&Platform>) -> u8 {
    match platform.and_then(|platform| platform.variant.as_deref()) {
        None | Some("" | "v1") => 0,
        Some("v8") => 1,
        Some(_) => 2,
    }
}

/// The platforms of an index for people; attestations have the platform `unknown` and are no images.
fn offered(entries: &[Descriptor]) -> String {
    let mut names: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .filter(|platform| platform.os != "unknown")
        .map(Platform::name)
        .take(20)
        .collect();
    names.dedup();
    if names.is_empty() { "no image with a platform".to_owned() } else { names.join(", ") }
}
