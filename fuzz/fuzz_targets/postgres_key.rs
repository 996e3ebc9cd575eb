//! What a PostgreSQL server says first, until its cancellation key: whatever it says, reading it does not panic, and it
//! comes to the same however the bytes are cut.
#![no_main]

use edge::{KeyScan, Scanned};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cut, said)) = data.split_first() else { return };
    let whole = KeyScan::default().feed(said);
    let mut scan = KeyScan::default();
    let mut pieces = said.chunks(usize::from(*cut).max(1)).map(|piece| scan.feed(piece));
    let found = pieces.find(|found| *found != Scanned::More).unwrap_or(Scanned::More);
    assert_eq!(found, whole);
    if let Scanned::Key(key) = found {
        assert!((8..=260).contains(&key.len()));
    }
});
