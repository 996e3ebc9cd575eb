//! The doors: who may enter, how mistakes are answered, and the document that describes them.

use crate::support::{Answer, Client, Running, World};
use axum::http::Method;
use serde_json::{Value, json};

async fn platform() -> (World, Running, Client) {
    let world = World::new();
    let (running, client) = world.start_first().await;
    (world, running, client)
}

fn assert_error_shape(answer: &Answer, status: u16) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/json", "{}", answer.text);
    assert!(answer.body["error"].as_str().is_some_and(|text| !text.is_empty()), "{}", answer.text);
    assert!(answer.body["status"].as_str().is_some_and(|text| !text.is_empty()), "{}", answer.text);
}

#[tokio::test]
async fn every_mistake_is_answered_in_one_shape() {
    let (_world, _running, client) = platform().await;
    client.create_app("web").await;
    let machine = client.post("/v1/apps/web/machines", json!({"config": {"image": "a"}})).await.ok();
    let stream = format!("/v1/apps/web/machines/{}/exec/stream", machine["id"].as_str().unwrap());
    let large = "x".repeat(5 << 20);
    for (method, path, body, status) in [
        (Method::GET, "/", "", 404),
        (Method::GET, "/v1/nothing", "", 404),
        (Method::PUT, "/v1/apps", "", 405),
        (Method::GET, "/v1/apps/nope", "", 404),
        (Method::GET, "/v1/apps/%ff/machines", "", 400),
        (Method::GET, "/v1/apps/web/machines/xyz", "", 404),
        (Method::GET, "/v1/apps/web/machines/00000000000000", "", 404),
        (Method::GET, "/v1/apps/web/logs?limit=many", "", 400),
        (Method::POST, "/v1/apps", "{", 400),
        (Method::POST, "/v1/apps", "", 400),
        (Method::POST, "/v1/apps", "[]", 422),
        (Method::POST, "/v1/apps", "{\"name\": 7}", 422),
        (Method::POST, "/v1/apps", "{\"name\": \"Not A Name\"}", 422),
        (Method::POST, "/v1/apps", "{\"name\": \"web\"}", 422),
        (Method::POST, "/v1/apps", "{\"name\": \"a\", \"org_slug\": \"nope\"}", 404),
        (Method::POST, "/v1/apps", &large, 413),
        (Method::GET, &stream, "", 400),
        (Method::GET, "/v1/apps/web/deployments/nope", "", 404),
        (Method::GET, "/v1/apps/web/deployments/nope/events", "", 404),
        (Method::DELETE, "/v1/apps/web/secrets/NOPE", "", 404),
    ] {
        let answer = client.send(method.clone(), path, body.to_owned()).await;
        println!("{method} {path}");
        assert_error_shape(&answer, status);
    }
}

#[tokio::test]
async fn only_who_holds_a_token_enters() {
    let (_world, _running, client) = platform().await;
    let token = client.token().to_owned();
    let (id, _) = token.rsplit_once('_').unwrap();
    for field in ["", "Bearer", "Bearer x", "Basic YTpi", &format!("Bearer {id}_{}", "0".repeat(32)), "FlyV1 fm2_x"] {
        let answer = client.with_authorization(field).get("/v1/apps").await;
        assert_error_shape(&answer, 401);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
    for field in [format!("Bearer {token}"), format!("FlyV1 fm2_x,{token}"), format!("bearer {token}")] {
        client.with_authorization(&field).get("/v1/apps").await.ok();
    }
    let stranger = client.with_authorization("");
    stranger.get("/healthz").await.ok();
    assert_eq!(stranger.get("/v1/openapi.json").await.ok()["info"]["title"], "Dunlin");
}

#[tokio::test]
async fn the_first_token_is_made_until_it_was_shown() {
    let world = World::new();
    let (first, _) = world.open().await;
    let lost = first.first_token().unwrap();
    let (second, _) = world.open().await;
    let shown = second.first_token().unwrap();
    assert_ne!(lost, shown);
    second.first_token_shown().await.unwrap();
    assert_eq!(second.first_token(), None);
    let (third, _) = world.open().await;
    assert_eq!(third.first_token(), None);
    let client = Client::new(third.router(), &shown);
    client.get("/v1/apps").await.ok();
    client.with_authorization(&format!("Bearer {lost}")).get("/v1/apps").await.refused(401);
    let database = String::from_utf8_lossy(&world.database()).into_owned();
    let secret = shown.rsplit_once('_').unwrap().1;
    assert!(!database.contains(secret), "only the token's hash is kept");
}

#[tokio::test]
async fn organizations_do_not_see_each_other() {
    use api::internal::RegistryAccess;
    let (_world, running, admin) = platform().await;
    for slug in ["birds", "fish"] {
        admin.post("/v1/orgs", json!({"slug": slug})).await.ok();
    }
    let token = async |path: &str| {
        admin.post(path, json!({"name": "ci", "expiry": "1h"})).await.ok()["token"].as_str().unwrap().to_owned()
    };
    let birds_token = token("/v1/orgs/birds/tokens").await;
    let (birds, fish) = (running.client(&birds_token), running.client(&token("/v1/orgs/fish/tokens").await));
    birds.post("/v1/apps", json!({"name": "nest", "org_slug": "birds"})).await.ok();
    birds.post("/v1/apps", json!({"name": "pond", "org_slug": "fish"})).await.refused(404);
    birds.post("/v1/apps", json!({"name": "home"})).await.refused(404);
    fish.post("/v1/apps", json!({"name": "reef", "org_slug": "fish"})).await.ok();
    let machine = birds.post("/v1/apps/nest/machines", json!({"config": {"image": "a"}})).await.ok();
    let id = machine["id"].as_str().unwrap();

    let names = async |client: &Client| {
        let list = client.get("/v1/apps").await.ok();
        list["apps"].as_array().unwrap().iter().map(|app| app["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&birds).await, ["nest"]);
    assert_eq!(names(&fish).await, ["reef"]);
    assert_eq!(names(&admin).await, ["nest", "reef"]);
    for path in ["", "/machines", "/secrets", "/releases", "/logs", "/deployments", "/config"] {
        assert_error_shape(&fish.get(&format!("/v1/apps/nest{path}")).await, 404);
    }
    fish.get(&format!("/v1/apps/reef/machines/{id}")).await.refused(404);
    fish.delete(&format!("/v1/apps/reef/machines/{id}?force=true")).await.refused(404);
    fish.delete("/v1/apps/nest").await.refused(404);
    fish.post("/v1/orgs", json!({"slug": "more"})).await.refused(403);
    let networks =
        async |client: &Client, app: &str| client.get(&format!("/v1/apps/{app}")).await.ok()["network"].clone();
    assert_eq!(networks(&birds, "nest").await, "default");
    let reef = fish.post("/v1/apps/reef/machines", json!({"config": {"image": "a"}})).await.ok();
    let prefix = |machine: &Value| machine["private_ip"].as_str().unwrap().split(':').nth(2).unwrap().to_owned();
    assert_ne!(prefix(&machine), prefix(&reef), "networks of different organizations are different networks");

    let routed = async |client: &Client| {
        let routes = client.get("/v1/edge/routes").await.ok();
        routes["apps"].as_array().unwrap().iter().map(|app| app["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(routed(&birds).await, ["nest"]);
    assert_eq!(routed(&admin).await, ["nest", "reef"]);
    fish.get("/v1/edge/routes?app=nest").await.refused(404);
    fish.get("/v1/edge/connections?app=nest").await.refused(404);
    let counters = fish.get("/metrics").await.text;
    assert!(counters.contains("reef") && !counters.contains("nest"), "{counters}");

    // Who runs where, of everybody, is for edges.
    assert_eq!(admin.get("/internal/catalog?since=7").await.text, "{\"generation\":7}\n");
    admin.get("/internal/catalog?since=yesterday").await.refused(400);
    birds.get("/internal/catalog").await.refused(403);
    birds.get("/internal/maintenance").await.refused(403);
    birds.get("/internal/hostnames").await.refused(403);
    birds.get("/internal/proofs").await.refused(403);
    let asked = serde_json::json!({ "request_pem": "a request" });
    birds.post("/internal/hosts/one/certificate", asked.clone()).await.refused(403);
    let given = admin.post("/internal/hosts/one/certificate", asked).await.ok();
    assert_eq!(given["certificate_pem"], "one: a request");
    admin.post("/internal/hosts/-/certificate", serde_json::json!({ "request_pem": "" })).await.refused(400);

    // An app's token reaches that app, and decides nothing about it.
    let deploy = birds.post("/v1/apps/nest/deploy_token", json!({})).await.ok();
    let deployer = running.client(deploy["token"].as_str().unwrap());
    deployer.get("/v1/apps/nest").await.ok();
    assert_eq!(routed(&deployer).await, ["nest"]);
    deployer.delete("/v1/apps/nest").await.refused(403);
    deployer.post("/v1/apps/nest/deploy_token", json!({})).await.refused(403);
    deployer.post("/v1/apps", json!({"name": "x", "org_slug": "birds"})).await.refused(404);

    // The registry asks the same questions.
    let rights = async |token: &str, repository: &str| running.store.rights(token, repository).await;
    let push = async |token: &str, repository: &str| rights(token, repository).await.unwrap().push;
    assert!(push(&birds_token, "nest").await && push(&birds_token, "nest/base").await);
    assert!(push(&birds_token, "birds/tools").await && rights(&birds_token, "").await.unwrap().pull);
    for foreign in ["reef", "reef/base", "fish/tools", "nobody", "nobody/x"] {
        assert!(!push(&birds_token, foreign).await, "{foreign}");
    }
    assert!(push(deployer.token(), "nest").await && !push(deployer.token(), "birds/tools").await);
    assert!(rights("dunlin_x_y", "nest").await.is_none());
    let birds_org = "birds".parse().unwrap();
    assert!(running.store.may_run(&birds_org, "nest").await && !running.store.may_run(&birds_org, "reef").await);

    // A name stays with its organization.
    birds.delete("/v1/apps/nest").await.ok();
    let refused = fish.post("/v1/apps", json!({"name": "nest", "org_slug": "fish"})).await.refused(422);
    assert!(refused.contains("Name has already been taken"), "{refused}");
    birds.post("/v1/apps", json!({"name": "nest", "org_slug": "birds"})).await.ok();
}

#[tokio::test]
async fn tokens_are_listed_without_their_secrets_and_revoked_by_those_who_decide_about_them() {
    let (_world, running, admin) = platform().await;
    for org in ["birds", "fish"] {
        admin.post("/v1/orgs", json!({ "slug": org })).await.ok();
    }
    admin.post("/v1/apps", json!({"name": "nest", "org_slug": "birds"})).await.ok();
    let make =
        async |path: &str| admin.post(path, json!({"name": "ci"})).await.ok()["token"].as_str().unwrap().to_owned();
    let (birds_token, fish_token) = (make("/v1/orgs/birds/tokens").await, make("/v1/orgs/fish/tokens").await);
    let nest_token = make("/v1/apps/nest/deploy_token").await;
    let id = |token: &str| token.split('_').nth(1).unwrap().to_owned();
    let (birds, nest) = (running.client(&birds_token), running.client(&nest_token));

    let listed = birds.get("/v1/tokens").await;
    assert!(!listed.text.contains(birds_token.rsplit('_').next().unwrap()), "{}", listed.text);
    let ids = |list: &serde_json::Value| {
        list["tokens"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&listed.body), [id(&birds_token), id(&nest_token)]);
    assert_eq!(
        (listed.body["tokens"][1]["app"].as_str(), listed.body["tokens"][0]["org"].as_str()),
        (Some("nest"), Some("birds"))
    );
    assert_eq!(ids(&birds.get("/v1/tokens?app=nest").await.ok()), [id(&nest_token)]);
    assert_eq!(ids(&birds.get("/v1/tokens?org_slug=fish").await.ok()), Vec::<String>::new());
    assert_eq!(ids(&admin.get("/v1/tokens").await.ok()).len(), 4);

    // Nobody revokes what reaches others, and an app's token revokes nothing.
    birds.delete(&format!("/v1/tokens/{}", id(&fish_token))).await.refused(404);
    nest.get("/v1/tokens").await.refused(403);
    nest.delete(&format!("/v1/tokens/{}", id(&nest_token))).await.refused(403);
    nest.get("/v1/apps/nest").await.ok();
    birds.delete(&format!("/v1/tokens/{}", id(&nest_token))).await.ok();
    nest.get("/v1/apps/nest").await.refused(401);
    admin.delete(&format!("/v1/tokens/{}", id(&birds_token))).await.ok();
    birds.get("/v1/tokens").await.refused(401);
    admin.delete("/v1/tokens/none").await.refused(404);
}

#[tokio::test]
async fn the_images_of_releases_and_machines_are_in_use() {
    use api::internal::ImagesInUse;
    let (world, running, client) = platform().await;
    client.create_app("web").await;
    for version in 0..12 {
        client.deployed("web", "", &format!("good:v{version}")).await;
    }
    client.post("/v1/apps/web/machines", json!({"config": {"image": "good:v0"}})).await.ok();
    let in_use = running.store.images_in_use().await.unwrap();
    let digest = |reference: &str| {
        use sha2::{Digest, Sha256};
        model::Digest::sha256(Sha256::digest(reference.as_bytes()).into())
    };
    assert!(in_use.contains(&digest("good:v0")), "a machine runs it");
    assert!(!in_use.contains(&digest("good:v1")), "ten younger releases can be rolled back to");
    assert!((2..12).all(|version| in_use.contains(&digest(&format!("good:v{version}")))));
    assert_eq!(world.host.machines().len(), 2);
    let refused = client.post("/v1/apps/web/rollback", json!({"version": 2})).await.refused(409);
    assert!(refused.contains("too old"), "{refused}");
}

#[tokio::test]
async fn the_platform_tells_about_itself() {
    let (_world, _running, client) = platform().await;
    let facts = client.get("/v1/platform").await.ok();
    assert_eq!(facts["domain"], "dunlin.localhost");
    assert_eq!(facts["registry"], "localhost:4280");
    assert_eq!(facts["organizations"], json!(["personal"]));
    assert!(facts["isolation"].as_str().unwrap().contains("this is a test"));
    let regions = client.get("/v1/platform/regions").await.ok();
    assert_eq!(regions["Regions"][0]["code"], "local");
    assert_eq!(regions["Nearest"], "local");
}

/// The committed document is what the code serves. `UPDATE_OPENAPI=1` writes it anew.
#[test]
fn the_committed_openapi_document_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let current = control::openapi().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == current, "docs/openapi.json is out of date: run this test with UPDATE_OPENAPI=1");
}

#[test]
fn every_operation_of_the_document_tells_its_errors_and_its_parameters() {
    let document = serde_json::to_value(control::openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 35, "{}", paths.len());
    let mut names = std::collections::BTreeSet::new();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(operation["responses"]["default"].is_object(), "{method} {path}");
            assert!(names.insert(operation["operationId"].to_string()), "{method} {path}: {operation}");
            let named = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
            for name in named {
                let described = operation["parameters"].as_array().unwrap();
                let found = described.iter().any(|one| one["name"] == name && one["in"] == "path");
                assert!(found, "{method} {path}: {name}");
            }
        }
    }
}

#[tokio::test]
async fn maintenance_mode_is_told_to_the_edge_and_ends_with_the_app() {
    let (_world, running, client) = platform().await;
    client.create_app("web").await;
    let path = "/v1/apps/web/maintenance";
    let mut told = running.control.maintenance();
    assert_eq!(client.get(path).await.ok(), json!({"enabled": false}));
    let begun = client.put(path, json!({"message": "soon", "retry_after_s": 60})).await.ok();
    assert_eq!(
        (&begun["enabled"], &begun["message"], &begun["retry_after_s"]),
        (&json!(true), &json!("soon"), &json!(60))
    );
    assert_eq!(told.borrow_and_update().values().map(|notice| notice.message.as_str()).collect::<Vec<_>>(), ["soon"]);
    // Repeated, it says something else, and has lasted as long.
    let again = client.put(path, json!({})).await.ok();
    assert_eq!((&again["since"], &again["retry_after_s"]), (&begun["since"], &json!(120)));
    for bad in [json!({"retry_after_s": 0}), json!({"retry_after_s": 90_000}), json!({"message": "x".repeat(1001)})] {
        assert_error_shape(&client.put(path, bad).await, 422);
    }
    client.delete(path).await.ok();
    assert!(told.borrow_and_update().is_empty());
    assert_eq!(client.get(path).await.ok(), json!({"enabled": false}));
    client.put(path, json!({})).await.ok();
    client.delete("/v1/apps/web").await.ok();
    // A new app of the same name is open.
    let open = told.wait_for(|told| told.is_empty());
    tokio::time::timeout(std::time::Duration::from_secs(20), open).await.unwrap().unwrap();
}
