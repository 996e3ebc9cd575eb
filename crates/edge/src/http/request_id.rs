//! The name of a request: a ULID and the region it came in at.

use http::HeaderValue;
use model::Region;

/// The name of a request.
#[derive(Clone)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// A new one, of this moment.
    pub fn new(region: &Region) -> Self {
        let ulid = model::id::ulid(kit::clock::unix_ms(), kit::random::for_names());
        let name = HeaderValue::try_from(format!("{ulid}-{region}"));
        Self(name.expect("letters, digits and a dash are a field's value"))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// As a field's value.
    pub fn value(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
