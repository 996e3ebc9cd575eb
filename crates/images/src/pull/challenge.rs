//! What a registry answers to a stranger: the `WWW-Authenticate` header (RFC 9110 §11.6.1; RFC 6750 as Docker's
//! token specification uses it).

use http::{HeaderMap, header};

/// How a registry wants its callers to show who they are.
#[derive(Debug, PartialEq, Eq)]
pub enum Challenge {
    /// With a token that the service at `realm` gives out.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
    /// With user name and password.
    Basic,
}

/// The challenge of a response; one for a token before one for a password.
pub fn read(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(header::WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(challenge) = bearer(rest)
        {
            return Some(challenge);
        }
    }
    basic
}

fn bearer(parameters: &str) -> Option<Challenge> {
    let (mut realm, mut service, mut scope) = (None, None, None);
    let mut rest = parameters;
    while let Some((name, value, tail)) = parameter(rest) {
        match name.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
        rest = tail;
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

/// Reads `name=token` or `name="quoted string"` from the beginning of a list.
fn parameter(list: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = list.trim_start_matches([' ', '\t', ',']).split_once('=')?;
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        return Some((name.trim(), rest[..end].to_owned(), &rest[end..]));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (position, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((name.trim(), value, &quoted[position + 1..])),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(lines: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::WWW_AUTHENTICATE, line.parse().unwrap());
        }
        read(&headers)
    }

    #[test]
    fn reads_what_registries_send() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        assert_eq!(
            of(&["Basic realm=\"x\"", hub]),
            Some(Challenge::Bearer {
                realm: "https://auth.docker.io/token".to_owned(),
                service: Some("registry.docker.io".to_owned()),
                scope: Some("repository:a/b:pull,push".to_owned()),
            })
        );
        assert_eq!(of(&["basic realm=\"a \\\" b\""]), Some(Challenge::Basic));
        let plain = of(&["bearer realm=http://x/t , service=y"]);
        let plain_wanted =
            Challenge::Bearer { realm: "http://x/t".to_owned(), service: Some("y".to_owned()), scope: None };
        assert_eq!(plain, Some(plain_wanted));
        for nothing in ["Bearer", "Bearer service=\"x\"", "Bearer realm=\"open", "Digest realm=\"x\"", ""] {
            assert_eq!(of(&[nothing]), None, "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~]{0,200}") {
            let _ = of(&[&format!("Bearer {text}")]);
        }
    }
}
