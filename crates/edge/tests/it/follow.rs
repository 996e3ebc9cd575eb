//! Edges that are told by another host's catalog who runs where.

use std::sync::Arc;

use api::internal::CatalogFeed;
use catalog::{Intake, Publisher, Reader};
use tokio::task::JoinHandle;

use crate::support::*;

/// Follows a catalog over a connection that lasts until the task is aborted.
fn connect(origin: &Reader, mut intake: Intake) -> JoinHandle<Intake> {
    intake.begin();
    let mut pieces = origin.feed(intake.since());
    tokio::spawn(async move {
        while let Some(piece) = pieces.recv().await {
            intake.hear(&piece).unwrap();
        }
        intake
    })
}

/// An edge with a catalog of its own, kept on the disk.
async fn edge(catalog: &Arc<Publisher>) -> World {
    let reader = catalog.reader();
    World::with(|options| options.catalog = reader).await
}

async fn knows(world: &World, generation: u64) {
    let mut known = world.edge.generation();
    within(known.wait_for(|known| *known == generation)).await.unwrap();
}

#[tokio::test]
async fn two_edges_follow_one_catalog_and_serve_on_when_it_is_gone() {
    let mut control = World::start().await;
    let (shop, blog) = (Machine::of("shop"), Machine::of("blog"));
    let _programs = (shop.run(says("shop")).await, blog.run(says("blog")).await);
    let generation = control.know(&[&shop]).await;
    let origin = control.reader();
    let directory = tempfile::tempdir().unwrap();
    let paths = ["one", "two"].map(|name| directory.path().join(name));
    let catalogs = paths.clone().map(|path| Arc::new(Publisher::open(path)));
    let edges = [edge(&catalogs[0]).await, edge(&catalogs[1]).await];
    let followers = [0, 1].map(|number: usize| connect(&origin, Intake::new(catalogs[number].clone())));
    for world in &edges {
        knows(world, generation).await;
        assert_eq!(world.get("shop", "/").await.body, "shop");
    }

    let generation = control.know(&[&blog]).await;
    for world in &edges {
        knows(world, generation).await;
        assert_eq!(world.get("blog", "/").await.body, "blog");
    }

    // The control plane goes; one edge starts again without it.
    followers.iter().for_each(|follower| follower.abort());
    catalogs[1].save().unwrap();
    drop(control);
    let again = edge(&Arc::new(Publisher::open(paths[1].clone()))).await;
    for world in edges.iter().chain([&again]) {
        assert_eq!(world.get("shop", "/").await.body, "shop");
        assert_eq!(world.get("blog", "/").await.body, "blog");
    }
}

#[tokio::test]
async fn a_follower_that_comes_back_is_told_what_it_missed() {
    let mut control = World::start().await;
    let (shop, blog) = (Machine::of("shop"), Machine::of("blog"));
    let _program = blog.run(says("blog")).await;
    let generation = control.know(&[&shop]).await;
    let catalog = Arc::new(Publisher::in_memory());
    let world = edge(&catalog).await;
    let follower = connect(&control.reader(), Intake::new(catalog.clone()));
    knows(&world, generation).await;
    follower.abort();
    control.remove(&shop);
    let generation = control.know(&[&blog]).await;
    let _follower = connect(&control.reader(), Intake::new(catalog));
    knows(&world, generation).await;
    assert_eq!(world.get("blog", "/").await.body, "blog");
    assert_eq!(world.get("shop", "/").await.status, 404);
}
