//! A machine's answer, by whichever version of HTTP it comes.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Response, StatusCode, Version, response};
use http_body::{Body, Frame, SizeHint};

use super::{Content, Line, exchange::AnswerContent};
use crate::{
    http1::{Fields, Prefixed},
    options::BoxError,
};

/// A machine's answer whose head has come. Its content is still to come.
pub struct Answered {
    /// Its status.
    pub status: StatusCode,
    /// The version of HTTP that it was given in.
    pub version: Version,
    /// What it says.
    pub fields: Fields,
    /// Its content.
    pub body: AnswerBody,
}

impl Answered {
    /// An answer that came over HTTP/2.
    pub fn by_http2(answer: Response<Content>) -> Self {
        let (response::Parts { status, version, headers, .. }, content) = answer.into_parts();
        Self { status, version, fields: Fields::Map(headers), body: AnswerBody::Http2(content) }
    }
}

/// The content of a machine's answer.
pub enum AnswerBody {
    /// By HTTP/1.
    Http1(AnswerContent),
    /// By HTTP/2.
    Http2(Content),
}

impl AnswerBody {
    /// The connection, once the machine has switched protocols.
    pub fn into_stream(self) -> Option<Prefixed<Line>> {
        match self {
            Self::Http1(content) => content.into_stream(),
            Self::Http2(_) => None,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Http1(content) => Pin::new(content).poll_frame(cx),
            Self::Http2(content) => Pin::new(content).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(content) => content.is_end_stream(),
            Self::Http2(content) => content.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(content) => content.size_hint(),
            Self::Http2(content) => content.size_hint(),
        }
    }
}
