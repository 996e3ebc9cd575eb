//! The flows of datagrams that an edge elsewhere has to the machines of this host.

use std::{
    collections::HashMap,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::BytesMut;
use http_body_util::BodyExt;
use tokio::{
    net::UdpSocket,
    time::{Instant, interval_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    letters::{self, Begin, Letter},
    tunnel::{Said, Voice, speak_freely},
};
use crate::{
    context::Context,
    machine::Target,
    udp::{HEARS, Slot, is_forged, is_starting, socket_towards, with_batch},
    upstream::Content,
};

/// Takes what an edge says to machines. What they answer is what is returned.
pub fn join(context: &Arc<Context>, heard: Content) -> Said {
    let (voice, said) = speak_freely();
    let flows = Flows { context: context.clone(), voice, open: HashMap::new() };
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
    voice: Voice,
    open: HashMap<u32, Open>,
}

/// A flow. Dropping it ends it.
struct Open {
    socket: Arc<UdpSocket>,
    target: Arc<Target>,
    /// The life of the machine that it began in.
    epoch: u64,
    passed: Arc<Passed>,
    /// How many times it was looked at in silence.
    silent: u32,
    _ends: DropGuard,
    _slot: Slot,
}

/// What has passed of a flow.
#[derive(Default)]
struct Passed {
    /// Something, since it was last looked.
    lately: AtomicBool,
    /// An answer.
    back: AtomicBool,
    /// Its socket gives no more.
    is_broken: AtomicBool,
}

impl Open {
    /// Whether its machine has just come up and has not answered it, so that its program may not listen yet.
    fn is_uncertain(&self, context: &Context) -> bool {
        !self.passed.back.load(Relaxed) && is_starting(context, &self.target)
    }

    fn is_good(&self) -> bool {
        let machine = &self.target.machine;
        machine.is_open() && machine.epoch() == self.epoch && !self.passed.is_broken.load(Relaxed)
    }
}

impl Flows {
    /// Until the edge ends it.
    async fn carry(mut self, mut heard: Content) {
        let mut inbox = BytesMut::new();
        let look = self.context.bounds.flow_one_way;
        let mut sweep = interval_at(Instant::now() + look, look);
        loop {
            let frame = tokio::select! {
                frame = heard.frame() => frame,
                _ = sweep.tick() => {
                    self.sweep();
                    continue;
                }
            };
            let Some(Ok(frame)) = frame else { return };
            inbox.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            loop {
                match letters::take(&mut inbox) {
                    Ok(Some((flow, letter))) => self.obey(flow, letter),
                    Ok(None) => break,
                    Err(bad) => return tracing::debug!("an edge is not understood: {bad}"),
                }
            }
        }
    }

    /// Ends what has been silent. The edge does that, too; this is for what it could not tell.
    fn sweep(&mut self) {
        let bounds = &self.context.bounds;
        let looks =
            |time: std::time::Duration| 1 + time.as_millis().div_ceil(bounds.flow_one_way.as_millis().max(1)) as u32;
        let (one_way, both_ways) = (looks(bounds.flow_one_way), looks(bounds.flow_both_ways));
        let is_over = |open: &mut Open| {
            open.silent = if open.passed.lately.swap(false, Relaxed) { 0 } else { open.silent + 1 };
            let enough = if open.passed.back.load(Relaxed) { both_ways } else { one_way };
            open.silent > enough || !open.is_good()
        };
        let over: Vec<u32> = self.open.iter_mut().filter_map(|(flow, open)| is_over(open).then_some(*flow)).collect();
        over.into_iter().for_each(|flow| self.end(flow));
    }

    fn obey(&mut self, flow: u32, letter: Letter) {
        match letter {
            Letter::Begin(begin) => match self.begin(flow, &begin) {
                Some(open) => drop(self.open.insert(flow, open)),
                None => self.end(flow),
            },
            Letter::Datagram(datagram) => {
                let Some(open) = self.open.get(&flow).filter(|open| open.is_good()) else { return self.end(flow) };
                open.passed.lately.store(true, Relaxed);
                open.target.machine.use_at(Instant::now);
                let sent = with_batch(|batch| {
                    batch.hold(&datagram);
                    // Beside the runtime, which knows nothing of a new socket's room yet.
                    let send = || batch.send(open.socket.as_raw_fd(), 0..1, None, None);
                    match send() {
                        Err(error) if is_refused(&error) && open.is_uncertain(&self.context) => Err(error),
                        // That the machine does not listen was about an earlier one; what it does not take is lost.
                        Err(_) => {
                            let _ = send();
                            Ok(())
                        }
                        Ok(_) => Ok(()),
                    }
                });
                if sent.is_err() {
                    self.end(flow);
                }
            }
            Letter::End => drop(self.open.remove(&flow)),
        }
    }

    /// A flow is over, or never began: the edge is told, so that the client's next datagram begins another one.
    fn end(&mut self, flow: u32) {
        self.open.remove(&flow);
        tell_end(&self.voice, flow);
    }

    fn begin(&self, flow: u32, begin: &Begin) -> Option<Open> {
        let context = &self.context;
        if self.open.len() >= context.bounds.flows_per_port || is_forged(context, begin.client) {
            return None;
        }
        let target = self.target(begin)?;
        let slot = context.flows.take()?;
        let socket = socket_towards(context, target.address, begin.client);
        let socket =
            socket.inspect_err(|error| tracing::warn!("a flow of datagrams cannot be opened: {error}")).ok()?;
        let (socket, passed, ends) = (Arc::new(socket), Arc::<Passed>::default(), CancellationToken::new());
        let answers =
            bring_back(context.clone(), target.clone(), flow, socket.clone(), passed.clone(), self.voice.clone());
        let answers = ends.clone().run_until_cancelled_owned(answers);
        context.tasks.spawn(async move {
            answers.await;
        });
        let epoch = target.machine.epoch();
        Some(Open { socket, target, epoch, passed, silent: 0, _ends: ends.drop_guard(), _slot: slot })
    }

    /// Where the datagrams of a flow go. Nobody waits for a machine that takes none: they would be late.
    fn target(&self, begin: &Begin) -> Option<Arc<Target>> {
        let routing = self.context.routing.load();
        let mut ready = routing.app(begin.app.as_str())?.ready_for_datagrams(begin.port).iter();
        let candidate = ready.find(|candidate| candidate.route.id == begin.machine)?;
        // One that is reached through yet another host is none: datagrams do not go around in circles.
        candidate.target.hop.is_none().then(|| candidate.target.clone())
    }
}

fn tell_end(voice: &Voice, flow: u32) {
    let mut out = BytesMut::new();
    letters::write_end(&mut out, flow);
    voice.try_say(out.freeze());
}

/// Nobody listens there.
fn is_refused(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::ConnectionRefused
}

/// Tells the edge what the machine answers, until the flow ends.
async fn bring_back(
    context: Arc<Context>,
    target: Arc<Target>,
    flow: u32,
    socket: Arc<UdpSocket>,
    passed: Arc<Passed>,
    voice: Voice,
) {
    loop {
        let received = socket.async_io(HEARS, || {
            with_batch(|batch| {
                batch.receive(&*socket)?;
                let mut out = BytesMut::new();
                batch.each(|datagram| letters::write_datagram(&mut out, flow, datagram));
                voice.try_say(out.freeze());
                passed.lately.store(true, Relaxed);
                passed.back.store(true, Relaxed);
                batch.end()
            })
        });
        match received.await {
            Ok(()) => {}
            // The edge still has what its program could not take yet.
            Err(error) if is_refused(&error) && !passed.back.load(Relaxed) && is_starting(&context, &target) => {
                passed.is_broken.store(true, Relaxed);
                return tell_end(&voice, flow);
            }
            // It was about a datagram that is lost.
            Err(error) if is_refused(&error) => {}
            Err(error) => {
                tracing::debug!("a flow of datagrams ended: {error}");
                return passed.is_broken.store(true, Relaxed);
            }
        }
    }
}
