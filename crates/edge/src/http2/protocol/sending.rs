//! What is sent: answers, as far as the windows that their client opens let them.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use super::{
    super::{
        frame::{self, END_HEADERS, END_STREAM, FrameHead, HEAD, Kind, MAX_PAYLOAD, Reason},
        hpack::Encoder,
    },
    Flow, Protocol,
};

impl Protocol {
    /// Says something before the answer (1xx).
    pub fn inform(&mut self, place: usize, status: StatusCode, fields: impl FnOnce(&mut Encoder, &mut BytesMut)) {
        let stream = self.streams.get(place).and_then(Option::as_ref).filter(|stream| !stream.is_answered);
        if let Some(id) = stream.map(|stream| stream.id) {
            self.write_block(id, 0, |encoder, out| {
                encoder.status(out, status);
                fields(encoder, out);
            });
        }
    }

    /// Begins an answer: with its status and what `fields` writes. It `ends` with that, or content follows.
    pub fn answer(
        &mut self,
        place: usize,
        status: StatusCode,
        ends: bool,
        fields: impl FnOnce(&mut Encoder, &mut BytesMut),
    ) {
        let Some(stream) = self.streams.get_mut(place).and_then(Option::as_mut) else { return };
        stream.is_answered = true;
        let id = stream.id;
        self.write_block(id, if ends { END_STREAM } else { 0 }, |encoder, out| {
            encoder.status(out, status);
            fields(encoder, out);
        });
    }

    /// Ends an answer with what is said after its content.
    pub fn answer_trailers(&mut self, place: usize, trailers: &HeaderMap) {
        let Some(id) = self.id(place) else { return };
        self.write_block(id, END_STREAM, |encoder, out| {
            encoder.begin(out);
            trailers.iter().for_each(|(name, value)| encoder.field(out, name.as_str().as_bytes(), value.as_bytes()));
        });
    }

    fn write_block(&mut self, id: u32, flags: u8, write: impl FnOnce(&mut Encoder, &mut BytesMut)) {
        let begin = self.out.len();
        self.out.extend_from_slice(&[0; HEAD]);
        write(&mut self.encoder, &mut self.out);
        let length = self.out.len() - begin - HEAD;
        let mut head = FrameHead { length, kind: Kind::Headers, flags: flags | END_HEADERS, stream: id };
        if length <= MAX_PAYLOAD {
            return self.out[begin..begin + HEAD].copy_from_slice(&head.bytes());
        }
        let block = self.out.split_off(begin + HEAD);
        self.out.truncate(begin);
        let mut parts = block.chunks(MAX_PAYLOAD).peekable();
        while let Some(part) = parts.next() {
            let ends = if parts.peek().is_none() { END_HEADERS } else { 0 };
            // That the stream ends is said in the first part alone.
            let flags = if head.kind == Kind::Headers { flags } else { 0 };
            (head.length, head.flags) = (part.len(), flags | ends);
            self.out.extend_from_slice(&head.bytes());
            self.out.extend_from_slice(part);
            head.kind = Kind::Continuation;
        }
    }

    /// Whether content of a stream could be sent now.
    fn flow(&mut self, place: usize) -> Flow {
        let takes = self.takes();
        match self.streams.get_mut(place).and_then(Option::as_mut) {
            None => Flow::Over,
            Some(stream) if stream.window <= 0 => {
                stream.is_held = true;
                Flow::Held
            }
            Some(_) if !takes => Flow::Full,
            Some(_) => Flow::Sent,
        }
    }

    /// Sends of `data` what may be sent, and takes it away. Once all is sent the stream `ends`, or goes on.
    pub fn send(&mut self, place: usize, data: &mut Bytes, ends: bool) -> Flow {
        loop {
            if data.is_empty() && !ends {
                return Flow::Sent;
            }
            // An end takes no room.
            let flow = self.flow(place);
            if flow != Flow::Sent && !(data.is_empty() && flow != Flow::Over) {
                return flow;
            }
            let Some(stream) = &mut self.streams[place] else { return Flow::Over };
            let most = stream.window.min(self.window).clamp(0, MAX_PAYLOAD as i64) as usize;
            let piece = data.split_to(most.min(data.len()));
            stream.window -= piece.len() as i64;
            self.window -= piece.len() as i64;
            self.sent += piece.len() as u64;
            let flags = if ends && data.is_empty() { END_STREAM } else { 0 };
            frame::write_head(&mut self.out, piece.len(), Kind::Data, flags, stream.id);
            self.out.extend_from_slice(&piece);
            if data.is_empty() {
                return Flow::Sent;
            }
        }
    }

    /// The place is no longer needed: all was sent. If the client has not, it need not any more (RFC 9113, 8.1).
    pub fn end(&mut self, place: usize) {
        match self.streams.get(place).and_then(Option::as_ref) {
            Some(stream) if !stream.incoming.is_ended => self.reset(place, Reason::NoError),
            _ => self.forget(place),
        }
    }

    /// Ends a stream before its end.
    pub fn reset(&mut self, place: usize, reason: Reason) {
        if let Some(id) = self.id(place) {
            frame::write_reset(&mut self.out, id, reason);
            self.remember(id);
            self.forget(place);
        }
    }
}
