//! Hosts that are some way off: what the edge measures decides between regions, and inside one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use api::internal::EdgeView;
use catalog::Worker;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    support::*,
    worker::{Authority, Far, host_of},
};

/// How often the edge measures here.
const OFTEN: Duration = Duration::from_millis(20);

/// A long way to a host, as long as somebody says.
struct Way {
    one_way_ms: Arc<AtomicU64>,
    worker: Worker,
}

impl Way {
    async fn to(worker: &Worker, round_trip_ms: u64) -> Self {
        let listener = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
        let (door, one_way_ms) = (worker.door, Arc::new(AtomicU64::new(round_trip_ms / 2)));
        let worker = Worker { host: worker.host.clone(), door: listener.local_addr().unwrap() };
        let delay = one_way_ms.clone();
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let Ok(far) = TcpStream::connect(door).await else { continue };
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(carry(near_read, far_write, delay.clone()));
                tokio::spawn(carry(far_read, near_write, delay.clone()));
            }
        });
        Self { one_way_ms, worker }
    }

    fn becomes(&self, round_trip_ms: u64) {
        self.one_way_ms.store(round_trip_ms / 2, SeqCst);
    }
}

/// Each piece arrives some time after it was sent, in order, while the next ones are on their way.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, one_way_ms: Arc<AtomicU64>) {
    let (sent, mut under_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((arrives, piece)) = under_way.recv().await {
            sleep_until(arrives).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    });
    let mut piece = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let arrives = Instant::now() + Duration::from_millis(one_way_ms.load(SeqCst));
        if sent.send((arrives, piece[..length].to_vec())).is_err() {
            return;
        }
    }
}

/// A host with one machine, some way off.
struct Remote {
    name: &'static str,
    way: Way,
    machine: Machine,
    _host: World,
    _program: Program,
}

impl Remote {
    async fn start(authority: &Authority, name: &'static str, region: &str, round_trip_ms: u64) -> Self {
        let (mut host, worker) = host_of(authority, name).await;
        let machine = Machine::of("shop").region(region);
        let program = machine.run(says(name)).await;
        host.know(&[&machine]).await;
        let way = Way::to(&worker, round_trip_ms).await;
        Self { name, way, machine, _host: host, _program: program }
    }
}

/// An edge that knows these.
async fn edge(authority: &Authority, remotes: &[&Remote]) -> Far {
    let mut far = Far::start_with(authority, |options| options.bounds.measure = OFTEN).await;
    let machines: Vec<_> = remotes.iter().map(|remote| (&remote.machine, &remote.way.worker)).collect();
    far.know(&machines).await;
    far
}

/// Requests come to go to this host, and stay there.
async fn goes_to(far: &Far, remote: &Remote) {
    let mut in_a_row = 0;
    within(async {
        while in_a_row < 10 {
            in_a_row = if far.world.get("shop", "/").await.body == remote.name { in_a_row + 1 } else { 0 };
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_to_the_region_that_is_measured_to_be_the_closest_and_come_back_to_it() {
    let authority = Authority::new();
    let barn = Remote::start(&authority, "barn", "barn", 60).await;
    let shed = Remote::start(&authority, "shed", "shed", 10).await;
    let far = edge(&authority, &[&barn, &shed]).await;
    goes_to(&far, &shed).await;
    shed.way.becomes(200);
    goes_to(&far, &barn).await;
    shed.way.becomes(10);
    goes_to(&far, &shed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inside_a_region_a_host_that_becomes_slow_to_reach_loses_ties() {
    let authority = Authority::new();
    let one = Remote::start(&authority, "one", "barn", 10).await;
    let other = Remote::start(&authority, "other", "barn", 60).await;
    let far = edge(&authority, &[&one, &other]).await;
    goes_to(&far, &one).await;
    one.way.becomes(200);
    goes_to(&far, &other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_far_a_machine_is_can_be_seen() {
    let authority = Authority::new();
    let barn = Remote::start(&authority, "barn", "barn", 40).await;
    let far = edge(&authority, &[&barn]).await;
    let seen = || far.world.edge.routes().apps[0].ports[0].machines[0].round_trip_ms;
    until("it is measured", || seen().is_some()).await;
    assert!(seen() >= Some(40.0), "{:?}", seen());
}
