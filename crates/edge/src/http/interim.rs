//! What comes before an answer: a machine's interim answers (1xx), which a proxy passes on (RFC 9110, 15.2).
//!
//! `100 Continue` is not one of them: a client is asked for its content by whoever reads that first, once the machine wants
//! it (see `upstream::exchange`).

use http::{HeaderMap, Response, StatusCode, Version, header};
use tokio::sync::mpsc;

use super::{connection::Talk, headers, multiplex::Informant};
use crate::http1::{Fields, write_answer};

/// How a client is told, if it can be.
#[derive(Clone)]
pub enum Interim {
    /// It cannot.
    Not,
    /// Over the connection that its answer will be written to.
    Connection(Talk),
    /// In a stream of its connection.
    Multiplexed(Informant),
    /// By whoever writes to its stream.
    Stream(mpsc::Sender<Response<()>>),
}

impl Interim {
    /// Tells the client. One that takes nothing misses it.
    pub fn tell(&self, status: StatusCode, headers: HeaderMap) {
        let mut fields = Fields::Map(headers);
        headers::to_client(&mut fields);
        // There is no content that these could be about.
        for about_content in [header::CONTENT_LENGTH, header::TRAILER] {
            fields.map_mut().remove(about_content);
        }
        match self {
            Self::Not => {}
            Self::Connection(talk) => {
                let mut conversation = talk.lock();
                let text = conversation.wire.outbox.text();
                write_answer(text, Version::HTTP_11, status, &fields, false);
                text.extend_from_slice(b"\r\n");
            }
            Self::Multiplexed(informant) => informant.tell(status, &fields),
            Self::Stream(stream) => {
                let mut interim = Response::new(());
                (*interim.status_mut(), *interim.headers_mut()) = (status, fields.into_map());
                drop(stream.try_send(interim));
            }
        }
    }
}
