//! The way of datagrams to a machine of another host: all flows to one port of it share a stream of the connection to
//! that host's worker.
//!
//! What waits to be sent is bounded; what comes beyond is lost, as networks lose some. A stream that breaks ends its flows:
//! the next datagram of each client begins a new one.

use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};

use bytes::BytesMut;
use http_body_util::BodyExt;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::{batch::with_batch, flow::Answered, table::Key};
use crate::{
    Refusal,
    context::Context,
    machine::{AppState, Target},
    worker::{Errand, Hop, Letter, Said, Voice, Want, letters, speak_freely},
};

/// How many pieces wait to be sent to the worker.
const WAITING: usize = 64;

/// A way to one port of one machine.
pub struct Carrier {
    voice: Voice,
    /// Nothing passes any more.
    is_over: AtomicBool,
    /// Given once it has no flows any more.
    ends: CancellationToken,
    next: AtomicU32,
    flows: Mutex<HashMap<u32, Back>>,
}

/// The way back to a client.
#[derive(Clone)]
pub struct Back {
    /// The public port's socket.
    pub door: Arc<UdpSocket>,
    /// The client, and which of our addresses he sends to.
    pub key: Key,
    /// What is told of answers.
    pub answered: Arc<Answered>,
}

/// A client's flow by such a way. Dropping it ends it.
pub struct Passage {
    carrier: Arc<Carrier>,
    flow: u32,
}

impl Carrier {
    /// The way to a port of a machine: the one there is, or a new one.
    pub fn to(context: &Arc<Context>, hop: &Arc<Hop>, app: &Arc<AppState>, target: &Arc<Target>) -> Arc<Self> {
        let mut known = target.carrier();
        if let Some(carrier) = known.upgrade().filter(|carrier| !carrier.is_over.load(Relaxed)) {
            return carrier;
        }
        let (voice, said) = speak_freely(WAITING);
        let (is_over, ends) = (AtomicBool::new(false), context.retiring.token().child_token());
        let carrier = Arc::new(Self { voice, is_over, ends, next: AtomicU32::new(0), flows: Mutex::default() });
        *known = Arc::downgrade(&carrier);
        let (context, hop, app, target) = (context.clone(), hop.clone(), app.clone(), target.clone());
        let way = carrier.clone();
        context.tasks.clone().spawn(async move {
            let carried = way.ends.run_until_cancelled(way.carry(&context, &hop, &app, &target, said)).await;
            way.is_over.store(true, Relaxed);
            way.flows().clear();
            if let Some(Err(refusal)) = carried {
                let port = target.address.port();
                context.journal.refused(&app, &refusal, &format!("(datagram to port {port})"));
            }
        });
        carrier
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<u32, Back>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn carry(
        &self,
        context: &Context,
        hop: &Hop,
        app: &AppState,
        target: &Target,
        said: Said,
    ) -> Result<(), Refusal> {
        let errand = Errand::of(&app.name, target, false, Want::Datagrams);
        let mut heard = context.dialer.datagrams(hop, &errand, said).await?;
        let mut inbox = BytesMut::new();
        while let Some(Ok(frame)) = heard.frame().await {
            inbox.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            loop {
                match letters::take(&mut inbox) {
                    Ok(Some((flow, Letter::Datagram(datagram)))) => self.bring_back(app, flow, &datagram),
                    Ok(Some((flow, _))) => drop(self.flows().remove(&flow)),
                    Ok(None) => break,
                    Err(bad) => {
                        tracing::debug!("a worker is not understood: {bad}");
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn bring_back(&self, app: &AppState, flow: u32, datagram: &[u8]) {
        let Some(back) = self.flows().get(&flow).cloned() else { return };
        let (client, from) = back.key;
        with_batch(|batch| {
            batch.hold(datagram);
            // What the client's network does not take is lost, as it would be further on.
            let _ = batch.send(back.door.as_raw_fd(), 0..1, Some(client), from);
        });
        app.metrics().data_out.add(datagram.len() as u64);
        back.answered.now();
    }
}

impl Passage {
    /// A flow of a client begins; nothing if there is no room for one more.
    pub fn begin(carrier: Arc<Carrier>, back: Back) -> Option<Self> {
        let flow = carrier.next.fetch_add(1, Relaxed);
        let client: SocketAddr = back.key.0;
        carrier.flows().insert(flow, back);
        let passage = Self { carrier, flow };
        let mut out = BytesMut::new();
        letters::write_begin(&mut out, flow, client);
        passage.carrier.voice.try_say(out.freeze()).then_some(passage)
    }

    /// Whether something still passes.
    pub fn is_good(&self) -> bool {
        !self.carrier.is_over.load(Relaxed)
    }

    /// Sends datagrams.
    pub fn send<'d>(&self, datagrams: impl Iterator<Item = &'d [u8]>) {
        let mut out = BytesMut::new();
        datagrams.for_each(|datagram| letters::write_datagram(&mut out, self.flow, datagram));
        self.carrier.voice.try_say(out.freeze());
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let was_last = {
            let mut flows = self.carrier.flows();
            flows.remove(&self.flow);
            flows.is_empty()
        };
        if was_last {
            self.carrier.is_over.store(true, Relaxed);
            return self.carrier.ends.cancel();
        }
        let mut out = BytesMut::new();
        letters::write_end(&mut out, self.flow);
        self.carrier.voice.try_say(out.freeze());
    }
}
