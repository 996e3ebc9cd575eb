//! Sessions: each end's view of the channel. Bytes in, events out.
//!
//! ```text
//!   host:   greeting sent ──ANSWER with our nonce──▶ open ──▶ messages
//!                 └──ANSWER without a version──▶ refused
//!   guest:  closed ──SYNC──▶ open ──SYNC with another nonce──▶ open (another session)
//!             ▲                 │
//!             └── detach() ─────┘
//! ```
//!
//! The frames SYNC and ANSWER have the same shape in all versions, for ever.

use std::ops::RangeInclusive;

use bytes::{Buf, BufMut, BytesMut};

use crate::{
    frame::{self, Decoder, Frame, kind},
    message::{GuestMessage, HostMessage, Malformed},
};

/// The versions of the protocol that this release speaks. What each added:
/// - 2: [`GuestMessage::Busy`].
pub const VERSIONS: RangeInclusive<u16> = 1..=2;

/// Names one session; random.
pub type Nonce = [u8; 16];

const MAGIC: &[u8; 8] = b"dunlin\r\n";

/// The largest message a host takes from a guest, which it does not trust, in bytes.
const MAX_FROM_GUEST_BYTES: usize = 1024 * 1024;

/// The largest message a guest takes from its host in bytes: files travel in the spec.
const MAX_FROM_HOST_BYTES: usize = 16 * 1024 * 1024;

/// What a host learns from the channel.
#[derive(Debug)]
pub enum HostEvent {
    /// The guest has answered; messages may be sent from now on.
    Open {
        /// The version of the protocol that both speak.
        version: u16,
    },
    /// The guest speaks none of our versions. Nothing more will come.
    Incompatible {
        /// The versions that it speaks.
        versions: RangeInclusive<u16>,
    },
    /// A message.
    Message(GuestMessage),
    /// A message that cannot be read; it was dropped.
    Malformed(Malformed),
}

/// The host's end of one session.
#[derive(Debug)]
pub struct HostChannel {
    nonce: Nonce,
    versions: RangeInclusive<u16>,
    open: bool,
    decoder: Decoder,
}

impl HostChannel {
    /// A new session, named by a random `nonce`.
    pub fn new(nonce: Nonce) -> Self {
        Self::with_versions(nonce, VERSIONS)
    }

    /// A new session of a release that speaks `versions`.
    pub fn with_versions(nonce: Nonce, versions: RangeInclusive<u16>) -> Self {
        Self { nonce, versions, open: false, decoder: Decoder::new(MAX_FROM_GUEST_BYTES) }
    }

    /// Appends what the host sends first to `out`. It may be sent again while no answer has come.
    pub fn greet(&self, out: &mut BytesMut) {
        let mut versions = [0; 4];
        (&mut versions[..2]).put_u16(*self.versions.start());
        (&mut versions[2..]).put_u16(*self.versions.end());
        frame::interrupt(out);
        frame::encode(kind::SYNC, 0, &[MAGIC, &self.nonce, &versions], out);
    }

    /// Takes bytes off the front of `input` up to the next event. Without an event, all of `input` has been taken.
    pub fn receive(&mut self, input: &mut &[u8]) -> Option<HostEvent> {
        while let Some(frame) = self.decoder.decode(input) {
            let event = if frame.kind == kind::ANSWER { self.answer(&frame) } else { self.message(frame) };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn answer(&mut self, frame: &Frame) -> Option<HostEvent> {
        let (nonce, [version, min, max]) = parse_hail::<3>(frame)?;
        if nonce != self.nonce || self.open {
            return None;
        }
        if !self.versions.contains(&version) {
            return Some(HostEvent::Incompatible { versions: min..=max });
        }
        self.open = true;
        Some(HostEvent::Open { version })
    }

    fn message(&self, frame: Frame) -> Option<HostEvent> {
        if !self.open {
            return None;
        }
        match GuestMessage::decode(frame) {
            Ok(GuestMessage::Unknown) => None,
            Ok(message) => Some(HostEvent::Message(message)),
            Err(malformed) => Some(HostEvent::Malformed(malformed)),
        }
    }
}

/// What a guest learns from the channel.
#[derive(Debug)]
pub enum GuestEvent {
    /// Another host process has taken over: whatever was under way for the one before is void. The answer has been
    /// put into the output already; the guest's state follows it.
    Open {
        /// The version of the protocol that both speak.
        version: u16,
    },
    /// A host speaks none of our versions; it has been told so.
    Incompatible {
        /// The versions that it speaks.
        versions: RangeInclusive<u16>,
    },
    /// A message.
    Message(HostMessage),
    /// A message that cannot be read; it was dropped.
    Malformed(Malformed),
}

/// The guest's end of the channel, for all its sessions.
#[derive(Debug)]
pub struct GuestChannel {
    versions: RangeInclusive<u16>,
    session: Option<(Nonce, u16)>,
    decoder: Decoder,
}

impl Default for GuestChannel {
    fn default() -> Self {
        Self::with_versions(VERSIONS)
    }
}

impl GuestChannel {
    /// The end of a release that speaks `versions`.
    pub fn with_versions(versions: RangeInclusive<u16>) -> Self {
        Self { versions, session: None, decoder: Decoder::new(MAX_FROM_HOST_BYTES) }
    }

    /// Whether a session is open, so that messages may be sent.
    pub fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// The version of the open session.
    pub fn version(&self) -> Option<u16> {
        self.session.map(|(_, version)| version)
    }

    /// The host has gone. Its half-read frame, if any, is forgotten.
    pub fn detach(&mut self) {
        self.session = None;
        self.decoder = Decoder::new(MAX_FROM_HOST_BYTES);
    }

    /// Takes bytes off the front of `input` up to the next event. Without an event, all of `input` has been taken.
    /// A new session clears `out`, which may hold bytes for the one before, and puts its answer there.
    pub fn receive(&mut self, input: &mut &[u8], out: &mut BytesMut) -> Option<GuestEvent> {
        while let Some(frame) = self.decoder.decode(input) {
            let event = if frame.kind == kind::SYNC { self.sync(&frame, out) } else { self.message(frame) };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn sync(&mut self, frame: &Frame, out: &mut BytesMut) -> Option<GuestEvent> {
        let (nonce, [min, max]) = parse_hail::<2>(frame)?;
        if let Some((current, version)) = self.session
            && current == nonce
        {
            self.answer(nonce, version, out);
            return None;
        }
        out.clear();
        frame::interrupt(out);
        let version = max.min(*self.versions.end());
        let common = version >= min.max(*self.versions.start());
        self.session = common.then_some((nonce, version));
        self.answer(nonce, if common { version } else { 0 }, out);
        Some(if common { GuestEvent::Open { version } } else { GuestEvent::Incompatible { versions: min..=max } })
    }

    fn answer(&self, nonce: Nonce, version: u16, out: &mut BytesMut) {
        let mut numbers = [0; 6];
        (&mut numbers[..2]).put_u16(version);
        (&mut numbers[2..4]).put_u16(*self.versions.start());
        (&mut numbers[4..]).put_u16(*self.versions.end());
        frame::encode(kind::ANSWER, 0, &[MAGIC, &nonce, &numbers], out);
    }

    fn message(&self, frame: Frame) -> Option<GuestEvent> {
        self.session?;
        match HostMessage::decode(frame) {
            Ok(HostMessage::Unknown) => None,
            Ok(message) => Some(GuestEvent::Message(message)),
            Err(malformed) => Some(GuestEvent::Malformed(malformed)),
        }
    }
}

/// Magic, nonce and `N` numbers; what follows belongs to later releases.
fn parse_hail<const N: usize>(frame: &Frame) -> Option<(Nonce, [u16; N])> {
    let mut payload = frame.payload.strip_prefix(MAGIC)?;
    if payload.len() < 16 + 2 * N {
        return None;
    }
    let mut nonce = [0; 16];
    payload.copy_to_slice(&mut nonce);
    Some((nonce, std::array::from_fn(|_| payload.get_u16())))
}
