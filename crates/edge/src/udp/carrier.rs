//! The way of datagrams to the machines of another host: all flows share one stream of the connection to that host's
//! worker, so that they take no places of requests.
//!
//! What waits to be sent is bounded; what comes beyond is lost, as networks lose some. That a flow has ended is told in
//! any case, since the worker keeps a socket for it. A stream that breaks ends its flows: the next datagram of each client
//! begins a new one.

use std::{
    collections::HashMap,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
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
    worker::{
        Hop, Letter, Said, Voice,
        letters::{self, Begin},
        speak_freely,
    },
};

/// A way to one host.
pub struct Carrier {
    voice: Voice,
    /// Nothing passes any more.
    is_over: AtomicBool,
    /// Given once it has no flows any more.
    ends: CancellationToken,
    next: AtomicU32,
    flows: Mutex<HashMap<u32, Back>>,
    /// Flows that have ended, which the worker has not been told.
    owed: Mutex<Vec<u32>>,
}

/// The way back to a client.
#[derive(Clone)]
pub struct Back {
    /// The public port's socket.
    pub door: Arc<UdpSocket>,
    /// The client, and which of our addresses he sends to.
    pub key: Key,
    /// The app.
    pub app: Arc<AppState>,
    /// The machine's port.
    pub target: Arc<Target>,
    /// What is known of answers.
    pub answered: Arc<Answered>,
}

/// A client's flow by such a way. Dropping it ends it.
pub struct Passage {
    carrier: Arc<Carrier>,
    flow: u32,
}

impl Carrier {
    /// The way to a host: the one there is, or a new one.
    fn to(context: &Arc<Context>, hop: &Arc<Hop>) -> Arc<Self> {
        let mut known = hop.carrier.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(carrier) = known.upgrade().filter(|carrier| !carrier.is_over.load(SeqCst)) {
            return carrier;
        }
        let (voice, said) = speak_freely();
        let carrier = Arc::new(Self {
            voice,
            is_over: AtomicBool::new(false),
            ends: context.retiring.token().child_token(),
            next: AtomicU32::new(0),
            flows: Mutex::default(),
            owed: Mutex::default(),
        });
        *known = Arc::downgrade(&carrier);
        let (context, hop, way) = (context.clone(), hop.clone(), carrier.clone());
        context.tasks.clone().spawn(async move {
            let carried = way.ends.run_until_cancelled(way.carry(&context, &hop, said)).await;
            let flows: Vec<Back> = {
                let mut flows = way.flows();
                way.is_over.store(true, SeqCst);
                flows.drain().map(|(_, back)| back).collect()
            };
            flows.iter().for_each(|back| back.answered.end());
            if let Some(Err(reason)) = carried {
                flows.iter().for_each(|back| back.is_unreachable(&context, &reason));
            }
        });
        carrier
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<u32, Back>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails if the worker cannot be reached. That it ends the way later is no failure: another process may have taken over.
    async fn carry(&self, context: &Context, hop: &Hop, said: Said) -> Result<(), String> {
        let mut heard = context.dialer.datagrams(hop, said).await?;
        let mut inbox = BytesMut::new();
        while let Some(Ok(frame)) = heard.frame().await {
            inbox.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            loop {
                match letters::take(&mut inbox) {
                    Ok(Some((flow, Letter::Datagram(datagram)))) => self.bring_back(flow, &datagram),
                    // The worker does not have it, or no longer.
                    Ok(Some((flow, _))) => self.flows().remove(&flow).iter().for_each(|back| back.answered.end()),
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

    fn bring_back(&self, flow: u32, datagram: &[u8]) {
        let Some(back) = self.flows().get(&flow).cloned() else { return };
        let (client, from) = back.key;
        with_batch(|batch| {
            batch.hold(datagram);
            // What the client's network does not take is lost, as it would be further on.
            let _ = batch.send(back.door.as_raw_fd(), 0..1, Some(client), from);
        });
        back.app.metrics().data_out.add(datagram.len() as u64);
        back.answered.now();
    }

    /// Says letters, behind what is owed. Tells whether there was room for them.
    fn say(&self, letters: BytesMut) -> bool {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        if owed.is_empty() {
            return self.voice.try_say(letters.freeze());
        }
        let mut out = BytesMut::new();
        owed.iter().for_each(|flow| letters::write_end(&mut out, *flow));
        out.extend_from_slice(&letters);
        let is_said = self.voice.try_say(out.freeze());
        if is_said {
            owed.clear();
        }
        is_said
    }
}

impl Back {
    /// There is no way to its machine.
    fn is_unreachable(&self, context: &Context, reason: &str) {
        self.target.failed(&[]);
        let (machine, port) = (self.target.machine.id.clone(), self.target.address.port());
        let refusal = Refusal::Unreachable { machine, port, reason: reason.to_owned() };
        context.journal.refused(&self.app, &refusal, &format!("(datagram to port {port})"));
    }
}

impl Passage {
    /// A flow of a client begins; nothing if there is no room for one more.
    pub fn begin(context: &Arc<Context>, hop: &Arc<Hop>, back: Back) -> Option<Self> {
        let carrier = Carrier::to(context, hop);
        let flow = carrier.next.fetch_add(1, Relaxed);
        let target = &back.target;
        let (machine, app) = (target.machine.id.clone(), back.app.name.clone());
        let begin = Begin { client: back.key.0, port: target.address.port(), machine, app };
        let mut out = BytesMut::new();
        letters::write_begin(&mut out, flow, &begin);
        {
            let mut flows = carrier.flows();
            // Looked at under the lock under which the last one ends it.
            if carrier.is_over.load(SeqCst) {
                return None;
            }
            flows.insert(flow, back);
        }
        let passage = Self { carrier, flow };
        passage.carrier.say(out).then_some(passage)
    }

    /// Sends datagrams.
    pub fn send<'d>(&self, datagrams: impl Iterator<Item = &'d [u8]>) {
        let mut out = BytesMut::new();
        datagrams.for_each(|datagram| letters::write_datagram(&mut out, self.flow, datagram));
        self.carrier.say(out);
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let was_last = {
            let mut flows = self.carrier.flows();
            flows.remove(&self.flow);
            let was_last = flows.is_empty();
            if was_last {
                self.carrier.is_over.store(true, SeqCst);
            }
            was_last
        };
        if was_last {
            return self.carrier.ends.cancel();
        }
        let mut out = BytesMut::new();
        letters::write_end(&mut out, self.flow);
        if !self.carrier.say(out) {
            self.carrier.owed.lock().unwrap_or_else(PoisonError::into_inner).push(self.flow);
        }
    }
}
