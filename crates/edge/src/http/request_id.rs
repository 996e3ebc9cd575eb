//! The name of a request: a ULID and the region it came in at.

use std::fmt;

use http::HeaderValue;
use model::{Region, id::ulid_digits};
use tokio::time::Instant;

/// A ULID, a dash, and the longest name of a region.
const LONGEST: usize = 26 + 1 + 16;

/// The name of a request. It is small, and copied to whoever needs it.
#[derive(Debug, Clone, Copy)]
pub struct RequestId {
    text: [u8; LONGEST],
    length: u8,
}

impl RequestId {
    /// A new one, of this moment.
    pub fn new(region: &Region, now: Instant) -> Self {
        let digits = ulid_digits(kit::clock::unix_ms_at(now.into_std()), kit::random::for_names());
        let (region, mut text) = (region.as_str().as_bytes(), [b'-'; LONGEST]);
        text[..digits.len()].copy_from_slice(&digits);
        let length = digits.len() + 1 + region.len();
        text[digits.len() + 1..length].copy_from_slice(region);
        Self { text, length: length as u8 }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.text[..usize::from(self.length)]).expect("letters, digits and dashes are ASCII")
    }

    /// As a field's value. It comes once and never again, so a table of values that were sent has no use for it: over
    /// HTTP/2 it is a literal that nobody keeps (RFC 7541, 6.2.3).
    pub fn value(&self) -> HeaderValue {
        let value = HeaderValue::from_str(self.as_str());
        let mut value = value.expect("letters, digits and a dash are a field's value");
        value.set_sensitive(true);
        value
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_in_its_region_however_long_that_is() {
        for region in ["eu", "abcdefghijklmnop"] {
            let id = RequestId::new(&region.parse().unwrap(), Instant::now());
            assert_eq!(id.as_str().split_once('-').map(|(ulid, region)| (ulid.len(), region)), Some((26, region)));
        }
        assert!("abcdefghijklmnopq".parse::<Region>().is_err(), "there would be no room for it");
    }
}
