//! Maintenance mode: what visitors of a closed app get.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use api::internal::{MaintenanceNotice, MaintenanceView};
use axum::Router;
use http::{Request, StatusCode};
use http_body_util::Empty;
use model::{Timestamp, machine::MachineState};

use crate::support::*;

/// Closes these apps, and opens every other one.
fn close(world: &World, apps: &[(&str, &str)]) {
    let notice = |message: &str| MaintenanceNotice { since: Timestamp(1), message: message.into(), retry_after_s: 600 };
    let view = apps.iter().map(|(app, message)| (app.parse().unwrap(), notice(message)));
    world.maintenance.apply(Arc::new(view.collect::<MaintenanceView>()));
}

#[tokio::test]
async fn visitors_of_a_closed_app_are_told_when_to_come_back_and_its_machines_are_left_alone() {
    let mut world = World::start().await;
    let (closed, open) = (Machine::of("closed"), Machine::of("open"));
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let program = Router::new().fallback(move || async move { format!("answer {}", count.fetch_add(1, SeqCst)) });
    let _programs = (closed.run(program).await, open.run(says("open")).await);
    world.know(&[&closed, &open]).await;
    close(&world, &[("closed", "the <cellar> is flooded")]);

    let answer = world.get("closed", "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((answer.header("retry-after"), answer.header("dunlin-error")), ("600", "PH13"));
    assert!(answer.body.contains("closed is in maintenance mode: the <cellar> is flooded"), "{}", answer.body);
    let browser = Request::get("/").header("host", host("closed")).header("accept", "text/html");
    let page = world.send(browser.body(Empty::<bytes::Bytes>::new()).unwrap()).await;
    assert!(page.body.contains("the &lt;cellar&gt; is flooded"), "{}", page.body);
    assert_eq!(served.load(SeqCst), 0, "the machine hears nothing of it");
    assert_eq!(world.get("open", "/").await.body, "open");

    close(&world, &[]);
    assert_eq!(world.get("closed", "/").await.body, "answer 0");
}

#[tokio::test]
async fn an_app_is_closed_whatever_its_machines_do() {
    let mut world = World::start().await;
    let stopped = Machine::of("stopped").state(MachineState::Stopped);
    world.know(&[&stopped]).await;
    close(&world, &[("stopped", ""), ("without", "")]);
    for app in ["stopped", "without"] {
        let answer = world.get(app, "/").await;
        assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::SERVICE_UNAVAILABLE, "PH13"), "{app}");
    }
    assert_eq!(world.get("nobody", "/").await.header("dunlin-error"), "PH01");
}
