//! Requests that turn their connection into a tunnel: `Upgrade` over HTTP/1.1, and WebSocket's extended `CONNECT` over
//! HTTP/2 (RFC 8441), which a machine gets as `Upgrade` over HTTP/1.1.

use std::sync::{Arc, Mutex, PoisonError};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Version,
    header::{self, HeaderName},
};
use tokio::sync::oneshot;

use super::{Inbound, headers::has_token};
use crate::http1::{AnyStream, Fields, Prefixed};

const SEC_WEBSOCKET_KEY: HeaderName = header::SEC_WEBSOCKET_KEY;

/// A connection that was handed over.
pub struct HandedOver {
    /// With what was read of it.
    pub stream: Prefixed<AnyStream>,
    /// Dropped at its end, which whoever handed it over waits for: till then the connection counts.
    pub held: oneshot::Sender<()>,
}

/// With a request that asks for an upgrade: the connection, or the stream, will come this way.
#[derive(Clone)]
pub struct Offer {
    receiver: Arc<Mutex<Option<oneshot::Receiver<HandedOver>>>>,
    /// What the stream is to become, by extended `CONNECT`.
    extended: Option<HeaderValue>,
}

impl Offer {
    /// An offer of a connection, and where that is to be handed over.
    pub fn new() -> (oneshot::Sender<HandedOver>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self { receiver: Arc::new(Mutex::new(Some(receiver))), extended: None })
    }

    /// An offer of a stream that is to become this, and where it is to be handed over.
    pub fn extended(protocol: HeaderValue) -> (oneshot::Sender<HandedOver>, Self) {
        let (sender, offer) = Self::new();
        (sender, Self { extended: Some(protocol), ..offer })
    }

    fn accept(self) -> Option<oneshot::Receiver<HandedOver>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A wish to upgrade.
pub struct Upgrade {
    /// What to: `websocket`, usually.
    protocol: HeaderValue,
    /// The client's side, once both agree and its connection has been told.
    pub client: oneshot::Receiver<HandedOver>,
    /// The wish came as an extended `CONNECT`.
    pub extended: bool,
}

impl Upgrade {
    /// Takes the wish out of a request; a request without one is left as it is.
    pub fn take(request: &mut Inbound) -> Option<Self> {
        if request.method == Method::CONNECT {
            let offered = request.extensions.get::<Offer>()?.extended.as_ref()?;
            if offered != "websocket" {
                return None;
            }
            let client = request.extensions.remove::<Offer>()?.accept()?;
            return Some(Self { protocol: HeaderValue::from_static("websocket"), client, extended: true });
        }
        // Where nothing offers the connection there is nothing to read.
        request.extensions.get::<Offer>()?;
        let protocol = wanted(request.version, &request.fields)?;
        let client = request.extensions.remove::<Offer>()?.accept()?;
        Some(Self { protocol, client, extended: false })
    }

    /// Whether it leads to WebSocket.
    pub fn is_websocket(&self) -> bool {
        self.protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
    }

    /// Puts the wish into the request that a machine gets.
    pub fn put(&self, request: &mut Inbound) {
        let headers = request.fields.map_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.protocol.clone());
        if self.extended {
            let key = STANDARD.encode(kit::random::bytes::<16>());
            headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_str(&key).expect("base 64 is a field's value"));
            request.method = Method::GET;
        }
    }

    /// The status and the fields that tell the client of the machine's consent.
    pub fn consent(&self, headers: &mut HeaderMap) -> StatusCode {
        if self.extended {
            headers.remove(header::SEC_WEBSOCKET_ACCEPT);
            return StatusCode::OK;
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.protocol.clone());
        StatusCode::SWITCHING_PROTOCOLS
    }
}

/// The protocol that an HTTP/1.1 request wants to upgrade to. HTTP/2 in the clear is not one of them: it would carry
/// requests past the edge.
fn wanted(version: Version, fields: &Fields) -> Option<HeaderValue> {
    let asks = fields.all(&header::CONNECTION).any(|list| has_token(list, "upgrade"));
    let protocol = fields.first(&header::UPGRADE).filter(|_| asks && version == Version::HTTP_11)?;
    let is_h2c = has_token(protocol, "h2c");
    let protocol = HeaderValue::from_bytes(protocol).ok()?;
    (!is_h2c && !protocol.as_bytes().contains(&b',')).then_some(protocol)
}
