//! What handlers take out of a request: who calls, which app and machine they mean, and the body.

use std::{str::FromStr, sync::Arc};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::{StatusCode, header, request::Parts},
};
use model::MachineId;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::MAX_BODY_BYTES;
use crate::{
    Control,
    auth::{self, Caller},
    error::Error,
    machines::Nonce,
    store::apps::AppRow,
};

impl FromRequestParts<Arc<Control>> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, Error> {
        let field = parts.headers.get(header::AUTHORIZATION).and_then(|field| field.to_str().ok());
        let field = field.ok_or(Error::Unauthenticated("a token is missing"))?;
        for token in tokens(field) {
            if let Some(caller) = auth::authenticate(&control.store, token).await? {
                return Ok(caller);
            }
        }
        Err(Error::Unauthenticated("the token is not valid, or no longer"))
    }
}

/// How many tokens of one header field are tried.
const MAX_TOKENS: usize = 8;

/// The tokens of `Bearer <token>` or `FlyV1 <token>,<token>…`.
fn tokens(field: &str) -> impl Iterator<Item = &str> {
    let (scheme, rest) = field.split_once(' ').unwrap_or_default();
    let known = ["bearer", "flyv1"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let rest = if known { rest } else { "" };
    rest.split(',').map(str::trim).filter(|token| !token.is_empty()).take(MAX_TOKENS)
}

/// A request about an app that the caller may use.
pub(super) struct InApp {
    pub caller: Caller,
    pub app: AppRow,
}

/// The app in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes what `InApp` takes from the path")]
pub(super) struct AppInPath {
    /// The app's name.
    app: String,
}

impl FromRequestParts<Arc<Control>> for InApp {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, Error> {
        let caller = Caller::from_request_parts(parts, control).await?;
        let name = path_param(parts, control, "app").await?;
        let app = control.app_row(&caller, &name).await?;
        Ok(Self { caller, app })
    }
}

/// A request about a machine of an app that the caller may use.
pub(super) struct OnMachine {
    pub caller: Caller,
    pub app: AppRow,
    pub id: MachineId,
    pub nonce: Nonce,
}

/// The app and the machine in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes what `OnMachine` takes from the path")]
pub(super) struct MachineInPath {
    /// The app's name.
    app: String,
    /// The machine's id.
    machine_id: String,
}

/// The header field that proves a lease.
const NONCE: &str = "fly-machine-lease-nonce";

impl FromRequestParts<Arc<Control>> for OnMachine {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, Error> {
        let InApp { caller, app } = InApp::from_request_parts(parts, control).await?;
        let id = path_param(parts, control, "machine_id").await?;
        let id = MachineId::from_str(&id).map_err(|_| Error::not_found("machine", id))?;
        let nonce = Nonce::new(parts.headers.get(NONCE).and_then(|field| field.to_str().ok()));
        Ok(Self { caller, app, id, nonce })
    }
}

async fn path_params(parts: &mut Parts, control: &Arc<Control>) -> Result<RawPathParams, Error> {
    let params = RawPathParams::from_request_parts(parts, control).await;
    params.map_err(|error| Error::BadRequest(error.body_text()))
}

async fn path_param(parts: &mut Parts, control: &Arc<Control>, name: &str) -> Result<String, Error> {
    let params = path_params(parts, control).await?;
    let found = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    Ok(found.expect("the routes of this handler have the parameter"))
}

/// The last parameter of a path, decoded.
pub(super) struct LastPart(pub String);

impl FromRequestParts<Arc<Control>> for LastPart {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, Error> {
        let params = path_params(parts, control).await?;
        let last = params.iter().last().map(|(_, value)| value.to_owned());
        Ok(Self(last.expect("the routes of this handler have a parameter")))
    }
}

/// A JSON body.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Control>> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, control: &Arc<Control>) -> Result<Self, Error> {
        parse(&bytes(request, control).await?).map(Self)
    }
}

/// A JSON body that may be left out, or be `null`.
pub(super) struct MaybeBody<T>(pub T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<Control>> for MaybeBody<T> {
    type Rejection = Error;

    async fn from_request(request: Request, control: &Arc<Control>) -> Result<Self, Error> {
        let bytes = bytes(request, control).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        parse::<Option<T>>(&bytes).map(|given| Self(given.unwrap_or_default()))
    }
}

async fn bytes(request: Request, control: &Arc<Control>) -> Result<Bytes, Error> {
    Bytes::from_request(request, control).await.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Error::TooLarge { limit_bytes: MAX_BODY_BYTES },
        _ => Error::BadRequest(error.body_text()),
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Error::invalid(format!("the body does not fit: {error}")),
        _ => Error::BadRequest(format!("the body is not JSON: {error}")),
    })
}

/// The parameters behind the question mark, in order; a name may come several times.
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let query = axum::extract::Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|error| Error::BadRequest(error.body_text()))
    }
}

impl Params {
    /// All parameters.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The values of every parameter of this name, those separated by commas taken apart.
    pub(super) fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s str> {
        let named = self.iter().filter(move |(key, _)| *key == name);
        named.flat_map(|(_, value)| value.split(',')).map(str::trim).filter(|value| !value.is_empty())
    }

    /// The value of the last parameter of this name; an empty one counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// Whether the parameter is given, and not as `false` or `0`.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.0.iter().any(|(key, value)| key == name && !matches!(value.as_str(), "false" | "0"))
    }

    /// The value, read.
    pub(super) fn read<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>, Error> {
        let read = |text: &str| text.parse().map_err(|error| Error::BadRequest(format!("{name}: {error}")));
        self.get(name).map(read).transpose()
    }
}
