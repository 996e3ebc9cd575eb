//! The name of a request: a ULID and the region it came in at.

use http::HeaderValue;
use model::Region;

/// The name of a request.
#[derive(Clone)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// A new one, of this moment.
    pub fn new(region: &Region) -> Self {
        let mut name = String::with_capacity(27 + region.as_str().len());
        model::id::push_ulid(&mut name, kit::clock::unix_ms(), kit::random::for_names());
        name.push('-');
        name.push_str(region.as_str());
        let name = HeaderValue::try_from(name);
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
