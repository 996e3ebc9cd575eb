//! What `dunlin auth login` stores: the platform's address and a token, in a file that only its owner can read.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use toml_edit::DocumentMut;

use super::exit::Failure;

/// The stored settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The platform's API.
    pub url: Option<String>,
    /// The token that is good for it.
    pub token: Option<String>,
}

impl Settings {
    /// Reads a settings file; an absent one holds nothing.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(unusable(path, &error.to_string())),
        };
        let document: DocumentMut = text.parse().map_err(|_| unusable(path, "it is not TOML"))?;
        let text = |key| document.get(key).and_then(|item| item.as_str()).map(str::to_owned);
        Ok(Self { url: text("url"), token: text("token") })
    }

    /// Writes a settings file that only its owner can read, and keeps what else stands in it.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let before = fs::read_to_string(path).unwrap_or_default();
        let mut document: DocumentMut = before.parse().unwrap_or_default();
        for (key, value) in [("url", &self.url), ("token", &self.token)] {
            match value {
                Some(value) => document[key] = toml_edit::value(value),
                None => drop(document.remove(key)),
            }
        }
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)
            .and_then(|()| kit::durable::write(path, document.to_string().as_bytes(), 0o600))
            .map_err(|error| Failure::other(format!("cannot write {}: {error}", path.display())))
    }
}

/// Where the settings are stored, if this user has a home.
pub fn path() -> Option<PathBuf> {
    let directory = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = directory("XDG_CONFIG_HOME").or_else(|| directory("HOME").map(|home| home.join(".config")))?;
    Some(base.join("dunlin/config.toml"))
}

fn unusable(path: &Path, reason: &str) -> Failure {
    Failure::other(format!("cannot read {}: {reason}", path.display())).hint("correct or remove the file")
}
