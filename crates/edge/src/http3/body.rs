//! A request's body as it comes over HTTP/3.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h3::server::RequestStream;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::transport::Receive;
use crate::options::BoxError;

type Read = Result<Frame<Bytes>, BoxError>;

/// A request's body.
pub struct RequestBody {
    stream: RequestStream<Receive, Bytes>,
    at: At,
    /// How much is to come, if the request said how long it is.
    left: Option<u64>,
    /// What was looked at before its time.
    looked: Option<Read>,
    /// Told once somebody reads.
    wanted: Option<oneshot::Sender<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Data,
    Trailers,
    End,
}

impl RequestBody {
    /// The body that comes over a stream, of this length if that is known. Tells once somebody wants to read it.
    pub fn new(stream: RequestStream<Receive, Bytes>, length: Option<u64>) -> (Self, oneshot::Receiver<()>) {
        let (sender, wanted) = oneshot::channel();
        (Self { stream, at: At::Data, left: length, looked: None, wanted: Some(sender) }, wanted)
    }

    /// Waits until it is known whether there is anything in it.
    pub async fn look(&mut self) {
        self.looked = poll_fn(|cx| self.poll_read(cx)).await;
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Read>> {
        let read = match self.at {
            At::Data => match ready!(self.stream.poll_recv_data(cx)) {
                Ok(Some(mut data)) => self.count(data.copy_to_bytes(data.remaining())),
                Ok(None) => {
                    self.at = At::Trailers;
                    return self.poll_read(cx);
                }
                Err(error) => Err(error.into()),
            },
            At::Trailers => {
                let trailers = ready!(self.stream.poll_recv_trailers(cx));
                self.at = At::End;
                match trailers {
                    Ok(_) if self.left.is_some_and(|left| left > 0) => Err("it is shorter than it said".into()),
                    Ok(Some(trailers)) => Ok(Frame::trailers(trailers)),
                    Ok(None) => return Poll::Ready(None),
                    Err(error) => Err(error.into()),
                }
            }
            At::End => return Poll::Ready(None),
        };
        if read.is_err() {
            self.at = At::End;
        }
        Poll::Ready(Some(read))
    }

    /// More than was said would be read by the next server as another request.
    fn count(&mut self, data: Bytes) -> Read {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(data.len() as u64).ok_or("it is longer than it said")?;
        }
        Ok(Frame::data(data))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Read>> {
        if let Some(wanted) = self.wanted.take() {
            let _ = wanted.send(());
        }
        match self.looked.take() {
            Some(looked) => Poll::Ready(Some(looked)),
            None => self.poll_read(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.at == At::End && self.looked.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let looked = self.looked.as_ref().and_then(|looked| looked.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
        match self.left {
            Some(left) => SizeHint::with_exact(left + looked as u64),
            None if self.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}
