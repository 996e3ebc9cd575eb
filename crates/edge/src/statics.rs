//! Files that a machine serves beside its program: its file server is asked first, and the program where that has none.
//!
//! ```text
//!   GET or HEAD below a prefix ─▶ the machine's file server ─ 404, refused, silent ─▶ the program
//!                                        └ anything else ─▶ the client
//! ```

use std::time::Duration;

use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use model::machine::{STATICS_PORT, Static};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    choose::Chosen,
    context::Context,
    upstream::{Answered, RequestBody},
};

/// How long the file server may take until the header of its answer is there.
const PATIENCE: Duration = Duration::from_secs(2);

/// The answer of a machine's file server, if the request may be for a file and there is one.
pub async fn ask(context: &Context, chosen: &Chosen, request: &Request<RequestBody>) -> Option<Answered> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let below = |prefix: &String| Static::holds(prefix, request.uri().path());
    if !reads || !chosen.route.statics.iter().any(below) {
        return None;
    }
    let answered = timeout(PATIENCE, exchange(context, chosen, request)).await.ok()??;
    (answered.response.status() != StatusCode::NOT_FOUND).then_some(answered)
}

async fn exchange(context: &Context, chosen: &Chosen, request: &Request<RequestBody>) -> Option<Answered> {
    let stream = TcpStream::connect((chosen.route.host_local, STATICS_PORT)).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    context.tasks.spawn(async move {
        // What ends it is told to whoever reads the answer.
        let _ = connection.await;
    });
    let target = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let mut asked = Request::new(RequestBody::default());
    *asked.method_mut() = request.method().clone();
    *asked.uri_mut() = target.parse().ok()?;
    *asked.headers_mut() = request.headers().clone();
    // A body, were there one, is the program's.
    for field in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::EXPECT] {
        asked.headers_mut().remove(field);
    }
    asked.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    let response = sender.send_request(asked).await.ok()?;
    Some(Answered { response, keep: None })
}
