//! A request on its way in, whatever it came by.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Extensions, Method, Request, Uri, Version, request};
use http_body::{Body, Frame, SizeHint};

use super::{connection::Content, multiplex};
use crate::{http1::Fields, http3, options::BoxError, upstream};

/// A request as it comes from a client.
pub struct Inbound {
    /// What is to be done,
    pub method: Method,
    /// with what.
    pub uri: Uri,
    /// By which version of HTTP it came.
    pub version: Version,
    /// What it says beside.
    pub fields: Fields,
    /// How its connection is handed over, if it is to be.
    pub extensions: Extensions,
    /// Its body.
    pub body: InboundBody,
}

impl<B: Into<InboundBody>> From<Request<B>> for Inbound {
    fn from(request: Request<B>) -> Self {
        let (request::Parts { method, uri, version, headers, extensions, .. }, body) = request.into_parts();
        Self { method, uri, version, fields: Fields::Map(headers), extensions, body: body.into() }
    }
}

impl From<Inbound> for Request<InboundBody> {
    fn from(inbound: Inbound) -> Self {
        let Inbound { method, uri, version, fields, extensions, body } = inbound;
        let (mut parts, ()) = Request::new(()).into_parts();
        (parts.method, parts.uri, parts.version) = (method, uri, version);
        (parts.headers, parts.extensions) = (fields.into_map(), extensions);
        Self::from_parts(parts, body)
    }
}

/// A request's body as it comes from a client.
pub enum InboundBody {
    /// There is none.
    Empty,
    /// Over HTTP/1.
    Connection(Content),
    /// Over HTTP/2.
    Stream(multiplex::Content),
    /// Over HTTP/2 from an edge elsewhere.
    Hop(Box<upstream::Content>),
    /// Over HTTP/3.
    Http3(Box<http3::RequestBody>),
}

impl From<upstream::Content> for InboundBody {
    fn from(body: upstream::Content) -> Self {
        Self::Hop(Box::new(body))
    }
}

impl From<http3::RequestBody> for InboundBody {
    fn from(body: http3::RequestBody) -> Self {
        Self::Http3(Box::new(body))
    }
}

impl Body for InboundBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Connection(body) => Pin::new(body).poll_frame(cx),
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
            Self::Hop(body) => Pin::new(body).poll_frame(cx),
            Self::Http3(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Connection(body) => body.is_end_stream(),
            Self::Stream(body) => body.is_end_stream(),
            Self::Hop(body) => body.is_end_stream(),
            Self::Http3(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Connection(body) => body.size_hint(),
            Self::Stream(body) => body.size_hint(),
            Self::Hop(body) => body.size_hint(),
            Self::Http3(body) => body.size_hint(),
        }
    }
}
