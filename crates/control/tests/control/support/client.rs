//! A client of the REST API, without a network.

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

#[derive(Clone)]
pub struct Client {
    router: Router,
    token: String,
    nonce: Option<String>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: axum::http::HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.text);
        self.body
    }

    /// The error of an answer with this status.
    #[track_caller]
    pub fn refused(self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self.body["error"].as_str().expect("an error has a text").to_owned()
    }
}

impl Client {
    pub fn new(router: Router, token: &str) -> Self {
        Self { router, token: format!("Bearer {token}"), nonce: None }
    }

    pub fn token(&self) -> &str {
        self.token.trim_start_matches("Bearer ")
    }

    pub fn with_authorization(&self, field: &str) -> Self {
        Self { token: field.to_owned(), ..self.clone() }
    }

    pub fn with_nonce(&self, nonce: &str) -> Self {
        Self { nonce: Some(nonce.to_owned()), ..self.clone() }
    }

    pub async fn send(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !self.token.is_empty() {
            request = request.header("authorization", &self.token);
        }
        if let Some(nonce) = &self.nonce {
            request = request.header("fly-machine-lease-nonce", nonce);
        }
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned();
        let body = serde_json::from_str(&text).unwrap_or_default();
        Answer { status: parts.status, headers: parts.headers, body, text }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, Body::empty()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, Body::empty()).await
    }

    pub async fn create_app(&self, name: &str) {
        self.post("/v1/apps", json!({ "name": name })).await.ok();
    }

    /// Asks for a deployment and returns its id.
    pub async fn deploy(&self, app: &str, config: &str, image: &str) -> String {
        let path = format!("/v1/apps/{app}/deployments");
        let deployment = self.post(&path, json!({ "config": config, "image": image })).await.ok();
        deployment["id"].as_str().unwrap().to_owned()
    }

    /// Watches a deployment to its end.
    pub async fn ended(&self, app: &str, id: &str) -> Value {
        let events = self.get(&format!("/v1/apps/{app}/deployments/{id}/events")).await;
        assert!(events.status.is_success(), "{}", events.text);
        let deployment = self.get(&format!("/v1/apps/{app}/deployments/{id}")).await.ok();
        assert!(!deployment["ended_at"].is_null(), "{deployment}");
        deployment
    }

    /// Deploys and waits for the end.
    pub async fn deployed(&self, app: &str, config: &str, image: &str) -> Value {
        let id = self.deploy(app, config, image).await;
        self.ended(app, &id).await
    }

    pub async fn machines(&self, app: &str) -> Vec<Value> {
        let machines = self.get(&format!("/v1/apps/{app}/machines")).await.ok();
        machines.as_array().unwrap().clone()
    }

    pub async fn machine_ids(&self, app: &str) -> Vec<String> {
        self.machines(app).await.iter().map(|machine| machine["id"].as_str().unwrap().to_owned()).collect()
    }
}

/// Longest time that a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(60);
