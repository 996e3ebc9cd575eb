//! QUIC as the HTTP/3 library sees it: the streams of one connection, their frames filtered and their bytes counted.
//!
//! A stream whose reader is done with it before its end is told so without an error (RFC 9114, 4.1).

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::{FutureExt, future::BoxFuture};
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
};
use quinn::VarInt;

use super::filter::{BadFrames, FrameFilter};
use crate::account::Connection as Account;

/// Resolves when the client no longer waits for the answer on a stream, or has it whole.
pub type Gone = BoxFuture<'static, ()>;

type Waiting<T> = Option<BoxFuture<'static, Result<T, quinn::ConnectionError>>>;

/// A connection.
pub struct Quic {
    connection: quinn::Connection,
    requests: Waiting<(quinn::SendStream, quinn::RecvStream)>,
    others: Waiting<quinn::RecvStream>,
    opening: Waiting<quinn::SendStream>,
    account: Arc<Account>,
    /// The longest frame that is kept.
    bound: u64,
    /// Of the stream that was accepted last.
    gone: Arc<Mutex<Option<Gone>>>,
}

impl Quic {
    /// The streams of a connection. A field section is at most so many bytes long.
    pub fn new(connection: quinn::Connection, account: Arc<Account>, bound: u64) -> Self {
        Self { connection, requests: None, others: None, opening: None, account, bound, gone: Arc::default() }
    }

    /// Where the end of the stream that was accepted last is watched for.
    pub fn gone(&self) -> Arc<Mutex<Option<Gone>>> {
        self.gone.clone()
    }

    fn sender(&self, stream: quinn::SendStream) -> Send {
        Send { stream, writing: None, begun: false, account: self.account.clone() }
    }

    fn receiver(&self, stream: quinn::RecvStream, filter: FrameFilter) -> Receive {
        let (connection, account) = (self.connection.clone(), self.account.clone());
        Receive { stream, filter, ended: false, connection, account }
    }
}

impl quic::Connection<Bytes> for Quic {
    type RecvStream = Receive;
    type OpenStreams = Opener;

    fn poll_accept_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receive, ConnectionErrorIncoming>> {
        let connection = &self.connection;
        let accept = || {
            let connection = connection.clone();
            async move { connection.accept_uni().await }.boxed()
        };
        let stream = ready!(poll_slot(&mut self.others, accept, cx)).map_err(connection_error)?;
        Poll::Ready(Ok(self.receiver(stream, FrameFilter::unidirectional())))
    }

    fn poll_accept_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both, ConnectionErrorIncoming>> {
        let connection = &self.connection;
        let accept = || {
            let connection = connection.clone();
            async move { connection.accept_bi().await }.boxed()
        };
        let (send, receive) = ready!(poll_slot(&mut self.requests, accept, cx)).map_err(connection_error)?;
        let gone = send.stopped().map(drop).boxed();
        *self.gone.lock().unwrap_or_else(PoisonError::into_inner) = Some(gone);
        Poll::Ready(Ok(Both(self.sender(send), self.receiver(receive, FrameFilter::request(self.bound)))))
    }

    fn opener(&self) -> Opener {
        Opener(self.connection.clone())
    }
}

/// Goes on with a future, or begins a new one.
fn poll_slot<T>(
    slot: &mut Option<BoxFuture<'static, T>>,
    begin: impl FnOnce() -> BoxFuture<'static, T>,
    cx: &mut Context<'_>,
) -> Poll<T> {
    let done = ready!(slot.get_or_insert_with(begin).as_mut().poll(cx));
    *slot = None;
    Poll::Ready(done)
}

impl quic::OpenStreams<Bytes> for Quic {
    type BidiStream = Both;
    type SendStream = Send;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        Poll::Ready(Err(never_opened()))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Send, StreamErrorIncoming>> {
        let connection = &self.connection;
        let open = || {
            let connection = connection.clone();
            async move { connection.open_uni().await }.boxed()
        };
        let stream = ready!(poll_slot(&mut self.opening, open, cx));
        Poll::Ready(stream.map(|stream| self.sender(stream)).map_err(lost))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(var_int(code.value()), reason);
    }
}

/// Closes a connection from wherever one of its streams is used. A server opens its streams at the beginning only.
pub struct Opener(quinn::Connection);

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = Both;
    type SendStream = Send;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        Poll::Ready(Err(never_opened()))
    }

    fn poll_open_send(&mut self, _: &mut Context<'_>) -> Poll<Result<Send, StreamErrorIncoming>> {
        Poll::Ready(Err(never_opened()))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.0.close(var_int(code.value()), reason);
    }
}

/// What a server has no use for.
fn never_opened() -> StreamErrorIncoming {
    StreamErrorIncoming::Unknown("a server opens no such streams".into())
}

/// The half of a stream that goes to the client.
pub struct Send {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<Bytes>>,
    /// Whether anything was said on it.
    begun: bool,
    account: Arc<Account>,
}

impl Drop for Send {
    /// An answer without anything in it would be none.
    fn drop(&mut self) {
        if !self.begun {
            let _ = self.stream.reset(var_int(Code::H3_REQUEST_INCOMPLETE.value()));
        }
    }
}

impl quic::SendStream<Bytes> for Send {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(data) = self.writing.as_mut().filter(|data| data.has_remaining()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, data.chunk())).map_err(write_error)?;
            data.advance(written);
            self.account.went_out(written);
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            return Err(StreamErrorIncoming::Unknown("something is being written already".into()));
        }
        (self.writing, self.begun) = (Some(data.into()), true);
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        Poll::Ready(self.stream.finish().map_err(|closed| StreamErrorIncoming::Unknown(closed.into())))
    }

    fn reset(&mut self, code: u64) {
        let _ = self.stream.reset(var_int(code));
    }

    fn send_id(&self) -> StreamId {
        stream_id(self.stream.id())
    }
}

/// The half of a stream that comes from the client.
pub struct Receive {
    stream: quinn::RecvStream,
    filter: FrameFilter,
    ended: bool,
    connection: quinn::Connection,
    account: Arc<Account>,
}

impl quic::RecvStream for Receive {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        loop {
            if let Some(piece) = self.filter.pop() {
                return Poll::Ready(Ok(Some(piece)));
            }
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            // The future holds nothing: what it waits for is known to the connection.
            let chunk = ready!(pin!(self.stream.read_chunk(usize::MAX, true)).poll(cx)).map_err(read_error)?;
            self.ended = chunk.is_none();
            let filtered = match chunk {
                Some(chunk) => {
                    self.account.came_in(chunk.bytes.len());
                    self.filter.push(chunk.bytes)
                }
                None => self.filter.end(),
            };
            filtered.map_err(|bad| self.refuse(bad))?;
        }
    }

    fn stop_sending(&mut self, code: u64) {
        let _ = self.stream.stop(var_int(code));
        self.ended = true;
    }

    fn recv_id(&self) -> StreamId {
        stream_id(self.stream.id())
    }
}

impl Receive {
    fn refuse(&mut self, bad: BadFrames) -> StreamErrorIncoming {
        self.ended = true;
        let code = match bad {
            BadFrames::TooLong => Code::H3_EXCESSIVE_LOAD.value(),
            BadFrames::Truncated => Code::H3_FRAME_ERROR.value(),
        };
        match bad {
            BadFrames::TooLong => drop(self.stream.stop(var_int(code))),
            BadFrames::Truncated => self.connection.close(var_int(code), b"a frame ended within itself"),
        }
        StreamErrorIncoming::StreamTerminated { error_code: code }
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.stream.stop(var_int(Code::H3_NO_ERROR.value()));
        }
    }
}

/// A request's stream.
pub struct Both(Send, Receive);

impl quic::BidiStream<Bytes> for Both {
    type SendStream = Send;
    type RecvStream = Receive;

    fn split(self) -> (Send, Receive) {
        (self.0, self.1)
    }
}

impl quic::SendStream<Bytes> for Both {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.0.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.0.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.0.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.0.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.0.send_id()
    }
}

impl quic::RecvStream for Both {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.1.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.1.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.1.recv_id()
    }
}

fn stream_id(id: quinn::StreamId) -> StreamId {
    StreamId::try_from(u64::from(VarInt::from(id))).expect("both have the same bound")
}

/// A code of HTTP/3 for QUIC.
pub fn var_int(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn lost(error: quinn::ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: connection_error(error) }
}

fn connection_error(error: quinn::ConnectionError) -> ConnectionErrorIncoming {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into() }
        }
        quinn::ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

fn read_error(error: quinn::ReadError) -> StreamErrorIncoming {
    match error {
        quinn::ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into() },
        quinn::ReadError::ConnectionLost(error) => lost(error),
        other => StreamErrorIncoming::Unknown(other.into()),
    }
}

fn write_error(error: quinn::WriteError) -> StreamErrorIncoming {
    match error {
        quinn::WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into() },
        quinn::WriteError::ConnectionLost(error) => lost(error),
        other => StreamErrorIncoming::Unknown(other.into()),
    }
}
