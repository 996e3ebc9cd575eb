//! Machines that sleep: woken by what comes for them, put to sleep when they are not needed, and nothing lost in between.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use model::machine::{AutoStop, ConcurrencyKind, MachineState};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use crate::{support::*, udp};

fn get(app: &str) -> Request<Empty<Bytes>> {
    Request::get("/").header("host", host(app)).body(Empty::new()).unwrap()
}

/// A machine that a request wakes.
fn sleeper(app: &str) -> Machine {
    Machine::of(app).service(|service| service.autostart = Some(true))
}

/// One that falls asleep, too.
fn napper(app: &str, autostop: AutoStop) -> Machine {
    sleeper(app).service(|service| service.autostop = autostop)
}

async fn soon_sleepy() -> World {
    World::with(|options| options.bounds.sleep_after = Duration::from_millis(30)).await
}

#[tokio::test]
async fn a_request_wakes_a_machine_once_however_many_wait() {
    for resting in [MachineState::Stopped, MachineState::Suspended] {
        let mut world = World::start().await;
        let machine = sleeper("shop").state(resting);
        world.know(&[&machine]).await;
        let node = world.host(says("awake"));
        let asked: Vec<_> = (0..50).map(|_| tokio::spawn(send(world.http(), get("shop")))).collect();
        for answer in asked {
            assert_eq!(within(answer).await.unwrap().unwrap().body, "awake");
        }
        assert_eq!(node.woken.load(SeqCst), 1);
        until("the log tells how long it took", || {
            world
                .logs
                .lines()
                .iter()
                .any(|line| line.contains("machine started in") && line.contains("became reachable in"))
        })
        .await;
    }
}

#[tokio::test]
async fn only_an_app_that_wants_it_is_woken_and_never_a_cordoned_machine() {
    let mut world = World::start().await;
    let (kept, cordoned) = (Machine::of("kept"), sleeper("cordoned").cordoned(true));
    world.know(&[&kept.state(MachineState::Stopped), &cordoned.state(MachineState::Stopped)]).await;
    let node = world.host(says("awake"));
    for app in ["kept", "cordoned"] {
        let answer = world.get(app, "/").await;
        assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::SERVICE_UNAVAILABLE, "PR01"));
    }
    assert_eq!(node.woken.load(SeqCst), 0);
}

#[tokio::test]
async fn a_raw_connection_and_a_datagram_wake_a_machine() {
    let mut world = World::start().await;
    let (port, datagrams) = (7000, 7001);
    let raw = sleeper("raw").port(port, &[]).state(MachineState::Stopped);
    let udp = sleeper("udp").service(|service| {
        service.protocol = model::machine::Protocol::Udp;
        service.ports = vec![model::machine::Port { port: Some(datagrams), ..Default::default() }];
    });
    world.know(&[&raw, &udp.clone().state(MachineState::Stopped)]).await;
    let node = world.host(says("awake"));
    let mut stream = within(TcpStream::connect((world.ip, port))).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("awake"), "{answer}");
    let client = UdpSocket::bind((world.ip, 0)).await.unwrap();
    client.send_to(b"hello", (world.ip, datagrams)).await.unwrap();
    until("the datagram has woken it", || node.state(udp.id()) == MachineState::Started).await;
    assert_eq!(node.woken.load(SeqCst), 2);
}

#[tokio::test]
async fn the_datagrams_that_wake_a_machine_reach_its_program_once_that_listens() {
    let mut world = World::with(|options| options.bounds.startup_grace = PATIENCE).await;
    let mut machine = udp::taking("dns");
    machine.0.spec.config.services.iter_mut().for_each(|service| service.autostart = Some(true));
    world.know(&[&machine.clone().state(MachineState::Stopped)]).await;
    let node = world.host(says("awake"));
    let clients = [udp::client(&world).await, udp::client(&world).await];
    let texts: [&[u8]; 3] = [b"first", b"second", b"third"];
    let single = udp::client(&world).await;
    single.send(b"alone").await.unwrap();
    for client in &clients {
        for text in texts {
            client.send(text).await.unwrap();
        }
    }
    until("they have woken it", || node.state(machine.id()) == MachineState::Started).await;
    // Meanwhile its kernel says that nobody listens.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let _echo = udp::Echo::start(&machine).await;
    for client in &clients {
        udp::are_answered(client, &texts).await;
    }
    udp::are_answered(&single, &[b"alone"]).await;
    assert_eq!(node.woken.load(SeqCst), 1);
    assert!(!world.logs.has("PC02"), "{:?}", world.logs.lines());
}

#[tokio::test]
async fn where_one_cannot_be_woken_another_is_and_else_the_reason_is_told() {
    let mut world = World::start().await;
    let machines = [sleeper("shop").state(MachineState::Stopped), sleeper("shop").state(MachineState::Stopped)];
    world.know(&[&machines[0], &machines[1]]).await;
    let node = world.host(says("awake"));
    *node.broken.lock().unwrap() = vec![machines[0].id().clone()];
    assert_eq!(world.get("shop", "/").await.body, "awake");
    assert!(world.logs.has("PM01"), "{:?}", world.logs.lines());

    let lonely = sleeper("lonely").state(MachineState::Stopped);
    node.broken.lock().unwrap().push(lonely.id().clone());
    world.know(&[&lonely]).await;
    let answer = world.get("lonely", "/").await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::SERVICE_UNAVAILABLE, "PM01"));
    assert!(answer.body.contains("it does not boot"), "{}", answer.body);
}

#[tokio::test]
async fn one_more_is_woken_where_all_are_above_their_soft_limits() {
    let mut world = World::start().await;
    let (program, mut arrivals, gate) = gated();
    let limited = |machine: Machine| machine.limits(ConcurrencyKind::Requests, 1, None);
    let (awake, asleep) = (limited(sleeper("shop")), limited(sleeper("shop")).state(MachineState::Stopped));
    world.know(&[&awake, &asleep]).await;
    let node = world.host(program);
    node.run(awake.id()).await;
    let asked = [tokio::spawn(send(world.http(), get("shop")))];
    within(arrivals.recv()).await.unwrap();
    assert_eq!(node.woken.load(SeqCst), 0, "below its soft limit nobody else is needed");
    let more = tokio::spawn(send(world.http(), get("shop")));
    within(arrivals.recv()).await.expect("it does not wait for the other one");
    until("another one is woken", || node.state(asleep.id()) == MachineState::Started).await;
    gate.add_permits(2);
    for answer in asked.into_iter().chain([more]) {
        assert_eq!(within(answer).await.unwrap().unwrap().body, "done");
    }
    assert_eq!(node.woken.load(SeqCst), 1);
}

#[tokio::test]
async fn machines_with_nothing_to_do_fall_asleep_but_for_as_many_as_shall_stay_awake() {
    for (autostop, resting) in [(AutoStop::Stop, MachineState::Stopped), (AutoStop::Suspend, MachineState::Suspended)] {
        let mut world = soon_sleepy().await;
        let kept = |machine: Machine| machine.service(|service| service.min_machines_running = Some(1));
        let machines: Vec<Machine> = (0..4).map(|_| kept(napper("shop", autostop))).collect();
        let far = kept(napper("shop", autostop).region("syd"));
        world.know(&machines.iter().chain([&far]).collect::<Vec<_>>()).await;
        let node = world.host(says("awake"));
        for machine in machines.iter().chain([&far]) {
            node.run(machine.id()).await;
        }
        let awake = || machines.iter().filter(|it| node.state(it.id()) == MachineState::Started).count();
        until("three of four sleep", || node.slept.load(SeqCst) == 3).await;
        assert_eq!((awake(), node.state(far.id())), (1, MachineState::Started), "one in each region stays");
        let asleep = machines.iter().filter(|it| node.state(it.id()) == resting).count();
        assert_eq!(asleep, 3);
        assert_eq!(world.get("shop", "/").await.body, "awake");
        assert_eq!(node.woken.load(SeqCst), 0);
    }
}

#[tokio::test]
async fn a_machine_in_use_or_busy_stays_awake() {
    let mut world = soon_sleepy().await;
    let (program, mut arrivals, gate) = gated();
    let (used, busy, steady) =
        (napper("used", AutoStop::Stop), napper("busy", AutoStop::Stop), napper("steady", AutoStop::Off));
    let idle = napper("idle", AutoStop::Stop);
    let node = world.host(program);
    node.busy.lock().unwrap().insert(busy.id().clone(), Duration::from_secs(600));
    world.know(&[&used, &busy, &steady]).await;
    node.run(used.id()).await;
    let asked = tokio::spawn(send(world.http(), get("used")));
    within(arrivals.recv()).await.unwrap();
    world.know(&[&idle]).await;
    until("the idle one sleeps", || node.state(idle.id()) == MachineState::Stopped).await;
    for machine in [&used, &busy, &steady] {
        assert_eq!(node.state(machine.id()), MachineState::Started);
    }
    gate.add_permits(1);
    assert_eq!(within(asked).await.unwrap().unwrap().body, "done");
    until("it sleeps, too, once it has nothing to do", || node.state(used.id()) == MachineState::Stopped).await;
}

#[tokio::test]
async fn more_machines_than_the_load_needs_fall_asleep_though_each_has_a_little_to_do() {
    let mut world = soon_sleepy().await;
    let machines: Vec<Machine> = (0..3).map(|_| napper("shop", AutoStop::Stop)).collect();
    world.know(&machines.iter().collect::<Vec<_>>()).await;
    let node = world.host(says("awake"));
    for machine in &machines {
        node.run(machine.id()).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (asking, address) = (stop.clone(), world.http());
    let load = tokio::spawn(async move {
        while !asking.load(SeqCst) {
            assert_eq!(send(address, get("shop")).await.unwrap().body, "awake");
        }
    });
    let awake = || machines.iter().filter(|it| node.state(it.id()) == MachineState::Started).count();
    until("one is left", || awake() == 1).await;
    stop.store(true, SeqCst);
    within(load).await.unwrap();
}

#[tokio::test]
async fn no_request_is_lost_between_sleep_and_wake() {
    let mut world = World::with(|options| options.bounds.sleep_after = Duration::from_millis(3)).await;
    let machine = napper("shop", AutoStop::Stop);
    world.know(&[&machine]).await;
    let node = world.host(says("awake"));
    node.run(machine.id()).await;
    let clients: Vec<_> = (0..4_u64)
        .map(|client| {
            let address = world.http();
            tokio::spawn(async move {
                for round in 0..60_u64 {
                    let answer = send(address, get("shop")).await.unwrap();
                    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "awake"));
                    // Around the time after which it falls asleep.
                    tokio::time::sleep(Duration::from_micros((round * 97 + client * 1301) % 9000)).await;
                }
            })
        })
        .collect();
    for client in clients {
        within(client).await.unwrap();
    }
    // On a busy machine it may never have had the time.
    until("it falls asleep", || node.slept.load(SeqCst) > 0).await;
    assert_eq!(world.get("shop", "/").await.body, "awake");
}
