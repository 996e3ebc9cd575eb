//! What hosts say to each other of datagrams: it is read in one way however it is cut, and is the same when written again.

#![no_main]

use bytes::BytesMut;
use edge::letters::{self, Letter};
use libfuzzer_sys::fuzz_target;

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<(u32, Letter)>, bool, usize) {
    let (mut inbox, mut letters) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        inbox.extend_from_slice(piece);
        loop {
            match letters::take(&mut inbox) {
                Ok(Some(letter)) => letters.push(letter),
                Ok(None) => break,
                Err(_) => return (letters, true, 0),
            }
        }
    }
    (letters, false, inbox.len())
}

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (cut, bytes) = input;
    let whole = read(std::iter::once(&bytes[..]));
    assert_eq!(read(bytes.chunks(usize::from(cut).max(1))), whole);
    let mut again = BytesMut::new();
    for (flow, letter) in &whole.0 {
        match letter {
            Letter::Begin(begin) => letters::write_begin(&mut again, *flow, begin),
            Letter::Datagram(datagram) => letters::write_datagram(&mut again, *flow, datagram),
            Letter::End => letters::write_end(&mut again, *flow),
        }
    }
    assert_eq!(read(std::iter::once(&again[..])).0, whole.0);
});
