//! An answer on its way over HTTP/3.

use std::pin::pin;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use bytes::Bytes;
use h3::{
    error::{Code, StreamError},
    server::RequestStream,
};
use http_body::Body;
use http_body_util::BodyExt;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

use super::transport::Send;
use crate::{
    limits::{Pace, Patience},
    options::BoxError,
};

/// Fields that belong to a connection of HTTP/1 (RFC 9114, 4.2).
const NOT_HERE: [HeaderName; 3] = [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];

/// How much is sent at a time: what a client that is just fast enough takes well within its grace.
const PIECE: usize = 16 * 1024;

/// The client does not read its answer.
#[derive(Debug, Error)]
#[error("the client does not take its answer")]
pub struct SlowReader;

/// The half of a stream that an answer goes over. One that does not come to its end is told to be broken off, so that
/// nobody takes a part of it for the whole.
pub struct Answer {
    stream: RequestStream<Send, Bytes>,
    patience: Patience,
    /// The request asked for the header alone.
    head: bool,
    done: bool,
}

impl Answer {
    /// The answer to a request of this method, for a client that takes it at this pace.
    pub fn new(stream: RequestStream<Send, Bytes>, method: &Method, pace: Pace) -> Self {
        Self { stream, patience: Patience::new(pace), head: method == Method::HEAD, done: false }
    }

    /// Sends what comes before the answer (1xx).
    pub async fn inform(&mut self, interim: Response<()>) -> Result<(), StreamError> {
        self.stream.send_response(interim).await
    }

    /// Sends the answer, each part as it comes.
    pub async fn send<B>(&mut self, response: Response<B>) -> Result<(), BoxError>
    where
        B: Body<Data = Bytes, Error = BoxError>,
    {
        let (mut head, body) = response.into_parts();
        let bare = self.head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        finish(&mut head.headers, body.size_hint().exact().filter(|_| !bare));
        let mut body = pin!(body);
        let ends = bare || body.is_end_stream();
        self.stream.send_response(Response::from_parts(head, ())).await?;
        while let Some(frame) = if ends { None } else { body.frame().await } {
            match frame?.into_data() {
                Ok(data) => self.send_data(data).await?,
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.stream.send_trailers(trailers).await?;
                    }
                }
            }
        }
        self.stream.finish().await?;
        self.done = true;
        Ok(())
    }

    async fn send_data(&mut self, mut data: Bytes) -> Result<(), BoxError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE));
            let length = piece.len();
            let end = self.patience.wait(Instant::now());
            timeout_at(end, self.stream.send_data(piece)).await.map_err(|_| SlowReader)??;
            self.patience.moved(length, Instant::now());
        }
        Ok(())
    }

    /// Breaks off.
    pub fn reset(&mut self, code: Code) {
        self.stream.stop_stream(code);
        self.done = true;
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.done {
            self.reset(Code::H3_INTERNAL_ERROR);
        }
    }
}

/// Adds what every answer says, and takes away what none may.
fn finish(headers: &mut HeaderMap, length: Option<u64>) {
    NOT_HERE.iter().for_each(|name| drop(headers.remove(name)));
    if let Some(length) = length {
        headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    headers.entry(header::DATE).or_insert_with(|| {
        let now = kit::clock::http_date(kit::clock::unix_ms());
        HeaderValue::from_str(&now).expect("a date is a field's value")
    });
}
