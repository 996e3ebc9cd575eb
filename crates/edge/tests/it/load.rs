//! Clients that ask an app again and again, and count what fails.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use crate::{support::*, tls};

/// Clients that ask again and again.
#[derive(Default)]
pub struct Load {
    answered: [AtomicUsize; 4],
    failed: AtomicUsize,
    enough: AtomicBool,
}

impl Load {
    /// What a client of some kind got. The app says hello.
    pub fn count(&self, kind: usize, answer: Result<String, String>) {
        match answer {
            Ok(body) if body == "hello" => drop(self.answered[kind].fetch_add(1, SeqCst)),
            other => {
                eprintln!("client {kind}: {other:?}");
                self.failed.fetch_add(1, SeqCst);
            }
        }
    }

    pub fn goes_on(&self) -> bool {
        !self.enough.load(SeqCst)
    }

    pub fn end(&self) {
        self.enough.store(true, SeqCst);
    }

    pub fn failed(&self) -> usize {
        self.failed.load(SeqCst)
    }

    pub fn answered(&self) -> [usize; 4] {
        [0, 1, 2, 3].map(|kind| self.answered[kind].load(SeqCst))
    }

    /// Waits until each kind of client that there is has got some more answers.
    pub async fn goes_on_for_all(&self, what: &str) {
        let before = self.answered();
        let goes_on = |(now, before): (usize, usize)| now > before + 20 || now == 0;
        until(what, || self.answered().into_iter().zip(before).all(goes_on)).await;
    }
}

fn request() -> Request<Empty<Bytes>> {
    Request::get("/").header("host", host("shop")).body(Empty::new()).unwrap()
}

/// A connection for each request.
pub async fn connects(load: Arc<Load>, address: SocketAddr) {
    while load.goes_on() {
        let answer = send(address, request()).await;
        load.count(0, answer.map(|answer| answer.body).map_err(|error| error.to_string()));
    }
}

/// One connection as long as it lasts. A client knows that an answer was the last one; nothing else may end it.
pub async fn keeps_alive(load: Arc<Load>, address: SocketAddr) {
    while load.goes_on() {
        let mut sender = connect_h1(address).await;
        let mut last = false;
        while load.goes_on() && !last {
            let answer = match sender.send_request(request()).await {
                Ok(response) => {
                    last = response.headers().get("connection").is_some_and(|value| value == "close");
                    Answer::read(response).await
                }
                Err(error) => Err(error),
            };
            last |= answer.is_err();
            load.count(1, answer.map(|answer| answer.body).map_err(|error| error.to_string()));
            last |= !last && sender.ready().await.is_err();
        }
    }
}

/// Requests side by side over one connection, over TLS, as long as it takes new ones.
pub async fn multiplexes(load: Arc<Load>, address: SocketAddr, config: rustls::ClientConfig) {
    while load.goes_on() {
        let stream = tls::connect(config.clone(), address, &host("shop")).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        let mut under_way = JoinSet::new();
        for _ in 0..4 {
            let (mut sender, load) = (sender.clone(), load.clone());
            under_way.spawn(async move {
                while load.goes_on() && sender.ready().await.is_ok() {
                    let request = Request::get("https://shop.dunlin.localhost/").body(Empty::<Bytes>::new()).unwrap();
                    let answer = match sender.try_send_request(request).await {
                        Ok(response) => Answer::read(response).await,
                        Err(mut error) => match error.take_message() {
                            // The connection went away first: the request is for the next one.
                            Some(_) => return,
                            // So is what the edge says it has not begun (RFC 9113, 6.8).
                            None if is_for_the_next(error.error()) => return,
                            None => Err(error.into_error()),
                        },
                    };
                    load.count(2, answer.map(|answer| answer.body).map_err(|error| format!("{error:?}")));
                }
            });
        }
        under_way.join_all().await;
    }
}

/// Whether the connection was told to take no more requests before this one reached the other side: a stream above the last
/// one that GOAWAY names. What was begun and lost ends in another error.
fn is_for_the_next(error: &hyper::Error) -> bool {
    let h2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    h2.is_some_and(|error| error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR))
}
