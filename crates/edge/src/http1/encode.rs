//! Writing a message's content in its framing.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use thiserror::Error;

use super::{framing::Framing, head, wire::Outbox};

/// Content that is not what was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadLength {
    /// There is more.
    #[error("the content is longer than was announced")]
    Longer,
    /// There is less.
    #[error("the content is shorter than was announced")]
    Shorter,
}

/// Writes content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoder(Framing);

impl Encoder {
    /// In this framing.
    pub fn new(framing: Framing) -> Self {
        Self(framing)
    }

    /// Writes a piece of content. No more than was announced ever is.
    pub fn data(&mut self, outbox: &mut Outbox, data: Bytes) -> Result<(), BadLength> {
        match &mut self.0 {
            _ if data.is_empty() => {}
            Framing::Chunked => {
                write_size(outbox.text(), data.len());
                outbox.push(data, b"\r\n");
            }
            Framing::Length(rest) if data.len() as u64 <= *rest => {
                *rest -= data.len() as u64;
                outbox.push(data, b"");
            }
            Framing::ToClose => outbox.push(data, b""),
            Framing::Length(_) | Framing::Empty => return Err(BadLength::Longer),
        }
        Ok(())
    }

    /// So many bytes of content of a known length went another way.
    pub fn passed_by(&mut self, bytes: u64) {
        if let Framing::Length(rest) = &mut self.0 {
            *rest = rest.saturating_sub(bytes);
        }
    }

    /// Writes the end, if all is there that was announced.
    pub fn end(self, outbox: &mut Outbox, trailers: Option<&HeaderMap>) -> Result<(), BadLength> {
        if matches!(self.0, Framing::Length(rest) if rest > 0) {
            return Err(BadLength::Shorter);
        }
        if self.0 == Framing::Chunked {
            let text = outbox.text();
            text.extend_from_slice(b"0\r\n");
            if let Some(trailers) = trailers {
                head::write_fields(text, trailers);
            }
            text.extend_from_slice(b"\r\n");
        }
        Ok(())
    }
}

/// Writes the fields that announce a framing.
pub fn announce(outbox: &mut BytesMut, framing: Framing) {
    match framing {
        Framing::Length(length) => {
            outbox.extend_from_slice(b"content-length: ");
            let mut digits = itoa::Buffer::new();
            outbox.extend_from_slice(digits.format(length).as_bytes());
            outbox.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => outbox.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Empty | Framing::ToClose => {}
    }
}

fn write_size(outbox: &mut BytesMut, size: usize) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut rest = size;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[rest & 0xf];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    outbox.extend_from_slice(&digits[at..]);
    outbox.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http1::decode::{Decoder, Piece};

    proptest! {
        #[test]
        fn what_is_written_in_chunks_is_read_as_it_was(pieces: Vec<Vec<u8>>) {
            let (mut outbox, mut encoder) = (Outbox::default(), Encoder::new(Framing::Chunked));
            let mut written = BytesMut::new();
            for piece in &pieces {
                prop_assert!(encoder.data(&mut outbox, Bytes::copy_from_slice(piece)).is_ok());
                written.extend_from_slice(&outbox.take());
            }
            prop_assert!(encoder.end(&mut outbox, None).is_ok());
            written.extend_from_slice(&outbox.take());
            let (mut decoder, mut read) = (Decoder::new(Framing::Chunked), Vec::new());
            while let Piece::Data(data) = decoder.next(&mut written).unwrap() {
                read.extend_from_slice(&data);
            }
            prop_assert_eq!(read, pieces.concat());
            prop_assert!(written.is_empty());
        }
    }

    #[test]
    fn no_more_and_no_less_than_was_announced() {
        let mut outbox = Outbox::default();
        let mut encoder = Encoder::new(Framing::Length(3));
        assert_eq!(encoder.data(&mut outbox, Bytes::from_static(b"ab")), Ok(()));
        assert_eq!(encoder.data(&mut outbox, Bytes::from_static(b"cd")), Err(BadLength::Longer));
        assert_eq!(encoder.end(&mut outbox, None), Err(BadLength::Shorter));
        assert_eq!(encoder.data(&mut outbox, Bytes::from_static(b"c")), Ok(()));
        assert_eq!(encoder.end(&mut outbox, None), Ok(()));
    }
}
