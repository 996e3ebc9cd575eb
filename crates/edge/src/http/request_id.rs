//! The name of a request: a ULID and the region it came in at.

use http::HeaderValue;
use model::Region;

/// The name of a request.
#[derive(Clone)]
pub struct RequestId(String);

impl RequestId {
    /// A new one, of this moment.
    pub fn new(region: &Region) -> Self {
        let ulid = model::id::ulid(kit::clock::unix_ms(), kit::random::bytes());
        Self(format!("{ulid}-{region}"))
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

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
