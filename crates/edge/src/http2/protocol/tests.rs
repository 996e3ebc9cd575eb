//! Talks of a client with a connection.

use std::{cell::Cell, task::Waker};

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { header_bytes: 4096, streams: 4 };

/// A connection whose client has begun, and what it is told from then on.
struct Talk {
    protocol: Protocol,
    inbox: BytesMut,
}

impl Talk {
    fn begin() -> Self {
        let mut talk = Self { protocol: Protocol::new(LIMITS), inbox: BytesMut::new() };
        assert!(talk.hears(&[PREFACE, &frame(4, 0, 0, &[])].concat()).unwrap().is_empty());
        talk.protocol.out.clear();
        talk
    }

    /// All that comes of these bytes.
    fn hears(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Broken> {
        self.inbox.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(event) = self.protocol.receive(&mut self.inbox, &|| Duration::ZERO)? {
            events.push(event);
        }
        Ok(events)
    }

    /// The frames that were written: kind, flags, stream, payload.
    fn says(&mut self) -> Vec<(u8, u8, u32, Vec<u8>)> {
        let mut out = std::mem::take(&mut self.protocol.out);
        let mut frames = Vec::new();
        while let Some(head) = FrameHead::read(&out) {
            out.advance(HEAD);
            let payload = out.split_to(head.length).to_vec();
            frames.push((head.kind as u8, head.flags, head.stream, payload));
        }
        assert!(out.is_empty(), "a frame is not whole");
        frames
    }

    fn reads(&mut self, place: usize, id: u32) -> Poll<Result<Piece, Over>> {
        self.protocol.read(place, id, &mut Context::from_waker(Waker::noop()))
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `:method`, `:scheme` http, `:path` /, and these.
fn block(method: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x86, 0x84];
    for (name, value) in [(":method", method)].iter().chain(fields) {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn rules(reason: Reason) -> impl Fn(&Broken) -> bool {
    move |broken| matches!(broken, Broken::Rules(it, _) if *it == reason)
}

#[test]
fn a_request_is_answered_within_the_windows_that_its_client_opens() {
    let mut talk = Talk::begin();
    talk.hears(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 10])).unwrap();
    let events = talk.hears(&frame(1, 5, 1, &block("GET", &[]))).unwrap();
    assert!(matches!(events[..], [Event::Begun { place: 0, id: 1, has_content: false, .. }]));
    talk.says();
    talk.protocol.answer(0, StatusCode::OK, false, |encoder, out| encoder.field(out, b"X-A", b"b"));
    let mut data = Bytes::from_static(b"0123456789abcdefghij");
    assert_eq!(talk.protocol.send(0, &mut data, true), Flow::Held);
    assert_eq!(talk.says(), [(1, 4, 1, b"\x88\0\x03x-a\x01b".to_vec()), (0, 0, 1, b"0123456789".to_vec())]);
    assert_eq!(talk.protocol.opened(), None);
    talk.hears(&frame(8, 0, 1, &5_u32.to_be_bytes())).unwrap();
    assert_eq!(talk.protocol.opened(), Some(0));
    assert_eq!(talk.protocol.send(0, &mut data, true), Flow::Held);
    // The settings of all streams open it, too.
    talk.hears(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 15])).unwrap();
    assert_eq!(talk.protocol.opened(), Some(0));
    assert_eq!(talk.protocol.send(0, &mut data, true), Flow::Sent);
    talk.protocol.end(0);
    let said = talk.says();
    assert_eq!(said.first(), Some(&(0, 0, 1, b"abcde".to_vec())));
    assert_eq!(said.last(), Some(&(0, 1, 1, b"fghij".to_vec())));
    assert!(talk.protocol.is_idle());
}

#[test]
fn the_window_of_the_connection_bounds_all_streams_together() {
    let mut talk = Talk::begin();
    for id in [1, 3] {
        talk.hears(&frame(1, 5, id, &block("GET", &[]))).unwrap();
    }
    talk.protocol.answer(0, StatusCode::OK, false, |_, _| {});
    talk.protocol.answer(1, StatusCode::OK, false, |_, _| {});
    talk.says();
    let (mut first, mut second) = (Bytes::from(vec![0; 60_000]), Bytes::from(vec![0; 60_000]));
    assert_eq!(talk.protocol.send(0, &mut first, true), Flow::Sent);
    assert_eq!(talk.protocol.send(1, &mut second, true), Flow::Full);
    assert!(second.len() == 60_000 - 5535 && !talk.protocol.takes());
    let sent: usize = talk.says().iter().map(|frame| frame.3.len()).sum();
    assert_eq!(sent, 65_535);
    talk.hears(&frame(8, 0, 0, &1_u32.to_be_bytes())).unwrap();
    assert!(talk.protocol.takes());
}

#[test]
fn content_takes_room_until_it_is_read() {
    let mut talk = Talk::begin();
    let fields = block("POST", &[("content-length", "1500000")]);
    assert!(matches!(talk.hears(&frame(1, 4, 1, &fields)).unwrap()[..], [Event::Begun { has_content: true, .. }]));
    let piece = vec![b'x'; 16_000];
    let mut came = 0;
    while came + piece.len() <= STREAM_ROOM as usize {
        talk.hears(&frame(0, 0, 1, &piece)).unwrap();
        came += piece.len();
    }
    assert!(talk.says().is_empty(), "nothing was read yet");
    let mut read = 0;
    while let Poll::Ready(Ok(Piece::Data(data))) = talk.reads(0, 1) {
        read += data.len();
    }
    assert_eq!(read, came);
    let opened: Vec<u32> = talk.says().iter().map(|(kind, _, id, _)| if *kind == 8 { *id } else { 99 }).collect();
    assert_eq!(opened, [0, 1], "of the connection, which others wait for, and of the stream");
    assert_eq!(talk.protocol.incoming(0, 1).unwrap().unread(), Some(1_500_000 - read as u64));
    // More than there is room for is the client's fault.
    let events = (0..200).map(|_| talk.hears(&frame(0, 0, 1, &piece)).unwrap()).find(|events| !events.is_empty());
    assert!(matches!(events.unwrap()[..], [Event::Over(0)]));
    assert!(talk.says().iter().any(|(kind, _, id, _)| (*kind, *id) == (3, 1)));
    assert_eq!(talk.reads(0, 1), Poll::Ready(Err(Over)));
}

#[test]
fn padding_and_short_pieces_take_no_room_for_ever() {
    let mut talk = Talk::begin();
    talk.hears(&frame(1, 4, 1, &block("POST", &[]))).unwrap();
    let padded = [&[255][..], b"ab", &[0; 255]].concat();
    for _ in 0..20_000 {
        assert!(talk.hears(&frame(0, 8, 1, &padded)).unwrap().is_empty());
        assert_eq!(talk.reads(0, 1), Poll::Ready(Ok(Piece::Data(Bytes::from_static(b"ab")))));
    }
    // What is not read at once is one piece.
    for _ in 0..1000 {
        talk.hears(&frame(0, 0, 1, b"c")).unwrap();
    }
    talk.hears(&frame(0, 1, 1, &[b'd'; 9000])).unwrap();
    assert_eq!(talk.reads(0, 1), Poll::Ready(Ok(Piece::Data(vec![b'c'; 1000].into()))));
    assert_eq!(talk.reads(0, 1), Poll::Ready(Ok(Piece::Data(vec![b'd'; 9000].into()))));
    assert_eq!(talk.reads(0, 1), Poll::Ready(Ok(Piece::End)));
}

#[test]
fn content_that_nobody_wants_leaves_room_for_that_of_others() {
    let mut talk = Talk::begin();
    for id in [1, 3, 5, 7] {
        talk.hears(&frame(1, 4, id, &block("POST", &[]))).unwrap();
    }
    for (place, id) in [(0, 1), (1, 3), (2, 5)] {
        talk.protocol.leave_unread(place, id);
        for _ in 0..60 {
            talk.hears(&frame(0, 0, id, &[0; 16_000])).unwrap();
        }
    }
    talk.hears(&frame(0, 1, 7, b"wanted")).unwrap();
    assert_eq!(talk.reads(3, 7), Poll::Ready(Ok(Piece::Data(Bytes::from_static(b"wanted")))));
    assert_eq!(talk.reads(3, 7), Poll::Ready(Ok(Piece::End)));
    let opened = talk.says();
    assert!(!opened.is_empty() && opened.iter().all(|(kind, _, id, _)| (*kind, *id) == (8, 0)), "no stream of theirs");
    // Its answer is over before its content: the client need not go on, and what is on the way is passed over.
    talk.protocol.answer(0, StatusCode::OK, true, |_, _| {});
    talk.protocol.end(0);
    assert_eq!(talk.says().last(), Some(&(3, 0, 1, vec![0, 0, 0, 0])));
    assert!(talk.hears(&frame(0, 1, 1, b"late")).unwrap().is_empty() && talk.says().is_empty());
}

#[test]
fn a_length_that_is_not_kept_to_ends_the_stream() {
    for (announced, pieces, ends) in [("5", 2, false), ("7", 2, true), ("4", 1, true)] {
        let mut talk = Talk::begin();
        talk.hears(&frame(1, 4, 1, &block("POST", &[("content-length", announced)]))).unwrap();
        let mut events = Vec::new();
        for n in 1..=pieces {
            let flags = u8::from(ends && n == pieces);
            events.extend(talk.hears(&frame(0, flags, 1, b"abc")).unwrap());
        }
        assert!(matches!(events[..], [Event::Over(0)]), "{announced}");
    }
    let mut talk = Talk::begin();
    assert!(talk.hears(&frame(1, 5, 1, &block("POST", &[("content-length", "1")]))).unwrap().is_empty());
    assert_eq!(talk.says(), [(3, 0, 1, vec![0, 0, 0, 1])]);
}

#[test]
fn whoever_waits_to_be_asked_is_asked_once_and_not_if_nobody_reads() {
    let mut talk = Talk::begin();
    talk.hears(&frame(1, 4, 1, &block("POST", &[("expect", "100-continue")]))).unwrap();
    assert!(talk.says().is_empty());
    assert!(talk.reads(0, 1).is_pending() && talk.reads(0, 1).is_pending());
    let said = talk.says();
    assert_eq!(said.len(), 1);
    assert_eq!((said[0].0, said[0].1, said[0].3.ends_with(b"100")), (1, 4, true));
}

#[test]
fn a_block_of_many_parts_is_one_and_nothing_comes_between() {
    let fields = block("GET", &[("x", "y")]);
    let (first, rest) = fields.split_at(5);
    let mut talk = Talk::begin();
    talk.hears(&frame(1, 1, 1, first)).unwrap();
    assert!(talk.protocol.is_amid());
    assert!(matches!(talk.hears(&frame(9, 4, 1, rest)).unwrap()[..], [Event::Begun { .. }]));
    for between in [frame(9, 4, 3, rest), frame(0, 0, 1, b""), frame(6, 0, 0, &[0; 8]), frame(99, 0, 0, b"")] {
        let mut talk = Talk::begin();
        talk.hears(&frame(1, 1, 1, first)).unwrap();
        assert!(talk.hears(&between).is_err_and(|broken| rules(Reason::Protocol)(&broken)));
    }
    let mut talk = Talk::begin();
    talk.hears(&frame(1, 1, 1, first)).unwrap();
    let endless = (0..100).map(|_| talk.hears(&frame(9, 0, 1, &[]))).find_map(Result::err);
    assert!(matches!(endless, Some(Broken::Flood(_))));
}

#[test]
fn fields_that_are_too_long_get_an_answer_and_the_next_ones_are_read() {
    let mut talk = Talk::begin();
    let long = "v".repeat(100);
    let many: Vec<_> = (0..60).map(|_| ("name", long.as_str())).collect();
    assert!(matches!(
        talk.hears(&frame(1, 5, 1, &block("GET", &many))).unwrap()[..],
        [Event::TooMuch(0, BadHead::TooLong(_))]
    ));
    talk.protocol.answer(0, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, true, |_, _| {});
    talk.protocol.end(0);
    assert!(matches!(talk.hears(&frame(1, 5, 3, &block("GET", &[]))).unwrap()[..], [Event::Begun { .. }]));
}

#[test]
fn no_more_streams_than_may_be_and_those_refused_can_be_asked_for_again() {
    let mut talk = Talk::begin();
    let events: Vec<_> =
        (0..6).map(|n| talk.hears(&frame(1, 5, 2 * n + 1, &block("GET", &[]))).unwrap().len()).collect();
    assert_eq!(events, [1, 1, 1, 1, 0, 0]);
    let refused = |id| (3, 0, id, vec![0, 0, 0, 7]);
    assert_eq!(talk.says(), [refused(9), refused(11)]);
}

#[test]
fn nothing_that_is_on_its_way_is_lost_when_we_leave() {
    let mut talk = Talk::begin();
    talk.hears(&frame(1, 5, 1, &block("GET", &[]))).unwrap();
    talk.protocol.leave();
    let said = talk.says();
    assert_eq!((said[0].0, &said[0].3[..4]), (7, &MAX_31.to_be_bytes()[..]));
    let (6, 0, 0, asked) = said[1].clone() else { panic!("{said:?}") };
    // The client did not know yet.
    assert_eq!(talk.hears(&frame(1, 5, 3, &block("GET", &[]))).unwrap().len(), 1);
    talk.hears(&frame(6, 1, 0, &asked)).unwrap();
    assert_eq!(&talk.says()[0].3[..4], 3_u32.to_be_bytes());
    // Now it does: what it still begins is not served.
    assert!(talk.hears(&frame(1, 5, 5, &block("GET", &[]))).unwrap().is_empty());
    assert!(!talk.protocol.is_done());
    for place in [0, 1] {
        talk.protocol.answer(place, StatusCode::OK, true, |_, _| {});
        talk.protocol.end(place);
    }
    assert!(talk.protocol.is_done());
}

#[test]
fn what_breaks_the_rules_ends_the_connection_with_the_reason() {
    let begun = || {
        let mut talk = Talk::begin();
        talk.hears(&frame(1, 5, 1, &block("GET", &[]))).unwrap();
        talk
    };
    for (bytes, reason) in [
        (frame(1, 5, 2, &block("GET", &[])), Reason::Protocol),
        (frame(1, 5, 1, &[0xff]), Reason::Compression),
        (frame(0, 0, 0, b"a"), Reason::Protocol),
        (frame(0, 8, 1, b"\x05a"), Reason::Protocol),
        (frame(0, 0, 9, b"a"), Reason::Protocol),
        (frame(3, 0, 9, &[0; 4]), Reason::Protocol),
        (frame(3, 0, 1, &[0; 3]), Reason::FrameSize),
        (frame(4, 1, 0, &[0; 6]), Reason::FrameSize),
        (frame(4, 0, 0, &[0, 2, 0, 0, 0, 2]), Reason::Protocol),
        (frame(4, 0, 0, &[0, 4, 0xff, 0, 0, 2]), Reason::FlowControl),
        (frame(5, 0, 1, &[0; 4]), Reason::Protocol),
        (frame(6, 0, 0, &[0; 7]), Reason::FrameSize),
        (frame(8, 0, 0, &[0; 4]), Reason::Protocol),
        (frame(8, 0, 0, &MAX_31.to_be_bytes()), Reason::FlowControl),
        (frame(8, 0, 9, &[0, 0, 0, 1]), Reason::Protocol),
        (frame(9, 4, 1, &[]), Reason::Protocol),
        (frame(0, 0, 1, &[0; 16_385]), Reason::FrameSize),
    ] {
        let broken = begun().hears(&bytes);
        assert!(broken.as_ref().is_err_and(|broken| rules(reason)(broken)), "{bytes:?}: {broken:?}");
    }
    let mut talk = Talk { protocol: Protocol::new(LIMITS), inbox: BytesMut::new() };
    assert!(talk.hears(&[PREFACE, &frame(6, 0, 0, &[0; 8])].concat()).is_err(), "no settings");
    assert!(Talk { protocol: Protocol::new(LIMITS), inbox: BytesMut::new() }.hears(b"GET / HTTP/1.1").is_err());
}

#[test]
fn an_answer_with_long_fields_is_cut_into_parts_that_end_once() {
    let mut talk = Talk::begin();
    talk.hears(&frame(1, 5, 1, &block("GET", &[]))).unwrap();
    let long = vec![b'v'; 40_000];
    talk.protocol.answer(0, StatusCode::OK, true, |encoder, out| encoder.field(out, b"x", &long));
    let parts: Vec<_> = talk.says().iter().map(|(kind, flags, id, part)| (*kind, *flags, *id, part.len())).collect();
    assert_eq!(parts[..2], [(1, 1, 1, 16_384), (9, 0, 1, 16_384)]);
    assert_eq!((parts.len(), parts[2].1), (3, 4));
}

/// What a client might say: whole frames of all kinds, few streams.
fn said() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        Just(block("GET", &[])),
        Just(block("POST", &[("content-length", "3"), ("cookie", "a"), ("cookie", "b")])),
        Just(vec![0, 4, 0, 0, 0, 100]),
        Just(vec![0, 0, 0, 3]),
        prop::collection::vec(any::<u8>(), 0..12),
    ];
    let frames = (0u8..11, prop::sample::select(vec![0u8, 1, 4, 5, 8, 12, 13, 0x25]), 0u32..8, payload);
    let frames = prop::collection::vec(frames.prop_map(|(kind, flags, id, it)| frame(kind, flags, id, &it)), 0..24);
    frames.prop_map(|frames| frames.concat())
}

/// All that comes of some bytes, cut somehow; each request is answered with ten bytes.
fn follow(bytes: &[u8], cuts: &[usize]) -> (Vec<String>, Vec<u8>) {
    let mut talk = Talk::begin();
    let (mut seen, mut out, at) = (Vec::new(), Vec::new(), Cell::new(0));
    let mut rest = bytes;
    while !rest.is_empty() {
        let cut = cuts[at.replace(at.get() + 1) % cuts.len()].clamp(1, rest.len());
        let (now, later) = rest.split_at(cut);
        rest = later;
        talk.inbox.extend_from_slice(now);
        loop {
            match talk.protocol.receive(&mut talk.inbox, &|| Duration::ZERO) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    seen.push(format!("{event:?}"));
                    if let Event::Begun { place, .. } = event {
                        talk.protocol.answer(place, StatusCode::OK, false, |_, _| {});
                        if talk.protocol.send(place, &mut Bytes::from_static(b"0123456789"), true) == Flow::Sent {
                            talk.protocol.end(place);
                        }
                    }
                }
                Err(broken) => {
                    seen.push(format!("{broken:?}"));
                    return (seen, out);
                }
            }
        }
        out.extend_from_slice(&talk.protocol.out);
        talk.says();
    }
    (seen, out)
}

proptest! {
    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut(
        bytes in said(),
        cuts in prop::collection::vec(1usize..30, 1..20),
    ) {
        let (whole, cut) = (follow(&bytes, &[usize::MAX]), follow(&bytes, &cuts));
        prop_assert_eq!(&whole.0, &cut.0);
        if !whole.0.last().is_some_and(|last| last.starts_with("Rules") || last.starts_with("Flood")) {
            prop_assert_eq!(whole.1, cut.1);
        }
    }

    #[test]
    fn whatever_comes_it_does_not_panic(bytes: Vec<u8>) {
        follow(&bytes, &[7]);
    }
}
