//! Answers that are not a success: always JSON of one shape, with what happened and what to do next.

use api::{
    internal::{ImageError, NodeError},
    public::ErrorBody,
};
use axum::{
    Json,
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use kit::report::Report;

use crate::error::Error;

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, word) = classify(&self);
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!("a request failed: {}", Report(&self));
        }
        let body = ErrorBody { error: self.to_string(), hint: self.hint(), status: Some(word.to_owned()) };
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110, section 11.6.1.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The status, and the word for programs.
fn classify(error: &Error) -> (StatusCode, &'static str) {
    match error {
        Error::NotFound { kind, .. } => (StatusCode::NOT_FOUND, unknown(kind)),
        Error::Unauthenticated(_) => (StatusCode::UNAUTHORIZED, "unauthenticated"),
        Error::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
        Error::NameTaken(_) => (StatusCode::UNPROCESSABLE_ENTITY, "name_taken"),
        Error::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
        Error::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
        Error::Unsupported(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unsupported"),
        Error::Config(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_config"),
        Error::LeaseHeld { .. } => (StatusCode::CONFLICT, "lease_held"),
        Error::Conflict { .. } => (StatusCode::CONFLICT, "conflict"),
        Error::WaitTimeout { .. } => (StatusCode::REQUEST_TIMEOUT, "timeout"),
        Error::WaitFailed(_) => (StatusCode::BAD_REQUEST, "wait_failed"),
        Error::Busy(_) => (StatusCode::TOO_MANY_REQUESTS, "busy"),
        Error::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        Error::Node(error) => of_node(error),
        Error::Image(error) => of_image(error),
        Error::Store(_) | Error::Unreadable { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

fn unknown(kind: &str) -> &'static str {
    match kind {
        "app" => "unknown_app",
        "machine" => "unknown_machine",
        "release" => "unknown_release",
        "deployment" => "unknown_deployment",
        "secret" => "unknown_secret",
        "lease" => "unknown_lease",
        "organization" => "unknown_organization",
        _ => "unknown",
    }
}

fn of_node(error: &NodeError) -> (StatusCode, &'static str) {
    match error {
        NodeError::NotFound(_) => (StatusCode::NOT_FOUND, "unknown_machine"),
        NodeError::Denied { .. } => (StatusCode::PRECONDITION_FAILED, "failed_precondition"),
        NodeError::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
        NodeError::Capacity(_) => (StatusCode::PRECONDITION_FAILED, "insufficient_capacity"),
        NodeError::Failed(_) => (StatusCode::UNPROCESSABLE_ENTITY, "machine_failed"),
        NodeError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
        NodeError::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

fn of_image(error: &ImageError) -> (StatusCode, &'static str) {
    match error {
        ImageError::NotFound { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "unknown_image"),
        ImageError::Platform { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "wrong_platform"),
        ImageError::Unusable { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "unusable_image"),
        ImageError::Registry { .. } => (StatusCode::BAD_GATEWAY, "registry"),
        ImageError::Storage { .. } => (StatusCode::INSUFFICIENT_STORAGE, "storage"),
    }
}

/// No such route.
pub(super) async fn no_such_route(uri: axum::http::Uri) -> Response {
    let body = ErrorBody {
        error: format!("there is nothing at {}", uri.path()),
        hint: Some("`GET /v1/openapi.json` describes everything there is".to_owned()),
        status: Some("unknown_route".to_owned()),
    };
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

/// The route exists, with other methods.
pub(super) async fn method_not_allowed(method: axum::http::Method, uri: axum::http::Uri) -> Response {
    let body = ErrorBody {
        error: format!("{} cannot be asked with {method}", uri.path()),
        hint: Some("the header Allow names the methods that it takes".to_owned()),
        status: Some("method_not_allowed".to_owned()),
    };
    (StatusCode::METHOD_NOT_ALLOWED, Json(body)).into_response()
}

/// How much of a foreign error's text is kept.
const MAX_TEXT_BYTES: usize = 1000;

/// Brings errors of the libraries underneath (a path that does not decode, a refused upgrade) into the same shape.
pub(super) async fn shape(response: Response) -> Response {
    let status = response.status();
    let json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !(status.is_client_error() || status.is_server_error()) || json {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_TEXT_BYTES)]).into_owned();
    let text = if text.is_empty() { status.to_string() } else { text };
    let body = ErrorBody { error: text, hint: None, status: Some("bad_request".to_owned()) };
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(parts, Body::from(crate::store::to_json(&body)))
}
