//! Resolving names: images of this registry and of others.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use api::internal::{ImageError, ImageResolver, PullCredentials, ResolvedImage};
use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

use crate::support::*;

async fn resolve(platform: &Platform, org_name: &str, reference: &str) -> Result<ResolvedImage, ImageError> {
    platform.images.resolve(&org(org_name), reference, PullCredentials::Anonymous).await
}

#[tokio::test]
async fn an_image_of_this_registry_is_found_by_its_names() {
    let platform = Platform::start().await;
    let image = TestImage::new("one");
    let digest = platform.client().push_image("app", "latest", &image).await;
    for reference in [
        "app".to_owned(),
        "app:latest".to_owned(),
        format!("app@{digest}"),
        "registry.test/app".to_owned(),
        format!("{}/app:latest", platform.host),
    ] {
        let found = resolve(&platform, "acme", &reference).await.unwrap();
        assert_eq!((found.image.digest, found.image.reference), (digest.clone(), reference));
        assert_eq!(found.size_bytes, image.layer.len() as u64);
        assert_eq!(found.config.cmd, ["/file"]);
        assert_eq!(found.config.env, ["A=b"]);
        assert_eq!(found.config.exposed_ports, ["8080/tcp"]);
        assert_eq!(found.config.user, "");
    }
}

#[tokio::test]
async fn what_is_not_here_is_said_with_what_to_do() {
    let platform = Platform::start().await;
    platform.client().push_image("app", "v1", &TestImage::new("one")).await;
    platform.client().push_image("foreign", "v1", &TestImage::new("one")).await;
    let reason = async |org: &str, reference: &str| match resolve(&platform, org, reference).await {
        Err(ImageError::NotFound { reason, .. }) => reason,
        other => panic!("{reference}: {other:?}"),
    };
    let tag = reason("acme", "app:v2").await;
    assert!(tag.contains("no tag v2: it has v1; push it first: docker push registry.test/app:v2"), "{tag}");
    let digest = digest_of(b"nothing");
    assert!(reason("acme", &format!("app@{digest}")).await.contains(digest.as_str()));
    // Another organization's image looks like none at all.
    let foreign = reason("acme", "registry.test/foreign:v1").await;
    assert_eq!(foreign.replace("foreign", "nobodys"), reason("acme", "registry.test/nobodys:v1").await);
    assert!(reason("else", "registry.test/app:v1").await.contains("organization else has no repository app here"));
}

#[tokio::test]
async fn names_that_are_none_are_refused_before_anything_is_asked() {
    let platform = Platform::start().await;
    let long = "a".repeat(2_000);
    for reference in ["", "App", "../app", "app:", "app@sha256:12", "registry.test/", "a b", long.as_str()] {
        let error = resolve(&platform, "acme", reference).await.unwrap_err();
        assert!(matches!(error, ImageError::Unusable { .. }), "{reference}: {error}");
        assert!(error.to_string().len() < 1_500);
    }
}

#[tokio::test]
async fn the_image_of_this_host_is_chosen_from_an_index() {
    let platform = Platform::start().await;
    let client = platform.client();
    let (ours, other) = (TestImage::new("ours"), TestImage::of("other", "linux", "s390x"));
    for image in [&other, &ours] {
        client.push_image("app", "part", image).await;
    }
    let index = index_of(&[(&other, "linux", "s390x"), (&ours, "linux", host_architecture())]);
    client.push_manifest("app", "all", OCI_INDEX, &index).await;
    assert_eq!(resolve(&platform, "acme", "app:all").await.unwrap().image.digest, ours.digest());

    client.push_manifest("app", "none", OCI_INDEX, &index_of(&[(&other, "linux", "s390x")])).await;
    client.push_image("app", "single", &other).await;
    for tag in ["app:none", "app:single"] {
        match resolve(&platform, "acme", tag).await {
            Err(ImageError::Platform { wanted, offered, .. }) => {
                assert_eq!((wanted, offered), (format!("linux/{}", host_architecture()), "linux/s390x".to_owned()));
            }
            other => panic!("{tag}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_artifact_is_not_taken_for_an_image() {
    let platform = Platform::start().await;
    let client = platform.client();
    client.push_blob("app", b"{}").await;
    let chart = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [],
        "config": descriptor("application/vnd.cncf.helm.config.v1+json", b"{}"),
    });
    client.push_manifest("app", "chart", OCI_MANIFEST, &chart).await;
    let error = resolve(&platform, "acme", "app:chart").await.unwrap_err().to_string();
    assert!(
        error.contains("application/vnd.cncf.helm.config.v1+json") && error.contains("not a container image"),
        "{error}"
    );
}

#[tokio::test]
async fn an_image_of_another_registry_is_brought_here_with_each_kind_of_credentials() {
    let source = Platform::start().await;
    let image = TestImage::new("one");
    source.client().push_image("app", "v1", &image).await;
    let name = format!("{}/app:v1", source.host);
    let basic = |password: &str| PullCredentials::Basic { username: "me".into(), password: password.into() };
    for credentials in [basic("reader"), PullCredentials::Bearer("reader".into())] {
        let platform = Platform::start().await;
        let found = platform.images.resolve(&org("acme"), &name, credentials).await.unwrap();
        assert_eq!((found.image.digest, found.image.reference), (image.digest(), name.clone()));
        for part in image.parts() {
            assert!(platform.has_blob(&part));
        }
    }
    let platform = Platform::start().await;
    for credentials in [PullCredentials::Anonymous, basic("wrong"), PullCredentials::Bearer("wrong".into())] {
        let error = platform.images.resolve(&org("acme"), &name, credentials).await.unwrap_err();
        assert!(matches!(error, ImageError::NotFound { .. }), "{error}");
    }
    let error = platform.images.resolve(&org("acme"), &format!("{}/app:v2", source.host), basic("reader")).await;
    assert!(error.unwrap_err().to_string().contains("app has no tag v2"));
    assert_eq!(platform.files("blobs/sha256"), [""; 0]);
}

/// A registry of a test's making, without authentication.
#[derive(Default)]
struct Fake {
    /// What is answered to a path, the last answer again and again.
    answers: Mutex<HashMap<String, Vec<Answer>>>,
    requests: AtomicUsize,
}

#[derive(Clone)]
enum Answer {
    Content(Vec<u8>),
    /// So much of the content, then the connection breaks.
    Broken(Vec<u8>, usize),
    Status(u16),
    Endless,
}

impl Fake {
    async fn start(answers: impl IntoIterator<Item = (String, Vec<Answer>)>) -> (String, Arc<Self>) {
        let fake = Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let router = Router::new().route("/v2/app/{*rest}", get(Self::answer)).with_state(Arc::clone(&fake));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (host, fake)
    }

    async fn answer(State(fake): State<Arc<Self>>, Path(path): Path<String>) -> Response {
        fake.requests.fetch_add(1, Ordering::Relaxed);
        let answer = {
            let mut answers = fake.answers.lock().unwrap();
            let Some(answers) = answers.get_mut(&path) else { return http::StatusCode::NOT_FOUND.into_response() };
            if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
        };
        match answer {
            Answer::Content(content) => content.into_response(),
            Answer::Status(status) => http::StatusCode::from_u16(status).unwrap().into_response(),
            Answer::Broken(content, sent) => {
                let pieces = [Ok(content[..sent].to_vec()), Err(std::io::Error::other("broken"))];
                let body = Body::from_stream(futures_util::stream::iter(pieces));
                ([(http::header::CONTENT_LENGTH, content.len())], body).into_response()
            }
            Answer::Endless => {
                let piece = || Ok::<_, std::io::Error>(vec![b' '; 64 << 10]);
                Body::from_stream(futures_util::stream::repeat_with(piece)).into_response()
            }
        }
    }
}

/// The answers of an honest registry with one image.
fn honest(image: &TestImage) -> HashMap<String, Vec<Answer>> {
    let manifest = image.manifest().to_string().into_bytes();
    let blob = |content: &[u8]| (format!("blobs/{}", digest_of(content)), vec![Answer::Content(content.to_vec())]);
    HashMap::from([
        ("manifests/v1".to_owned(), vec![Answer::Content(manifest)]),
        blob(&image.config),
        blob(&image.layer),
    ])
}

fn layer_path(image: &TestImage) -> String {
    format!("blobs/{}", digest_of(&image.layer))
}

#[tokio::test]
async fn failures_that_pass_are_tried_again_and_what_is_here_is_not_fetched_again() {
    let image = TestImage::new("one");
    let mut answers = honest(&image);
    answers.get_mut("manifests/v1").unwrap().insert(0, Answer::Status(503));
    answers.get_mut(&layer_path(&image)).unwrap().insert(0, Answer::Broken(image.layer.clone(), 700));
    let (host, fake) = Fake::start(answers).await;
    let platform = Platform::start().await;
    let found = resolve(&platform, "acme", &format!("{host}/app:v1")).await.unwrap();
    assert_eq!(found.image.digest, image.digest());
    assert_eq!(fake.requests.load(Ordering::Relaxed), 5);
    resolve(&platform, "acme", &format!("{host}/app:v1")).await.unwrap();
    assert_eq!(fake.requests.load(Ordering::Relaxed), 6, "the manifest, to see whether the tag has moved");
    assert_eq!(platform.files("blobs/uploads"), [""; 0]);
}

#[tokio::test]
async fn a_hostile_registry_fills_neither_memory_nor_disk() {
    let image = TestImage::new("one");
    let config_path = format!("blobs/{}", digest_of(&image.config));
    let mut other = image.clone();
    other.layer[0] ^= 1;
    let with = |path: &str, answer: Answer| {
        let mut answers = honest(&image);
        answers.insert(path.to_owned(), vec![answer]);
        answers
    };
    let mut huge = image.manifest();
    huge["layers"][0]["size"] = json!(u64::MAX);
    let mut many = image.manifest();
    many["layers"] = json!(vec![many["layers"][0].clone(); 2_000]);
    let elsewhere = digest_of(b"other").to_string();
    for (why, answers, told) in [
        ("endless manifest", with("manifests/v1", Answer::Endless), "larger than"),
        ("no manifest", with("manifests/v1", Answer::Content(b"{".to_vec())), "not a valid manifest"),
        ("huge sizes", with("manifests/v1", Answer::Content(huge.to_string().into())), "the limit is"),
        ("too many layers", with("manifests/v1", Answer::Content(many.to_string().into())), "the limit is 1000"),
        ("endless layer", with(&layer_path(&image), Answer::Endless), "larger than"),
        ("other layer", with(&layer_path(&image), Answer::Content(other.layer)), "not sha256:"),
        ("short layer", with(&layer_path(&image), Answer::Content(image.layer[..9].to_vec())), "not sha256:"),
        ("endless config", with(&config_path, Answer::Endless), "larger than"),
        ("no layer", with(&layer_path(&image), Answer::Status(404)), "does not have it"),
        ("refusal", with("manifests/v1", Answer::Status(418)), "418"),
    ] {
        let (host, _) = Fake::start(answers).await;
        let platform = Platform::start().await;
        let error = resolve(&platform, "acme", &format!("{host}/app:v1")).await.unwrap_err().to_string();
        assert!(error.contains(told), "{why}: {error}");
        assert_eq!(platform.files("blobs/uploads"), [""; 0], "{why}");
        assert!(!platform.has_blob(&image.digest()), "{why}");
    }
    let honest_manifest = image.manifest().to_string().into_bytes();
    let (host, _) = Fake::start(with(&format!("manifests/{elsewhere}"), Answer::Content(honest_manifest))).await;
    let platform = Platform::start().await;
    let error = resolve(&platform, "acme", &format!("{host}/app@{elsewhere}")).await.unwrap_err().to_string();
    assert!(error.contains("for sha256:"), "{error}");
}

#[tokio::test]
async fn an_image_for_other_hosts_is_refused_before_its_layers_are_fetched() {
    let image = TestImage::of("one", "linux", "s390x");
    let (host, fake) = Fake::start(honest(&image)).await;
    let platform = Platform::start().await;
    let error = resolve(&platform, "acme", &format!("{host}/app:v1")).await.unwrap_err();
    assert!(matches!(error, ImageError::Platform { .. }), "{error}");
    assert_eq!(fake.requests.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_registry_that_does_not_answer_is_said() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap();
    drop(listener);
    let platform = Platform::start().await;
    let error = resolve(&platform, "acme", &format!("{host}/app:v1")).await.unwrap_err();
    assert!(matches!(error, ImageError::Registry { .. }), "{error}");
    assert!(error.to_string().contains("tried 4 times"), "{error}");
}

#[tokio::test]
async fn a_destroyed_app_leaves_no_repository_behind() {
    let platform = Platform::start().await;
    let client = platform.client();
    let image = TestImage::new("one");
    for repository in ["app", "app/worker", "app-two"] {
        client.push_image(repository, "v1", &image).await;
    }
    let upload = client.open_upload("app/worker").await;
    platform.images.forget(&"app".parse().unwrap()).await.unwrap();
    platform.images.forget(&"app".parse().unwrap()).await.unwrap();
    for gone in ["app", "app/worker"] {
        assert_eq!(client.head(&format!("{gone}/manifests/v1")).await, 404);
        assert_eq!(client.get(&format!("{gone}/tags/list")).await.status(), 404);
    }
    assert_eq!(client.get(&upload).await.status(), 404);
    assert_eq!(client.head("app-two/manifests/v1").await, 200);
}
