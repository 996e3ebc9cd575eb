//! What a machine finds on its disks, and what of them is served: `[[mounts]]`, `[[files]]`, `[[statics]]`.

use model::machine::{MAX_STATICS, Mount, Static};
use serde::Serialize;

use crate::{
    compute,
    document::Scoped,
    processes::Groups,
    read::{Field, Section},
    unsupported,
};

/// Where the content of a file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileSource {
    /// A file beside the configuration file; only the client can read it.
    LocalPath(String),
    /// A secret whose value is the content in base 64.
    SecretName(String),
    /// The content in base 64.
    RawValue(String),
}

/// A file that is written into machines before their program starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileSection {
    /// Where: an absolute path.
    pub guest_path: String,
    /// Its content.
    pub source: FileSource,
    /// Permission bits; 0644 unless given.
    pub mode: Option<u32>,
}

/// The sections of one key that may be a table or a list of tables, in either of its spellings.
pub(crate) fn sections<'t>(top: &Section<'t>, keys: &[&'static str]) -> Vec<Section<'t>> {
    top.get_alias(keys).map(|field| field.sections()).unwrap_or_default()
}

/// Reads `[[mounts]]` or `[mounts]`.
pub(crate) fn mounts(top: &Section<'_>, groups: &Groups) -> Vec<Scoped<Mount>> {
    sections(top, &["mounts", "mount"]).into_iter().filter_map(|section| mount(section, groups)).collect()
}

fn mount(section: Section<'_>, groups: &Groups) -> Option<Scoped<Mount>> {
    let processes = groups.scope(&section);
    let name =
        section.need("source", "add `source = \"data\"`, the volume's name").and_then(|field| volume_name(&field));
    let path = section.need("destination", "add `destination = \"/data\"`").and_then(|field| guest_path(&field));
    let size_gb = section.get("initial_size").and_then(|field| initial_size(&field));
    unsupported::note(&section, unsupported::MOUNT);
    section.finish();
    let value = Mount { name: name?, path: path?, size_gb, ..Mount::default() };
    Some(Scoped { processes, value })
}

/// Reads `[[statics]]`. No prefix of a URL may hold another: a request would have two answers.
pub(crate) fn statics(top: &Section<'_>) -> Vec<Static> {
    let mut statics: Vec<Static> = Vec::new();
    for section in sections(top, &["statics"]) {
        let name = section.name();
        let at = section.get("url_prefix");
        let Some(files) = static_files(section) else { continue };
        let overlaps = |other: &&Static| {
            Static::holds(&other.url_prefix, &files.url_prefix) || Static::holds(&files.url_prefix, &other.url_prefix)
        };
        if let (Some(other), Some(at)) = (statics.iter().find(overlaps), &at) {
            let message = format!("url_prefix {:?} overlaps with {:?}", files.url_prefix, other.url_prefix);
            at.bad(message, "give each directory a prefix of its own");
        } else if let (MAX_STATICS, Some(at)) = (statics.len(), &at) {
            at.bad(format!("{name} is one too many"), "an app may have 10 directories served");
        } else {
            statics.push(files);
        }
    }
    statics
}

fn static_files(section: Section<'_>) -> Option<Static> {
    let path = section.need("guest_path", "add `guest_path = \"/app/public\"`").and_then(|field| guest_path(&field));
    let prefix = section.need("url_prefix", "add `url_prefix = \"/public\"`").and_then(|field| url_prefix(&field));
    unsupported::note(&section, unsupported::STATICS);
    section.finish();
    Some(Static { guest_path: path?, url_prefix: prefix?, ..Static::default() })
}

fn url_prefix(field: &Field<'_>) -> Option<String> {
    let prefix = field.string()?;
    if !prefix.starts_with('/') || prefix.contains(['?', '#', '\\']) || prefix.split('/').any(|part| part == "..") {
        field.bad(format!("{prefix:?} is not the beginning of a URL's path"), "write it as in \"/public\"");
        return None;
    }
    Some(prefix)
}

fn volume_name(field: &Field<'_>) -> Option<String> {
    let name = field.string()?;
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.len() > 30 || !name.chars().all(letters) {
        let help = "use 1 to 30 lower-case letters, digits and underscores";
        field.bad(format!("{name:?} is not the name of a volume"), help);
        return None;
    }
    Some(name)
}

fn guest_path(field: &Field<'_>) -> Option<String> {
    let path = field.string()?;
    let climbs = path.split('/').any(|part| part == "..");
    if !path.starts_with('/') || path.trim_matches('/').is_empty() || climbs || path.contains('\0') {
        let help = "write an absolute path below `/`, without `..`";
        field.bad(format!("{path:?} is not a place in the machine"), help);
        return None;
    }
    Some(path)
}

/// A size in GiB, rounded up.
fn initial_size(field: &Field<'_>) -> Option<u32> {
    let size_mb =
        if field.is_number() { u64::from(field.count(1..=65_536)?) * 1024 } else { compute::megabytes(field)? };
    let size_gb = size_mb.div_ceil(1024);
    if size_mb < 1024 || size_gb > 65_536 {
        field.bad(format!("`{}` must be 1 GB or more, and 64 TB at most", field.path), "write \"1gb\" or more");
        return None;
    }
    u32::try_from(size_gb).ok()
}

/// Reads `[[files]]`.
pub(crate) fn files(top: &Section<'_>, groups: &Groups) -> Vec<Scoped<FileSection>> {
    sections(top, &["files"]).into_iter().filter_map(|section| file(section, groups)).collect()
}

fn file(section: Section<'_>, groups: &Groups) -> Option<Scoped<FileSection>> {
    let processes = groups.scope(&section);
    let guest_path =
        section.need("guest_path", "add `guest_path = \"/etc/app.conf\"`").and_then(|field| guest_path(&field));
    let mode = section.get("mode").and_then(|field| field.count(0..=0o7777));
    let text = |key, source: fn(String) -> FileSource| section.get(key).and_then(|field| field.string()).map(source);
    if let Some(field) = section.get("raw_value").filter(Field::is_string) {
        check_base64(&field);
    }
    let given: Vec<FileSource> = [
        text("local_path", FileSource::LocalPath),
        text("secret_name", FileSource::SecretName),
        text("raw_value", FileSource::RawValue),
    ]
    .into_iter()
    .flatten()
    .collect();
    let sources = ["local_path", "secret_name", "raw_value"].iter().filter(|key| section.get(key).is_some()).count();
    if sources != 1 {
        let message = format!("{} needs exactly one source, but has {sources}", section.name());
        section.error(message, "give `local_path`, `secret_name` or `raw_value` (base 64)");
    }
    section.finish();
    let value = FileSection { guest_path: guest_path?, source: given.into_iter().next()?, mode };
    Some(Scoped { processes, value })
}

/// Notes a content that is not base 64 (RFC 4648, section 4).
fn check_base64(field: &Field<'_>) {
    let Some(text) = field.string() else { return };
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    if padding > 2 || !text.len().is_multiple_of(4) || !digits.bytes().all(alphabet) {
        field.bad(
            format!("`{}` is not base 64", field.path),
            "write what `base64 -w0 FILE` prints, or use `local_path`",
        );
    }
}
