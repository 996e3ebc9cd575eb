//! Frames: a stream of bytes cut into pieces that can be found again after any cut.
//!
//! Serial line framing (RFC 1055): a frame ends with the byte `END`, which occurs nowhere else, since `END` and
//! `ESC` inside a frame are replaced by two bytes each. Whoever takes over a stream sends `END` first; what stood
//! half written before it then has the wrong length and is dropped.
//!
//! ```text
//!   kind: u8 │ reserved: u8 = 0 │ length of payload: u32 │ stream: u32 │ payload        (big endian)
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

const END: u8 = 0xC0;
const ESC: u8 = 0xDB;
const ESC_END: u8 = 0xDC;
const ESC_ESC: u8 = 0xDD;

/// The length of a frame's header in bytes.
pub const HEADER_BYTES: usize = 10;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is: a number of [`kind`].
    pub kind: u8,
    /// The stream that the payload belongs to, or 0.
    pub stream: u32,
    /// The payload.
    pub payload: Bytes,
}

/// The kinds of frames. A receiver ignores those it does not know.
pub mod kind {
    /// Host to guest: begins a session.
    pub const SYNC: u8 = 1;
    /// Guest to host: the answer to it.
    pub const ANSWER: u8 = 2;
    /// A message in JSON.
    pub const CONTROL: u8 = 16;
    /// Host to guest: bytes for a command's standard input.
    pub const STDIN: u8 = 17;
    /// Guest to host: bytes of a command's standard output.
    pub const STDOUT: u8 = 18;
    /// Guest to host: bytes of a command's standard error.
    pub const STDERR: u8 = 19;
    /// Guest to host: a log record.
    pub const LOG: u8 = 20;
}

/// Appends a frame to `out`. The payload is given in parts, which are joined.
///
/// # Panics
/// If the payload is longer than a `u32` can say.
pub fn encode(kind: u8, stream: u32, payload: &[&[u8]], out: &mut BytesMut) {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).expect("payloads are bounded far below 4 GiB");
    let mut header = [0; HEADER_BYTES];
    header[0] = kind;
    header[2..6].copy_from_slice(&length.to_be_bytes());
    header[6..10].copy_from_slice(&stream.to_be_bytes());
    escape(&header, out);
    for part in payload {
        escape(part, out);
    }
    out.put_u8(END);
}

/// Appends what ends a frame that an earlier writer of the same stream may have left half written.
pub fn interrupt(out: &mut BytesMut) {
    out.put_u8(END);
}

fn escape(mut bytes: &[u8], out: &mut BytesMut) {
    out.reserve(bytes.len() + 1);
    while let Some(at) = next_special(bytes) {
        out.put_slice(&bytes[..at]);
        out.put_slice(if bytes[at] == END { &[ESC, ESC_END] } else { &[ESC, ESC_ESC] });
        bytes = &bytes[at + 1..];
    }
    out.put_slice(bytes);
}

fn next_special(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&byte| byte == END || byte == ESC)
}

/// Finds frames in a stream of bytes.
#[derive(Debug)]
pub struct Decoder {
    /// The frame so far, unescaped.
    buffer: BytesMut,
    /// The last byte was `ESC`.
    escaped: bool,
    /// What is being read cannot be a frame; it is dropped up to the next `END`.
    broken: bool,
    max_payload_bytes: usize,
}

impl Decoder {
    /// A decoder that drops frames with more than `max_payload_bytes` of payload.
    pub fn new(max_payload_bytes: usize) -> Self {
        Self { buffer: BytesMut::new(), escaped: false, broken: false, max_payload_bytes }
    }

    /// Takes bytes off the front of `input` up to the end of the next frame and returns that frame. Without a
    /// frame, all of `input` has been taken. What is no frame is dropped.
    pub fn decode(&mut self, input: &mut &[u8]) -> Option<Frame> {
        while let Some(&first) = input.first() {
            if self.escaped {
                self.unescape(first);
                input.advance(1);
            } else if first == END {
                input.advance(1);
                if let Some(frame) = self.finish() {
                    return Some(frame);
                }
            } else if first == ESC {
                self.escaped = true;
                input.advance(1);
            } else {
                let plain = next_special(input).unwrap_or(input.len());
                self.append(&input[..plain]);
                input.advance(plain);
            }
        }
        None
    }

    fn unescape(&mut self, byte: u8) {
        self.escaped = false;
        match byte {
            ESC_END => self.append(&[END]),
            ESC_ESC => self.append(&[ESC]),
            END => drop(self.finish()),
            _ => self.break_off(),
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.broken {
        } else if self.buffer.len() + bytes.len() > HEADER_BYTES + self.max_payload_bytes {
            self.break_off();
        } else {
            self.buffer.extend_from_slice(bytes);
        }
    }

    fn break_off(&mut self) {
        self.broken = true;
        self.buffer = BytesMut::new();
    }

    fn finish(&mut self) -> Option<Frame> {
        let mut frame = self.buffer.split().freeze();
        if std::mem::take(&mut self.broken) || frame.len() < HEADER_BYTES {
            return None;
        }
        let (kind, _reserved, length, stream) = (frame.get_u8(), frame.get_u8(), frame.get_u32(), frame.get_u32());
        (frame.len() == length as usize).then_some(Frame { kind, stream, payload: frame })
    }
}
