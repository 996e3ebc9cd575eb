//! A body that is compressed on its way.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::sync::OwnedSemaphorePermit;

use super::{coding::Coding, encoder::Encoder};
use crate::options::BoxError;

/// Bytes that are compressed in one go.
const PIECE_BYTES: usize = 16 * 1024;
/// Bytes that are compressed before others get their turn.
const TURN_BYTES: usize = 4 * PIECE_BYTES;
/// Bytes that make a frame worth sending while more of the body is at hand.
const FRAME_BYTES: usize = 8 * 1024;

/// A body that is compressed on its way.
pub struct Compressed<B> {
    inner: B,
    /// Came from `inner` and has not been compressed yet.
    rest: Bytes,
    phase: Phase,
    coding: Coding,
    /// The place among those under way; given up with the body.
    _place: OwnedSemaphorePermit,
}

enum Phase {
    /// Nothing has come yet.
    New,
    /// Under way.
    Open {
        encoder: Encoder,
        /// Something was taken in that may not have been given out.
        unflushed: bool,
    },
    /// All data has been given out; trailers may be left.
    Ended(Option<HeaderMap>),
}

impl<B> Compressed<B> {
    /// A body that will be `inner` compressed.
    pub(super) fn new(inner: B, coding: Coding, place: OwnedSemaphorePermit) -> Self {
        Self { inner, rest: Bytes::new(), phase: Phase::New, coding, _place: place }
    }

    /// What is compressed.
    pub fn inner_mut(&mut self) -> &mut B {
        &mut self.inner
    }

    /// Compresses a piece of what has come.
    fn compress_piece(&mut self) -> io::Result<usize> {
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        if matches!(self.phase, Phase::New) {
            self.phase = Phase::Open { encoder: Encoder::new(self.coding)?, unflushed: false };
        }
        if let Phase::Open { encoder, unflushed } = &mut self.phase {
            encoder.write(&piece)?;
            *unflushed = true;
        }
        Ok(piece.len())
    }

    fn take(&mut self, at_least: usize) -> Option<Bytes> {
        match &mut self.phase {
            Phase::Open { encoder, .. } => encoder.take(at_least),
            Phase::New | Phase::Ended(_) => None,
        }
    }

    /// Gives out everything that has been taken in.
    fn flush(&mut self) -> io::Result<Option<Bytes>> {
        if let Phase::Open { encoder, unflushed } = &mut self.phase
            && std::mem::take(unflushed)
        {
            encoder.flush()?;
        }
        Ok(self.take(1))
    }

    /// Ends the stream. An empty body is a stream, too.
    fn finish(&mut self, trailers: Option<HeaderMap>) -> io::Result<Bytes> {
        let encoder = match std::mem::replace(&mut self.phase, Phase::Ended(trailers)) {
            Phase::Open { encoder, .. } => encoder,
            Phase::New | Phase::Ended(_) => Encoder::new(self.coding)?,
        };
        encoder.finish()
    }
}

impl<B> Body for Compressed<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let data = |bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        let mut turn = 0;
        loop {
            if let Phase::Ended(trailers) = &mut this.phase {
                return Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            if turn >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !this.rest.is_empty() {
                turn += this.compress_piece()?;
                match this.take(FRAME_BYTES) {
                    Some(bytes) => return data(bytes),
                    None => continue,
                }
            }
            match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => this.rest = bytes,
                    Err(frame) => return data(this.finish(frame.into_trailers().ok())?),
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(None) => return data(this.finish(None)?),
                Poll::Pending => return this.flush()?.map_or(Poll::Pending, data),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.phase, Phase::Ended(None))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        io::Read,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::Relaxed},
        },
        task::Wake,
    };

    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    use super::*;

    /// What a source does next.
    #[derive(Debug, Clone)]
    enum Next {
        Bytes(Vec<u8>),
        Pause,
    }

    /// Knows whether the body only made way for others.
    #[derive(Default)]
    struct MadeWay(AtomicBool);

    impl Wake for MadeWay {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    struct Source(VecDeque<Next>, Option<HeaderMap>);

    impl Body for Source {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            match self.0.pop_front() {
                Some(Next::Bytes(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes.into())))),
                Some(Next::Pause) => Poll::Pending,
                None => Poll::Ready(self.1.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            }
        }
    }

    fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        // A stream that has not ended yet still gives what was flushed, and then an error.
        let _ = match coding {
            Coding::Zstd => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut out),
            Coding::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out),
            Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out),
            Coding::Deflate => flate2::read::ZlibDecoder::new(bytes).read_to_end(&mut out),
        };
        out
    }

    fn next() -> impl Strategy<Value = Next> {
        let text = prop::collection::vec(b'a'..b'f', 1..200);
        let noise = prop::collection::vec(any::<u8>(), 1..60_000);
        prop_oneof![4 => text.prop_map(Next::Bytes), 1 => noise.prop_map(Next::Bytes), 3 => Just(Next::Pause)]
    }

    fn coding() -> impl Strategy<Value = Coding> {
        prop::sample::select(vec![Coding::Zstd, Coding::Brotli, Coding::Gzip, Coding::Deflate])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever the app does, the client can read all of it as soon as the app pauses, and at the end.
        #[test]
        fn nothing_is_lost_and_nothing_waits(
            steps in prop::collection::vec(next(), 0..12), coding in coding(), with_trailers: bool,
        ) {
            let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
            let trailers = with_trailers.then(|| [(http::header::ETAG, "x".parse().unwrap())].into_iter().collect());
            let sent: Vec<u8> = steps.iter().flat_map(|it| if let Next::Bytes(it) = it { &it[..] } else { &[] }).copied().collect();
            let mut body = Compressed::new(Source(steps.into(), trailers.clone()), coding, place);
            let (mut got, mut got_trailers) = (Vec::new(), None);
            let made_way = Arc::new(MadeWay::default());
            let waker = made_way.clone().into();
            let mut cx = Context::from_waker(&waker);
            loop {
                match Pin::new(&mut body).poll_frame(&mut cx) {
                    Poll::Ready(Some(frame)) => match frame.unwrap().into_data() {
                        Ok(bytes) => got.extend(bytes),
                        Err(frame) => got_trailers = frame.into_trailers().ok(),
                    },
                    Poll::Ready(None) => break,
                    Poll::Pending if made_way.0.swap(false, Relaxed) => {}
                    Poll::Pending => {
                        let left: usize = body.inner.0.iter().map(|it| if let Next::Bytes(it) = it { it.len() } else { 0 }).sum();
                        let readable = if got.is_empty() { Vec::new() } else { decoded(coding, &got) };
                        prop_assert_eq!(&readable[..], &sent[..sent.len() - left]);
                    }
                }
            }
            prop_assert!(body.is_end_stream());
            prop_assert_eq!(got_trailers, trailers);
            prop_assert_eq!(decoded(coding, &got), sent);
        }
    }
}
