//! Sealing: secrets are stored encrypted and authenticated (XChaCha20-Poly1305), under a key that lies beside the
//! data with permissions for its owner alone.

use std::{fs, io, path::Path};

use chacha20poly1305::{
    XChaCha20Poly1305,
    aead::{Aead, KeyInit, Payload},
};
use thiserror::Error;

/// A key that seals and opens.
#[derive(Clone)]
pub struct SealingKey(XChaCha20Poly1305);

/// Why something sealed did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a sealed value does not open: it was changed, or it was sealed with another key or for another place")]
pub struct DoesNotOpen;

const NONCE_BYTES: usize = 24;

impl SealingKey {
    /// Reads the key at `path`, or makes one there if there is none.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = hex::encode(crate::random::bytes::<32>());
                crate::durable::write(path, text.as_bytes(), 0o600)?;
                text
            }
            Err(error) => return Err(error),
        };
        let key = hex::decode(text.trim()).ok().filter(|key| key.len() == 32);
        let key =
            key.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a sealing key is 64 hexadecimal digits"))?;
        XChaCha20Poly1305::new_from_slice(&key).map(Self).map_err(io::Error::other)
    }

    /// Seals `plain` for one `place`, a text such as `secrets/my-app`: elsewhere it does not open.
    pub fn seal(&self, place: &str, plain: &[u8]) -> Vec<u8> {
        let nonce = crate::random::bytes::<NONCE_BYTES>();
        let payload = Payload { msg: plain, aad: place.as_bytes() };
        let sealed = self.0.encrypt(&nonce.into(), payload).expect("memory can be encrypted");
        [nonce.as_slice(), &sealed].concat()
    }

    /// Opens what [`Self::seal`] sealed for the same place.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, DoesNotOpen> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(DoesNotOpen)?;
        let payload = Payload { msg: sealed, aad: place.as_bytes() };
        self.0.decrypt(&(*nonce).into(), payload).map_err(|_| DoesNotOpen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_at_its_place_with_its_key_only() {
        let directory = tempfile::tempdir().unwrap();
        let key = SealingKey::load_or_create(&directory.path().join("a.key")).unwrap();
        let other = SealingKey::load_or_create(&directory.path().join("b.key")).unwrap();
        let again = SealingKey::load_or_create(&directory.path().join("a.key")).unwrap();
        let sealed = key.seal("here", b"hush");
        assert_eq!(again.open("here", &sealed).unwrap(), b"hush");
        assert_eq!(key.open("there", &sealed), Err(DoesNotOpen));
        assert_eq!(other.open("here", &sealed), Err(DoesNotOpen));
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(key.open("here", &changed), Err(DoesNotOpen));
        assert_eq!(key.open("here", &sealed[..10]), Err(DoesNotOpen));
    }
}
