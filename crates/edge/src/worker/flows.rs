//! The flows of datagrams that an edge elsewhere has to one port of one machine of this host.

use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    io::Interest,
    net::UdpSocket,
    time::{Instant, interval_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    letters::{self, Letter},
    tunnel::{Said, Voice, speak_freely},
};
use crate::{
    context::Context,
    machine::Target,
    udp::{Slot, socket_towards, with_batch},
};

/// How many pieces wait to be sent to the edge; what comes beyond is lost, as networks lose some.
const WAITING: usize = 16;

/// Takes what an edge says to a port of a machine. What the machine answers is what is returned.
pub fn join(context: &Arc<Context>, target: Arc<Target>, heard: Incoming) -> Said {
    let (voice, said) = speak_freely(WAITING);
    let epoch = target.machine.epoch();
    let flows = Flows { context: context.clone(), target, epoch, voice, open: HashMap::new() };
    let (aborting, retiring) = (context.aborting.token().clone(), context.retiring.token().clone());
    context.tasks.spawn(async move {
        tokio::select! {
            () = flows.carry(heard) => {}
            () = aborting.cancelled() => {}
            () = retiring.cancelled() => {}
        }
    });
    said
}

struct Flows {
    context: Arc<Context>,
    target: Arc<Target>,
    /// The life of the machine that they began in.
    epoch: u64,
    voice: Voice,
    open: HashMap<u32, Open>,
}

/// A flow. Dropping it ends it.
struct Open {
    socket: Arc<UdpSocket>,
    /// Something has passed since it was last looked.
    is_used: Arc<AtomicBool>,
    _ends: DropGuard,
    _slot: Slot,
}

impl Flows {
    /// Until the edge ends it, or the machine is another one.
    async fn carry(mut self, mut heard: Incoming) {
        let mut inbox = BytesMut::new();
        // The edge ends what is silent; this is for what it could not tell.
        let silence = self.context.bounds.flow_both_ways;
        let mut sweep = interval_at(Instant::now() + silence, silence);
        loop {
            let frame = tokio::select! {
                frame = heard.frame() => frame,
                _ = sweep.tick() => {
                    self.open.retain(|_, open| open.is_used.swap(false, Relaxed));
                    continue;
                }
            };
            let Some(Ok(frame)) = frame else { return };
            inbox.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            let machine = &self.target.machine;
            if !machine.is_open() || machine.epoch() != self.epoch {
                return;
            }
            machine.use_at(Instant::now);
            loop {
                match letters::take(&mut inbox) {
                    Ok(Some((flow, letter))) => self.obey(flow, letter),
                    Ok(None) => break,
                    Err(bad) => return tracing::debug!("an edge is not understood: {bad}"),
                }
            }
        }
    }

    fn obey(&mut self, flow: u32, letter: Letter) {
        match letter {
            Letter::Begin(client) => {
                if let Some(open) = self.begin(flow, client) {
                    self.open.insert(flow, open);
                }
            }
            Letter::Datagram(datagram) => {
                if let Some(open) = self.open.get(&flow) {
                    open.is_used.store(true, Relaxed);
                    with_batch(|batch| {
                        batch.hold(&datagram);
                        // Beside the runtime, which knows nothing of a new socket's room yet. That the machine does not
                        // listen was about an earlier one; what it does not take is lost.
                        let send = || batch.send(open.socket.as_raw_fd(), 0..1, None, None);
                        let _ = send().or_else(|_| send());
                    });
                }
            }
            Letter::End => drop(self.open.remove(&flow)),
        }
    }

    fn begin(&self, flow: u32, client: SocketAddr) -> Option<Open> {
        let slot = self.context.flows.take()?;
        let socket = socket_towards(&self.context, self.target.address, client);
        let socket =
            socket.inspect_err(|error| tracing::warn!("a flow of datagrams cannot be opened: {error}")).ok()?;
        let (socket, is_used, ends) = (Arc::new(socket), Arc::new(AtomicBool::new(true)), CancellationToken::new());
        let answers = bring_back(flow, socket.clone(), is_used.clone(), self.voice.clone(), self.target.clone());
        let answers = ends.clone().run_until_cancelled_owned(answers);
        self.context.tasks.spawn(async move {
            answers.await;
        });
        Some(Open { socket, is_used, _ends: ends.drop_guard(), _slot: slot })
    }
}

/// Tells the edge what the machine answers, until the flow ends.
async fn bring_back(flow: u32, socket: Arc<UdpSocket>, is_used: Arc<AtomicBool>, voice: Voice, target: Arc<Target>) {
    loop {
        let passed = socket.async_io(Interest::READABLE, || {
            with_batch(|batch| {
                batch.receive(&*socket)?;
                let mut out = BytesMut::new();
                batch.each(|datagram| letters::write_datagram(&mut out, flow, datagram));
                voice.try_say(out.freeze());
                is_used.store(true, Relaxed);
                target.machine.use_at(Instant::now);
                batch.end()
            })
        });
        match passed.await {
            Ok(()) => {}
            // It was about a datagram that is lost.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => return tracing::debug!("a flow of datagrams ended: {error}"),
        }
    }
}
