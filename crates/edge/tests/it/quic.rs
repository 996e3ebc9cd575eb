//! What QUIC sends to whom, before anybody has proven that his address is his own.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{net::UdpSocket, task::JoinHandle};

use crate::{
    http3::{endpoint, get, read, world_with},
    support::*,
};

/// A way to the edge that sees what passes.
struct Relay {
    address: SocketAddr,
    /// Bytes from the client, and from the edge.
    passed: Arc<[AtomicUsize; 2]>,
    /// The first byte of each packet from the edge.
    seen: Arc<Mutex<Vec<u8>>>,
    _task: JoinHandle<()>,
}

impl Relay {
    /// One that lets answers through, or keeps them: then the client's address seems to be a lie.
    async fn start(world: &World, answers: bool) -> Self {
        let (front, back) =
            (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        back.connect(world.https()).await.unwrap();
        let address = front.local_addr().unwrap();
        let (passed, seen) = (Arc::<[AtomicUsize; 2]>::default(), Arc::<Mutex<Vec<u8>>>::default());
        let (counts, kinds) = (passed.clone(), seen.clone());
        let _task = tokio::spawn(async move {
            let (mut out, mut home, mut client) = (vec![0; 1 << 16], vec![0; 1 << 16], None);
            loop {
                tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut out) => {
                        client = Some(from);
                        counts[0].fetch_add(length, SeqCst);
                        let _ = back.send(&out[..length]).await;
                    }
                    Ok(length) = back.recv(&mut home) => {
                        counts[1].fetch_add(length, SeqCst);
                        kinds.lock().unwrap().push(home[0]);
                        if let Some(client) = client.filter(|_| answers) {
                            let _ = front.send_to(&home[..length], client).await;
                        }
                    }
                }
            }
        });
        Self { address, passed, seen, _task }
    }

    fn passed(&self) -> [usize; 2] {
        [0, 1].map(|way| self.passed[way].load(SeqCst))
    }
}

/// A packet that has its client prove its address (RFC 9000, 17.2.5).
fn is_retry(first: u8) -> bool {
    first & 0xf0 == 0xf0
}

#[tokio::test]
async fn whoever_may_lie_about_his_address_is_sent_little_and_then_has_to_prove_it() {
    let (world, _program) = world_with(&Machine::of("shop"), says("hello")).await;
    // As many handshakes as one source may have under way unproven; none of them ever hears an answer.
    let mut liars = Vec::new();
    for _ in 0..16 {
        let (relay, endpoint) = (Relay::start(&world, false).await, endpoint(&world));
        let connecting = endpoint.connect(relay.address, &host("shop")).unwrap();
        liars.push((relay, endpoint, connecting));
    }
    until("each is answered once", || liars.iter().all(|(relay, ..)| relay.passed()[1] > 0)).await;
    for (relay, ..) in &liars {
        assert!(!is_retry(relay.seen.lock().unwrap()[0]));
    }
    let honest = Relay::start(&world, true).await;
    let endpoint = endpoint(&world);
    let quic = within(endpoint.connect(honest.address, &host("shop")).unwrap()).await.unwrap();
    assert!(is_retry(honest.seen.lock().unwrap()[0]), "the next one proves its address");
    let (mut driver, mut sender) = within(h3::client::new(h3_quinn::Connection::new(quic))).await.unwrap();
    let _driver = tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
    let mut stream = within(sender.send_request(get("shop", "/"))).await.unwrap();
    stream.finish().await.unwrap();
    assert_eq!(read(&mut stream).await.body, "hello");
    // Nobody who may not have asked is sent more than three times what came in his name (RFC 9000, 8.1).
    for (relay, ..) in &liars {
        let [came, went] = relay.passed();
        assert!(went <= 3 * came, "{went} bytes for {came}");
    }
}
