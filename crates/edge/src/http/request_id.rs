//! The name of a request: a ULID and the region it came in at.

use std::{cell::RefCell, fmt, sync::Arc};

use http::HeaderValue;
use model::Region;
use tokio::time::Instant;

/// The name of a request.
#[derive(Debug, Clone)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// A new one, of this moment.
    pub fn new(region: &Region, now: Instant) -> Self {
        thread_local! {
            static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
        }
        let digits = model::id::ulid_digits(kit::clock::unix_ms_at(now.into_std()), kit::random::for_names());
        TEXT.with_borrow_mut(|text| {
            text.clear();
            text.push_str(std::str::from_utf8(&digits).expect("letters and digits are ASCII"));
            text.push('-');
            text.push_str(region.as_str());
            Self(text.as_str().into())
        })
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As a field's value. It comes once and never again, so a table of values that were sent has no use for it: over
    /// HTTP/2 it is a literal that nobody keeps (RFC 7541, 6.2.3).
    pub fn value(&self) -> HeaderValue {
        let value = HeaderValue::from_str(&self.0);
        let mut value = value.expect("letters, digits and a dash are a field's value");
        value.set_sensitive(true);
        value
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
