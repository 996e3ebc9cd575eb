//! The real curl, as users have it.

use std::process::{Command, Output};

use model::machine::Handler;

use crate::support::*;

/// Runs curl; `None`, said by name, if it is not there.
async fn curl(test: &str, world: &World, arguments: &[&str]) -> Option<Output> {
    let authority = world.edge.authority_path();
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let (http, https) = (world.http(), world.https());
    let run = tokio::task::spawn_blocking(move || {
        Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "15", "--cacert"])
            .arg(authority)
            .args(["--connect-to", &format!("::80:{http}"), "--connect-to", &format!("::443:{https}")].map(|it| {
                // curl wants HOST1:PORT1:HOST2:PORT2; an empty HOST1 stands for every host.
                it.replace("::80:", ":80:").replace("::443:", ":443:")
            }))
            .args(arguments)
            .output()
    });
    match run.await.unwrap() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: {test}: curl cannot be run: {error}");
            None
        }
    }
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn curl_fetches_over_http_and_https_in_both_versions() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(mirror()).await;
    world.know(&[&machine]).await;
    let name = "curl_fetches_over_http_and_https_in_both_versions";
    for (flag, url, via) in [
        ("--http1.1", "http://shop.dunlin.localhost/", "1.1 dunlin"),
        ("--http1.0", "http://shop.dunlin.localhost/", "1.0 dunlin"),
        ("--http2-prior-knowledge", "http://shop.dunlin.localhost/", "2 dunlin"),
        ("--http1.1", "https://shop.dunlin.localhost/", "1.1 dunlin"),
        ("--http2", "https://shop.dunlin.localhost/", "2 dunlin"),
    ] {
        let Some(output) = curl(name, &world, &[flag, url]).await else { return };
        let answer = text(&output);
        assert!(answer.contains(&format!("via: {via}")), "{flag} {url}: {answer}");
    }
}

#[tokio::test]
async fn curl_follows_a_redirect_to_https() {
    let mut world = World::with(|options| options.public_https_port = Some(443)).await;
    let machine = Machine::of("safe").each_port(|port| port.force_https = port.handlers == [Handler::Http]);
    let _program = machine.run(mirror()).await;
    world.know(&[&machine]).await;
    let arguments = ["--location", "http://safe.dunlin.localhost/deep?x=1"];
    let Some(output) = curl("curl_follows_a_redirect_to_https", &world, &arguments).await else { return };
    let answer = text(&output);
    assert!(answer.contains("target: /deep?x=1") && answer.contains("x-forwarded-proto: https"), "{answer}");
}

#[tokio::test]
async fn curl_is_told_by_json_when_it_asks_for_it() {
    let world = World::start().await;
    let arguments = ["--header", "accept: application/json", "http://nobody.dunlin.localhost/"];
    let Some(output) = curl("curl_is_told_by_json_when_it_asks_for_it", &world, &arguments).await else { return };
    let object: serde_json::Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(object["status"], "PH01");
}
