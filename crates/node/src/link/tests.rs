//! The link against guests that follow a script, and against hostile ones.

use std::{collections::BTreeMap, sync::Mutex};

use api::internal::{ExecEvent, ExecInput};
use bytes::{Bytes, BytesMut};
use guest::{GuestChannel, GuestEvent, GuestMessage, GuestState, INITIAL_WINDOW_BYTES, LogSource, MAX_DATA_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Long enough for a busy machine; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A VM whose guest is played by the test.
struct FakeVm {
    connections: mpsc::UnboundedSender<UnixStream>,
    end: CancellationToken,
}

impl Peer for FakeVm {
    async fn connect(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        self.connections.send(theirs).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(ours)
    }

    fn alive(&self) -> bool {
        !self.end.is_cancelled()
    }

    async fn ended(&self) {
        self.end.cancelled().await;
    }
}

/// The test's side of a link.
struct World {
    link: Arc<Link>,
    connections: mpsc::UnboundedReceiver<UnixStream>,
    end: CancellationToken,
    logs: Arc<Mutex<Vec<LogRecord>>>,
}

impl World {
    fn new() -> Self {
        let (sender, connections) = mpsc::unbounded_channel();
        let (end, logs) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
        let taken = logs.clone();
        let taker: LogTaker = Arc::new(move |record| taken.lock().unwrap().push(record));
        let peer = FakeVm { connections: sender, end: end.clone() };
        let link = Arc::new(Link::to(peer, taker, CancellationToken::new()));
        Self { link, connections, end, logs }
    }

    /// The guest's end of the next connection.
    async fn connection(&mut self) -> UnixStream {
        timeout(PATIENCE, self.connections.recv()).await.unwrap().unwrap()
    }

    /// A guest on the next connection, which has said hello.
    async fn guest(&mut self, state: GuestState) -> Guest {
        let mut guest = Guest::on(self.connection().await);
        guest.greet(state).await;
        guest
    }

    async fn reach(&self, reached: impl FnMut(&LinkStatus) -> bool) -> LinkStatus {
        timeout(PATIENCE, self.link.wait(reached)).await.unwrap().unwrap()
    }

    /// Runs a call of the link beside the script.
    fn call<T: Send + 'static, F>(&self, call: impl FnOnce(Arc<Link>) -> F) -> tokio::task::JoinHandle<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        tokio::spawn(call(self.link.clone()))
    }

    /// Starts a command and returns its stream too.
    async fn exec(&self, guest: &mut Guest) -> (ExecSession, u32) {
        let call = self.call(|link| async move { link.exec(ExecRequest::default()).await });
        let HostMessage::ExecStart { stream, .. } = guest.hear().await else { panic!("it did not start a command") };
        (call.await.unwrap().unwrap(), stream)
    }
}

/// A guest's end of a connection.
struct Guest {
    stream: UnixStream,
    channel: GuestChannel,
    input: BytesMut,
}

impl Guest {
    fn on(stream: UnixStream) -> Self {
        Self { stream, channel: GuestChannel::default(), input: BytesMut::new() }
    }

    async fn greet(&mut self, state: GuestState) {
        assert!(matches!(self.event().await, GuestEvent::Open { .. }));
        self.say(GuestMessage::Hello { init_version: "test".into(), state }).await;
    }

    /// The next event; what the channel answers by itself is sent.
    async fn event(&mut self) -> GuestEvent {
        loop {
            let mut out = BytesMut::new();
            let mut input = &self.input[..];
            let event = self.channel.receive(&mut input, &mut out);
            let taken = self.input.len() - input.len();
            let _ = self.input.split_to(taken);
            self.stream.write_all(&out).await.unwrap();
            if let Some(event) = event {
                return event;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
            assert_ne!(read.expect("the host says something").unwrap(), 0, "the host hung up");
        }
    }

    async fn hear(&mut self) -> HostMessage {
        match self.event().await {
            GuestEvent::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }

    /// The next message that is wanted.
    async fn hear_when<T>(&mut self, mut wanted: impl FnMut(HostMessage) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.hear().await) {
                return found;
            }
        }
    }

    async fn say(&mut self, message: GuestMessage) {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        self.stream.write_all(&out).await.unwrap();
    }

    async fn log(&mut self, seq: u64) {
        self.say(GuestMessage::Log(record(seq))).await;
    }
}

fn record(seq: u64) -> LogRecord {
    let bytes = Bytes::from(format!("line {seq}"));
    LogRecord { seq, timestamp_ns: 1, source: LogSource::Stdout, partial: false, bytes }
}

fn running() -> GuestState {
    GuestState::Running { boot_id: "b".into(), pid: 1 }
}

async fn next(session: &mut ExecSession) -> ExecEvent {
    timeout(PATIENCE, session.output.recv()).await.unwrap().expect("a command ends with its end")
}

#[tokio::test]
async fn a_guest_is_booted_asked_stopped_and_powered_off() {
    let mut world = World::new();
    let boot = world.call(|link| async move { link.boot(RunSpec { boot_id: "b".into(), ..RunSpec::default() }).await });
    let mut guest = world.guest(GuestState::Waiting).await;
    assert!(matches!(guest.hear().await, HostMessage::Boot(spec) if spec.boot_id == "b"));
    guest.say(GuestMessage::Started { pid: 7, uptime_ms: 900, init_us: 20 }).await;
    boot.await.unwrap().unwrap();
    let status = world.reach(|status| status.guest == GuestPhase::Running).await;
    assert_eq!(status.start.unwrap().uptime, Duration::from_millis(900));

    let inspect = world.call(|link| async move { link.inspect().await });
    let HostMessage::Inspect { request } = guest.hear().await else { panic!() };
    let listening = vec![guest::ListenSocket { protocol: "tcp".into(), address: [0, 0, 0, 0].into(), port: 80 }];
    guest.say(GuestMessage::Report { request, processes: Vec::new(), listening }).await;
    assert_eq!(inspect.await.unwrap().unwrap().listening[0].port, 80);

    let stop = world.call(|link| async move { link.stop(15, Duration::from_secs(5)).await });
    assert_eq!(guest.hear().await, HostMessage::Stop { signal: 15, timeout_ms: 5000 });
    guest.say(GuestMessage::Exited(Exit { code: 3, ..Exit::default() })).await;
    assert_eq!(stop.await.unwrap().unwrap().code, 3);

    world.link.power_off().await.unwrap();
    assert_eq!(guest.hear().await, HostMessage::PowerOff);
    world.end.cancel();
    drop(guest);
    let last = world.reach(|status| status.session == Session::Gone).await;
    assert_eq!(last.guest, GuestPhase::Exited(Exit { code: 3, ..Exit::default() }));
    assert_eq!(world.link.signal(1).await, Err(LinkError::Gone));
}

#[tokio::test]
async fn a_spec_lost_with_its_session_is_given_again_and_a_running_guest_keeps_its_own() {
    let mut world = World::new();
    let boot = world.call(|link| async move { link.boot(RunSpec::default()).await });
    let mut first = world.guest(GuestState::Waiting).await;
    assert!(matches!(first.hear().await, HostMessage::Boot(_)));
    drop(first);
    let mut second = world.guest(GuestState::Waiting).await;
    assert!(matches!(second.hear().await, HostMessage::Boot(_)));
    drop(second);
    let _third = world.guest(running()).await;
    boot.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_boot_that_fails_says_at_which_step() {
    let mut world = World::new();
    let boot = world.call(|link| async move { link.boot(RunSpec::default()).await });
    let mut guest = world.guest(GuestState::Waiting).await;
    guest.hear().await;
    let failure = BootFailure { step: "user".into(), reason: "there is no user web".into(), exit_code: 1 };
    guest.say(GuestMessage::BootFailed(failure)).await;
    assert_eq!(boot.await.unwrap().unwrap_err().to_string(), "user failed: there is no user web");
}

#[tokio::test]
async fn log_records_are_taken_once_and_acknowledged() {
    let mut world = World::new();
    let mut guest = world.guest(running()).await;
    for seq in 1..=3 {
        guest.log(seq).await;
    }
    guest.hear_when(|message| (message == HostMessage::AckLogs { seq: 3 }).then_some(())).await;
    drop(guest);
    let mut guest = world.guest(running()).await;
    for seq in 2..=4 {
        guest.log(seq).await;
    }
    guest.hear_when(|message| (message == HostMessage::AckLogs { seq: 4 }).then_some(())).await;
    let taken: Vec<u64> = world.logs.lock().unwrap().iter().map(|record| record.seq).collect();
    assert_eq!(taken, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_command_has_its_streams_its_end_and_its_flow_control() {
    let mut world = World::new();
    let mut guest = world.guest(running()).await;
    let (mut session, stream) = world.exec(&mut guest).await;

    let window = INITIAL_WINDOW_BYTES as usize;
    let input = session.input.clone();
    let writer = tokio::spawn(async move { input.send(ExecInput::Stdin(vec![7; window + 1].into())).await });
    let mut heard = 0;
    while heard < window {
        heard += guest.hear_when(|message| stdin_length(&message)).await;
    }
    guest.say(GuestMessage::ExecOut { stream, bytes: Bytes::from_static(b"out") }).await;
    guest.say(GuestMessage::ExecErr { stream, bytes: Bytes::from_static(b"err") }).await;
    let mut events = [next(&mut session).await, next(&mut session).await];
    events.sort_by_key(|event| matches!(event, ExecEvent::Stderr(_)));
    assert_eq!(events, [ExecEvent::Stdout("out".into()), ExecEvent::Stderr("err".into())]);
    // The guest has taken a whole window and gets the last byte only for a credit.
    guest.say(GuestMessage::ExecCredit { stream, bytes: u32::MAX }).await;
    assert_eq!(guest.hear_when(|message| stdin_length(&message)).await, 1);
    writer.await.unwrap().unwrap();

    session.input.send(ExecInput::Eof).await.unwrap();
    guest.hear_when(|message| (message == HostMessage::ExecEof { stream }).then_some(())).await;
    guest.say(GuestMessage::ExecExit { stream, code: 4, signal: 0 }).await;
    assert_eq!(next(&mut session).await, ExecEvent::Exit { code: 4, signal: 0 });
    assert!(session.output.recv().await.is_none());
}

fn stdin_length(message: &HostMessage) -> Option<usize> {
    match message {
        HostMessage::ExecStdin { bytes, .. } => Some(bytes.len()),
        _ => None,
    }
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_is_killed_and_one_whose_session_breaks_is_lost() {
    let mut world = World::new();
    let mut guest = world.guest(running()).await;
    let (session, stream) = world.exec(&mut guest).await;
    drop(session);
    guest.hear_when(|message| (message == HostMessage::ExecKill { stream }).then_some(())).await;
    let (mut session, _) = world.exec(&mut guest).await;
    drop(guest);
    assert!(matches!(next(&mut session).await, ExecEvent::Failed(_)));
}

#[tokio::test]
async fn a_slow_reader_stalls_its_own_command_only() {
    let mut world = World::new();
    let mut guest = world.guest(running()).await;
    let (mut slow, slow_stream) = world.exec(&mut guest).await;
    let (mut quick, quick_stream) = world.exec(&mut guest).await;
    let piece = Bytes::from(vec![b'x'; MAX_DATA_BYTES]);
    for _ in 0..INITIAL_WINDOW_BYTES as usize / MAX_DATA_BYTES {
        guest.say(GuestMessage::ExecOut { stream: slow_stream, bytes: piece.clone() }).await;
    }
    guest.say(GuestMessage::ExecOut { stream: quick_stream, bytes: Bytes::from_static(b"here") }).await;
    assert_eq!(next(&mut quick).await, ExecEvent::Stdout("here".into()));

    let mut read = 0;
    while read < INITIAL_WINDOW_BYTES as usize {
        let ExecEvent::Stdout(bytes) = next(&mut slow).await else { panic!() };
        read += bytes.len();
    }
    let mut credited = 0;
    while credited < INITIAL_WINDOW_BYTES {
        credited += guest.hear_when(|message| credit(&message, slow_stream)).await;
    }
    assert_eq!(credited, INITIAL_WINDOW_BYTES);
}

fn credit(message: &HostMessage, of: u32) -> Option<u32> {
    match message {
        HostMessage::ExecCredit { stream, bytes } if *stream == of => Some(*bytes),
        _ => None,
    }
}

#[tokio::test]
async fn a_guest_of_another_release_is_told_apart() {
    let mut world = World::new();
    let mut guest = Guest::on(world.connection().await);
    guest.channel = GuestChannel::with_versions(90..=99);
    assert!(matches!(guest.event().await, GuestEvent::Incompatible { .. }));
    let status = world.reach(|status| status.session != Session::Connecting).await;
    assert!(matches!(status.session, Session::Incompatible(why) if why.contains("versions 90 to 99")));
    assert!(matches!(world.link.inspect().await, Err(LinkError::Incompatible(_))));
}

#[tokio::test]
async fn a_guest_that_sends_more_than_it_may_loses_that_command_only() {
    let mut world = World::new();
    let mut guest = world.guest(running()).await;
    let (mut session, stream) = world.exec(&mut guest).await;
    let piece = Bytes::from(vec![b'x'; MAX_DATA_BYTES]);
    for _ in 0..100 {
        guest.say(GuestMessage::ExecErr { stream, bytes: piece.clone() }).await;
    }
    guest.hear_when(|message| (message == HostMessage::ExecKill { stream }).then_some(())).await;
    let mut taken = 0;
    let end = loop {
        match next(&mut session).await {
            ExecEvent::Stderr(bytes) => taken += bytes.len(),
            end => break end,
        }
    };
    assert_eq!(end, ExecEvent::Failed("the guest sent more than it may".into()));
    assert!(taken < 10 * MAX_DATA_BYTES, "{taken} bytes were held for a command that nobody read");
    guest.say(GuestMessage::Exited(Exit::default())).await;
    world.reach(|status| matches!(status.guest, GuestPhase::Exited(_))).await;
}

#[tokio::test]
async fn garbage_endless_frames_and_unknown_messages_change_nothing() {
    let mut world = World::new();
    let mut guest = world.guest(running()).await;
    let noise: Vec<u8> = (0..4_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    guest.stream.write_all(&noise).await.unwrap();
    guest.stream.write_all(&vec![b'A'; 8_000_000]).await.unwrap();
    guest.stream.write_all(&[0xC0]).await.unwrap();
    for stream in 0..10_000 {
        guest.say(GuestMessage::ExecOut { stream, bytes: Bytes::from_static(b"whose?") }).await;
        guest.say(GuestMessage::ExecExit { stream, code: 0, signal: 0 }).await;
        guest.say(GuestMessage::Started { pid: stream, uptime_ms: 1, init_us: 1 }).await;
        guest.say(GuestMessage::Hello { init_version: String::new(), state: GuestState::Waiting }).await;
        guest.say(GuestMessage::Report { request: 9, processes: Vec::new(), listening: Vec::new() }).await;
    }
    let status = world.link.status().borrow().clone();
    assert_eq!((status.session, status.guest), (Session::Open(1), GuestPhase::Running));
    let (mut session, stream) = world.exec(&mut guest).await;
    guest.say(GuestMessage::ExecFailed { stream, reason: "no such program".into() }).await;
    assert_eq!(next(&mut session).await, ExecEvent::Failed("no such program".into()));
}

#[tokio::test]
async fn a_guest_that_never_reads_neither_blocks_nor_fills_its_host() {
    let mut world = World::new();
    let mut guest = world.guest(running()).await;
    // Acknowledgements and killed commands would pile up, were they not bounded.
    for seq in 1..=50_000 {
        guest.log(seq).await;
    }
    let last = || world.logs.lock().unwrap().last().map(|record| record.seq);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while last() != Some(50_000) {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    let callers: Vec<_> = (0..500)
        .map(|_| world.call(|link| async move { timeout(Duration::from_millis(10), link.exec(request())).await }))
        .collect();
    for caller in callers {
        let _ = caller.await.unwrap();
    }
    // What was sent, to the last byte, is no more than the bounds let through.
    let link = Arc::into_inner(world.link).expect("nobody else holds it");
    timeout(PATIENCE, link.close()).await.expect("it ends whatever the guest does");
    let mut sent = 0;
    let mut buffer = vec![0; 65536];
    while let Ok(count @ 1..) = guest.stream.read(&mut buffer).await {
        sent += count;
    }
    assert!(sent < 8 * 1024 * 1024, "{sent} bytes were sent to a guest that reads nothing");
}

/// A request as large as they come.
fn request() -> ExecRequest {
    let env = BTreeMap::from([("FILL".to_owned(), "x".repeat(100_000))]);
    ExecRequest { command: vec!["true".into()], env, ..ExecRequest::default() }
}

#[tokio::test]
async fn no_more_commands_run_at_a_time_than_a_guest_takes() {
    let mut world = World::new();
    let mut guest = world.guest(running()).await;
    let mut sessions = Vec::new();
    for _ in 0..guest::MAX_EXECS {
        sessions.push(world.exec(&mut guest).await);
    }
    let one_more = world.link.exec(ExecRequest::default()).await;
    assert_eq!(one_more.unwrap_err(), LinkError::TooMany(guest::MAX_EXECS));
    // One that is killed makes room at once, one that ends when its end is told.
    let (killed, stream) = sessions.pop().unwrap();
    drop(killed);
    guest.hear_when(|message| (message == HostMessage::ExecKill { stream }).then_some(())).await;
    sessions.push(world.exec(&mut guest).await);
    guest.say(GuestMessage::ExecExit { stream: sessions[0].1, code: 0, signal: 0 }).await;
    assert_eq!(next(&mut sessions[0].0).await, ExecEvent::Exit { code: 0, signal: 0 });
    world.exec(&mut guest).await;
}
