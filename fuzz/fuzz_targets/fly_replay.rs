//! An app's answer that may be an order to send its request elsewhere: whatever it says, reading it does not panic, and
//! what is read keeps the rules.
#![no_main]

use edge::{CacheOrder, ReplayOrder};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let fields = ["fly-replay", "fly-replay-cache", "fly-replay-cache-ttl-secs", "fly-replay-cache-allow-bypass"];
    let values = data.split(|byte| *byte == b'\n').map(HeaderValue::from_bytes);
    let headers: HeaderMap =
        fields.into_iter().zip(values).filter_map(|(name, value)| Some((name.parse().ok()?, value.ok()?))).collect();
    let line = ReplayOrder::of_headers(&headers).and_then(Result::ok);
    for order in line.into_iter().chain(ReplayOrder::of_body(data)) {
        assert!(order.instance.is_none() || order.prefer_instance.is_none());
        assert!(order.state.as_ref().is_none_or(|state| state.bytes().all(|byte| (0x20..0x7f).contains(&byte))));
        if let Some(CacheOrder::Keep(rule)) = &order.cache {
            assert!(rule.ttl.as_secs() >= 10 && order.of_one_request().is_none());
        }
    }
});
