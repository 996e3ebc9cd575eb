//! Machines that speak HTTP/2 (`h2_backend`), down to what they can do to a stream.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{self, SendResponse},
};
use http::{Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{http2, support::*};

/// A program that answers each request like this.
async fn program<F>(
    machine: &Machine,
    answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut connection = server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(answer(request, respond));
                }
            });
        }
    });
}

async fn world<F>(answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static) -> World
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut world = World::start().await;
    let machine = Machine::of("shop").h2_backend();
    program(&machine, answer).await;
    world.know(&[&machine]).await;
    world
}

fn status(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

async fn whole(mut content: RecvStream) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(Ok(data)) = content.data().await {
        content.flow_control().release_capacity(data.len()).unwrap();
        whole.extend_from_slice(&data);
    }
    whole
}

#[tokio::test]
async fn its_interim_answers_come_before_the_answer() {
    let world = world(|_, mut respond| async move {
        let mut hint = status(StatusCode::EARLY_HINTS);
        hint.headers_mut().insert("link", "</a.css>".parse().unwrap());
        respond.send_informational(status(StatusCode::PROCESSING)).unwrap();
        respond.send_informational(hint).unwrap();
        let mut content = respond.send_response(Response::new(()), false).unwrap();
        content.send_data(Bytes::from_static(b"done"), true).unwrap();
    })
    .await;
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: shop.dunlin.localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(read_head(&mut client).await, "http/1.1 102 processing\r\n\r\n");
    assert_eq!(read_head(&mut client).await, "http/1.1 103 early hints\r\nlink: </a.css>\r\n\r\n");
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("done"), "{answer}");
}

#[tokio::test]
async fn more_of_them_than_anybody_needs_are_no_answer() {
    let world = world(|_, mut respond| async move {
        while respond.send_informational(status(StatusCode::PROCESSING)).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let answer = world.get("shop", "/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{}", answer.body);
    assert!(answer.body.contains("no final answer came"), "{}", answer.body);
}

const ASKED: &[u8] =
    b"POST / HTTP/1.1\r\nHost: shop.dunlin.localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";

#[tokio::test]
async fn content_is_asked_for_when_it_wants_it() {
    let world = world(|request, mut respond| async move {
        respond.send_informational(status(StatusCode::CONTINUE)).unwrap();
        let got = whole(request.into_body()).await;
        let mut content = respond.send_response(Response::new(()), false).unwrap();
        content.send_data(got.into(), true).unwrap();
    })
    .await;
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    client.write_all(ASKED).await.unwrap();
    assert_eq!(read_head(&mut client).await, "http/1.1 100 continue\r\n\r\n");
    client.write_all(b"hello").await.unwrap();
    assert!(read_head(&mut client).await.starts_with("http/1.1 200 "));
}

#[tokio::test]
async fn content_is_not_asked_for_if_it_refuses_first() {
    let world = world(|_, mut respond| async move {
        respond.send_response(status(StatusCode::UNAUTHORIZED), true).unwrap();
    })
    .await;
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    client.write_all(ASKED).await.unwrap();
    let answer = read_head(&mut client).await;
    assert!(answer.starts_with("http/1.1 401 ") && answer.contains("connection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn an_answer_that_it_cancels_is_not_taken_for_a_whole_one() {
    for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        let world = world(move |_, mut respond| async move {
            let mut content = respond.send_response(Response::new(()), false).unwrap();
            content.send_data(Bytes::from_static(b"the first half"), false).unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            content.send_reset(reason);
        })
        .await;
        let mut client = TcpStream::connect(world.http()).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: shop.dunlin.localhost\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = within(client.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("the first half") && !answer.ends_with("0\r\n\r\n"), "{reason}: {answer}");
    }
}

#[tokio::test]
async fn a_request_that_it_has_not_looked_at_is_sent_once_more() {
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = asked.clone();
    let world = world(move |request, mut respond| {
        let first = seen.fetch_add(1, SeqCst) == 0;
        async move {
            if first {
                return respond.send_reset(Reason::REFUSED_STREAM);
            }
            let got = whole(request.into_body()).await;
            let mut content = respond.send_response(Response::new(()), false).unwrap();
            content.send_data(got.into(), true).unwrap();
        }
    })
    .await;
    let request = Request::post("/").header("host", host("shop")).body(full("paid once")).unwrap();
    let answer = world.send(request).await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "paid once"));
    assert_eq!(asked.load(SeqCst), 2);
}

#[tokio::test]
async fn a_request_that_meets_its_goodbye_is_sent_over_another_connection() {
    let mut world = World::start().await;
    let machine = Machine::of("shop").h2_backend();
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if seen.fetch_add(1, SeqCst) > 0 {
                let mut connection = server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_response(status(StatusCode::CREATED), true).unwrap();
                }
                continue;
            }
            // Settings, and once the request is there a goodbye that knows of no stream (GOAWAY).
            stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
            let mut heard = Vec::new();
            while !heard.windows(4).any(|it| it == b"paid") {
                assert!(stream.read_buf(&mut heard).await.unwrap() > 0);
            }
            stream.write_all(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0").await.unwrap();
            // It is read from until the other side has gone, so that it is not reset.
            while stream.read_buf(&mut heard).await.is_ok_and(|read| read > 0) {}
        }
    });
    world.know(&[&machine]).await;
    let request = Request::post("/").header("host", host("shop")).body(full("paid once")).unwrap();
    let answer = world.send(request).await;
    assert_eq!((answer.status, connections.load(SeqCst)), (StatusCode::CREATED, 2), "{}", answer.body);
}

#[tokio::test]
async fn a_program_that_takes_few_requests_over_a_connection_gets_more_connections() {
    const AT_A_TIME: u32 = 2;
    let mut world = World::start().await;
    let machine = Machine::of("shop").h2_backend();
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    let all_are_there = Arc::new(tokio::sync::Barrier::new(10));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let all_are_there = all_are_there.clone();
            tokio::spawn(async move {
                let mut settings = server::Builder::new();
                let connection = settings.max_concurrent_streams(AT_A_TIME).handshake::<_, Bytes>(stream);
                let mut connection = connection.await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let all_are_there = all_are_there.clone();
                    tokio::spawn(async move {
                        all_are_there.wait().await;
                        respond.send_response(Response::new(()), true).unwrap();
                    });
                }
            });
        }
    });
    world.know(&[&machine]).await;
    let requests = (0..10).map(|_| async { world.get("shop", "/").await.status });
    let answers = within(futures_util::future::join_all(requests)).await;
    assert_eq!(answers, [StatusCode::OK; 10]);
}

#[tokio::test]
async fn it_hears_of_a_client_that_left_though_it_takes_nothing_of_what_that_said() {
    let (left, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let world = world(move |request, mut respond| {
        let left = left.clone();
        async move {
            let mut content = respond.send_response(Response::new(()), false).unwrap();
            let reason = std::future::poll_fn(|cx| content.poll_reset(cx)).await.unwrap();
            // It was never read.
            drop(request);
            left.send(reason).unwrap();
        }
    })
    .await;
    let mut client = http2::Client::connect(&world, &[]).await;
    client.say(&[http2::frame(1, 4, 1, &http2::request("POST", "shop.dunlin.localhost", &[]))]).await;
    // More than a program's library takes unread.
    for _ in 0..6 {
        client.say(&[http2::frame(0, 0, 1, &[b'x'; 16_000])]).await;
    }
    assert_eq!(client.hear_of(1).await.unwrap().field(":status"), Some("200"));
    client.say(&[http2::frame(3, 0, 1, &8_u32.to_be_bytes())]).await;
    assert_eq!(within(hears.recv()).await.unwrap(), Reason::CANCEL);
}

#[tokio::test]
async fn it_cannot_make_a_client_switch_protocols() {
    let world = world(|_, mut respond| async move {
        respond.send_informational(status(StatusCode::SWITCHING_PROTOCOLS)).unwrap();
        respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    let answer = world.get("shop", "/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{}", answer.body);
    assert!(answer.body.contains("switched protocols"), "{}", answer.body);
}

#[tokio::test]
async fn what_is_wrong_with_many_answers_does_not_end_the_others() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let pass = gate.clone();
    let world = world(move |request, mut respond| {
        let pass = pass.clone();
        async move {
            if request.uri().path() == "/well" {
                pass.acquire().await.unwrap().forget();
                return drop(respond.send_response(Response::new(()), true).unwrap());
            }
            let mut response = Response::new(());
            for nth in 0..100 {
                let name: http::HeaderName = format!("x-{nth}").parse().unwrap();
                response.headers_mut().insert(name, "y".repeat(2700).parse().unwrap());
            }
            drop(respond.send_response(response, true));
        }
    })
    .await;
    let well = world.get("shop", "/well");
    let others = async {
        for _ in 0..1100 {
            assert_eq!(world.get("shop", "/").await.status, StatusCode::BAD_GATEWAY);
        }
        gate.add_permits(1);
    };
    let (well, ()) = tokio::join!(well, others);
    assert_eq!(well.status, StatusCode::OK, "{}", well.body);
}
