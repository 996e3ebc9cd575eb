//! Frames (RFC 9113, 4.1): nine bytes each, and what follows them.
//!
//! ```text
//!  length (24 bits)   type (8)   flags (8)   stream (32)   then `length` bytes
//! ```

use bytes::{BufMut, BytesMut};

/// How a client begins (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length of what stands before a frame's payload.
pub const HEAD: usize = 9;
/// The longest payload that everybody takes, and that is taken here.
pub const MAX_PAYLOAD: usize = 16_384;
/// The highest number of a stream, and the widest window.
pub const MAX_31: u32 = 0x7fff_ffff;

/// DATA, HEADERS: nothing of the stream follows.
pub const END_STREAM: u8 = 0x1;
/// SETTINGS, PING: an answer to the other side's.
pub const ACK: u8 = 0x1;
/// HEADERS, CONTINUATION: the block of fields is whole.
pub const END_HEADERS: u8 = 0x4;
/// DATA, HEADERS: padding follows.
pub const PADDED: u8 = 0x8;
/// HEADERS: a priority stands before the fields.
pub const PRIORITY: u8 = 0x20;

/// What a frame is (RFC 9113, 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Data = 0,
    Headers = 1,
    Priority = 2,
    Reset = 3,
    Settings = 4,
    PushPromise = 5,
    Ping = 6,
    GoAway = 7,
    WindowUpdate = 8,
    Continuation = 9,
    /// Something else, which is passed over (RFC 9113, 5.5).
    Unknown = 0xff,
}

impl From<u8> for Kind {
    fn from(kind: u8) -> Self {
        match kind {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::Reset,
            4 => Self::Settings,
            5 => Self::PushPromise,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            _ => Self::Unknown,
        }
    }
}

/// Why a stream or a connection ends (RFC 9113, 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nothing is wrong.
    NoError = 0,
    /// The rules were broken.
    Protocol = 1,
    /// Something went wrong here.
    Internal = 2,
    /// More came than the window let in.
    FlowControl = 3,
    /// It is over already.
    StreamClosed = 5,
    /// A frame is too long or too short.
    FrameSize = 6,
    /// Nothing was done: it may be asked for again.
    RefusedStream = 7,
    /// Nobody wants it any more.
    Cancel = 8,
    /// Fields cannot be read.
    Compression = 9,
    /// Somebody says too much.
    EnhanceYourCalm = 11,
}

/// What stands before a frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// Bytes of payload.
    pub length: usize,
    /// What it is.
    pub kind: Kind,
    /// What else is to be known.
    pub flags: u8,
    /// Which stream it belongs to; 0 is the connection itself.
    pub stream: u32,
}

impl FrameHead {
    /// The one at the beginning of `bytes`, once it is there.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; HEAD] = bytes.first_chunk()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & MAX_31;
        Some(Self { length, kind: head[3].into(), flags: head[4], stream })
    }

    /// The same as it is written.
    pub fn bytes(&self) -> [u8; HEAD] {
        let [_, a, b, c] = u32::try_from(self.length).expect("payloads are short").to_be_bytes();
        let [e, f, g, h] = self.stream.to_be_bytes();
        [a, b, c, self.kind as u8, self.flags, e, f, g, h]
    }

    /// Whether it has this flag.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Writes what stands before a payload.
pub fn write_head(out: &mut BytesMut, length: usize, kind: Kind, flags: u8, stream: u32) {
    out.extend_from_slice(&FrameHead { length, kind, flags, stream }.bytes());
}

/// Ends a stream.
pub fn write_reset(out: &mut BytesMut, stream: u32, reason: Reason) {
    write_head(out, 4, Kind::Reset, 0, stream);
    out.put_u32(reason as u32);
}

/// Opens a window by so many bytes.
pub fn write_window(out: &mut BytesMut, stream: u32, bytes: u32) {
    write_head(out, 4, Kind::WindowUpdate, 0, stream);
    out.put_u32(bytes);
}

/// Tells which stream is the last one that is served.
pub fn write_goaway(out: &mut BytesMut, last: u32, reason: Reason) {
    write_head(out, 8, Kind::GoAway, 0, 0);
    out.put_u32(last);
    out.put_u32(reason as u32);
}

/// Asks whether the other side is there, or answers that.
pub fn write_ping(out: &mut BytesMut, flags: u8, said: [u8; 8]) {
    write_head(out, 8, Kind::Ping, flags, 0);
    out.extend_from_slice(&said);
}

/// A name for numbers in SETTINGS (RFC 9113, 6.5.2; RFC 8441, 3).
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Tells how we are to be spoken to.
pub fn write_settings(out: &mut BytesMut, settings: &[(u16, u32)]) {
    write_head(out, settings.len() * 6, Kind::Settings, 0, 0);
    for (name, value) in settings {
        out.put_u16(*name);
        out.put_u32(*value);
    }
}
