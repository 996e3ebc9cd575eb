//! Whatever a client sends over HTTP/2, and however it is cut: it comes to the same, what is written are whole frames, and
//! no more content than the client has room for.

#![no_main]

use std::{
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use edge::http2::{Event, Flow, Limits, PREFACE, Piece, Protocol};
use http::StatusCode;
use libfuzzer_sys::fuzz_target;

mod cuts;

use cuts::pieces;

const LIMITS: Limits = Limits { header_bytes: 2048, streams: 3 };
/// What follows the preface: SETTINGS that open no stream's window by more than 20 bytes.
const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\x14";

/// What came of some bytes: the events, whether it ended in a refusal, what was written before that.
type Followed = (Vec<String>, bool, Vec<u8>);

fn follow<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Followed {
    let (mut protocol, mut inbox) = (Protocol::new(LIMITS), BytesMut::from(&[PREFACE, SETTINGS].concat()[..]));
    let (mut events, mut out) = (Vec::new(), Vec::new());
    let mut waiting: Vec<(usize, Bytes)> = Vec::new();
    for piece in pieces {
        inbox.extend_from_slice(piece);
        loop {
            let event = match protocol.receive(&mut inbox, &|| Duration::ZERO) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(broken) => {
                    out.extend_from_slice(&protocol.out);
                    events.push(format!("{broken:?}"));
                    return (events, true, out);
                }
            };
            events.push(format!("{event:?}"));
            match event {
                Event::Over(place) => waiting.retain(|(it, _)| *it != place),
                Event::TooMuch(place, _) => {
                    protocol.answer(place, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, true, |_, _| {});
                    protocol.end(place);
                }
                Event::Begun { place, id, head, .. } => {
                    // What was read can be made anything that comes after it.
                    let count = head.fields.count();
                    assert_eq!(head.fields.into_map().len(), count);
                    let mut read = Context::from_waker(Waker::noop());
                    if let Poll::Ready(Ok(Piece::Data(data))) = protocol.read(place, id, &mut read) {
                        events.push(format!("{data:?}"));
                    }
                    protocol.answer(place, StatusCode::OK, false, |encoder, out| encoder.field(out, b"A", b"b"));
                    waiting.push((place, Bytes::from_static(&[b'x'; 30])));
                }
            }
            waiting.retain_mut(|(place, data)| {
                let sent = protocol.send(*place, data, true) == Flow::Sent;
                if sent {
                    protocol.end(*place);
                }
                !sent
            });
        }
        out.extend_from_slice(&protocol.out);
        protocol.out.clear();
    }
    (events, false, out)
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (bytes, cuts) = input;
    let whole = follow(std::iter::once(&bytes[..]));
    // What stands before them may be all.
    let cut = follow(std::iter::once(&[][..]).chain(pieces(&bytes, &cuts)));
    assert_eq!((&whole.0, whole.1), (&cut.0, cut.1));
    assert_eq!(whole.2, cut.2);
    let mut said = &whole.2[..];
    while let Some(head) = said.first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        assert!(length <= 16_384);
        said = said.get(9 + length..).expect("a frame is whole");
    }
    assert!(said.is_empty());
});
