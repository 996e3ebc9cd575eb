//! Docker's own store of credentials: read for other registries, written for the platform's.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use api::public::deploys::RegistryAuth;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use docker_credential::DockerCredential;
use model::Reference;
use serde_json::{Map, Value, json};

use super::exit::Failure;

/// The name under which Docker keeps the credentials of Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The user name that goes with a platform token.
pub const USER: &str = "x";

/// How to sign in to the registry of an image, if Docker knows.
pub fn for_image(reference: &Reference) -> Option<RegistryAuth> {
    let credential = docker_credential::get_credential(registry_key(reference)).ok()?;
    Some(match credential {
        DockerCredential::UsernamePassword(username, password) => RegistryAuth { username, password, token: None },
        DockerCredential::IdentityToken(token) => RegistryAuth { token: Some(token), ..RegistryAuth::default() },
    })
}

/// How to sign in to the registries that these images come from, as far as Docker knows.
pub fn for_bases(bases: &[String]) -> BTreeMap<String, build::Credentials> {
    let references = bases.iter().filter_map(|base| base.parse::<Reference>().ok());
    let known = references.filter_map(|reference| {
        let auth = for_image(&reference).filter(|auth| auth.token.is_none())?;
        let own = build::Credentials { username: auth.username, password: auth.password };
        Some((registry_key(&reference).to_owned(), own))
    });
    known.collect()
}

fn registry_key(reference: &Reference) -> &str {
    match reference.registry.as_deref() {
        None | Some("docker.io" | "index.docker.io") => DOCKER_HUB,
        Some(registry) => registry,
    }
}

/// Writes the platform's token into Docker's configuration, for its registry.
pub fn sign_docker_in(registry: &str, token: &str) -> Result<PathBuf, Failure> {
    let directory = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || directory("HOME").map(|home| home.join(".docker"));
    let directory = directory("DOCKER_CONFIG")
        .or_else(home)
        .ok_or_else(|| Failure::other("there is no place for Docker's configuration: HOME is not set"))?;
    let path = directory.join("config.json");
    let failed = |reason: String| Failure::other(format!("cannot write {}: {reason}", path.display()));
    let before = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "{}".to_owned(),
        Err(error) => return Err(failed(error.to_string())),
    };
    let after = with_credentials(&before, registry, token).map_err(|reason| failed(reason.to_owned()))?;
    fs::create_dir_all(&directory).map_err(|error| failed(error.to_string()))?;
    write_through_links(&path, &after).map_err(|error| failed(error.to_string()))?;
    Ok(path)
}

/// Replaces the file that a link leads to, not the link.
fn write_through_links(path: &Path, text: &str) -> std::io::Result<()> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    kit::durable::write(&real, text.as_bytes(), 0o600)
}

/// Docker's configuration with these credentials in it.
fn with_credentials(text: &str, registry: &str, token: &str) -> Result<String, &'static str> {
    const STRANGE: &str = "it is not what Docker writes; correct or remove it";
    let mut config: Map<String, Value> = serde_json::from_str(text).map_err(|_| STRANGE)?;
    let auth = STANDARD.encode(format!("{USER}:{token}"));
    let auths = config.entry("auths").or_insert_with(|| json!({})).as_object_mut().ok_or(STRANGE)?;
    auths.insert(registry.to_owned(), json!({ "auth": auth }));
    if config.contains_key("credsStore") {
        // A credential store goes before this file, unless the registry is said to have none.
        let helpers = config.entry("credHelpers").or_insert_with(|| json!({})).as_object_mut().ok_or(STRANGE)?;
        helpers.insert(registry.to_owned(), json!(""));
    }
    serde_json::to_string_pretty(&config).map_err(|_| STRANGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_configuration_keeps_everything_else() {
        let before = r#"{"auths": {"ghcr.io": {"auth": "b2xk"}}, "psFormat": "x", "credsStore": "desktop"}"#;
        let after: Value = serde_json::from_str(&with_credentials(before, "127.0.0.1:4280", "t").unwrap()).unwrap();
        assert_eq!(after["auths"]["127.0.0.1:4280"]["auth"], "eDp0");
        assert_eq!(after["auths"]["ghcr.io"]["auth"], "b2xk");
        assert_eq!((&after["psFormat"], &after["credHelpers"]["127.0.0.1:4280"]), (&json!("x"), &json!("")));
        assert!(with_credentials("[]", "r", "t").is_err());
        assert!(with_credentials(r#"{"auths": 1}"#, "r", "t").is_err());
    }

    #[test]
    fn docker_hub_has_a_name_of_its_own() {
        for (image, key) in [("nginx", DOCKER_HUB), ("docker.io/me/app", DOCKER_HUB), ("ghcr.io/me/app:1", "ghcr.io")] {
            assert_eq!(registry_key(&image.parse().unwrap()), key);
        }
    }
}
