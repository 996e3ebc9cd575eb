//! Machines of other hosts, by way of those hosts' workers: real TLS, real sockets.

use std::sync::Arc;

use api::internal::Drain;
use axum::{Router, body::Body, response::IntoResponse};
use bytes::Bytes;
use catalog::{Publisher, Worker};
use edge::{Backhaul, Credentials, EdgeOptions, Identity};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use model::{
    HostId,
    machine::{ConcurrencyKind, MachineState},
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    load::{Load, connects, keeps_alive, multiplexes},
    support::*,
    tcp, tls, udp, websocket,
};

/// An authority of hosts.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn identify(&self, host: &HostId) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.certificate_name()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Identity::new(self.certificate.clone(), certificate, key).unwrap()
    }

    fn backhaul(&self, host: &str, door: bool) -> Backhaul {
        let host: HostId = host.parse().unwrap();
        let credentials = Arc::new(Credentials::default());
        credentials.set(self.identify(&host));
        let door = door.then(|| (fresh_ip(), 0).into());
        Backhaul { host: Some(host), door, credentials }
    }
}

/// A host whose worker changes hands under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_is_taken_over_and_no_request_of_other_hosts_edges_is_lost() {
    let authority = Authority::new();
    let backhaul = authority.backhaul("one", true);
    let mut next = backhaul.clone();
    let mut world = World::with(|options| options.backhaul = backhaul).await;
    let door = world.edge.worker_address().unwrap();
    next.door = Some(door);
    let worker = Worker { host: next.host.clone().unwrap(), door };
    let mut far = Far::start(&authority).await;
    let (shop, dns) = (Machine::of("shop"), udp::taking("dns"));
    let (_program, _echo) = (shop.run(says("hello")).await, udp::Echo::start(&dns).await);
    world.know(&[&shop, &dns]).await;
    far.know(&[(&shop, &worker), (&dns, &worker)]).await;
    let asks = udp::client(&far.world).await;
    assert_eq!(udp::machine_of(&asks).await, dns.id().to_string());

    let load = Arc::new(Load::default());
    let mut clients = JoinSet::new();
    for _ in 0..2 {
        clients.spawn(connects(load.clone(), far.world.http()));
        clients.spawn(keeps_alive(load.clone(), far.world.http()));
    }
    clients.spawn(multiplexes(load.clone(), far.world.https(), tls::client(&far.world, &["h2"])));
    let mut retiring = JoinSet::new();
    for round in 0..5 {
        let old = world.take_over_by(next.clone()).await;
        retiring.spawn(async move { old.retire(PATIENCE, PATIENCE).await });
        load.goes_on_for_all(&format!("every client is served, in round {round}")).await;
        assert_eq!(udp::machine_of(&asks).await, dns.id().to_string(), "datagrams find the new one");
    }
    load.end();
    within(clients.join_all()).await;
    within(retiring.join_all()).await;
    assert_eq!(load.failed(), 0);
}

/// A host with a door.
pub async fn host_of(authority: &Authority, name: &str) -> (World, Worker) {
    let backhaul = authority.backhaul(name, true);
    let host = backhaul.host.clone().unwrap();
    let world = World::with(|options| options.backhaul = backhaul).await;
    let door = world.edge.worker_address().unwrap();
    (world, Worker { host, door })
}

/// A machine's host, and an edge elsewhere that knows of the machine.
pub async fn from_afar(machine: &Machine) -> (World, Far) {
    let authority = Authority::new();
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&authority).await);
    host.know(&[machine]).await;
    far.know(&[(machine, &worker)]).await;
    (host, far)
}

/// An edge that is no machine's host, and what it is told.
pub struct Far {
    pub world: World,
    catalog: Arc<Publisher>,
    generation: u64,
}

impl Far {
    pub async fn start(authority: &Authority) -> Self {
        Self::start_with(authority, |_| ()).await
    }

    pub async fn start_with(authority: &Authority, change: impl FnOnce(&mut EdgeOptions)) -> Self {
        let (catalog, backhaul) = (Arc::new(Publisher::in_memory()), authority.backhaul("edge", false));
        let reader = catalog.reader();
        let world = World::with(|options| {
            options.catalog = reader;
            options.backhaul = backhaul;
            change(options);
        })
        .await;
        Self { world, catalog, generation: 0 }
    }

    pub async fn know(&mut self, machines: &[(&Machine, &Worker)]) {
        let rows = machines.iter().map(|(machine, worker)| {
            let row = catalog::MachineRoute::of(&machine.0).unwrap();
            let row = catalog::MachineRoute { worker: Some(Arc::new((*worker).clone())), ..row };
            catalog::RowChange::Put(Box::new(row))
        });
        self.generation += 1;
        self.catalog.change(self.generation, rows);
        let (mut seen, told) = (self.world.edge.generation(), self.generation);
        within(seen.wait_for(|seen| *seen == told)).await.unwrap();
    }
}

#[tokio::test]
async fn requests_of_both_versions_reach_a_machine_of_another_host_with_bodies_and_trailers() {
    let authority = Authority::new();
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&authority).await);
    let machine = Machine::of("shop");
    let program = Router::new().fallback(|request: Request<Body>| async move {
        let length = request.into_body().collect().await.unwrap().to_bytes().len();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("7"));
        let frames: [Result<_, std::convert::Infallible>; 2] =
            [Ok(Frame::data(Bytes::from(format!("{length} bytes")))), Ok(Frame::trailers(trailers))];
        Body::new(StreamBody::new(futures_util::stream::iter(frames))).into_response()
    });
    let machine = machine.h2_backend();
    let _program = machine.run(program).await;
    host.know(&[&machine]).await;
    far.know(&[(&machine, &worker)]).await;
    let request = Request::post("/").header("host", crate::support::host("shop"));
    let answer = far.world.send(request.body(full(&"x".repeat(300_000))).unwrap()).await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "300000 bytes"));
    let mut sender = connect_h2(far.world.http()).await;
    let request = Request::post("http://shop.dunlin.localhost/").version(Version::HTTP_2);
    let answer = within(sender.send_request(request.body(full("12345")).unwrap())).await.unwrap();
    let answer = Answer::read(answer).await.unwrap();
    assert_eq!(answer.body, "5 bytes");
    assert_eq!(answer.trailers.unwrap()["x-checksum"], "7");
}

#[tokio::test]
async fn trailers_that_a_connection_between_hosts_cannot_carry_do_not_break_the_answer() {
    let authority = Authority::new();
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&authority).await);
    let machine = Machine::of("shop");
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndone\r\n0\r\n\
            Connection: x\r\nUpgrade: y\r\nTE: gzip\r\nX-Checksum: 7\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.read(&mut [0]).await;
    });
    host.know(&[&machine]).await;
    far.know(&[(&machine, &worker)]).await;
    let mut sender = connect_h2(far.world.http()).await;
    let request = Request::get("http://shop.dunlin.localhost/").version(Version::HTTP_2).header("te", "trailers");
    let answer = within(sender.send_request(request.body(Empty::<Bytes>::new()).unwrap())).await.unwrap();
    let answer = Answer::read(answer).await.unwrap();
    assert_eq!(answer.body, "done");
    let trailers: Vec<_> = answer.trailers.unwrap().keys().map(ToString::to_string).collect();
    assert_eq!(trailers, ["x-checksum"]);
}

#[tokio::test]
async fn heads_that_take_much_room_on_their_way_between_hosts_do_not_end_what_else_goes_there() {
    let authority = Authority::new();
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&authority).await);
    let (shop, rpc) = (Machine::of("shop"), Machine::of("rpc").h2_backend());
    // HPACK spells this byte in 28 bits.
    let value = || HeaderValue::from_bytes(&[0xf9; 59_000]).unwrap();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let waits = gate.clone();
    let program = Router::new()
        .route(
            "/waits",
            axum::routing::get(|| async move {
                waits.acquire().await.unwrap().forget();
                "waited"
            }),
        )
        .fallback(move |request: Request<Body>| async move {
            let length = request.headers().get("x-much").map_or(0, HeaderValue::len);
            ([("x-much", value())], length.to_string())
        });
    let (_shop, _rpc) = (shop.run(program.clone()).await, rpc.run(program).await);
    host.know(&[&shop, &rpc]).await;
    far.know(&[(&shop, &worker), (&rpc, &worker)]).await;
    let ask = |app: &'static str, path| {
        let mut request = Request::get(path).header("host", crate::support::host(app));
        // That program's library takes no long heads.
        if app == "shop" {
            request = request.header("x-much", value());
        }
        far.world.send(request.body(Empty::<Bytes>::new()).unwrap())
    };
    let waits = far.world.get("shop", "/waits");
    let (waits, answers) = tokio::join!(waits, async {
        let mut answers = Vec::new();
        for app in ["shop", "rpc", "shop", "rpc"] {
            answers.push(ask(app, "/").await);
        }
        gate.add_permits(1);
        answers
    });
    assert_eq!((waits.status, waits.body.as_str()), (StatusCode::OK, "waited"));
    for answer in answers {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        assert_eq!(answer.headers["x-much"].as_bytes(), [0xf9; 59_000]);
    }
}

#[tokio::test]
async fn nobody_forges_what_edges_and_workers_say_to_each_other() {
    let authority = Authority::new();
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&authority).await);
    let (shop, other) = (Machine::of("shop"), Machine::of("other"));
    let program = Router::new().fallback(|request: Request<Body>| async move {
        let names: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
        ([("dunlin-hop-refusal", "full")], names.join(" "))
    });
    let (_shop, _other) = (shop.run(program).await, other.run(says("other")).await);
    host.know(&[&shop, &other]).await;
    far.know(&[(&shop, &worker), (&other, &worker)]).await;
    let request = Request::get("/").header("host", crate::support::host("shop"));
    let request = request.header("dunlin-hop-app", "other").header("dunlin-hop-machine", other.id().as_str());
    let answer = far.world.send(request.body(Empty::<Bytes>::new()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert!(answer.body.contains("fly-client-ip") && !answer.body.contains("hop"), "{}", answer.body);
    assert_eq!(answer.header("dunlin-hop-refusal"), "");
}

#[tokio::test]
async fn a_peer_without_a_certificate_of_the_authority_gets_nowhere() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&stranger).await);
    let machine = Machine::of("shop");
    let program = machine.run(says("hello")).await;
    host.know(&[&machine]).await;
    far.know(&[(&machine, &worker)]).await;
    let answer = far.world.get("shop", "/").await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::BAD_GATEWAY, "PC02"));
    let mut bare = TcpStream::connect(worker.door).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut bare, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = within(bare.read_to_end(&mut said)).await;
    assert!(said.len() < 64 && program.accepted() == 0, "an alert at most");
}

#[tokio::test]
async fn a_machine_that_sleeps_by_now_is_passed_over_and_woken_only_where_it_is_the_only_one() {
    let authority = Authority::new();
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&authority).await);
    let sleeper = |app| Machine::of(app).service(|service| service.autostart = Some(true));
    let (asleep, awake, lonely) = (sleeper("shop"), sleeper("shop"), sleeper("lonely"));
    let stopped = |machine: &Machine| machine.clone().state(MachineState::Stopped);
    host.know(&[&stopped(&asleep), &awake, &stopped(&lonely)]).await;
    let node = host.host(says("awake"));
    node.run(awake.id()).await;
    far.know(&[(&asleep, &worker), (&awake, &worker), (&lonely, &worker)]).await;
    for _ in 0..20 {
        assert_eq!(far.world.get("shop", "/").await.body, "awake");
    }
    assert_eq!(node.state(asleep.id()), MachineState::Stopped);
    assert_eq!(far.world.get("lonely", "/").await.body, "awake");
    assert_eq!(node.state(lonely.id()), MachineState::Started);
}

#[tokio::test]
async fn a_websocket_passes_to_another_host_and_counts_there() {
    let authority = Authority::new();
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&authority).await);
    let machine = Machine::of("chat");
    let (program, mut closes) = websocket::echo();
    let _program = machine.run(program).await;
    host.know(&[&machine]).await;
    far.know(&[(&machine, &worker)]).await;
    let mut socket = websocket::open(&far.world).await;
    websocket::exchange(&mut socket, "hello").await;
    let generation = host.know(&[&machine.clone().cordoned(true)]).await;
    let soon = std::time::Duration::from_millis(50);
    assert_eq!(host.edge.drained(machine.id(), generation, soon).await, 1, "it is under way at its own host");
    drop(socket);
    within(closes.recv()).await.unwrap();
    assert_eq!(host.edge.drained(machine.id(), generation, PATIENCE).await, 0, "nothing stays counted");
}

/// A raw port of an app on another host, and who listens there.
async fn raw(authority: &Authority) -> (World, Far, TcpListener) {
    let ((mut host, worker), mut far) = (host_of(authority, "one").await, Far::start(authority).await);
    let machine = Machine::of("wire").port(7000, &[]);
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    host.know(&[&machine]).await;
    far.know(&[(&machine, &worker)]).await;
    (host, far, listener)
}

#[tokio::test]
async fn bytes_pass_to_another_host_and_each_way_ends_by_itself() {
    let (_host, far, listener) = raw(&Authority::new()).await;
    let mut client = TcpStream::connect((far.world.ip, 7000)).await.unwrap();
    let (mut program, _) = within(listener.accept()).await.unwrap();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number as u8).collect();
    let (said, all) = (
        sent.clone(),
        tokio::spawn(async move {
            let mut all = Vec::new();
            program.read_to_end(&mut all).await.unwrap();
            program.write_all(&all).await.unwrap();
            all
        }),
    );
    client.write_all(&said).await.unwrap();
    client.shutdown().await.unwrap();
    assert!(within(all).await.unwrap() == sent);
    let mut back = Vec::new();
    within(client.read_to_end(&mut back)).await.unwrap();
    assert!(back == sent);
}

#[tokio::test]
async fn what_is_said_last_to_another_host_is_heard_though_nobody_listens_there_any_more() {
    let (_host, far, listener) = raw(&Authority::new()).await;
    // Room between hosts is given in large steps; of so many lengths one ends where there is none.
    for nth in 0..8 {
        let mut client = TcpStream::connect((far.world.ip, 7000)).await.unwrap();
        client.write_all(b"x").await.unwrap();
        let (mut program, _) = within(listener.accept()).await.unwrap();
        within(program.read_exact(&mut [0])).await.unwrap();
        program.shutdown().await.unwrap();
        assert_eq!(within(client.read(&mut [0])).await.unwrap(), 0);
        let sent = vec![b'z'; 5_000_000 + nth * 65_536];
        let length = sent.len();
        let saying = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            client
        });
        // The program reads slowly, so that what is between them is full to the end.
        let (mut heard, mut room) = (0, vec![0; 65_536]);
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            match within(program.read(&mut room)).await {
                Ok(0) => break,
                read => heard += read.unwrap(),
            }
        }
        assert_eq!(heard, length);
        within(saying).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_to_another_host_that_breaks_off_breaks_off_at_its_other_end() {
    let (_host, far, listener) = raw(&Authority::new()).await;
    for at_program in [true, false] {
        let mut client = TcpStream::connect((far.world.ip, 7000)).await.unwrap();
        let (mut program, _) = within(listener.accept()).await.unwrap();
        client.write_all(b"x").await.unwrap();
        within(program.read_exact(&mut [0])).await.unwrap();
        program.write_all(b"y").await.unwrap();
        within(client.read_exact(&mut [0])).await.unwrap();
        let (broken, mut other) = if at_program { (program, client) } else { (client, program) };
        tcp::reset(broken);
        let read = within(other.read(&mut [0])).await;
        assert_eq!(
            read.unwrap_err().kind(),
            std::io::ErrorKind::ConnectionReset,
            "broken by the program: {at_program}"
        );
    }
}

#[tokio::test]
async fn many_readers_that_wait_do_not_hold_up_the_next_one() {
    let (_host, far, listener) = raw(&Authority::new()).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move { while stream.write_all(&[0; 65536]).await.is_ok() {} });
        }
    });
    let mut waiting = Vec::new();
    for _ in 0..40 {
        let mut client = TcpStream::connect((far.world.ip, 7000)).await.unwrap();
        within(client.read_exact(&mut [0])).await.unwrap();
        waiting.push(client);
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let mut reader = TcpStream::connect((far.world.ip, 7000)).await.unwrap();
    let mut read = vec![0; 8 << 20];
    within(reader.read_exact(&mut read)).await.unwrap();
}

#[tokio::test]
async fn a_machine_that_sleeps_on_another_host_is_woken_there() {
    let authority = Authority::new();
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&authority).await);
    let awake = Machine::of("shop").service(|service| service.autostart = Some(true));
    let asleep = awake.clone().state(MachineState::Stopped);
    host.know(&[&asleep]).await;
    let node = host.host(says("awake"));
    far.know(&[(&asleep, &worker)]).await;
    let request = Request::get("/").header("host", crate::support::host("shop"));
    let asked = tokio::spawn(send(far.world.http(), request.body(Empty::<Bytes>::new()).unwrap()));
    until("it is woken", || node.state(awake.id()) == MachineState::Started).await;
    far.know(&[(&awake, &worker)]).await;
    assert_eq!(within(asked).await.unwrap().unwrap().body, "awake");
}

#[tokio::test]
async fn datagrams_of_many_clients_pass_to_another_host_and_back() {
    let authority = Authority::new();
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&authority).await);
    let machine = udp::taking("dns");
    let _echo = udp::Echo::start(&machine).await;
    host.know(&[&machine]).await;
    far.know(&[(&machine, &worker)]).await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(udp::client(&far.world).await);
    }
    let mut buffer = vec![0; 1 << 16];
    for (number, client) in clients.iter().enumerate() {
        let text = [format!("{number}:").as_bytes(), &vec![b'x'; number * 1300]].concat();
        // Once: nothing is lost on the way, not even the first one of a flow.
        client.send(&text).await.unwrap();
        let length = within(client.recv(&mut buffer)).await.unwrap();
        assert!(buffer[..length].ends_with(&text), "{number}: each client gets what is for it");
    }
    // In any order, on flows that are known.
    for (number, client) in clients.iter().enumerate().rev() {
        let text = format!("again {number}");
        assert!(udp::ask(client, text.as_bytes()).await.ends_with(text.as_bytes()));
    }
}

#[tokio::test]
async fn flows_to_another_host_that_lose_their_machine_find_the_next_one() {
    let authority = Authority::new();
    let (mut one, first) = host_of(&authority, "one").await;
    let (mut two, second) = host_of(&authority, "two").await;
    let mut far = Far::start(&authority).await;
    let (here, there) = (udp::taking("dns"), udp::taking("dns"));
    let (_echo, _other) = (udp::Echo::start(&here).await, udp::Echo::start(&there).await);
    one.know(&[&here]).await;
    two.know(&[&there]).await;
    far.know(&[(&here, &first)]).await;
    let client = udp::client(&far.world).await;
    assert_eq!(udp::machine_of(&client).await, here.id().to_string());
    // Its own host knows first that it is gone; the edge is told of another one later.
    one.know(&[&here.clone().state(MachineState::Stopped)]).await;
    far.know(&[(&there, &second), (&here.clone().state(MachineState::Stopped), &first)]).await;
    assert_eq!(udp::machine_of(&client).await, there.id().to_string());
}

#[tokio::test]
async fn a_flow_that_its_machines_host_has_given_up_begins_anew() {
    let authority = Authority::new();
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&authority).await);
    let (machine, other) = (udp::taking("dns"), udp::taking("dns"));
    let (_echo, _other) = (udp::Echo::start(&machine).await, udp::Echo::start(&other).await);
    host.know(&[&machine, &other]).await;
    far.know(&[(&machine, &worker), (&other, &worker)]).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(udp::client(&far.world).await);
    }
    for client in &clients {
        udp::ask(client, b"hello").await;
    }
    // The edge hears nothing of it; its flows to the other one go on in the same stream.
    host.know(&[&machine.clone().state(MachineState::Stopped), &other]).await;
    for client in &clients {
        client.send(b"lost, or not").await.unwrap();
    }
    host.know(&[&machine, &other]).await;
    for client in &clients {
        // Answers to what was not lost come first.
        while !udp::ask(client, b"again").await.ends_with(b"again") {}
    }
}

#[tokio::test]
async fn a_machine_of_another_host_is_woken_by_a_datagram() {
    let authority = Authority::new();
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&authority).await);
    let mut awake = udp::taking("dns");
    awake.0.spec.config.services.iter_mut().for_each(|service| service.autostart = Some(true));
    let asleep = awake.clone().state(MachineState::Stopped);
    host.know(&[&asleep]).await;
    let node = host.host(says("awake"));
    let _echo = udp::Echo::start(&awake).await;
    far.know(&[(&asleep, &worker)]).await;
    let client = udp::client(&far.world).await;
    client.send(b"hello?").await.unwrap();
    until("it is woken", || node.state(awake.id()) == MachineState::Started).await;
    far.know(&[(&awake, &worker)]).await;
    assert_eq!(udp::machine_of(&client).await, awake.id().to_string());
}

#[tokio::test]
async fn the_datagram_that_wakes_a_machine_of_another_host_reaches_its_program_once_that_listens() {
    let authority = Authority::new();
    let backhaul = authority.backhaul("one", true);
    let name = backhaul.host.clone().unwrap();
    let mut host = World::with(|options| {
        options.backhaul = backhaul;
        options.bounds.startup_grace = PATIENCE;
    })
    .await;
    let worker = Worker { host: name, door: host.edge.worker_address().unwrap() };
    let mut far = Far::start_with(&authority, |options| options.bounds.startup_grace = PATIENCE).await;
    let mut awake = udp::taking("dns");
    awake.0.spec.config.services.iter_mut().for_each(|service| service.autostart = Some(true));
    let asleep = awake.clone().state(MachineState::Stopped);
    host.know(&[&asleep]).await;
    let node = host.host(says("awake"));
    far.know(&[(&asleep, &worker)]).await;
    let client = udp::client(&far.world).await;
    client.send(b"hello?").await.unwrap();
    until("it is woken", || node.state(awake.id()) == MachineState::Started).await;
    far.know(&[(&awake, &worker)]).await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let _echo = udp::Echo::start(&awake).await;
    udp::are_answered(&client, &[b"hello?"]).await;
}

#[tokio::test]
async fn why_another_hosts_machine_could_not_be_woken_is_told() {
    let authority = Authority::new();
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&authority).await);
    let asleep = Machine::of("shop").service(|service| service.autostart = Some(true)).state(MachineState::Stopped);
    host.know(&[&asleep]).await;
    let node = host.host(says("awake"));
    node.broken.lock().unwrap().push(asleep.id().clone());
    far.know(&[(&asleep, &worker)]).await;
    let answer = far.world.get("shop", "/").await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::SERVICE_UNAVAILABLE, "PM01"));
}

#[tokio::test]
async fn a_hard_limit_counts_what_comes_from_all_edges() {
    let authority = Authority::new();
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&authority).await);
    let limited = || Machine::of("shop").limits(ConcurrencyKind::Requests, 1, Some(1));
    let (first, second) = (limited(), limited());
    let (program, mut arrivals, gate) = gated();
    let (_first, _second) = (first.run(program).await, second.run(says("second")).await);
    host.know(&[&first]).await;
    let at_host = tokio::spawn({
        let request = Request::get("/").header("host", crate::support::host("shop"));
        send(host.http(), request.body(Empty::<Bytes>::new()).unwrap())
    });
    within(arrivals.recv()).await.unwrap();
    host.know(&[&second]).await;
    far.know(&[(&first, &worker), (&second, &worker)]).await;
    for _ in 0..10 {
        assert_eq!(far.world.get("shop", "/").await.body, "second");
    }
    gate.add_permits(1);
    assert_eq!(within(at_host).await.unwrap().unwrap().body, "done");
}

#[tokio::test]
async fn while_a_worker_is_away_another_one_answers() {
    let authority = Authority::new();
    let ((mut one, first), (mut two, second)) = (host_of(&authority, "one").await, host_of(&authority, "two").await);
    let mut far = Far::start(&authority).await;
    let (here, there) = (Machine::of("shop"), Machine::of("shop"));
    let (_here, _there) = (here.run(says("one")).await, there.run(says("two")).await);
    one.know(&[&here]).await;
    two.know(&[&there]).await;
    far.know(&[(&here, &first), (&there, &second)]).await;
    one.edge.shutdown(std::time::Duration::ZERO).await;
    for _ in 0..20 {
        assert_eq!(far.world.get("shop", "/").await.body, "two");
    }
    let backhaul = Backhaul { door: Some(first.door), ..authority.backhaul("one", true) };
    let mut back = World::with(|options| options.backhaul = backhaul).await;
    back.know(&[&here]).await;
    let is_back = async { while far.world.get("shop", "/").await.body != "one" {} };
    within(is_back).await;
}
