//! Images: how they are named, and what their configuration says about running them (OCI image specification 1.1).

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::InvalidName;

/// A content address: `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")]
pub struct Digest(String);

impl Digest {
    /// The digest whose 32 bytes these are.
    pub fn sha256(bytes: [u8; 32]) -> Self {
        Self(format!("sha256:{}", hex::encode(bytes)))
    }

    /// The digest with its algorithm, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hexadecimal digits alone; safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The first 12 digits, for people.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Self(text))
        } else {
            Err(InvalidName { kind: "digest", text, rule: "a digest is sha256: and 64 lower-case hexadecimal digits" })
        }
    }
}

impl FromStr for Digest {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::try_from(text.to_owned())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An image's name as the Machines API shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageRef {
    /// The registry's host, with its port if it has one.
    pub registry: String,
    /// The repository inside the registry.
    pub repository: String,
    /// The tag, if the image was named by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The manifest's digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
    /// Labels of the image's configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// An image's name as people write it: `[registry/]repository[:tag][@digest]`.
///
/// What stands before the first slash is a registry if it holds a dot or a colon, or is `localhost` (the rule of
/// Docker's reference grammar).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The registry's host, with its port if it has one.
    pub registry: Option<String>,
    /// The repository inside the registry.
    pub repository: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest.
    pub digest: Option<Digest>,
}

impl FromStr for Reference {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName {
            kind: "image name",
            text: text.to_owned(),
            rule: "write [registry/]repository[:tag][@sha256:…], in lower case, such as my-app:v2 or ghcr.io/me/app@sha256:…",
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| invalid())?)),
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (Some(host.to_owned()), path),
            _ => (None, rest),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.to_owned())),
            None => (rest, None),
        };
        let good =
            is_repository(repository) && tag.as_deref().is_none_or(is_tag) && registry.as_deref().is_none_or(is_host);
        if !good {
            return Err(invalid());
        }
        Ok(Self { registry, repository: repository.to_owned(), tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether `text` is a repository's name as the OCI distribution specification writes it, at most 255 characters.
pub fn is_repository(text: &str) -> bool {
    let part = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        edge(part.chars().next()) && edge(part.chars().last()) && part.chars().all(inner) && !part.contains("..")
    };
    text.len() <= 255 && text.split('/').all(part)
}

/// Whether `text` is a tag as the OCI distribution specification writes it.
pub fn is_tag(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let rest = |c: char| first(c) || matches!(c, '.' | '-');
    (1..=128).contains(&text.len()) && text.starts_with(first) && text.chars().all(rest)
}

fn is_host(text: &str) -> bool {
    let (name, port) = text.rsplit_once(':').unwrap_or((text, "1"));
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '[' | ']' | ':');
    name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        && name.chars().all(inner)
        && port.parse::<u16>().is_ok()
}

/// One image that stands complete in this platform's own blob store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// The name the user gave, for people.
    pub reference: String,
    /// The digest of the manifest of one platform (never of an index).
    pub digest: Digest,
}

/// How an image says it wants to run: the `config` object of an OCI image configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `user[:group]`, each a name or a number; empty means root.
    pub user: String,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments after the entrypoint, or the program itself.
    pub cmd: Vec<String>,
    /// `NAME=value` lines.
    pub env: Vec<String>,
    /// The directory to start in; empty means `/`.
    pub working_dir: String,
    /// `port/protocol` names, such as `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// Paths that the image declares as volumes.
    pub volumes: Vec<String>,
    /// The signal that asks the program to end, if the image names one.
    pub stop_signal: Option<String>,
    /// Labels, as the image gives them.
    pub labels: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_image_name_is_taken_apart_as_docker_does() {
        let hex = "a".repeat(64);
        for (text, registry, repository, tag, digest) in [
            ("nginx", None, "nginx", None, false),
            ("me/app:v2", None, "me/app", Some("v2"), false),
            ("localhost:4280/app:v2", Some("localhost:4280"), "app", Some("v2"), false),
            ("localhost/app", Some("localhost"), "app", None, false),
            (&format!("ghcr.io/me/app:v1@sha256:{hex}"), Some("ghcr.io"), "me/app", Some("v1"), true),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.registry.as_deref(), registry, "{text}");
            assert_eq!(reference.repository, repository, "{text}");
            assert_eq!(reference.tag.as_deref(), tag, "{text}");
            assert_eq!(reference.digest.is_some(), digest, "{text}");
            assert_eq!(reference.to_string(), text);
        }
        for bad in ["", "UPPER", "a:", "a@sha256:12", "../x", "a//b", "/a", "a:b:c", "a b", "reg.io:port/a", "-a"] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<Reference>();
            let _ = text.parse::<Digest>();
        }
    }
}
