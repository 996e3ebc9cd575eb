//! Signing in, as Docker's client does it.

use images::PublicScheme;
use reqwest::{Method, header};
use serde_json::Value;

use crate::support::*;

async fn challenge(platform: &Platform, path: &str, headers: &[(&'static str, &str)]) -> String {
    let mut request = reqwest::Client::new().get(format!("http://{}/v2/{path}", platform.host));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 401);
    let challenge = header_of(&response, header::WWW_AUTHENTICATE);
    assert_eq!(code_of(response).await, "UNAUTHORIZED");
    challenge
}

/// Asks the token service as `docker login` and `docker pull` do.
async fn token(platform: &Platform, password: &str, scope: &str) -> Option<String> {
    let url = format!("http://{}/v2/token?service=dunlin&client_id=docker&{scope}", platform.host);
    let response = reqwest::Client::new().get(url).basic_auth("me", Some(password)).send().await.unwrap();
    let ok = response.status() == 200;
    let body: Value = response.json().await.unwrap();
    ok.then(|| {
        assert_eq!(body["token"], body["access_token"]);
        assert!(body["expires_in"].as_u64().is_some_and(|seconds| (60..=3_600).contains(&seconds)));
        body["token"].as_str().unwrap().to_owned()
    })
}

async fn status(platform: &Platform, method: Method, path: &str, bearer: &str) -> u16 {
    let request = reqwest::Client::new().request(method, format!("http://{}/v2/{path}", platform.host));
    request.bearer_auth(bearer).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn strangers_are_told_where_to_sign_in_and_for_what() {
    let platform = Platform::start().await;
    let realm = format!("Bearer realm=\"http://{}/v2/token\",service=\"dunlin\"", platform.host);
    assert_eq!(challenge(&platform, "", &[]).await, realm);
    let pull = challenge(&platform, "team/app/manifests/v1", &[]).await;
    assert_eq!(pull, format!("{realm},scope=\"repository:team/app:pull\""));
    // Nothing is told about what exists or is well formed.
    assert_eq!(challenge(&platform, "NOT/valid", &[]).await, realm);
    let wrong = challenge(&platform, "", &[("authorization", "Bearer nonsense")]).await;
    assert_eq!(wrong, format!("{realm},error=\"invalid_token\""));

    let http = reqwest::Client::new();
    let push = http.post(format!("http://{}/v2/app/blobs/uploads/", platform.host)).send().await.unwrap();
    assert!(header_of(&push, header::WWW_AUTHENTICATE).ends_with("scope=\"repository:app:pull,push\""));
}

#[tokio::test]
async fn the_address_of_the_token_service_is_the_one_the_client_used() {
    let direct = Platform::start().await;
    let headers = [("host", "registry.example.com"), ("x-forwarded-proto", "https")];
    let seen = challenge(&direct, "", &headers).await;
    assert!(seen.starts_with("Bearer realm=\"http://registry.example.com/v2/token\""), "{seen}");

    let behind = Platform::with(|options| options.scheme = PublicScheme::Forwarded).await;
    let seen = challenge(&behind, "", &headers).await;
    assert!(seen.starts_with("Bearer realm=\"https://registry.example.com/v2/token\""), "{seen}");

    let request = reqwest::Client::new().get(format!("http://{}/v2/", direct.host));
    let hostile = request.header("host", "x\",realm=\"http://evil").send().await.unwrap();
    assert_eq!(hostile.status(), 400);
    assert_eq!(header_of(&hostile, header::WWW_AUTHENTICATE), "");
}

#[tokio::test]
async fn a_registry_token_opens_what_was_asked_and_allowed() {
    let platform = Platform::start().await;
    let digest = platform.client().push_image("app", "v1", &TestImage::new("one")).await;
    platform.client().push_image("other", "v1", &TestImage::new("one")).await;

    let signed_in = token(&platform, "reader", "account=me&offline_token=true").await.unwrap();
    assert_eq!(status(&platform, Method::GET, "", &signed_in).await, 200);
    assert_eq!(status(&platform, Method::GET, "app/manifests/v1", &signed_in).await, 401);

    let scope = "scope=repository:app:pull,push&scope=repository:other:pull";
    let reader = token(&platform, "reader", scope).await.unwrap();
    assert_eq!(status(&platform, Method::GET, "app/manifests/v1", &reader).await, 200);
    assert_eq!(status(&platform, Method::POST, "app/blobs/uploads/", &reader).await, 401);
    assert_eq!(status(&platform, Method::GET, "other/manifests/v1", &reader).await, 401);

    let writer = token(&platform, "all", "scope=repository:app:pull,push").await.unwrap();
    assert_eq!(status(&platform, Method::POST, "app/blobs/uploads/", &writer).await, 202);
    assert_eq!(status(&platform, Method::DELETE, &format!("app/manifests/{digest}"), &writer).await, 401);
    let owner = token(&platform, "all", "scope=repository:app:*").await.unwrap();
    assert_eq!(status(&platform, Method::DELETE, &format!("app/manifests/{digest}"), &owner).await, 202);
    assert_eq!(token(&platform, "wrong", scope).await, None);
}

#[tokio::test]
async fn the_token_service_takes_the_form_of_oauth_too() {
    let platform = Platform::start().await;
    platform.client().push_image("app", "v1", &TestImage::new("one")).await;
    let url = format!("http://{}/v2/token", platform.host);
    let post = |body: &'static str| {
        let request = reqwest::Client::new().post(&url);
        request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body).send()
    };
    for form in [
        "grant_type=password&username=me&password=reader&service=dunlin&scope=repository%3Aapp%3Apull",
        "grant_type=refresh_token&refresh_token=reader&service=dunlin&scope=repository%3Aapp%3Apull",
    ] {
        let body: Value = post(form).await.unwrap().json().await.unwrap();
        let token = body["access_token"].as_str().unwrap();
        assert_eq!(status(&platform, Method::GET, "app/manifests/v1", token).await, 200);
    }
    assert_eq!(post("grant_type=password&password=wrong").await.unwrap().status(), 401);
    assert_eq!(post("grant_type=magic").await.unwrap().status(), 400);
}

#[tokio::test]
async fn a_platform_token_is_taken_directly() {
    let platform = Platform::start().await;
    platform.client().push_image("app", "v1", &TestImage::new("one")).await;
    assert_eq!(status(&platform, Method::GET, "app/manifests/v1", "reader").await, 200);
    assert_eq!(platform.client_with("reader").head("app/manifests/v1").await, 200);
    let denied = platform.client_with("reader").request(Method::POST, "app/blobs/uploads/").send().await.unwrap();
    assert_eq!((denied.status().as_u16(), code_of(denied).await.as_str()), (403, "DENIED"));
    assert_eq!(platform.client_with("wrong").head("app/manifests/v1").await, 401);
}

#[tokio::test]
async fn nothing_is_mounted_from_where_the_caller_may_not_read() {
    let platform = Platform::start().await;
    let digest = platform.client().push_blob("private", b"secret").await;
    let writer = token(&platform, "all", "scope=repository:app:pull,push").await.unwrap();
    let path = format!("app/blobs/uploads/?mount={digest}&from=private");
    assert_eq!(status(&platform, Method::POST, &path, &writer).await, 202);
    assert_eq!(status(&platform, Method::HEAD, &format!("app/blobs/{digest}"), &writer).await, 404);
    let both = "scope=repository:app:pull,push&scope=repository:private:pull";
    let both = token(&platform, "all", both).await.unwrap();
    assert_eq!(status(&platform, Method::POST, &path, &both).await, 201);
}
