//! The name of a request: a ULID and the region it came in at.

use std::{cell::RefCell, fmt, sync::Arc};

use http::HeaderValue;
use model::Region;

/// The name of a request.
#[derive(Debug, Clone)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// A new one, of this moment.
    pub fn new(region: &Region) -> Self {
        thread_local! {
            static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
        }
        let digits = model::id::ulid_digits(kit::clock::unix_ms(), kit::random::for_names());
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

    /// As a field's value.
    pub fn value(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("letters, digits and a dash are a field's value")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
