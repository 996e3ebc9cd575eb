//! What a machine says over WebSocket: following it does not panic, and where a close frame may be put does not depend on
//! how the bytes are cut.
#![no_main]

use edge::WebSocketFrames;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cut, said)) = data.split_first() else { return };
    let mut whole = WebSocketFrames::default();
    whole.feed(said);
    let mut follower = WebSocketFrames::default();
    said.chunks(usize::from(*cut).max(1)).for_each(|piece| follower.feed(piece));
    assert_eq!(follower.may_close(), whole.may_close());
});
