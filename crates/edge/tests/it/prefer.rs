//! Regions and machines that clients ask for.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use model::machine::{ConcurrencyKind, MachineState};

use crate::support::*;

fn get(fields: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let request = Request::get("/").header("host", host("shop"));
    fields.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(Empty::new()).unwrap()
}

/// An edge in Amsterdam and an app with a machine there, in Frankfurt and in Virginia.
struct Planet {
    world: World,
    machines: [Machine; 3],
    _programs: [Program; 3],
}

impl Planet {
    async fn start() -> Self {
        let mut world = World::with(|options| options.region = "ams".parse().unwrap()).await;
        let of = |region| Machine::of("shop").region(region).limits(ConcurrencyKind::Requests, 20, None);
        let machines = ["ams", "fra", "iad"].map(of);
        let [ams, fra, iad] = &machines;
        let programs = [ams.run(says("ams")).await, fra.run(says("fra")).await, iad.run(says("iad")).await];
        world.know(&[ams, fra, iad]).await;
        Self { world, machines, _programs: programs }
    }

    async fn ask(&self, fields: &[(&str, &str)]) -> Answer {
        self.world.send(get(fields)).await
    }

    /// Changes a machine, or puts another in its place.
    async fn put(&mut self, which: usize, change: impl FnOnce(Machine) -> Machine) {
        self.world.remove(&self.machines[which]);
        self.machines[which] = change(self.machines[which].clone());
        let machine = self.machines[which].clone();
        self.world.know(&[&machine]).await;
    }

    fn id(&self, which: usize) -> &str {
        self.machines[which].id().as_str()
    }
}

#[tokio::test]
async fn a_request_goes_to_the_closest_region_unless_it_prefers_another() {
    let mut planet = Planet::start().await;
    for (field, list, region) in [
        ("accept", "*/*", "ams"),
        ("fly-prefer-region", "iad,fra", "iad"),
        ("fly-prefer-region", "us", "iad"),
        ("fly-prefer-region", "syd,apac,fra", "fra"),
        ("fly-prefer-region", "syd", "ams"),
        ("fly-prefer-region", "any", "ams"),
        ("fly-force-region", "fra", "fra"),
        ("fly-force-region", "syd,na", "iad"),
    ] {
        assert_eq!(planet.ask(&[(field, list)]).await.body, region, "{field}: {list}");
    }
    planet.put(0, |machine| machine.state(MachineState::Stopped)).await;
    assert_eq!(planet.ask(&[]).await.body, "fra");
}

#[tokio::test]
async fn a_region_that_is_insisted_on_is_not_replaced_by_another() {
    let mut planet = Planet::start().await;
    planet.put(1, |machine| machine.state(MachineState::Stopped)).await;
    let answer = planet.ask(&[("fly-force-region", "fra,syd")]).await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::SERVICE_UNAVAILABLE, "PR01"));
    assert!(answer.body.contains("in fra or syd"), "{}", answer.body);
    let answer = planet.ask(&[("fly-force-region", "north pole")]).await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::BAD_REQUEST, "PH08"));
}

#[tokio::test]
async fn a_preferred_machine_gets_the_request_or_the_app_is_told() {
    let mut planet = Planet::start().await;
    let _mirror = {
        let machine = Machine::of("shop").region("ams").limits(ConcurrencyKind::Requests, 20, None);
        let program = machine.run(mirror()).await;
        planet.put(0, |_| machine).await;
        planet.put(2, |machine| machine.state(MachineState::Stopped)).await;
        program
    };
    let iad = planet.id(2).to_owned();
    let told = planet.ask(&[("fly-prefer-instance-id", &iad)]).await;
    assert!(told.body.contains(&format!("fly-preferred-instance-unavailable: {iad}")), "{}", told.body);
    let here = planet.id(0).to_owned();
    let not_told = planet.ask(&[("fly-prefer-instance-id", &here), ("fly-preferred-instance-unavailable", "x")]).await;
    assert!(!not_told.body.contains("unavailable"), "{}", not_told.body);
}

#[tokio::test]
async fn a_machine_that_is_wanted_is_at_its_hard_limit() {
    let mut planet = Planet::start().await;
    let busy = Machine::of("shop").region("fra").limits(ConcurrencyKind::Requests, 1, Some(1));
    let (program, mut arrivals, gate) = gated();
    let _program = busy.run(program).await;
    planet.put(1, |_| busy).await;
    let id = planet.id(1).to_owned();
    let first = tokio::spawn(send(planet.world.http(), get(&[("fly-prefer-instance-id", &id)])));
    within(arrivals.recv()).await.unwrap();
    assert_eq!(planet.ask(&[("fly-prefer-instance-id", &id)]).await.body, "ams", "another will do");
    let second = tokio::spawn(send(planet.world.http(), get(&[("fly-force-instance-id", &id)])));
    planet.world.tell();
    assert!(!second.is_finished(), "no other will do: it waits");
    gate.add_permits(2);
    for request in [first, second] {
        assert_eq!(within(request).await.unwrap().unwrap().body, "done");
    }
}

#[tokio::test]
async fn a_machine_that_is_insisted_on_and_is_down_is_tried_and_not_replaced() {
    let mut world = World::with(|options| options.bounds.hold = Duration::from_secs(2)).await;
    let (deaf, good) = (Machine::of("shop"), Machine::of("shop"));
    let _program = good.run(says("good")).await;
    world.know(&[&deaf, &good]).await;
    let answer = world.send(get(&[("fly-force-instance-id", deaf.id().as_str())])).await;
    assert_eq!(answer.header("dunlin-error"), "PC01");
    let answer = world.send(get(&[("fly-prefer-instance-id", deaf.id().as_str())])).await;
    assert_eq!(answer.body, "good");
    let answer = world.send(get(&[("fly-force-instance-id", "0123456789abcd")])).await;
    assert_eq!(answer.header("dunlin-error"), "PR01");
}

#[tokio::test]
async fn a_request_leaves_its_region_at_the_hard_limit_and_not_at_the_soft_one() {
    let mut planet = Planet::start().await;
    let local = Machine::of("shop").region("ams").limits(ConcurrencyKind::Requests, 1, Some(3));
    let (program, mut arrivals, gate) = gated();
    let _program = local.run(program).await;
    planet.put(0, |_| local).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(tokio::spawn(send(planet.world.http(), get(&[]))));
        within(arrivals.recv()).await.unwrap();
    }
    assert_eq!(planet.ask(&[]).await.body, "fra", "the fourth leaves");
    gate.add_permits(10);
    for request in waiting {
        assert_eq!(within(request).await.unwrap().unwrap().body, "done");
    }
    assert_eq!(planet.ask(&[]).await.body, "done", "and comes back");
}
