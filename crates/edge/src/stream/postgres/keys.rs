//! Finding a session's cancellation key in what a server says first. Pure: bytes in, key out.

/// The message that holds the key.
const BACKEND_KEY_DATA: u8 = b'K';
/// The message after which a session works: the key has come before it, or never will.
const READY_FOR_QUERY: u8 = b'Z';
/// The process and a secret of 256 bytes (protocol 3.2); 4 bytes before.
const MAX_KEY: usize = 260;
/// A server says less than this before the key, authentication included.
const MAX_SAID: usize = 1 << 20;

/// Reads messages until the one with the key.
#[derive(Debug, Default)]
pub struct KeyScan {
    head: Vec<u8>,
    /// How much of the message's body is still to come.
    body: usize,
    key: Option<Vec<u8>>,
    said: usize,
}

/// What the bytes so far came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Scanned {
    /// More have to come.
    More,
    /// This is the key.
    Key(Vec<u8>),
    /// There is none.
    None,
}

impl KeyScan {
    /// Reads on.
    pub fn feed(&mut self, bytes: &[u8]) -> Scanned {
        self.said += bytes.len();
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.body == 0 && self.key.is_none() {
                let (head, after) = rest.split_at(rest.len().min(5 - self.head.len()));
                self.head.extend_from_slice(head);
                rest = after;
                let Some([kind, length @ ..]) = self.head.first_chunk::<5>() else { break };
                let Some(body) = (u32::from_be_bytes(*length) as usize).checked_sub(4) else { return Scanned::None };
                match *kind {
                    READY_FOR_QUERY => return Scanned::None,
                    BACKEND_KEY_DATA if !(8..=MAX_KEY).contains(&body) => return Scanned::None,
                    BACKEND_KEY_DATA => self.key = Some(Vec::with_capacity(body)),
                    _ => {}
                }
                self.body = body;
                self.head.clear();
            }
            let (body, after) = rest.split_at(rest.len().min(self.body));
            self.body -= body.len();
            rest = after;
            if let Some(key) = &mut self.key {
                key.extend_from_slice(body);
                if self.body == 0 {
                    return Scanned::Key(std::mem::take(key));
                }
            }
        }
        if self.said > MAX_SAID { Scanned::None } else { Scanned::More }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    proptest! {
        #[test]
        fn the_key_is_found_however_the_bytes_are_cut(
            before in prop::collection::vec((prop::sample::select(b"RSNE".to_vec()), prop::collection::vec(any::<u8>(), 0..40)), 0..6),
            key in prop::collection::vec(any::<u8>(), 8..=MAX_KEY),
            cuts in prop::collection::vec(1..20_usize, 1..200),
        ) {
            let mut said: Vec<u8> = before.iter().flat_map(|(kind, body)| message(*kind, body)).collect();
            said.extend(message(b'K', &key));
            let (mut scan, mut rest, mut found) = (KeyScan::default(), said.as_slice(), Scanned::More);
            let mut cuts = cuts.into_iter().chain(std::iter::repeat(1000));
            while found == Scanned::More && !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(cuts.next().unwrap()));
                found = scan.feed(piece);
                rest = after;
            }
            prop_assert_eq!(found, Scanned::Key(key));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic_and_never_for_ever(bytes in prop::collection::vec(any::<u8>(), 1..2000)) {
            let mut scan = KeyScan::default();
            let rounds = (0..=MAX_SAID / bytes.len() + 1).take_while(|_| scan.feed(&bytes) == Scanned::More).count();
            prop_assert!(rounds * bytes.len() <= MAX_SAID);
        }
    }

    #[test]
    fn a_session_that_works_without_a_key_has_none() {
        let said = [message(b'R', &[0; 4]), message(b'Z', b"I"), message(b'K', &[1; 8])].concat();
        assert_eq!(KeyScan::default().feed(&said), Scanned::None);
        assert_eq!(KeyScan::default().feed(&message(b'K', &[1; 7])), Scanned::None);
        assert_eq!(KeyScan::default().feed(&[b'R', 0, 0, 0, 3]), Scanned::None);
    }
}
