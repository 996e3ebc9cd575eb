//! What every command needs to know: which platform, which app, which configuration file.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use model::AppName;
use toml_edit::DocumentMut;

use super::{
    Globals,
    client::Client,
    exit::{Exit, Failure},
    output::Output,
    settings::{self, Settings},
};

/// Where the API is if nothing else is said.
pub const DEFAULT_URL: &str = "http://127.0.0.1:4280";
/// The names under which a configuration file is looked for.
const CONFIG_FILES: [&str; 2] = ["fly.toml", "dunlin.toml"];
/// A longer file is not an app's configuration.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// What a command works with.
#[derive(Debug)]
pub struct Context {
    /// How it prints.
    pub out: Output,
    globals: Globals,
}

/// A configuration file as it lies on disk.
#[derive(Debug, Clone)]
pub struct ConfigText {
    /// Where it lies.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

impl ConfigText {
    /// The directory that its paths are relative to.
    pub fn directory(&self) -> &Path {
        self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// The file's name, for people.
    pub fn name(&self) -> String {
        self.path.strip_prefix("./").unwrap_or(&self.path).display().to_string()
    }
}

impl Context {
    /// A context of these options.
    pub fn new(globals: Globals, out: Output) -> Self {
        Self { out, globals }
    }

    /// A client of the platform: options go before the environment, and that before what is stored.
    pub fn client(&self) -> Result<Client, Failure> {
        let stored = settings::path().map_or_else(|| Ok(Settings::default()), |path| Settings::load(&path))?;
        let url = self.globals.url.clone().or_else(|| variable("DUNLIN_API_URL"));
        let (url, token) = choose(url, self.given_token(), stored);
        Client::new(&url, token)
    }

    /// The token that is given by option or environment, whatever is stored.
    pub fn given_token(&self) -> Option<String> {
        let given = self.globals.token.clone().or_else(|| variable("DUNLIN_API_TOKEN"));
        given.or_else(|| variable("FLY_API_TOKEN"))
    }

    /// The app that is meant.
    pub fn app(&self) -> Result<AppName, Failure> {
        self.app_if_named()?.ok_or_else(|| {
            Failure::usage("which app is not said: there is no configuration file here that names one")
                .hint("name it with --app, or run this where its fly.toml is")
        })
    }

    /// The app that is meant, if any is.
    pub fn app_if_named(&self) -> Result<Option<AppName>, Failure> {
        let named = self.globals.app.clone().or_else(|| variable("DUNLIN_APP")).or_else(|| variable("FLY_APP"));
        let named = match named {
            Some(named) => Some(named),
            None => self.config()?.as_ref().and_then(app_of),
        };
        named.map(|name| app_name(&name)).transpose()
    }

    /// The app that is named by option or environment, whatever the configuration file says.
    pub fn app_override(&self) -> Result<Option<AppName>, Failure> {
        let named = self.globals.app.clone().or_else(|| variable("DUNLIN_APP")).or_else(|| variable("FLY_APP"));
        named.map(|name| app_name(&name)).transpose()
    }

    /// The configuration file, if there is one. One that is named must be there.
    pub fn config(&self) -> Result<Option<ConfigText>, Failure> {
        let path = match &self.globals.config {
            Some(path) if path.is_dir() => find(path),
            Some(path) => Some(path.clone()),
            None => find(Path::new("")),
        };
        path.map(|path| read(&path)).transpose()
    }

    /// The configuration file.
    pub fn need_config(&self) -> Result<ConfigText, Failure> {
        self.config()?.ok_or_else(no_config)
    }

    /// Where a new configuration file goes.
    pub fn new_config_path(&self) -> PathBuf {
        match &self.globals.config {
            Some(path) if path.is_dir() => path.join(CONFIG_FILES[0]),
            Some(path) => path.clone(),
            None => PathBuf::from(CONFIG_FILES[0]),
        }
    }
}

/// There is no configuration file.
pub fn no_config() -> Failure {
    Failure::new(Exit::InvalidConfig, "there is no fly.toml or dunlin.toml here")
        .hint("write one with `dunlin launch`, or name one with --config")
}

/// The name of an app, proven.
pub fn app_name(text: &str) -> Result<AppName, Failure> {
    text.parse().map_err(|error: model::InvalidName| Failure::usage(error.to_string()))
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Which address and token to use. A stored token is sent to the platform it is for and to no other.
fn choose(url: Option<String>, token: Option<String>, stored: Settings) -> (String, Option<String>) {
    let stored_url = stored.url.unwrap_or_else(|| DEFAULT_URL.to_owned());
    let url = url.unwrap_or_else(|| stored_url.clone());
    let same = url.trim_end_matches('/') == stored_url.trim_end_matches('/');
    (url, token.or(stored.token.filter(|_| same)))
}

fn find(directory: &Path) -> Option<PathBuf> {
    CONFIG_FILES.iter().map(|name| directory.join(name)).find(|path| path.is_file())
}

fn read(path: &Path) -> Result<ConfigText, Failure> {
    let unreadable = |reason: String| {
        Failure::new(Exit::InvalidConfig, format!("cannot read {}: {reason}", path.display()))
            .hint("write one with `dunlin launch`, or name another with --config")
    };
    let length = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if length > MAX_CONFIG_BYTES {
        return Err(unreadable("it is larger than 1 MiB".to_owned()));
    }
    let text = fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    Ok(ConfigText { path: path.to_owned(), text })
}

/// The app that a configuration file names, even if the rest of it has errors.
fn app_of(config: &ConfigText) -> Option<String> {
    let document: DocumentMut = config.text.parse().ok()?;
    document.get("app")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_token_goes_to_its_own_platform_only() {
        let stored = || Settings { url: Some("http://one:1/".to_owned()), token: Some("secret".to_owned()) };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(choose(None, None, stored()), ("http://one:1/".to_owned(), some("secret")));
        assert_eq!(choose(some("http://one:1"), None, stored()).1, some("secret"));
        assert_eq!(choose(some("http://two:1"), None, stored()).1, None);
        assert_eq!(choose(some("http://two:1"), some("given"), stored()).1, some("given"));
        assert_eq!(choose(None, None, Settings::default()), (DEFAULT_URL.to_owned(), None));
    }
}
