//! The channel under cuts, garbage and other releases.

use bytes::{Bytes, BytesMut};
use guest::{
    BootFailure, ExecSpec, Exit, GuestChannel, GuestEvent, GuestMessage, GuestState, HostChannel, HostEvent,
    HostMessage, LogRecord, LogSource, RunSpec, TerminalSize,
    frame::{self, Decoder, Frame, kind},
};
use proptest::prelude::*;

const MAX: usize = 1000;
/// The version that two ends of this release speak.
const NEWEST: u16 = *guest::channel::VERSIONS.end();

/// Bytes that are rich in those that framing treats specially.
fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    let byte = prop_oneof![Just(0xC0u8), Just(0xDB), Just(0xDC), Just(0xDD), any::<u8>()];
    prop::collection::vec(byte, 0..max).prop_map(Bytes::from)
}

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let frame = (any::<u8>(), any::<u32>(), bytes(60));
    prop::collection::vec(frame.prop_map(|(kind, stream, payload)| Frame { kind, stream, payload }), 0..8)
}

fn host_message() -> impl Strategy<Value = HostMessage> {
    prop_oneof![
        any::<String>().prop_map(|user| HostMessage::Boot(Box::new(RunSpec { user, ..RunSpec::default() }))),
        any::<i32>().prop_map(|signal| HostMessage::Signal { signal }),
        any::<u64>().prop_map(|timeout_ms| HostMessage::Stop { signal: 15, timeout_ms }),
        (any::<u32>(), any::<Vec<String>>()).prop_map(|(stream, argv)| HostMessage::ExecStart {
            stream,
            spec: ExecSpec { argv, tty: Some(TerminalSize { columns: 80, rows: 24 }), ..ExecSpec::default() }
        }),
        (any::<u32>(), bytes(200)).prop_map(|(stream, bytes)| HostMessage::ExecStdin { stream, bytes }),
        any::<u64>().prop_map(|seq| HostMessage::AckLogs { seq }),
        Just(HostMessage::PowerOff),
    ]
}

fn guest_message() -> impl Strategy<Value = GuestMessage> {
    let source = prop::sample::select(vec![LogSource::Stdout, LogSource::Stderr, LogSource::Init]);
    let log = (any::<u64>(), any::<u64>(), source, any::<bool>(), bytes(200));
    let exit = (any::<i32>(), any::<bool>()).prop_map(|(code, oom_killed)| Exit { code, signal: 9, oom_killed });
    prop_oneof![
        any::<String>().prop_map(|boot_id| GuestMessage::Hello {
            init_version: "1".into(),
            state: GuestState::Running { boot_id, pid: 7 }
        }),
        any::<String>().prop_map(|reason| GuestMessage::BootFailed(BootFailure {
            step: "root".into(),
            reason,
            exit_code: 1
        })),
        log.prop_map(|(seq, timestamp_ns, source, partial, bytes)| GuestMessage::Log(LogRecord {
            seq,
            timestamp_ns,
            source,
            partial,
            bytes
        })),
        exit.prop_map(GuestMessage::Exited),
        any::<u64>().prop_map(|for_ms| GuestMessage::Busy { for_ms }),
        (any::<u32>(), bytes(200)).prop_map(|(stream, bytes)| GuestMessage::ExecOut { stream, bytes }),
        (any::<u32>(), bytes(200)).prop_map(|(stream, bytes)| GuestMessage::ExecErr { stream, bytes }),
        any::<u32>().prop_map(|stream| GuestMessage::ExecExit { stream, code: 1, signal: 0 }),
    ]
}

fn encode_frames(frames: &[Frame]) -> BytesMut {
    let mut out = BytesMut::new();
    frames.iter().for_each(|frame| frame::encode(frame.kind, frame.stream, &[&frame.payload], &mut out));
    out
}

/// All frames of a stream that arrives in pieces of the given sizes, over and over.
fn decode_in_pieces(stream: &[u8], sizes: &[usize]) -> Vec<Frame> {
    let mut decoder = Decoder::new(MAX);
    let (mut frames, mut rest, mut sizes) = (Vec::new(), stream, sizes.iter().cycle());
    while !rest.is_empty() {
        let (mut piece, tail) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        frames.extend(std::iter::from_fn(|| decoder.decode(&mut piece)));
        assert!(piece.is_empty());
        rest = tail;
    }
    frames
}

fn greeting(host: &HostChannel) -> BytesMut {
    let mut out = BytesMut::new();
    host.greet(&mut out);
    out
}

fn encode_all<'a, T: 'a>(messages: &'a [T], encode: impl Fn(&'a T, &mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    messages.iter().for_each(|message| encode(message, &mut out));
    out
}

fn heard_by_guest(guest: &mut GuestChannel, mut input: &[u8], out: &mut BytesMut) -> Vec<GuestEvent> {
    std::iter::from_fn(|| guest.receive(&mut input, out)).collect()
}

fn heard_by_host(host: &mut HostChannel, mut input: &[u8]) -> Vec<HostEvent> {
    std::iter::from_fn(|| host.receive(&mut input)).collect()
}

fn host_messages(events: Vec<GuestEvent>) -> Vec<HostMessage> {
    let message = |event| match event {
        GuestEvent::Message(message) => message,
        other => panic!("{other:?}"),
    };
    events.into_iter().map(message).collect()
}

fn guest_messages(events: Vec<HostEvent>) -> Vec<GuestMessage> {
    let message = |event| match event {
        HostEvent::Message(message) => message,
        other => panic!("{other:?}"),
    };
    events.into_iter().map(message).collect()
}

/// Two ends in an open session.
fn session(nonce: u8) -> (HostChannel, GuestChannel) {
    let (mut host, mut guest, mut out) = (HostChannel::new([nonce; 16]), GuestChannel::default(), BytesMut::new());
    let opened = heard_by_guest(&mut guest, &greeting(&host), &mut out);
    assert!(matches!(opened[..], [GuestEvent::Open { version: NEWEST }]));
    assert!(matches!(heard_by_host(&mut host, &out)[..], [HostEvent::Open { version: NEWEST }]));
    (host, guest)
}

proptest! {
    #[test]
    fn frames_do_not_depend_on_how_the_stream_is_cut(
        frames in frames(),
        sizes in prop::collection::vec(1usize..40, 1..6),
    ) {
        prop_assert_eq!(decode_in_pieces(&encode_frames(&frames), &sizes), frames);
    }

    #[test]
    fn a_frame_that_is_too_long_takes_nothing_else_with_it(frames in frames(), excess in 1usize..5000) {
        let mut stream = BytesMut::new();
        frame::encode(9, 9, &[&vec![0xC0; MAX + excess]], &mut stream);
        stream.extend_from_slice(&encode_frames(&frames));
        prop_assert_eq!(decode_in_pieces(&stream, &[7]), frames);
    }

    #[test]
    fn messages_survive_the_way(
        to_guest in prop::collection::vec(host_message(), 0..6),
        to_host in prop::collection::vec(guest_message(), 0..6),
    ) {
        let (mut host, mut guest) = session(1);
        let stream = encode_all(&to_guest, HostMessage::encode);
        prop_assert_eq!(host_messages(heard_by_guest(&mut guest, &stream, &mut BytesMut::new())), to_guest);
        let stream = encode_all(&to_host, GuestMessage::encode);
        prop_assert_eq!(guest_messages(heard_by_host(&mut host, &stream)), to_host);
    }

    #[test]
    fn a_new_host_process_takes_over_after_any_cut(
        before in prop::collection::vec(host_message(), 1..5),
        after in prop::collection::vec(host_message(), 0..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let (_, mut guest) = session(1);
        let stream = encode_all(&before, HostMessage::encode);
        let cut = cut.index(stream.len());
        host_messages(heard_by_guest(&mut guest, &stream[..cut], &mut BytesMut::new()));

        let mut host = HostChannel::new([2; 16]);
        let mut stream = greeting(&host);
        stream.extend_from_slice(&encode_all(&after, HostMessage::encode));
        // Of what was on its way to the dead process, half a frame has left the guest.
        let mut out = BytesMut::from(&b"the rest of it"[..]);
        let mut events = heard_by_guest(&mut guest, &stream, &mut out);
        // The last frame may have lacked nothing but its end, which the greeting brings.
        let open = events.iter().position(|event| matches!(event, GuestEvent::Open { version: NEWEST }));
        prop_assert!(open.is_some_and(|open| open <= 1));
        events.drain(..=open.unwrap());
        prop_assert_eq!(host_messages(events), after);
        let opened = heard_by_host(&mut host, &out);
        assert!(matches!(opened[..], [HostEvent::Open { version: NEWEST }]));
    }

    #[test]
    fn the_tail_of_a_dead_session_is_not_heard(
        tail in prop::collection::vec(guest_message(), 1..5),
        cuts in any::<[prop::sample::Index; 2]>(),
        garbage in bytes(100),
    ) {
        let mut guest = GuestChannel::default();
        let mut host = HostChannel::new([3; 16]);
        let mut answer = BytesMut::new();
        heard_by_guest(&mut guest, &greeting(&host), &mut answer);
        let old = encode_all(&tail, GuestMessage::encode);
        let [from, to] = cuts.map(|cut| cut.index(old.len()));
        let mut stream = garbage.to_vec();
        stream.extend_from_slice(&old[from.min(to)..from.max(to)]);
        stream.extend_from_slice(&answer);
        let heard = heard_by_host(&mut host, &stream);
        assert!(matches!(heard[..], [HostEvent::Open { version: NEWEST }]));
    }

    #[test]
    fn a_guest_finds_its_host_behind_any_garbage(garbage in bytes(300)) {
        let (mut guest, mut out) = (GuestChannel::default(), BytesMut::new());
        let mut stream = garbage.to_vec();
        stream.extend_from_slice(&greeting(&HostChannel::new([4; 16])));
        let heard = heard_by_guest(&mut guest, &stream, &mut out);
        assert!(matches!(heard[..], [GuestEvent::Open { version: NEWEST }]));
    }

    #[test]
    fn garbage_never_makes_an_end_panic(garbage in bytes(500)) {
        let (mut host, mut guest) = session(5);
        heard_by_guest(&mut guest, &garbage, &mut BytesMut::new());
        heard_by_host(&mut host, &garbage);
    }

    #[test]
    fn releases_agree_on_the_newest_version_that_both_speak(a in 1u16..6, b in 0u16..4, c in 1u16..6, d in 0u16..4) {
        let (ours, theirs) = (a..=a + b, c..=c + d);
        let mut host = HostChannel::with_versions([6; 16], ours.clone());
        let mut guest = GuestChannel::with_versions(theirs.clone());
        let mut out = BytesMut::new();
        let heard = heard_by_guest(&mut guest, &greeting(&host), &mut out);
        let answered = heard_by_host(&mut host, &out);
        match ours.clone().rev().find(|version| theirs.contains(version)) {
            Some(newest) => {
                assert!(matches!(heard[..], [GuestEvent::Open { version }] if version == newest));
                assert!(matches!(answered[..], [HostEvent::Open { version }] if version == newest));
            }
            None => {
                assert!(matches!(&heard[..], [GuestEvent::Incompatible { versions }] if *versions == ours));
                assert!(matches!(&answered[..], [HostEvent::Incompatible { versions }] if *versions == theirs));
                prop_assert!(!guest.is_open());
            }
        }
    }
}

#[test]
fn nothing_is_heard_before_a_session_is_open() {
    let (mut host, mut guest) = (HostChannel::new([7; 16]), GuestChannel::default());
    let to_guest = encode_all(&[HostMessage::PowerOff], HostMessage::encode);
    let to_host = encode_all(&[GuestMessage::LogsDropped { count: 1 }], GuestMessage::encode);
    assert!(heard_by_guest(&mut guest, &to_guest, &mut BytesMut::new()).is_empty());
    assert!(heard_by_host(&mut host, &to_host).is_empty());

    let (_, mut guest) = session(8);
    guest.detach();
    assert!(heard_by_guest(&mut guest, &to_guest, &mut BytesMut::new()).is_empty());
}

#[test]
fn a_greeting_may_be_repeated_and_an_answer_to_another_is_not_ours() {
    let (mut host, mut guest, mut out) = (HostChannel::new([9; 16]), GuestChannel::default(), BytesMut::new());
    let twice = [greeting(&host), greeting(&host)].concat();
    assert_eq!(heard_by_guest(&mut guest, &twice, &mut out).len(), 1);
    assert_eq!(heard_by_host(&mut HostChannel::new([10; 16]), &out).len(), 0);
    assert_eq!(heard_by_host(&mut host, &out).len(), 1);
}

#[test]
fn what_a_later_release_adds_is_ignored() {
    let (mut host, mut guest) = session(11);
    let mut stream = BytesMut::new();
    frame::encode(200, 3, &[b"a kind of frame"], &mut stream);
    for json in [
        r#"{"type":"dance","steps":[1,2]}"#,
        r#"{"type":"stop","signal":15,"timeout_ms":9,"why":"a field"}"#,
        r#"{"type":"exited","code":3,"core_dump":{"at":"/core"}}"#,
        r#"{"type":"hello","init_version":"9","state":{"state":"hibernating","since":4}}"#,
    ] {
        frame::encode(kind::CONTROL, 0, &[json.as_bytes()], &mut stream);
    }
    let known = |events: Vec<GuestEvent>| -> Vec<HostMessage> {
        events
            .into_iter()
            .filter_map(|event| match event {
                GuestEvent::Message(message) => Some(message),
                _ => None,
            })
            .collect()
    };
    let heard = known(heard_by_guest(&mut guest, &stream, &mut BytesMut::new()));
    assert_eq!(heard, [HostMessage::Stop { signal: 15, timeout_ms: 9 }]);
    let heard = heard_by_host(&mut host, &stream);
    let [HostEvent::Message(exited), HostEvent::Message(hello)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(*exited, GuestMessage::Exited(Exit { code: 3, signal: 0, oom_killed: false }));
    assert_eq!(*hello, GuestMessage::Hello { init_version: "9".into(), state: GuestState::Unknown });
}

#[test]
fn a_known_message_that_cannot_be_read_is_reported_and_dropped() {
    let (mut host, _) = session(12);
    let mut stream = BytesMut::new();
    frame::encode(kind::CONTROL, 0, &[b"{\"type\":"], &mut stream);
    frame::encode(kind::LOG, 0, &[b"short"], &mut stream);
    frame::encode(kind::STDOUT, 1, &[&vec![0; guest::MAX_DATA_BYTES + 1]], &mut stream);
    GuestMessage::LogsDropped { count: 2 }.encode(&mut stream);
    let heard = heard_by_host(&mut host, &stream);
    let [HostEvent::Malformed(_), HostEvent::Malformed(_), HostEvent::Malformed(_), HostEvent::Message(last)] =
        &heard[..]
    else {
        panic!("{heard:?}")
    };
    assert_eq!(*last, GuestMessage::LogsDropped { count: 2 });
}
