//! Trace context (W3C Recommendation of 2021-11-23): which trace a request belongs to.
//!
//! A request that comes with a valid `traceparent` continues its trace: the edge is a span of it, and the machine gets
//! the edge's span as its parent. Any other request begins a new trace. `tracestate` passes as it is.

use std::ops::Range;

use http::{HeaderName, HeaderValue};

use crate::http1::Fields;

/// The field that says it.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// `00-<trace: 32 hex>-<span: 16 hex>-<flags: 2 hex>`
const LENGTH: usize = 55;
const TRACE: Range<usize> = 3..35;
const SPAN: Range<usize> = 36..52;

/// Where a request stands in its trace: what the machine reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace([u8; LENGTH]);

impl Trace {
    /// The trace of a request. A list of states that belongs to no trace is taken out.
    pub fn take_part(fields: &mut Fields) -> Self {
        let (mut parent, mut parents, mut has_state) = (None, 0, false);
        fields.each(|name, value| {
            let is = |other: HeaderName| name.eq_ignore_ascii_case(other.as_str().as_bytes());
            match name.len() {
                11 if is(TRACEPARENT) => (parent, parents) = (Some(value), parents + 1),
                10 => has_state |= is(TRACESTATE),
                _ => {}
            }
        });
        let mut text = [b'-'; LENGTH];
        text[..2].copy_from_slice(b"00");
        text[LENGTH - 2..].copy_from_slice(b"00");
        write_digits::<8>(&mut text[SPAN]);
        match parent.filter(|_| parents == 1).and_then(parse) {
            Some((trace_id, sampled)) => {
                text[TRACE].copy_from_slice(trace_id.as_bytes());
                text[LENGTH - 1] = b'0' + u8::from(sampled);
            }
            None => {
                write_digits::<16>(&mut text[TRACE]);
                if has_state {
                    fields.remove(&TRACESTATE);
                }
            }
        }
        Self(text)
    }

    /// What the machine reads, as the field's value; like a request's name it never comes again.
    pub fn value(&self) -> HeaderValue {
        let mut value = HeaderValue::from_bytes(&self.0).expect("digits and dashes are a field's value");
        value.set_sensitive(true);
        value
    }

    /// The same as text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The trace, 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        self.part(TRACE)
    }

    fn part(&self, part: Range<usize>) -> &str {
        std::str::from_utf8(&self.0[part]).unwrap_or_default()
    }
}

/// The trace's id and whether it is sampled. Later versions may be longer, and are read as far as this one knows them.
fn parse(field: &[u8]) -> Option<(&str, bool)> {
    let text = std::str::from_utf8(field).ok()?;
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let good_length = if version == "00" { text.len() == LENGTH } else { text.len() >= LENGTH };
    let good = good_length
        && version != "ff"
        && is_hex(version, 2)
        && is_hex(trace, 32)
        && is_hex(parent, 16)
        && is_hex(flags, 2)
        && trace.bytes().any(|digit| digit != b'0')
        && parent.bytes().any(|digit| digit != b'0');
    good.then(|| (trace, u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1)))
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Writes so many random bytes in hexadecimal digits; never all zero.
fn write_digits<const N: usize>(to: &mut [u8]) {
    let mut bytes: [u8; N] = kit::random::for_names();
    bytes[0] |= 1;
    hex::encode_to_slice(bytes, to).expect("there is room for two digits of each byte");
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// What is left of the fields of a request that came with these parents, and what the machine reads.
    fn with(fields: &[&str]) -> (HeaderMap, Trace) {
        let mut headers = HeaderMap::new();
        headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        for field in fields {
            headers.append(TRACEPARENT, field.parse().unwrap());
        }
        let mut fields = Fields::Map(headers);
        let trace = Trace::take_part(&mut fields);
        (fields.into_map(), trace)
    }

    #[test]
    fn a_trace_goes_on_with_the_edge_as_parent() {
        let (headers, trace) = with(&[PARENT]);
        assert_eq!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(trace.part(SPAN), "00f067aa0ba902b7");
        assert_eq!(trace.as_bytes(), format!("00-{}-{}-01", trace.trace_id(), trace.part(SPAN)).as_bytes());
        assert_eq!(headers[TRACESTATE], "a=b");
        let later = format!("cc{}-what-comes", &PARENT[2..]);
        assert_eq!(with(&[&later]).1.trace_id(), trace.trace_id());
    }

    #[test]
    fn anything_else_begins_a_new_one() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let zero_parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", "0".repeat(16));
        let (upper, longer) = (PARENT.to_uppercase(), format!("{PARENT}-00"));
        let invalid = format!("ff{}", &PARENT[2..]);
        for bad in [&zero_trace[..], &zero_parent, &upper, &longer, &invalid, "", "00-1-2-3"] {
            let (headers, trace) = with(&[bad]);
            assert_ne!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736", "{bad}");
            assert!(!headers.contains_key(TRACESTATE), "{bad}");
            assert!(parse(trace.as_bytes()).is_some());
        }
        assert_ne!(with(&[PARENT, PARENT]).1.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    proptest! {
        #[test]
        fn what_the_machine_reads_is_always_valid(field: Vec<u8>) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&field) {
                headers.insert(TRACEPARENT, value);
            }
            let trace = Trace::take_part(&mut Fields::Map(headers));
            prop_assert!(parse(trace.as_bytes()).is_some());
        }
    }
}
