//! What comes before an answer: a machine's interim answers (1xx), which a proxy passes on (RFC 9110, 15.2).
//!
//! `100 Continue` is not one of them: the edge itself asks a client for its content, when it has a machine that takes it.
//! Over HTTP/2 none is passed, since the library cannot say it.

use http::Response;
use tokio::sync::mpsc;

use super::{connection::Talk, headers};
use crate::http1::write_answer;

/// How a client is told, if it can be.
#[derive(Clone)]
pub enum Interim {
    /// It cannot.
    Not,
    /// Over the connection that its answer will be written to.
    Connection(Talk),
    /// By whoever writes to its stream.
    Stream(mpsc::Sender<Response<()>>),
}

impl Interim {
    /// Tells the client. One that takes nothing misses it.
    pub fn tell(&self, mut interim: Response<()>) {
        headers::to_client(interim.headers_mut());
        // There is no content that these could be about.
        for about_content in [http::header::CONTENT_LENGTH, http::header::TRAILER] {
            interim.headers_mut().remove(about_content);
        }
        match self {
            Self::Not => {}
            Self::Connection(talk) => {
                let mut conversation = talk.lock();
                let text = conversation.wire.outbox.text();
                write_answer(text, http::Version::HTTP_11, interim.status(), interim.headers());
                text.extend_from_slice(b"\r\n");
            }
            Self::Stream(stream) => drop(stream.try_send(interim)),
        }
    }
}
