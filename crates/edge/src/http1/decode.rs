//! Taking a message's content out of what came.
//!
//! ```text
//!  Length(n) ──n bytes──▶ Ended
//!  ToClose ──the connection ends──▶ Ended
//!  Chunked:  Size ─▶ Data(n) ─▶ DataEnd ─┐          (RFC 9112, 7.1)
//!             ▲ └────────────────────────┘
//!             └─ size 0 ─▶ Trailers ─▶ Ended
//! ```

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use thiserror::Error;

use super::{
    framing::Framing,
    head::{self, BadHead},
};

/// Bytes of the line that says a chunk's size, extensions included.
const MAX_SIZE_LINE: usize = 1024;
/// Bytes of extensions in one message: nobody reads them.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// Bytes of trailers.
const MAX_TRAILERS: usize = 16 * 1024;

/// Takes content.
#[derive(Debug)]
pub struct Decoder {
    stage: Stage,
    extensions: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Length(u64),
    ToClose,
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Ended,
    /// It could not be read: where it ends, and what follows it, nobody knows.
    Broken,
}

/// What was at the beginning of what came.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Content.
    Data(Bytes),
    /// Fields after the content.
    Trailers(HeaderMap),
    /// The end. Nothing of what follows belongs to the message.
    End,
    /// Nothing yet: more has to come.
    More,
}

/// Content that cannot be read.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum BadContent {
    /// A chunk breaks the grammar.
    #[error("a chunk cannot be read: {0}")]
    Chunk(&'static str),
    /// The trailers cannot be read.
    #[error("trailers: {0}")]
    Trailers(#[from] BadHead),
    /// Something before it could not be read.
    #[error("what came before it cannot be read")]
    Broken,
    /// The connection ended too early.
    #[error("the connection ended in the middle of the content")]
    CutOff,
}

impl Decoder {
    /// For content that is framed like this.
    pub fn new(framing: Framing) -> Self {
        let stage = match framing {
            Framing::Empty | Framing::Length(0) => Stage::Ended,
            Framing::Length(length) => Stage::Length(length),
            Framing::Chunked => Stage::Size,
            Framing::ToClose => Stage::ToClose,
        };
        Self { stage, extensions: 0 }
    }

    /// Whether all of it has been taken.
    pub fn is_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// How much is still to come, if that is known.
    pub fn rest(&self) -> Option<u64> {
        match self.stage {
            Stage::Length(rest) => Some(rest),
            Stage::Ended => Some(0),
            _ => None,
        }
    }

    /// So many bytes of content of a known length went another way.
    pub fn passed_by(&mut self, bytes: u64) {
        if let Stage::Length(rest) = self.stage {
            self.stage = if rest > bytes { Stage::Length(rest - bytes) } else { Stage::Ended };
        }
    }

    /// How many bytes to read next, so that no more is read than is needed: a bound, not a promise.
    pub fn wants(&self) -> usize {
        const MOST: u64 = 64 * 1024;
        match self.stage {
            Stage::Length(rest) | Stage::Data(rest) => rest.clamp(1024, MOST) as usize,
            Stage::ToClose => MOST as usize,
            _ => 1024,
        }
    }

    /// What is to be done when the connection has ended.
    pub fn cut_off(&mut self) -> Result<(), BadContent> {
        match self.stage {
            Stage::ToClose | Stage::Ended => {
                self.stage = Stage::Ended;
                Ok(())
            }
            _ => Err(BadContent::CutOff),
        }
    }

    /// Takes what is at the beginning of `inbox`. After a failure there is nothing more to take: content that was taken for
    /// framing would be somebody's request.
    pub fn next(&mut self, inbox: &mut BytesMut) -> Result<Piece, BadContent> {
        self.take_next(inbox).inspect_err(|_| self.stage = Stage::Broken)
    }

    fn take_next(&mut self, inbox: &mut BytesMut) -> Result<Piece, BadContent> {
        loop {
            match self.stage {
                Stage::Ended => return Ok(Piece::End),
                Stage::Broken => return Err(BadContent::Broken),
                _ if inbox.is_empty() => return Ok(Piece::More),
                Stage::ToClose => return Ok(Piece::Data(inbox.split().freeze())),
                Stage::Length(rest) => {
                    let data = take(inbox, rest);
                    self.passed_by(data.len() as u64);
                    return Ok(Piece::Data(data));
                }
                Stage::Data(rest) => {
                    let data = take(inbox, rest);
                    let left = rest - data.len() as u64;
                    self.stage = if left > 0 { Stage::Data(left) } else { Stage::DataEnd };
                    return Ok(Piece::Data(data));
                }
                Stage::Size => match self.size(inbox)? {
                    Some(0) => self.stage = Stage::Trailers,
                    Some(size) => self.stage = Stage::Data(size),
                    None => return Ok(Piece::More),
                },
                Stage::DataEnd => {
                    if inbox.len() < 2 {
                        return Ok(Piece::More);
                    }
                    if inbox[..2] != *b"\r\n" {
                        return Err(BadContent::Chunk("it is longer than it says"));
                    }
                    inbox.advance(2);
                    self.stage = Stage::Size;
                }
                Stage::Trailers => return self.trailers(inbox),
            }
        }
    }

    /// The size of the next chunk, once its line is whole.
    fn size(&mut self, inbox: &mut BytesMut) -> Result<Option<u64>, BadContent> {
        let Some(end) = memchr::memchr(b'\n', inbox) else {
            let too_long = inbox.len() > MAX_SIZE_LINE;
            return if too_long { Err(BadContent::Chunk("its size does not end")) } else { Ok(None) };
        };
        let line = inbox.split_to(end + 1);
        let line = line.strip_suffix(b"\r\n").ok_or(BadContent::Chunk("its size does not end with CR LF"))?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (digits, extensions) = line.split_at(digits);
        self.extensions += extensions.len();
        let is_extension =
            extensions.iter().find(|byte| !matches!(byte, b' ' | b'\t')).is_none_or(|byte| *byte == b';');
        let is_clean = !extensions.iter().any(|byte| matches!(byte, b'\r' | 0));
        if !is_extension || !is_clean || line.len() > MAX_SIZE_LINE || self.extensions > MAX_EXTENSIONS {
            return Err(BadContent::Chunk("what follows its size is no extension, or too long"));
        }
        let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        size.map(Some).ok_or(BadContent::Chunk("its size is none"))
    }

    fn trailers(&mut self, inbox: &mut BytesMut) -> Result<Piece, BadContent> {
        if inbox.starts_with(b"\r\n") {
            inbox.advance(2);
            self.stage = Stage::Ended;
            return Ok(Piece::End);
        }
        let Some(end) = memchr::memmem::find(inbox, b"\r\n\r\n") else {
            let too_long = inbox.len() > MAX_TRAILERS;
            return if too_long { Err(BadHead::TooLong(MAX_TRAILERS).into()) } else { Ok(Piece::More) };
        };
        if end > MAX_TRAILERS {
            return Err(BadHead::TooLong(MAX_TRAILERS).into());
        }
        let section = inbox.split_to(end + 4).freeze();
        self.stage = Stage::Ended;
        Ok(Piece::Trailers(head::trailers(&section)?))
    }
}

fn take(inbox: &mut BytesMut, at_most: u64) -> Bytes {
    let length = usize::try_from(at_most).unwrap_or(usize::MAX).min(inbox.len());
    inbox.split_to(length).freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that there is in `bytes`, and what is left.
    fn all(framing: Framing, bytes: &[u8]) -> Result<(Vec<u8>, Option<HeaderMap>, usize), BadContent> {
        let (mut decoder, mut inbox) = (Decoder::new(framing), BytesMut::from(bytes));
        let (mut content, mut fields) = (Vec::new(), None);
        loop {
            match decoder.next(&mut inbox)? {
                Piece::Data(data) => content.extend_from_slice(&data),
                Piece::Trailers(trailers) => fields = Some(trailers),
                Piece::End => return Ok((content, fields, inbox.len())),
                Piece::More => {
                    decoder.cut_off()?;
                }
            }
        }
    }

    #[test]
    fn content_ends_where_it_says_and_not_a_byte_later() {
        assert_eq!(all(Framing::Length(3), b"abcd").unwrap(), (b"abc".to_vec(), None, 1));
        assert_eq!(all(Framing::Empty, b"abcd").unwrap(), (Vec::new(), None, 4));
        assert_eq!(all(Framing::ToClose, b"abcd").unwrap(), (b"abcd".to_vec(), None, 0));
        assert_eq!(all(Framing::Length(5), b"abcd"), Err(BadContent::CutOff));
        let chunks = b"3;a=\"b\"\r\nabc\r\nA \t\r\n0123456789\r\n0\r\n\r\nGET";
        assert_eq!(all(Framing::Chunked, chunks).unwrap(), (b"abc0123456789".to_vec(), None, 3));
        let (content, fields, _) = all(Framing::Chunked, b"1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n").unwrap();
        assert_eq!(content, b"a");
        assert_eq!(fields.unwrap()["x-sum"], "7");
    }

    #[test]
    fn what_follows_content_that_cannot_be_read_is_never_taken_for_anything() {
        let long = format!("3d;a={}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n", "x".repeat(5000));
        for bad in [long.as_str(), "3d x\r\n0\r\n\r\nGET", "x\r\n0\r\n\r\n", "0\r\nX y\r\n\r\n0\r\n\r\n"] {
            let (mut decoder, mut inbox) = (Decoder::new(Framing::Chunked), BytesMut::from(bad));
            assert!(decoder.next(&mut inbox).is_err(), "{bad:?}");
            let left = inbox.len();
            for _ in 0..3 {
                assert_eq!(decoder.next(&mut inbox), Err(BadContent::Broken), "{bad:?}");
            }
            assert!(!decoder.is_ended() && inbox.len() == left && decoder.cut_off().is_err());
        }
    }

    #[test]
    fn chunks_that_can_be_read_in_two_ways_are_refused() {
        for bad in [
            "0\r\n\n\r\nGET / HTTP/1.1\r\n\r\n",
            "0\r\nX: y\n\nGET / HTTP/1.1\r\n\r\n",
            "3\nabc\r\n0\r\n\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "\r\nabc",
            "0x3\r\nabc\r\n0\r\n\r\n",
            "+3\r\nabc\r\n0\r\n\r\n",
            " 3\r\nabc\r\n0\r\n\r\n",
            "3 3\r\nabc\r\n0\r\n\r\n",
            "3;\r\r\nabc\r\n0\r\n\r\n",
            "11111111111111111\r\nabc\r\n0\r\n\r\n",
            "0\r\n a: b\r\n\r\n",
        ] {
            assert!(all(Framing::Chunked, bad.as_bytes()).is_err(), "{bad:?}");
        }
        let extensions = format!("1;{}\r\na\r\n", "x".repeat(1000)).repeat(20);
        assert!(all(Framing::Chunked, format!("{extensions}0\r\n\r\n").as_bytes()).is_err());
        assert!(all(Framing::Chunked, "1".repeat(2000).as_bytes()).is_err());
        assert!(all(Framing::Chunked, format!("0\r\nx: {}", "y".repeat(20_000)).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn whatever_comes_no_more_is_taken_than_came(bytes: Vec<u8>) {
            if let Ok((content, _, left)) = all(Framing::Chunked, &bytes) {
                prop_assert!(content.len() + left <= bytes.len());
            }
        }
    }
}
