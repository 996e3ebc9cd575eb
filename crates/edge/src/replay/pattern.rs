//! For which requests a replay is remembered: `[host]/path/*`. Pure.

use std::str::FromStr;

use thiserror::Error;

/// Bytes of a pattern, at most.
const MAX_BYTES: usize = 512;

/// For which requests a replay is remembered: those of a path and of everything below it, of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Of this host; of the request's own unless given.
    pub host: Option<String>,
    /// The path, without a slash at its end: empty for every path.
    pub path: String,
}

/// Why a pattern is none. `Display` is a sentence without its end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadPattern {
    /// It is too long.
    #[error("a pattern has 512 bytes at most")]
    Long,
    /// It names no path.
    #[error("{0:?} has no path: write [host]/path/*")]
    NoPath(String),
    /// Its host is none, or has a port.
    #[error("{0:?} is not a host name without a port")]
    Host(String),
    /// Its path is none.
    #[error("{0:?} is not a path; a * stands at its end only")]
    Path(String),
    /// It is about other requests than the one that it came with.
    #[error("it does not match the request that it came with")]
    OtherRequest,
}

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        if text.len() > MAX_BYTES {
            return Err(BadPattern::Long);
        }
        let slash = text.find('/').ok_or_else(|| BadPattern::NoPath(text.into()))?;
        let (host, path) = text.split_at(slash);
        let path = path.strip_suffix('*').unwrap_or(path);
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"*?#\\\"".contains(&byte);
        if !path.bytes().all(plain) || path.contains("//") {
            return Err(BadPattern::Path(text.into()));
        }
        let named = crate::http::host_name(host).filter(|_| !host.contains(':'));
        if !host.is_empty() && named.is_none() {
            return Err(BadPattern::Host(host.into()));
        }
        Ok(Self { host: named, path: path.trim_end_matches('/').to_owned() })
    }
}

impl Pattern {
    /// Whether a request is one of those.
    pub fn matches(&self, host: &str, path: &str) -> bool {
        self.host.as_ref().is_none_or(|own| own == host) && lies_below(path, &self.path)
    }
}

/// Whether a path is `prefix` or lies below it.
pub fn lies_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path and those above it, the longest first: `/a/b`, `/a`, and the empty one.
pub fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let whole = path.trim_end_matches('/');
    std::iter::successors(Some(whole), |path| path.rfind('/').map(|slash| &path[..slash]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pattern_is_a_path_and_what_lies_below_it() {
        for (pattern, yes, no) in [
            ("/users/*", "/users/1", "/usersandmore"),
            ("/users", "/users", "/user"),
            ("/users/", "/users/1/2", "/"),
            ("shop.example/users", "/users", "/other"),
        ] {
            let pattern: Pattern = pattern.parse().unwrap();
            assert!(pattern.matches("shop.example", yes) && !pattern.matches("shop.example", no), "{pattern:?}");
        }
        let all: Pattern = "Shop.Example/*".parse().unwrap();
        assert!(all.matches("shop.example", "/anything") && !all.matches("other.example", "/anything"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in ["", "users", "shop:80/users", "/a*b", "/a?b", "/a//b", "/a b", "a b/c", "/*/x", "/ü"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
        assert_eq!(format!("/{}", "a".repeat(600)).parse::<Pattern>(), Err(BadPattern::Long));
    }

    proptest! {
        #[test]
        fn a_pattern_matches_by_exactly_the_prefixes_of_a_path(
            pattern in "(/[a-c]){0,3}", path in "(/[a-c]){1,4}/?",
        ) {
            let parsed: Pattern = format!("{pattern}/*").parse().unwrap();
            prop_assert_eq!(parsed.matches("h", &path), prefixes(&path).any(|prefix| prefix == pattern));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert!(!pattern.path.ends_with('/'));
            }
        }
    }
}
