//! The way to the worker of one host: one HTTP/2 connection for all requests, made when it is needed and made again when it
//! is lost.

use std::{
    io,
    sync::{
        Arc, PoisonError, Weak,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use catalog::Worker;
use kit::report::Report;
use model::Region;
use tokio::{
    net::TcpStream,
    sync::Mutex,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{
    Credentials,
    identity::{ALPN, server_name},
};
use crate::{
    distance::Estimate,
    udp::Carrier,
    upstream::{Http2, Requests, Turn, not_there},
};

/// After a failure the worker is not tried again for so long: requests go elsewhere at once.
const REST: Duration = Duration::from_millis(250);

/// The way to one worker.
pub struct Hop {
    /// Which.
    pub worker: Arc<Worker>,
    /// Where its host is.
    pub region: Region,
    credentials: Arc<Credentials>,
    state: Mutex<State>,
    estimate: std::sync::Mutex<Estimate>,
    near: AtomicU8,
    /// The way of datagrams, as long as somebody goes it.
    pub carrier: std::sync::Mutex<Weak<Carrier>>,
}

#[derive(Default)]
struct State {
    requests: Option<Requests>,
    failed: Option<(Instant, String)>,
}

impl Hop {
    /// A way that has not been gone.
    pub fn new(worker: Arc<Worker>, region: Region, credentials: Arc<Credentials>) -> Self {
        Self {
            worker,
            region,
            credentials,
            state: Mutex::default(),
            estimate: std::sync::Mutex::default(),
            near: AtomicU8::new(0),
            carrier: std::sync::Mutex::default(),
        }
    }

    /// Somebody went there and back in this time.
    pub fn measured(&self, round_trip: Duration) {
        let mut estimate = self.estimate.lock().unwrap_or_else(PoisonError::into_inner);
        let believed = estimate.take(round_trip);
        self.near.store(u8::try_from(believed.as_millis()).unwrap_or(u8::MAX), Relaxed);
    }

    /// How far it is, if that has been measured.
    pub fn round_trip(&self) -> Option<Duration> {
        self.estimate.lock().unwrap_or_else(PoisonError::into_inner).round_trip()
    }

    /// How near it is among the hosts of its region, lower is nearer: in whole milliseconds, since hosts of one building
    /// differ by less, and share what comes.
    pub fn near(&self) -> u8 {
        self.near.load(Relaxed)
    }

    /// Leave to send a request over the connection that all share.
    pub async fn turn(&self, http2: &Http2, by: Instant) -> Result<Turn, String> {
        let late = || format!("its worker at {} does not answer in time", self.worker.door);
        let mut state = timeout_at(by, self.state.lock()).await.map_err(|_| late())?;
        if let Some(requests) = state.requests.as_ref().filter(|requests| requests.is_good()) {
            return Ok(requests.turn());
        }
        if let Some((_, why)) = state.failed.as_ref().filter(|(when, _)| when.elapsed() < REST) {
            return Err(why.clone());
        }
        let made = timeout_at(by, self.connect(http2)).await;
        let made = match made {
            Ok(made) => made.map_err(|why| format!("its worker at {} cannot be reached: {why}", self.worker.door)),
            Err(_) => Err(late()),
        };
        match &made {
            Ok(requests) => *state = State { requests: Some(requests.clone()), failed: None },
            Err(why) => *state = State { requests: None, failed: Some((Instant::now(), why.clone())) },
        }
        made.map(|requests| requests.turn())
    }

    async fn connect(&self, http2: &Http2) -> Result<Requests, String> {
        let identity = self.credentials.get().ok_or("this edge has no certificate of the platform yet")?;
        let in_words = |error: io::Error| error.to_string();
        let stream = TcpStream::connect(self.worker.door).await.map_err(in_words)?;
        let _ = stream.set_nodelay(true);
        let connector = TlsConnector::from(identity.client.clone());
        let stream = connector.connect(server_name(&self.worker.host), stream).await.map_err(in_words)?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err("what listens there is no worker".into());
        }
        let (requests, mut carrying) = http2.begin(stream).await.map_err(|error| Report(&error).to_string())?;
        let worker = self.worker.clone();
        // It is no work of its own: whoever sends requests over it is waited for.
        tokio::spawn(async move {
            let pings = carrying.ping_pong();
            tokio::select! {
                ended = carrying => if let Err(error) = ended {
                    tracing::debug!(door = %worker.door, "the connection to a worker ended: {}", Report(&error));
                },
                () = not_there(pings) => {
                    tracing::debug!(door = %worker.door, "a worker is not there any more");
                }
            }
        });
        Ok(requests)
    }
}
