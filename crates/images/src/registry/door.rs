//! Who may come in: Docker's token authentication.
//!
//! ```text
//! GET /v2/… ─▶ 401, WWW-Authenticate: Bearer realm="…/v2/token",service="dunlin",scope="repository:x:pull"
//! GET /v2/token?scope=… with Basic (any user, password = platform token) ─▶ a short-lived registry token
//! GET /v2/… with Bearer <registry token> ─▶ the answer
//! ```
//!
//! A platform token is also taken directly, as a Basic password or as Bearer.

use std::{collections::BTreeMap, sync::Arc};

use api::internal::{RegistryAccess, RegistryRights};
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header, uri::Authority};
use serde_json::json;

use super::{
    error::{Code, Refusal},
    repository::RepositoryName,
    token::{Claims, Grant, LIFETIME_SECONDS, Signer},
};

/// The most scopes that one token request may name.
const MAX_SCOPES: usize = 32;
/// The most bytes of a token or password that are looked at.
const MAX_SECRET_BYTES: usize = 8 << 10;

/// What people read who come without a token, or with a wrong one.
const SIGN_IN: &str = "sign in with `docker login`: any user name, and a valid platform token as the password";

/// With which scheme clients reach the registry; it goes into the address of the token service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PublicScheme {
    /// Plain HTTP, on a trusted network or the same host.
    #[default]
    Http,
    /// TLS, ended before the router.
    Https,
    /// What a proxy in front writes into `X-Forwarded-Proto`, or HTTP where it writes nothing. Only for routers
    /// that cannot be reached around that proxy.
    Forwarded,
}

/// What an operation needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    Pull,
    Push,
    Delete,
}

impl Right {
    fn of(self, rights: RegistryRights) -> bool {
        match self {
            Self::Pull => rights.pull,
            Self::Push => rights.push,
            Self::Delete => rights.delete,
        }
    }

    /// The scope to ask for, in Docker's words. Whoever pushes also reads what is there already.
    fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
            Self::Delete => "delete",
        }
    }
}

/// Who is asking.
pub enum Caller {
    /// With a platform token.
    Platform(String),
    /// With a registry token of ours.
    Registry(Claims),
}

/// Lets callers in.
pub struct Door {
    access: Arc<dyn RegistryAccess>,
    signer: Signer,
    scheme: PublicScheme,
}

impl Door {
    pub fn new(access: Arc<dyn RegistryAccess>, scheme: PublicScheme) -> Self {
        Self { access, signer: Signer::new(), scheme }
    }

    /// Finds out who sends a request; refuses it with a challenge if nobody known. `scope` is what it is about.
    pub async fn caller(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
        scope: Option<(&RepositoryName, Right)>,
    ) -> Result<Caller, Refusal> {
        match presented(headers) {
            Some(Presented::Bearer(token)) => {
                if let Some(claims) = self.signer.verify(&token, kit::clock::unix_ms()) {
                    return Ok(Caller::Registry(claims));
                }
                self.platform(token).await.ok_or_else(|| self.challenge(headers, uri, scope, "invalid_token"))
            }
            Some(Presented::Password(token)) => {
                self.platform(token).await.ok_or_else(|| self.challenge(headers, uri, scope, "invalid_token"))
            }
            None => Err(self.challenge(headers, uri, scope, "")),
        }
    }

    /// Whether a caller has a right to a repository.
    pub async fn may(&self, caller: &Caller, repository: &RepositoryName, right: Right) -> bool {
        let rights = match caller {
            Caller::Registry(claims) => Some(claims.rights(repository.as_str())),
            Caller::Platform(token) => self.access.rights(token, repository.as_str()).await,
        };
        rights.is_some_and(|rights| right.of(rights))
    }

    /// Lets a request in, or says why not.
    pub async fn admit(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
        repository: &RepositoryName,
        right: Right,
    ) -> Result<Caller, Refusal> {
        let caller = self.caller(headers, uri, Some((repository, right))).await?;
        if self.may(&caller, repository, right).await {
            return Ok(caller);
        }
        Err(match caller {
            // Another registry token may have the right; the client asks for one.
            Caller::Registry(_) => self.challenge(headers, uri, Some((repository, right)), "insufficient_scope"),
            Caller::Platform(_) => {
                let wanted = right.actions();
                Refusal::new(Code::Denied, format!("this token has no right to {wanted} on {repository}"))
            }
        })
    }

    /// `GET /v2/token`: a registry token for the holder of a platform token in the Basic password.
    pub async fn token_by_query(&self, headers: &HeaderMap, query: &str) -> Result<Response, Refusal> {
        let password = match presented(headers) {
            Some(Presented::Password(password) | Presented::Bearer(password)) => password,
            None => return Err(sign_in()),
        };
        let scopes = pairs(query).filter(|(name, _)| name == "scope").map(|(_, scope)| scope);
        self.issue(&password, scopes).await
    }

    /// `POST /v2/token`: the same as an OAuth 2 form with `grant_type=password` (Docker's extension) or
    /// `refresh_token`.
    pub async fn token_by_form(&self, form: &str) -> Result<Response, Refusal> {
        let fields: BTreeMap<String, String> = pairs(form).collect();
        let secret = match fields.get("grant_type").map(String::as_str) {
            Some("password") => fields.get("password"),
            Some("refresh_token") => fields.get("refresh_token"),
            _ => {
                let message = "grant_type must be password or refresh_token";
                return Err(Refusal::new(Code::Unsupported, message).status(StatusCode::BAD_REQUEST));
            }
        };
        let secret = secret.ok_or_else(sign_in)?;
        self.issue(secret, fields.get("scope").into_iter().cloned()).await
    }

    /// Makes a registry token with as much of the wanted scopes as the platform token allows.
    async fn issue(&self, token: &str, scopes: impl Iterator<Item = String>) -> Result<Response, Refusal> {
        let bounded = token.len() <= MAX_SECRET_BYTES;
        if !bounded || self.access.rights(token, "").await.is_none() {
            return Err(sign_in());
        }
        let mut grants = Vec::new();
        let scopes: Vec<String> =
            scopes.flat_map(|text| text.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
        for wanted in scopes.iter().filter_map(|scope| wanted_grant(scope)).take(MAX_SCOPES) {
            let rights = self.access.rights(token, &wanted.repository).await.unwrap_or_default();
            grants.push(Grant {
                pull: wanted.pull && rights.pull,
                push: wanted.push && rights.push,
                delete: wanted.delete && rights.delete,
                ..wanted
            });
        }
        let now_ms = kit::clock::unix_ms();
        let token = self.signer.sign(&Claims { expires_ms: now_ms + LIFETIME_SECONDS * 1_000, grants });
        let body = json!({
            "token": token,
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": LIFETIME_SECONDS,
            "issued_at": kit::clock::rfc3339(now_ms),
        });
        Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
    }

    async fn platform(&self, token: String) -> Option<Caller> {
        self.access.rights(&token, "").await.map(|_| Caller::Platform(token))
    }

    /// A 401 that tells the client where to get a token and for what.
    fn challenge(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
        scope: Option<(&RepositoryName, Right)>,
        error: &str,
    ) -> Refusal {
        let Some(host) = host(headers, uri) else {
            let message = "the request names no valid host, so it cannot be told where to sign in";
            return Refusal::new(Code::Unauthorized, message).status(StatusCode::BAD_REQUEST);
        };
        let mut challenge =
            format!("Bearer realm=\"{}://{host}/v2/token\",service=\"dunlin\"", self.scheme_of(headers));
        if let Some((repository, right)) = scope {
            challenge.push_str(&format!(",scope=\"repository:{repository}:{}\"", right.actions()));
        }
        if !error.is_empty() {
            challenge.push_str(&format!(",error=\"{error}\""));
        }
        let value = HeaderValue::try_from(challenge).expect("a host and a repository name are visible ASCII");
        let message = match error {
            "" => SIGN_IN,
            "insufficient_scope" => "your token does not reach this repository",
            _ => "the token is not valid, or no longer; sign in again",
        };
        Refusal::new(Code::Unauthorized, message).header(header::WWW_AUTHENTICATE, value)
    }

    fn scheme_of(&self, headers: &HeaderMap) -> &'static str {
        let forwarded = || headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes() == b"https");
        match self.scheme {
            PublicScheme::Https => "https",
            PublicScheme::Forwarded if forwarded() => "https",
            PublicScheme::Http | PublicScheme::Forwarded => "http",
        }
    }
}

/// What stands in the `Authorization` header.
enum Presented {
    Bearer(String),
    Password(String),
}

fn presented(headers: &HeaderMap) -> Option<Presented> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok().filter(|value| value.len() <= MAX_SECRET_BYTES)?;
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Presented::Bearer(rest.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(BASE64.decode(rest).ok()?).ok()?;
    pair.split_once(':').map(|(_, password)| Presented::Password(password.to_owned()))
}

/// The host under which the client knows this registry, if it is one that may stand in a header.
fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let text = match headers.get(header::HOST) {
        Some(host) => host.to_str().ok()?,
        None => uri.authority()?.as_str(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    (text.len() <= 255 && text.chars().all(plain) && text.parse::<Authority>().is_ok()).then_some(text)
}

/// Reads one scope of Docker's token specification: `repository:<name>:<action>[,<action>…]`. Other kinds and
/// unknown actions grant nothing.
fn wanted_grant(scope: &str) -> Option<Grant> {
    let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
    let repository: RepositoryName = name.parse().ok()?;
    let has = |action: &str| actions.split(',').any(|word| word == action || word == "*");
    Some(Grant {
        repository: repository.as_str().to_owned(),
        pull: has("pull"),
        push: has("push"),
        delete: has("delete"),
    })
}

/// The pairs of a query or form.
pub fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(text.as_bytes()).into_owned()
}

/// The 401 of the token service itself.
fn sign_in() -> Refusal {
    Refusal::new(Code::Unauthorized, SIGN_IN)
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"dunlin\""))
}
