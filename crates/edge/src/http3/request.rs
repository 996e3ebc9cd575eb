//! One request: read, checked, answered.

use std::sync::Arc;

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use h3::{
    error::Code,
    server::{RequestResolver, RequestStream},
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    answer::{Answer, SlowReader},
    body::RequestBody,
    transport::{Gone, Quic, Receive},
};
use crate::{
    Refusal,
    context::Context,
    http::{self, Busy, Client, Interim},
    options::BoxError,
    upstream::is_expecting,
};

/// Fields that belong to a connection of HTTP/1, and are a mistake here (RFC 9114, 4.2).
const NOT_HERE: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
/// Methods whose requests usually have no body.
const WITHOUT_BODY: [Method; 5] = [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS, Method::TRACE];

/// How many interim answers wait to be sent; more are not passed on.
const INTERIM: usize = 16;

/// Answers a request, unless its client goes away meanwhile.
pub async fn serve(context: Arc<Context>, client: Arc<Client>, resolver: RequestResolver<Quic, Bytes>, mut gone: Gone) {
    let (request, stream) = match timeout(context.bounds.header, resolver.resolve_request()).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => return tracing::debug!(peer = %client.peer, "a request was not understood: {error}"),
        Err(_) => return tracing::debug!(peer = %client.peer, "a request did not come in time"),
    };
    let (send, receive) = stream.split();
    let (interim, informed) = mpsc::channel(INTERIM);
    let mut answer = Answer::new(send, request.method(), context.bounds.answer_pace);
    // As long as this lives the connection is not idle: until the client has all of the answer.
    let busy = Busy::new(client).informing(Interim::Stream(interim));
    tokio::select! {
        biased;
        done = exchange(&context, &busy, request, receive, informed, &mut answer) => {
            if let Err(error) = done {
                if error.is::<SlowReader>() {
                    context.limits.abused(&context.journal, &busy.0.connection, &Refusal::SlowReader);
                }
                return tracing::debug!(peer = %busy.0.peer, "an answer did not reach its client: {error}");
            }
        }
        () = context.aborting.cancelled() => return,
        () = gone.as_mut() => return,
    }
    tokio::select! {
        () = gone => {}
        () = context.aborting.cancelled() => {}
    }
}

async fn exchange(
    context: &Arc<Context>,
    busy: &Busy,
    request: Request<()>,
    mut receive: RequestStream<Receive, Bytes>,
    mut informed: mpsc::Receiver<Response<()>>,
    answer: &mut Answer,
) -> Result<(), BoxError> {
    let Ok(length) = check(request.headers()) else {
        receive.stop_sending(Code::H3_MESSAGE_ERROR);
        answer.reset(Code::H3_MESSAGE_ERROR);
        return Err("the request has fields of a connection of HTTP/1, or lengths that differ".into());
    };
    let expects = is_expecting(request.headers());
    let (mut body, wanted) = RequestBody::new(receive, length);
    if !expects && length.is_none() && WITHOUT_BODY.contains(request.method()) {
        // Whether there is a body decides how a machine gets the request.
        timeout(context.bounds.header, body.look()).await?;
    }
    let request = request.map(|()| body);
    let mut answering = std::pin::pin!(http::answer(context, busy.clone(), Box::new(request.into())));
    let (mut wanted, mut waits) = (std::pin::pin!(wanted), expects);
    let response = loop {
        tokio::select! {
            biased;
            response = answering.as_mut() => break response,
            wanted = wanted.as_mut(), if waits => {
                waits = false;
                if wanted.is_ok() {
                    answer.inform(interim(StatusCode::CONTINUE)).await?;
                }
            }
            Some(interim) = informed.recv() => answer.inform(interim).await?,
        }
    };
    while let Ok(interim) = informed.try_recv() {
        answer.inform(interim).await?;
    }
    answer.send(response.into_response()).await
}

fn interim(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

/// The length that a request says its body has, if it says one and nothing that makes no sense here.
fn check(headers: &HeaderMap) -> Result<Option<u64>, ()> {
    let trailers_only = |te: &HeaderValue| te.as_bytes().eq_ignore_ascii_case(b"trailers");
    if NOT_HERE.iter().any(|name| headers.contains_key(*name)) || !headers.get_all(header::TE).iter().all(trailers_only)
    {
        return Err(());
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(None) };
    let digits = first.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).ok_or(())?;
    if lengths.any(|other| other != first) {
        return Err(());
    }
    digits.parse().map(Some).map_err(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_frames_a_message_elsewhere_has_no_place_here() {
        let of = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            check(&headers)
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("content-length", "5"), ("te", "trailers")]), Ok(Some(5)));
        assert_eq!(of(&[("content-length", "5"), ("content-length", "5")]), Ok(Some(5)));
        for bad in [
            &[("content-length", "5"), ("content-length", "6")][..],
            &[("content-length", "5, 5")],
            &[("content-length", "+5")],
            &[("content-length", "")],
            &[("content-length", "99999999999999999999")],
            &[("transfer-encoding", "chunked")],
            &[("connection", "close")],
            &[("upgrade", "websocket")],
            &[("te", "gzip")],
        ] {
            assert_eq!(of(bad), Err(()), "{bad:?}");
        }
    }
}
