//! Which host a request is for.

use std::sync::Arc;

use http::{HeaderValue, Method, Uri, Version, header::HOST};

use crate::{Refusal, http1::Fields};

/// A host as the client wrote it, and as it is looked up.
#[derive(Debug, PartialEq, Eq)]
pub struct Host {
    /// With the port; it is text.
    authority: HeaderValue,
    /// The name alone, in lower case, without a dot at its end.
    pub name: Arc<str>,
}

impl Host {
    /// The host of a request. A target in absolute form (and `:authority`) outranks the Host field (RFC 9112, 3.2.2).
    /// HTTP/1.0 knows no Host field, so a request of that version without one is for the name that its connection was
    /// `secured` for.
    pub fn of(uri: &Uri, version: Version, fields: &Fields, secured: Option<&str>) -> Result<Self, Refusal> {
        let secured = secured.filter(|_| version <= Version::HTTP_10);
        let bad = |reason| Refusal::BadHost { reason };
        let mut hosts = fields.all(&HOST);
        let field = hosts.next();
        if hosts.next().is_some() {
            return Err(bad("it has more than one Host field"));
        }
        let not_a_name = || bad("its Host field is not a host name");
        let authority = match (uri.authority(), field) {
            (Some(authority), _) => HeaderValue::from_str(authority.as_str()).map_err(|_| not_a_name())?,
            (None, Some(field)) => HeaderValue::from_bytes(field).map_err(|_| not_a_name())?,
            (None, None) => {
                let secured = secured.ok_or_else(|| bad("it has no Host field"))?;
                HeaderValue::from_str(secured).map_err(|_| not_a_name())?
            }
        };
        let name = authority.to_str().ok().and_then(in_authority).ok_or_else(not_a_name)?;
        let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
        let name = if is_lower { name.into() } else { name.to_ascii_lowercase().into() };
        Ok(Self { authority, name })
    }

    /// The host as the machine gets it: as the client wrote it, with the port.
    pub fn field(&self) -> HeaderValue {
        self.authority.clone()
    }

    /// The same as text.
    pub fn authority(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }

    /// The host with another port; none is written if it is 443.
    pub fn with_https_port(&self, port: u16) -> String {
        if port == 443 { self.name.to_string() } else { format!("{}:{port}", self.name) }
    }
}

/// Refuses a target that is in none of the forms that a request of this method may have (RFC 9112, 3.2).
pub fn check_target(method: &Method, uri: &Uri) -> Result<(), Refusal> {
    let bad = |reason| Err(Refusal::BadTarget { reason });
    match (uri.scheme_str(), uri.path()) {
        _ if method == Method::CONNECT => Ok(()),
        (Some("http" | "https"), _) if uri.path().starts_with('/') || uri.path().is_empty() => Ok(()),
        (Some("http" | "https") | None, "*") if method == Method::OPTIONS => Ok(()),
        (Some("http" | "https"), _) => bad("its path does not begin with `/`"),
        (Some(_), _) => bad("it is neither an http nor an https address"),
        (None, _) if uri.authority().is_some() => bad("it is a host without a path, which is for CONNECT only"),
        (None, path) if path.starts_with('/') => Ok(()),
        (None, _) => bad("it does not begin with `/`"),
    }
}

/// The host name in `authority`, in lower case, without port and without a dot at its end; `None` if it is not one.
pub fn name(authority: &str) -> Option<String> {
    in_authority(authority).map(str::to_ascii_lowercase)
}

/// The same as it is written there.
fn in_authority(authority: &str) -> Option<&str> {
    // Ports are short: what is split off is looked for from the end, byte by byte.
    let colon = authority.bytes().rposition(|byte| byte == b':');
    let (host, port) = match colon.map(|colon| (&authority[..colon], &authority[colon + 1..])) {
        Some((host, port)) if !host.starts_with('[') || host.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_port = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    (is_port && (is_name(host) || is_address(host))).then_some(host)
}

/// What a label consists of.
const INNER: [bool; 256] = {
    let (mut inner, mut byte) = ([false; 256], 0);
    while byte < 256 {
        inner[byte] = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'-' | b'_');
        byte += 1;
    }
    inner
};

fn is_name(host: &str) -> bool {
    let (mut length, mut fits) = (0, host.len() <= 253);
    for byte in host.bytes() {
        let is_inner = INNER[usize::from(byte)];
        fits &= is_inner || (byte == b'.' && length > 0);
        length = if is_inner { length + 1 } else { 0 };
        fits &= length <= 63;
    }
    fits && length > 0
}

fn is_address(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_found_without_its_port() {
        for (authority, host) in [
            ("shop.dunlin.localhost", Some("shop.dunlin.localhost")),
            ("Shop.Dunlin.Localhost:8080", Some("shop.dunlin.localhost")),
            ("shop.dunlin.localhost.", Some("shop.dunlin.localhost")),
            ("[::1]:80", Some("[::1]")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("shop:", Some("shop")),
            ("user@shop", None),
            ("shop:80x", None),
            ("shop:800000", None),
            ("", None),
            (":80", None),
            ("a b", None),
            ("a..b", None),
            ("[::1", None),
            ("shop/..", None),
        ] {
            assert_eq!(name(authority).as_deref(), host, "{authority}");
        }
    }

    #[test]
    fn an_absolute_target_outranks_the_field_and_two_fields_are_refused() {
        let of = |target: &str, hosts: &[&'static str], version, secured| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, HeaderValue::from_static(host));
            }
            Host::of(&target.parse().unwrap(), version, &Fields::Map(headers), secured)
        };
        let host = of("http://a:1/", &["b"], Version::HTTP_11, None).unwrap();
        assert_eq!((host.authority(), &*host.name), ("a:1", "a"));
        assert!(of("/", &["b", "b"], Version::HTTP_11, None).is_err());
        assert!(of("/", &[], Version::HTTP_11, Some("a")).is_err());
        assert!(of("/", &[], Version::HTTP_10, None).is_err());
        assert_eq!(of("/", &[], Version::HTTP_10, Some("a")).unwrap().name.as_ref(), "a");
        assert_eq!(of("/", &["b"], Version::HTTP_10, Some("a")).unwrap().name.as_ref(), "b");
    }

    #[test]
    fn a_target_has_one_of_the_forms_of_its_method() {
        for (method, target, good) in [
            ("GET", "/", true),
            ("GET", "/a?b", true),
            ("GET", "http://a", true),
            ("GET", "HTTPS://a/b", true),
            ("OPTIONS", "*", true),
            ("GET", "*", false),
            ("GET", "a", false),
            ("GET", "a:80", false),
            ("GET", "ftp://a/", false),
            ("CONNECT", "a:80", true),
        ] {
            let (method, uri) = (method.parse().unwrap(), target.parse().unwrap());
            assert_eq!(check_target(&method, &uri).is_ok(), good, "{method} {target}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_found_is_clean(authority: String) {
            if let Some(name) = name(&authority) {
                prop_assert!(name.len() <= 253 && !name.is_empty());
                prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.[]:".contains(&b)));
            }
        }
    }
}
