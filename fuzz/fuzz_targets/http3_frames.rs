//! The bytes of a stream of HTTP/3: filtering their frames does not panic, adds nothing, and does not depend on how they
//! are cut.
#![no_main]

use bytes::Bytes;
use edge::{BadFrames, FrameFilter};
use libfuzzer_sys::fuzz_target;

fn pass(mut filter: FrameFilter, data: &[u8], piece: usize) -> Result<Vec<u8>, BadFrames> {
    let mut passed = Vec::new();
    for chunk in data.chunks(piece) {
        filter.push(Bytes::copy_from_slice(chunk))?;
        while let Some(part) = filter.pop() {
            passed.extend_from_slice(&part);
        }
    }
    filter.end().map(|()| passed)
}

fuzz_target!(|data: &[u8]| {
    for new in [|| FrameFilter::request(64), FrameFilter::unidirectional as fn() -> FrameFilter] {
        let whole = pass(new(), data, data.len().max(1));
        assert_eq!(pass(new(), data, 1), whole);
        assert_eq!(pass(new(), data, 7), whole);
        assert!(whole.is_ok_and(|passed| passed.len() <= data.len()) || pass(new(), data, 3).is_err());
    }
});
