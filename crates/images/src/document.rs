//! Manifests, indexes and image configurations: the JSON documents of the OCI image specification 1.1 and of
//! Docker's schema 2. Everything is read leniently where the two differ and strictly where it is used.

use std::collections::BTreeMap;

use model::{Digest, ImageConfig};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// The most bytes that a manifest or an image configuration may have.
pub const MAX_DOCUMENT_BYTES: usize = 4 << 20;
/// The most descriptors (layers of an image, manifests of an index) that one manifest may hold.
const MAX_DESCRIPTORS: usize = 1_000;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Why a document is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidDocument {
    /// It is not the JSON of such a document.
    #[error("it is not a valid {kind}: {why}")]
    Syntax {
        /// What it should be.
        kind: &'static str,
        /// What the parser said.
        why: String,
    },
    /// Its media type is not one of the four that this registry understands.
    #[error("its media type {0:?} is not an OCI image manifest, an OCI index, or one of Docker's schema 2")]
    MediaType(String),
    /// The media type it was sent with is not the one inside.
    #[error("it was sent as {sent} but says that it is {inside}")]
    Disagrees {
        /// The type of the request.
        sent: String,
        /// The type in the document.
        inside: String,
    },
    /// More than a limit allows.
    #[error("it has {count} descriptors; the limit is {MAX_DESCRIPTORS}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

/// A reference from a manifest to other content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// Whether the content lies outside of registries by its nature, so that a push leaves it out.
    pub fn is_foreign(&self) -> bool {
        self.media_type.contains(".nondistributable.") || self.media_type.contains(".foreign.")
    }
}

/// Where an image runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

impl Platform {
    /// `os/architecture[/variant]`.
    pub fn name(&self) -> String {
        let variant = self.variant.as_deref().filter(|variant| !variant.is_empty());
        let tail = variant.map(|variant| format!("/{variant}")).unwrap_or_default();
        format!("{}/{}{tail}", self.os, self.architecture)
    }

    /// Whether this host runs such images. A variant is a level within an architecture; the levels above the
    /// first (`amd64/v2` and so on) are chosen only where nothing else fits.
    pub fn fits_host(&self) -> bool {
        self.os == "linux" && self.architecture == host_architecture()
    }
}

/// This host's architecture in the words of Go, which images use.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// A manifest of either kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// One image, or one artifact in the shape of an image.
    Image(ImageManifest),
    /// Images of several platforms.
    Index(IndexManifest),
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    #[serde(default)]
    pub media_type: Option<String>,
    #[serde(default)]
    pub artifact_type: Option<String>,
    pub config: Descriptor,
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    #[serde(default)]
    pub subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
}

impl ImageManifest {
    /// Whether it describes a container image, by the type of its configuration.
    pub fn is_container_image(&self) -> bool {
        self.artifact_type.as_deref().is_none_or(|kind| kind == OCI_CONFIG || kind == DOCKER_CONFIG)
            && (self.config.media_type == OCI_CONFIG || self.config.media_type == DOCKER_CONFIG)
    }
}

/// An image index or manifest list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexManifest {
    #[serde(default)]
    pub media_type: Option<String>,
    #[serde(default)]
    pub artifact_type: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    #[serde(default)]
    pub subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
}

/// What tells the kinds apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
}

impl Manifest {
    /// Reads a manifest. `sent_as` is the media type that came with it, where one did.
    pub fn parse(content: &[u8], sent_as: Option<&str>) -> Result<Self, InvalidDocument> {
        let outline: Outline = json("manifest", content)?;
        if outline.schema_version != 2 {
            let why =
                format!("its schemaVersion is {}, not 2; push it again with a newer client", outline.schema_version);
            return Err(InvalidDocument::Syntax { kind: "manifest", why });
        }
        let manifest = match outline.kind(sent_as)? {
            OCI_INDEX | DOCKER_LIST => Self::Index(json("index", content)?),
            _ => Self::Image(json("image manifest", content)?),
        };
        let count = manifest.children().count();
        if count > MAX_DESCRIPTORS { Err(InvalidDocument::TooMany { count }) } else { Ok(manifest) }
    }

    /// Everything it refers to as a part of itself; not its subject.
    pub fn children(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, parts) = match self {
            Self::Image(image) => (Some(&image.config), &image.layers),
            Self::Index(index) => (None, &index.manifests),
        };
        config.into_iter().chain(parts)
    }

    /// The manifest that this one says something about.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Image(image) => image.subject.as_ref(),
            Self::Index(index) => index.subject.as_ref(),
        }
    }

    /// Its annotations.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Image(image) => &image.annotations,
            Self::Index(index) => &index.annotations,
        }
    }

    /// What kind of artifact it is: its own word, or else the type of its configuration (OCI distribution 1.1,
    /// "Pushing manifests with subject").
    pub fn artifact_type(&self) -> Option<&str> {
        match self {
            Self::Image(image) => Some(image.artifact_type.as_deref().unwrap_or(&image.config.media_type)),
            Self::Index(index) => index.artifact_type.as_deref(),
        }
    }
}

impl Outline {
    fn kind(&self, sent_as: Option<&str>) -> Result<&'static str, InvalidDocument> {
        match (sent_as, self.media_type.as_deref()) {
            (Some(sent), Some(inside)) if sent != inside => {
                Err(InvalidDocument::Disagrees { sent: sent.to_owned(), inside: inside.to_owned() })
            }
            (Some(kind), _) | (None, Some(kind)) => {
                known_media_type(kind).ok_or_else(|| InvalidDocument::MediaType(kind.to_owned()))
            }
            (None, None) if self.manifests.is_some() && self.config.is_none() => Ok(OCI_INDEX),
            (None, None) => Ok(OCI_MANIFEST),
        }
    }
}

/// One of the four media types of manifests.
pub fn known_media_type(text: &str) -> Option<&'static str> {
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].into_iter().find(|kind| *kind == text)
}

/// What is read of an image configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    pub platform: Platform,
    pub config: ImageConfig,
    /// The digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Configuration {
    /// Reads an image configuration (OCI, or Docker's container image).
    pub fn parse(content: &[u8]) -> Result<Self, InvalidDocument> {
        let raw: RawConfiguration = json("image configuration", content)?;
        if raw.rootfs.diff_ids.len() > MAX_DESCRIPTORS {
            return Err(InvalidDocument::TooMany { count: raw.rootfs.diff_ids.len() });
        }
        Ok(Self {
            platform: Platform { architecture: raw.architecture, os: raw.os, variant: raw.variant, os_version: None },
            config: raw.config.into(),
            diff_ids: raw.rootfs.diff_ids,
        })
    }
}

#[derive(Deserialize)]
struct RawConfiguration {
    architecture: String,
    os: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    config: RawConfig,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default, deserialize_with = "null_is_default")]
    diff_ids: Vec<Digest>,
}

/// The `config` object; each of its fields may be absent or null.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    user: Option<String>,
    #[serde(deserialize_with = "words")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "words")]
    cmd: Vec<String>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

impl From<RawConfig> for ImageConfig {
    fn from(raw: RawConfig) -> Self {
        Self {
            user: raw.user.unwrap_or_default(),
            entrypoint: raw.entrypoint,
            cmd: raw.cmd,
            env: raw.env.unwrap_or_default(),
            working_dir: raw.working_dir.unwrap_or_default(),
            exposed_ports: raw.exposed_ports.unwrap_or_default().into_keys().collect(),
            volumes: raw.volumes.unwrap_or_default().into_keys().collect(),
            stop_signal: raw.stop_signal.filter(|signal| !signal.is_empty()),
            labels: raw.labels.unwrap_or_default(),
        }
    }
}

/// A command: a list, null, or (written by old tools) one word alone.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        Many(Vec<String>),
        One(String),
    }
    Ok(match Option::deserialize(deserializer)? {
        Some(Words::Many(words)) => words,
        Some(Words::One(word)) => vec![word],
        None => Vec::new(),
    })
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn json<'a, T: Deserialize<'a>>(kind: &'static str, content: &'a [u8]) -> Result<T, InvalidDocument> {
    serde_json::from_slice(content).map_err(|error| InvalidDocument::Syntax { kind, why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_configuration_may_leave_out_or_null_what_it_does_not_say() {
        let rest = format!(r#""architecture":"amd64","os":"linux","rootfs":{{"diff_ids":["sha256:{HEX}"]}}"#);
        let nulls = r#"{"User":null,"Entrypoint":null,"Cmd":null,"Env":null,"WorkingDir":null,"ExposedPorts":null,
            "Volumes":null,"StopSignal":null,"Labels":null,"Healthcheck":{"Test":["NONE"]},"ArgsEscaped":true}"#;
        for config in ["null", "{}", nulls] {
            let read = Configuration::parse(format!(r#"{{{rest},"config":{config}}}"#).as_bytes()).unwrap();
            assert_eq!(read.config, ImageConfig::default(), "{config}");
            assert_eq!(read.diff_ids.len(), 1);
        }
        assert!(Configuration::parse(format!("{{{rest}}}").as_bytes()).is_ok());
    }

    #[test]
    fn a_configuration_is_read_whole() {
        let content = r#"{"architecture":"arm64","os":"linux","variant":"v8","rootfs":{"type":"layers","diff_ids":null},
            "config":{"User":"app:staff","Entrypoint":["/bin/app"],"Cmd":"serve","Env":["A=b"],"WorkingDir":"/srv",
            "ExposedPorts":{"80/tcp":{},"53/udp":{}},"Volumes":{"/data":{}},"StopSignal":"SIGQUIT","Labels":{"a":"b"}}}"#;
        let read = Configuration::parse(content.as_bytes()).unwrap();
        assert_eq!(read.platform.name(), "linux/arm64/v8");
        let wanted = ImageConfig {
            user: "app:staff".to_owned(),
            entrypoint: vec!["/bin/app".to_owned()],
            cmd: vec!["serve".to_owned()],
            env: vec!["A=b".to_owned()],
            working_dir: "/srv".to_owned(),
            exposed_ports: vec!["53/udp".to_owned(), "80/tcp".to_owned()],
            volumes: vec!["/data".to_owned()],
            stop_signal: Some("SIGQUIT".to_owned()),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        };
        assert_eq!(read.config, wanted);
    }

    #[test]
    fn the_kind_of_a_manifest_is_known_with_and_without_a_media_type() {
        let config = format!(r#"{{"mediaType":"{OCI_CONFIG}","digest":"sha256:{HEX}","size":2}}"#);
        let image = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(Manifest::parse(image.as_bytes(), None), Ok(Manifest::Image(_))));
        assert!(matches!(Manifest::parse(index.as_bytes(), None), Ok(Manifest::Index(_))));
        assert!(matches!(Manifest::parse(index.as_bytes(), Some(DOCKER_LIST)), Ok(Manifest::Index(_))));
        // What looks like both is what it says it is, and is not taken as the other.
        let both = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","config":{config},"manifests":[]}}"#);
        assert!(matches!(Manifest::parse(both.as_bytes(), None), Ok(Manifest::Index(_))));
        assert!(matches!(Manifest::parse(both.as_bytes(), Some(OCI_MANIFEST)), Err(InvalidDocument::Disagrees { .. })));
    }

    proptest! {
        #[test]
        fn no_content_panics(content in r#"[{}\[\]",:a-zA-Z0-9 ]{0,200}"#) {
            let _ = Manifest::parse(content.as_bytes(), None);
            let _ = Configuration::parse(content.as_bytes());
        }
    }
}
