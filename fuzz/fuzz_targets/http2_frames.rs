//! What a client says over HTTP/2: following it does not panic, and it comes to the same however the bytes are cut.
#![no_main]

use std::time::Duration;

use edge::Frames;
use libfuzzer_sys::fuzz_target;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fuzz_target!(|data: &[u8]| {
    let Some(([cut, repeat], said)) = data.split_first_chunk::<2>() else { return };
    // Again and again, so that short inputs meet the bounds.
    let bytes = [PREFACE, &said.repeat(usize::from(*repeat))].concat();
    let whole = Frames::default().feed(&bytes, Duration::ZERO);
    let mut follower = Frames::default();
    let mut pieces = bytes.chunks(usize::from(*cut).max(1)).map(|piece| follower.feed(piece, Duration::ZERO));
    assert_eq!(pieces.find(Result::is_err).unwrap_or(Ok(())), whole);
    assert!(Frames::default().feed(said, Duration::MAX).is_ok() || said.starts_with(PREFACE));
});
