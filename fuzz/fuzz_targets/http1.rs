//! Whatever a client sends over HTTP/1.1, and however it is cut: it is read in one way, or refused.

#![no_main]

use bytes::BytesMut;
use edge::http1::{Decoder, Piece, Seen, take_request};
use libfuzzer_sys::fuzz_target;

mod cuts;

use cuts::pieces;

const LIMIT: usize = 4096;

/// The requests that were read: first line and fields, content, whether trailers followed; and whether it ended in a
/// refusal.
type Read = (Vec<(String, Vec<u8>, bool)>, bool);

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Read {
    let (mut inbox, mut seen, mut requests) = (BytesMut::new(), Seen::default(), Vec::new());
    let mut content: Option<(Decoder, (String, Vec<u8>, bool))> = None;
    for piece in pieces {
        inbox.extend_from_slice(piece);
        loop {
            if let Some((mut decoder, mut request)) = content.take() {
                match decoder.next(&mut inbox) {
                    Err(_) => {
                        // Nothing of what follows is taken for anything.
                        assert!(decoder.next(&mut inbox).is_err() && !decoder.is_ended());
                        return (requests, true);
                    }
                    Ok(Piece::End) => requests.push(request),
                    Ok(Piece::More) => {
                        content = Some((decoder, request));
                        break;
                    }
                    Ok(Piece::Data(data)) => {
                        request.1.extend_from_slice(&data);
                        content = Some((decoder, request));
                    }
                    Ok(Piece::Trailers(_)) => {
                        request.2 = true;
                        content = Some((decoder, request));
                    }
                }
                continue;
            }
            match take_request(&mut inbox, &mut seen, LIMIT) {
                Err(_) => return (requests, true),
                Ok(None) => break,
                Ok(Some(head)) => {
                    let framing = head.framing;
                    let text = format!("{} {} {:?}", head.method, head.uri, head.fields.into_map());
                    content = Some((Decoder::new(framing), (text, Vec::new(), false)));
                }
            }
        }
    }
    (requests, false)
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (bytes, cuts) = input;
    let whole = read(std::iter::once(&bytes[..]));
    let cut = read(pieces(&bytes, &cuts));
    // A refusal may come sooner when more is there to be looked at; what was read before it is the same.
    assert!(whole.0.starts_with(&cut.0) || cut.0.starts_with(&whole.0));
    assert_eq!(whole.1, cut.1);
});
