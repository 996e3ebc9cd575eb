//! What a request is about: the part of its path after `/v2/`. A repository's name may hold slashes, so the path is
//! read from its end.

use model::{Digest, image::is_tag};

use super::{
    error::{Code, Refusal},
    repository::RepositoryName,
};

/// The resources of a registry (the endpoints of the OCI distribution specification 1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Manifest(RepositoryName, ManifestName),
    Blob(RepositoryName, Digest),
    Uploads(RepositoryName),
    Upload(RepositoryName, String),
    Tags(RepositoryName),
    Referrers(RepositoryName, Digest),
}

/// How a manifest is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestName {
    Tag(String),
    Digest(Digest),
}

impl Target {
    /// Reads the percent-decoded rest of a path.
    pub fn parse(rest: &str) -> Result<Self, Refusal> {
        if let Some(name) = rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads")) {
            return Ok(Self::Uploads(repository(name)?));
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Ok(Self::Tags(repository(name)?));
        }
        let (head, last) = rest.rsplit_once('/').ok_or_else(unknown)?;
        if let Some(name) = head.strip_suffix("/blobs/uploads") {
            return Ok(Self::Upload(repository(name)?, last.to_owned()));
        }
        let (name, kind) = head.rsplit_once('/').ok_or_else(unknown)?;
        match kind {
            "manifests" => Ok(Self::Manifest(repository(name)?, manifest_name(last)?)),
            "blobs" => Ok(Self::Blob(repository(name)?, digest(last)?)),
            "referrers" => Ok(Self::Referrers(repository(name)?, digest(last)?)),
            _ => Err(unknown()),
        }
    }

    /// The repository.
    pub fn repository(&self) -> &RepositoryName {
        match self {
            Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _)
            | Self::Tags(name)
            | Self::Referrers(name, _) => name,
        }
    }
}

/// Reads a digest that a client sent.
pub fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|_| {
        Refusal::new(
            Code::DigestInvalid,
            "a digest is sha256: and 64 lower-case hexadecimal digits; others are not kept",
        )
    })
}

/// Reads a repository's name that a client sent.
pub fn repository(text: &str) -> Result<RepositoryName, Refusal> {
    text.parse().map_err(|error| Refusal::new(Code::NameInvalid, error))
}

fn manifest_name(text: &str) -> Result<ManifestName, Refusal> {
    if text.contains(':') {
        return digest(text).map(ManifestName::Digest);
    }
    if is_tag(text) {
        return Ok(ManifestName::Tag(text.to_owned()));
    }
    let message = "a tag is up to 128 letters, digits, dots, dashes and underscores, and begins with none of . -";
    Err(Refusal::new(Code::ManifestInvalid, message))
}

fn unknown() -> Refusal {
    let message =
        "there is no such resource; this registry offers manifests, blobs, tags and referrers of repositories";
    Refusal::new(Code::Unsupported, message).status(http::StatusCode::NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn reads_every_endpoint_even_under_names_like_endpoints() {
        let name: RepositoryName = "blobs/manifests/tags".parse().unwrap();
        let at = |rest: &str| Target::parse(&format!("{name}/{rest}")).unwrap();
        let tag = ManifestName::Tag("v1".to_owned());
        assert_eq!(at("manifests/v1"), Target::Manifest(name.clone(), tag));
        assert_eq!(
            at(&format!("manifests/{HEX}")),
            Target::Manifest(name.clone(), ManifestName::Digest(HEX.parse().unwrap()))
        );
        assert_eq!(at(&format!("blobs/{HEX}")), Target::Blob(name.clone(), HEX.parse().unwrap()));
        assert_eq!(at("blobs/uploads/"), Target::Uploads(name.clone()));
        assert_eq!(at("blobs/uploads/abc"), Target::Upload(name.clone(), "abc".to_owned()));
        assert_eq!(at("tags/list"), Target::Tags(name.clone()));
        assert_eq!(at(&format!("referrers/{HEX}")), Target::Referrers(name.clone(), HEX.parse().unwrap()));
    }

    #[test]
    fn names_that_leave_the_repository_are_refused() {
        for path in [
            "../manifests/v1",
            "a/../b/manifests/v1",
            "/etc/manifests/v1",
            "a//b/manifests/v1",
            "A/manifests/v1",
            "a/manifests/..",
            "a/manifests/-x",
            "a/blobs/../x",
            "a/blobs/sha256:..",
            "manifests/v1",
            "a",
            "",
            "a+b/tags/list",
        ] {
            assert!(Target::parse(path).is_err(), "{path}");
        }
        let long = format!("{}/tags/list", "a".repeat(256));
        assert!(Target::parse(&long).is_err());
    }

    proptest! {
        #[test]
        fn no_path_panics(path in ".{0,300}") {
            let _ = Target::parse(&path);
        }
    }
}
