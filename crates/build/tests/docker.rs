//! With the real Docker engine, where there is one.

use std::{collections::BTreeMap, fs};

use build::{BuildError, Credentials, Engine, Request, Source};
use model::Reference;

/// The engine, or why this test is skipped.
async fn engine(test: &str) -> Option<Engine> {
    match Engine::connect().await {
        Ok(engine) => Some(engine),
        Err(error) => {
            eprintln!("skipped: {test}: {error}");
            None
        }
    }
}

async fn build(engine: &Engine, dockerfile: &str, reference: &Reference) -> (Result<(), BuildError>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("Dockerfile"), dockerfile).unwrap();
    fs::write(directory.path().join(".dockerignore"), "secret\n").unwrap();
    fs::write(directory.path().join("greeting"), "hello").unwrap();
    fs::write(directory.path().join("secret"), "hush").unwrap();
    let source = Source::open(directory.path(), None, None).unwrap();
    let request = Request {
        source: &source,
        reference,
        target: Some("last"),
        args: &BTreeMap::from([("WHO".to_owned(), "me".to_owned())]),
        registries: &BTreeMap::new(),
        no_cache: true,
    };
    let mut lines = Vec::new();
    let built = engine.build(&request, &mut |line: &str| lines.push(line.to_owned())).await;
    (built, lines)
}

#[tokio::test]
async fn an_image_is_built_and_what_goes_wrong_is_told() {
    let Some(engine) = engine("an_image_is_built_and_what_goes_wrong_is_told").await else { return };
    // Port 1 of this machine: no registry is there.
    let reference: Reference = "127.0.0.1:1/dunlin-build-test:v1".parse().unwrap();

    let good = "FROM scratch AS last\nARG WHO\nLABEL who=$WHO\nCOPY greeting /\nFROM scratch\nCOPY nothing /\n";
    let (built, lines) = build(&engine, good, &reference).await;
    built.unwrap();
    assert!(lines.iter().any(|line| line.contains("COPY greeting /")), "{lines:?}");

    let ignored = "FROM scratch AS last\nCOPY secret /\n";
    let failed = build(&engine, ignored, &reference).await.0.unwrap_err();
    assert!(matches!(&failed, BuildError::Build(reason) if reason.contains("secret")), "{failed}");

    let nonsense = build(&engine, "FORM scratch AS last\n", &reference).await.0.unwrap_err();
    assert!(matches!(nonsense, BuildError::Build(_)), "{nonsense}");

    let credentials = Credentials { username: "x".to_owned(), password: "token".to_owned() };
    let refused = engine.push(&reference, &credentials, &mut |_: &str| {}).await.unwrap_err();
    assert!(matches!(refused, BuildError::Push { .. }), "{refused}");
    assert!(refused.hint().contains("dunlin serve"));

    // Leave the engine as it was found, where its own client is there to do it.
    let _ = std::process::Command::new("docker").args(["image", "rm", "--force", &reference.to_string()]).output();
}
