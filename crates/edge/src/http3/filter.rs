//! What of a stream's frames reaches the HTTP/3 library (RFC 9114, 7).
//!
//! ```text
//!            ┌──── type and length ────┐
//!   head ────┤ known, within its bound ├──▶ passing ──┐
//!    ▲  ▲    │ unknown                 ├──▶ skipping ─┤
//!    │  └────┤ DATA with nothing in it │              │
//!    │       └─────────────────────────┘              │
//!    └────────────────── its length is over ──────────┘
//! ```
//!
//! The library keeps a frame until it is whole, of whatever length and kind, takes an empty DATA frame for the end of
//! a body, and does not notice that a stream ends inside of one. So frames without a meaning are left out here, frames
//! that are too long end their stream, and so does an end at the wrong place.

use std::collections::VecDeque;

use bytes::Bytes;

/// A control stream's frames are never longer.
const MAX_CONTROL: u64 = 4096;
const DATA: u64 = 0x0;
const CONTROL_STREAM: u64 = 0x0;

/// Why a stream has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadFrames {
    /// A frame that would have to be kept is too long.
    TooLong,
    /// The stream ended inside of a frame.
    Truncated,
}

/// Filters the frames of one stream.
#[derive(Debug)]
pub struct FrameFilter {
    at: At,
    bound: u64,
    passed: VecDeque<Bytes>,
}

#[derive(Debug)]
enum At {
    /// In the type of a unidirectional stream.
    StreamType(Head<1>),
    /// In the type and length of a frame.
    Head(Head<2>),
    /// In a frame that passes: so much of it is to come.
    Passing(u64),
    /// In a frame that is left out.
    Skipping(u64),
    /// The stream has no frames.
    Plain,
}

impl FrameFilter {
    /// For a request's stream. Frames other than DATA are at most so long.
    pub fn request(bound: u64) -> Self {
        Self { at: At::Head(Head::default()), bound, passed: VecDeque::new() }
    }

    /// For a stream in one direction, which says first what it is for.
    pub fn unidirectional() -> Self {
        Self { at: At::StreamType(Head::default()), bound: MAX_CONTROL, passed: VecDeque::new() }
    }

    /// Takes what has come.
    pub fn push(&mut self, mut chunk: Bytes) -> Result<(), BadFrames> {
        while !chunk.is_empty() {
            match &mut self.at {
                At::StreamType(head) => {
                    if let Some([kind]) = head.push(chunk.split_to(1)[0]) {
                        self.passed.push_back(head.bytes());
                        self.at = if kind == CONTROL_STREAM { At::Head(Head::default()) } else { At::Plain };
                    }
                }
                At::Head(head) => {
                    if let Some([kind, length]) = head.push(chunk.split_to(1)[0]) {
                        let bytes = head.bytes();
                        self.begin(kind, length, bytes)?;
                    }
                }
                At::Passing(left) => {
                    let part = part_of(&mut chunk, left);
                    self.passed.push_back(part);
                }
                At::Skipping(left) => drop(part_of(&mut chunk, left)),
                At::Plain => self.passed.push_back(std::mem::take(&mut chunk)),
            }
            if let At::Passing(0) | At::Skipping(0) = self.at {
                self.at = At::Head(Head::default());
            }
        }
        Ok(())
    }

    /// The next piece for the library.
    pub fn pop(&mut self) -> Option<Bytes> {
        self.passed.pop_front()
    }

    /// The stream has ended.
    pub fn end(&self) -> Result<(), BadFrames> {
        match &self.at {
            At::Head(head) if head.is_empty() => Ok(()),
            At::StreamType(_) | At::Plain => Ok(()),
            _ => Err(BadFrames::Truncated),
        }
    }

    fn begin(&mut self, kind: u64, length: u64, head: Bytes) -> Result<(), BadFrames> {
        self.at = match kind {
            DATA if length == 0 => At::Skipping(0),
            _ if !has_meaning(kind) => At::Skipping(length),
            _ if kind != DATA && length > self.bound => return Err(BadFrames::TooLong),
            _ => {
                self.passed.push_back(head);
                At::Passing(length)
            }
        };
        Ok(())
    }
}

/// Frames of HTTP/3, and those of HTTP/2 that must not appear. Every other one is to be ignored (RFC 9114, 9).
fn has_meaning(kind: u64) -> bool {
    kind <= 0x9 || kind == 0xd
}

/// As much of a chunk as belongs to a frame of which `left` bytes are to come.
fn part_of(chunk: &mut Bytes, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(chunk.len());
    *left -= length as u64;
    chunk.split_to(length)
}

/// `N` integers of variable length (RFC 9000, 16) that come byte by byte.
#[derive(Debug, Default)]
struct Head<const N: usize> {
    bytes: [u8; 16],
    length: usize,
}

impl<const N: usize> Head<N> {
    /// Takes a byte, and gives the numbers once they are there.
    fn push(&mut self, byte: u8) -> Option<[u64; N]> {
        self.bytes[self.length] = byte;
        self.length += 1;
        let mut rest = &self.bytes[..self.length];
        let mut numbers = [0; N];
        for number in &mut numbers {
            let (value, after) = integer(rest)?;
            (*number, rest) = (value, after);
        }
        Some(numbers)
    }

    fn bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.bytes[..self.length])
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// The integer at the beginning, and what comes after.
fn integer(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = 1 << (bytes.first()? >> 6);
    let (number, rest) = bytes.split_at_checked(length)?;
    let value = number.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    Some((value & (u64::MAX >> (66 - 8 * length)), rest))
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
