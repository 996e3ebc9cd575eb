//! Short-lived registry tokens: what Docker's client gets for a password, and sends with every request after.
//!
//! `dlr.<claims>.<signature>`: the claims are JSON, the signature HMAC-SHA-256 with a key that lives as long as the
//! process; both are in URL-safe base64.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::{Deserialize, Serialize};

use api::internal::RegistryRights;

/// How long a token opens, in seconds. Clients fetch another when one has run out.
pub const LIFETIME_SECONDS: u64 = 300;

const PREFIX: &str = "dlr.";

/// What the bearer of a token may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// When it ends: milliseconds since 1970.
    pub expires_ms: u64,
    /// One row for each repository.
    pub grants: Vec<Grant>,
}

/// Rights to one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub repository: String,
    pub pull: bool,
    pub push: bool,
    pub delete: bool,
}

impl Claims {
    /// What the token says about a repository; nothing if it does not speak of it.
    pub fn rights(&self, repository: &str) -> RegistryRights {
        let grants = self.grants.iter().filter(|grant| grant.repository == repository);
        grants.fold(RegistryRights::default(), |rights, grant| RegistryRights {
            pull: rights.pull || grant.pull,
            push: rights.push || grant.push,
            delete: rights.delete || grant.delete,
        })
    }
}

/// Signs and checks tokens.
pub struct Signer(hmac::Key);

impl Signer {
    /// A signer with a key of its own.
    pub fn new() -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &kit::random::bytes::<32>()))
    }

    /// Makes a token.
    pub fn sign(&self, claims: &Claims) -> String {
        let claims = BASE64.encode(serde_json::to_vec(claims).expect("claims are plain JSON"));
        let signature = BASE64.encode(hmac::sign(&self.0, claims.as_bytes()));
        format!("{PREFIX}{claims}.{signature}")
    }

    /// The claims of a token that this signer made and that has not run out at `now_ms`.
    pub fn verify(&self, token: &str, now_ms: u64) -> Option<Claims> {
        let (claims, signature) = token.strip_prefix(PREFIX)?.split_once('.')?;
        // Compares in constant time.
        hmac::verify(&self.0, claims.as_bytes(), &BASE64.decode(signature).ok()?).ok()?;
        let claims: Claims = serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()?;
        (now_ms < claims.expires_ms).then_some(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        let grant = Grant { repository: "app".to_owned(), pull: true, push: false, delete: false };
        Claims { expires_ms: 1_000, grants: vec![grant] }
    }

    #[test]
    fn opens_what_it_says_until_it_runs_out() {
        let signer = Signer::new();
        let token = signer.sign(&claims());
        let read = signer.verify(&token, 999).unwrap();
        assert_eq!(read, claims());
        assert_eq!(read.rights("app"), RegistryRights { pull: true, push: false, delete: false });
        assert_eq!(read.rights("other"), RegistryRights::default());
        assert_eq!(signer.verify(&token, 1_000), None);
    }

    #[test]
    fn a_changed_or_foreign_token_opens_nothing() {
        let signer = Signer::new();
        let token = signer.sign(&claims());
        assert_eq!(Signer::new().verify(&token, 0), None);
        for position in PREFIX.len()..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            assert_eq!(signer.verify(&String::from_utf8(changed).unwrap(), 0), None, "byte {position}");
        }
        for text in ["", "dlr.", "dlr..", "dlr.a.b", "eyJ9.x.y"] {
            assert_eq!(signer.verify(text, 0), None, "{text}");
        }
    }
}
