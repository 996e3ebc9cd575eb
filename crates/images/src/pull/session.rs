//! Talking to one repository of another registry: requests, signing in, what a failure means.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use api::internal::PullCredentials;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderValue, StatusCode, header};
use model::Reference;
use reqwest::{Response, Url};
use serde::Deserialize;

use super::challenge::{self, Challenge};
use crate::store::StoreError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a registry may send nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// The most bytes of a token service's answer.
const MAX_TOKEN_BYTES: usize = 256 << 10;
/// The most bytes of an error's body that are read, and the most characters that are shown.
const MAX_ERROR_BYTES: usize = 16 << 10;
const MAX_ERROR_CHARS: usize = 300;

/// Why another registry did not give what was asked.
#[derive(Debug)]
pub enum Failure {
    /// It says that there is no such thing.
    Missing(String),
    /// It does not know us, or not enough.
    Denied(String),
    /// Another attempt may go better.
    Transient {
        reason: String,
        /// When the registry asks for it.
        after: Option<Duration>,
    },
    /// It refuses, or what it sends makes no sense.
    Refused(String),
    /// The store here did not take what came.
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let reason = kit::report::Report(&error).to_string();
        if error.is_builder() || error.is_redirect() {
            return Self::Refused(reason);
        }
        Self::Transient { reason, after: None }
    }
}

/// The client that all sessions share.
pub fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .user_agent(concat!("dunlin/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .build()
}

/// A repository of another registry.
pub struct Session {
    client: reqwest::Client,
    /// `https://<host>/v2/<repository>/`
    base: String,
    plain_http: bool,
    repository: String,
    credentials: PullCredentials,
    /// What has opened the registry so far.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Session {
    /// The session for an image name. Docker Hub is meant where no registry is named. Registries on this host are
    /// spoken to without TLS.
    pub fn new(client: reqwest::Client, reference: &Reference, credentials: PullCredentials) -> Self {
        let (host, repository) = address(reference);
        let plain_http = is_loopback(&host);
        let scheme = if plain_http { "http" } else { "https" };
        let base = format!("{scheme}://{host}/v2/{repository}/");
        let authorization = match &credentials {
            PullCredentials::Bearer(token) => bearer(token),
            PullCredentials::Anonymous | PullCredentials::Basic { .. } => None,
        };
        Self { client, base, plain_http, repository, credentials, authorization: Mutex::new(authorization) }
    }

    /// Asks for a part of the repository, signing in if the registry wants that. The answer is a success.
    pub async fn get(&self, path: &str, accept: &str) -> Result<Response, Failure> {
        let response = self.send(path, accept).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return checked(response).await;
        }
        let challenge = challenge::read(response.headers());
        let refused = explain(response).await;
        let authorization = match challenge {
            Some(Challenge::Bearer { realm, service, scope }) => self.token(&realm, service, scope).await?,
            Some(Challenge::Basic) => self.password().ok_or_else(|| Failure::Denied(refused.clone()))?,
            None => return Err(Failure::Denied(refused)),
        };
        *self.authorization() = Some(authorization);
        checked(self.send(path, accept).await?).await
    }

    async fn send(&self, path: &str, accept: &str) -> Result<Response, Failure> {
        let mut request = self.client.get(format!("{}{path}", self.base)).header(header::ACCEPT, accept);
        let authorization = self.authorization().clone();
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        Ok(request.send().await?)
    }

    /// Gets a token for reading the repository from the registry's token service.
    async fn token(&self, realm: &str, service: Option<String>, scope: Option<String>) -> Result<HeaderValue, Failure> {
        if let PullCredentials::Bearer(_) = self.credentials {
            return Err(Failure::Denied("it does not accept the token".to_owned()));
        }
        let mut url =
            Url::parse(realm).map_err(|_| Failure::Refused("its token service has no valid address".into()))?;
        if url.scheme() != "https" && !self.plain_http {
            return Err(Failure::Refused("its token service wants credentials without TLS".to_owned()));
        }
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        url.query_pairs_mut()
            .extend_pairs(service.iter().map(|service| ("service", service)))
            .append_pair("scope", &scope);
        let mut request = self.client.get(url);
        if let Some(password) = self.password() {
            request = request.header(header::AUTHORIZATION, password);
        }
        let content = bounded(checked(request.send().await?).await?, MAX_TOKEN_BYTES).await?;
        let issued: Issued = serde_json::from_slice(&content).unwrap_or_default();
        let token = issued.token.or(issued.access_token).filter(|token| !token.is_empty());
        token.and_then(|token| bearer(&token)).ok_or_else(|| Failure::Refused("its token service gave no token".into()))
    }

    fn password(&self) -> Option<HeaderValue> {
        let PullCredentials::Basic { username, password } = &self.credentials else { return None };
        sensitive(format!("Basic {}", BASE64.encode(format!("{username}:{password}"))))
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A token service's answer.
#[derive(Default, Deserialize)]
struct Issued {
    token: Option<String>,
    access_token: Option<String>,
}

/// The whole body, if it is not too large.
pub async fn bounded(mut response: Response, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if content.len() + chunk.len() > limit {
            return Err(Failure::Refused(format!("its answer is larger than {limit} bytes")));
        }
        content.extend_from_slice(&chunk);
    }
    Ok(content)
}

/// The host and the repository that a name means.
fn address(reference: &Reference) -> (String, String) {
    let host = reference.registry.as_deref().unwrap_or("docker.io");
    if !matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io") {
        return (host.to_owned(), reference.repository.clone());
    }
    let official = if reference.repository.contains('/') { "" } else { "library/" };
    ("registry-1.docker.io".to_owned(), format!("{official}{}", reference.repository))
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(format!("Bearer {token}"))
}

fn sensitive(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

async fn checked(response: Response) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let after = response.headers().get(header::RETRY_AFTER);
    let after = after.and_then(|after| after.to_str().ok()?.parse().ok()).map(Duration::from_secs);
    let reason = explain(response).await;
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Denied(reason),
        StatusCode::NOT_FOUND => Failure::Missing(reason),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Failure::Transient { reason, after },
        status if status.is_server_error() => Failure::Transient { reason, after },
        _ => Failure::Refused(reason),
    })
}

/// What a registry says about its refusal: its status, and the first message of its body.
async fn explain(response: Response) -> String {
    let status = response.status();
    let body = bounded(response, MAX_ERROR_BYTES).await.unwrap_or_default();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = body.pointer("/errors/0/message").and_then(serde_json::Value::as_str).unwrap_or_default();
    let message: String = message.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect();
    if message.is_empty() { format!("it answered {status}") } else { format!("it answered {status}: {message}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_the_registry_that_docker_would_ask() {
        for (name, host, repository) in [
            ("nginx", "registry-1.docker.io", "library/nginx"),
            ("docker.io/nginx", "registry-1.docker.io", "library/nginx"),
            ("grafana/loki:3", "registry-1.docker.io", "grafana/loki"),
            ("ghcr.io/a/b", "ghcr.io", "a/b"),
            ("localhost:5000/x", "localhost:5000", "x"),
        ] {
            let found = address(&name.parse().unwrap());
            assert_eq!(found, (host.to_owned(), repository.to_owned()), "{name}");
        }
    }

    #[test]
    fn only_this_host_is_spoken_to_without_tls() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:80", "127.1.2.3", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.com", "10.0.0.1", "[fd00::1]:5000", "127.0.0.1.nip.io:80"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
