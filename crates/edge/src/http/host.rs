//! Which host a request is for.

use http::{HeaderMap, Uri, header::HOST};

use crate::Refusal;

/// A host as the client wrote it, and as it is looked up.
#[derive(Debug, PartialEq, Eq)]
pub struct Host {
    /// With the port, as the machine gets it.
    pub authority: String,
    /// The name alone, in lower case, without a dot at its end.
    pub name: String,
}

impl Host {
    /// The host of a request. A target in absolute form (and `:authority`) outranks the Host field (RFC 9112, 3.2.2).
    pub fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, Refusal> {
        let bad = |reason| Refusal::BadHost { reason };
        let mut fields = headers.get_all(HOST).iter();
        let field = fields.next();
        if fields.next().is_some() {
            return Err(bad("it has more than one Host field"));
        }
        let authority = match (uri.authority(), field) {
            (Some(authority), _) => authority.as_str(),
            (None, Some(field)) => field.to_str().map_err(|_| bad("its Host field is not a host name"))?,
            (None, None) => return Err(bad("it has no Host field")),
        };
        let name = name(authority).ok_or_else(|| bad("its Host field is not a host name"))?;
        Ok(Self { authority: authority.to_owned(), name })
    }

    /// The host with another port; none is written if it is 443.
    pub fn with_https_port(&self, port: u16) -> String {
        if port == 443 { self.name.clone() } else { format!("{}:{port}", self.name) }
    }
}

/// The host name in `authority`, in lower case, without port and without a dot at its end; `None` if it is not one.
pub fn name(authority: &str) -> Option<String> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.starts_with('[') || host.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_port = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    (is_port && (is_address(host) || is_name(host))).then(|| host.to_ascii_lowercase())
}

fn is_name(host: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(inner);
    host.len() <= 253 && host.split('.').all(label)
}

fn is_address(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
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
        let mut headers = HeaderMap::new();
        headers.append(HOST, "b".parse().unwrap());
        let host = Host::of(&"http://a:1/".parse().unwrap(), &headers).unwrap();
        assert_eq!((host.authority.as_str(), host.name.as_str()), ("a:1", "a"));
        headers.append(HOST, "b".parse().unwrap());
        assert!(Host::of(&"/".parse().unwrap(), &headers).is_err());
        assert!(Host::of(&"/".parse().unwrap(), &HeaderMap::new()).is_err());
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
