//! Any bytes into either end of the channel between host and guest: no panic, no message before a session is open,
//! and a new session is found behind them.
#![no_main]

use bytes::BytesMut;
use guest::{GuestChannel, GuestEvent, HostChannel, HostEvent};
use libfuzzer_sys::fuzz_target;

/// The session that begins after the fuzzer's bytes.
const NEXT: [u8; 16] = [8; 16];

fuzz_target!(|data: &[u8]| {
    // A session that has begun already does not begin again.
    if data.windows(NEXT.len()).any(|window| window == NEXT) {
        return;
    }
    let (mut guest, mut host, mut out) = (GuestChannel::default(), HostChannel::new([7; 16]), BytesMut::new());
    let mut input = data;
    while let Some(event) = guest.receive(&mut input, &mut out) {
        assert!(guest.is_open() || matches!(event, GuestEvent::Incompatible { .. }));
    }
    let (mut input, mut open) = (data, false);
    while let Some(event) = host.receive(&mut input) {
        open |= matches!(event, HostEvent::Open { .. });
        assert!(open || matches!(event, HostEvent::Incompatible { .. }));
    }

    let mut next = HostChannel::new(NEXT);
    let mut greeting = BytesMut::new();
    next.greet(&mut greeting);
    // The last frame of the dead session may have lacked nothing but its end, which the greeting brings.
    let mut input = &greeting[..];
    let events: Vec<_> = std::iter::from_fn(|| guest.receive(&mut input, &mut out)).collect();
    assert!(matches!(events.last(), Some(GuestEvent::Open { .. })) && events.len() <= 2);
    assert!(matches!(next.receive(&mut &out[..]), Some(HostEvent::Open { .. })));

    // With an open session, whatever the guest says is a message or is dropped.
    let mut input = data;
    while next.receive(&mut input).is_some() {}
});
