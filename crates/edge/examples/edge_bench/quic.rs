//! Load by HTTP/3: h2load of Debian does not speak it.

use std::{future, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use bytes::{Buf, Bytes};
use http::{Request, StatusCode};
use quinn::{ClientConfig, Endpoint, crypto::rustls::QuicClientConfig};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    load::{self, Answers, Requests},
    subject::HOST,
};

type Sender = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;

/// Sends as many requests as are wanted, as many at a time on each connection as are wanted. Fails unless each is
/// answered.
pub fn send(wanted: &Requests) -> Result<Answers> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut config = load::config();
        config.alpn_protocols = vec![b"h3".to_vec()];
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config)?));
        let each = wanted.count / u64::from(wanted.connections * wanted.streams);
        let (began, mut streams) = (Instant::now(), JoinSet::new());
        let mut endpoints = Vec::new();
        for _ in 0..wanted.connections {
            // A client of its own, with a port of its own.
            let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
            let connection = endpoint.connect_with(config.clone(), wanted.to.into(), HOST)?.await?;
            endpoints.push(endpoint);
            let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
            tokio::spawn(async move { future::poll_fn(|cx| driver.poll_close(cx)).await });
            for _ in 0..wanted.streams {
                streams.spawn(ask(sender.clone(), wanted.path, each));
            }
        }
        let mut times = Vec::new();
        while let Some(asked) = streams.join_next().await {
            times.extend(asked??);
        }
        Ok(Answers::new(began.elapsed(), times))
    })
}

/// Sends requests, each once the one before it is answered. Tells how long each took.
async fn ask(mut sender: Sender, path: &'static str, count: u64) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        let request = Request::get(format!("https://{HOST}{path}")).body(())?;
        let mut stream = sender.send_request(request).await?;
        stream.finish().await?;
        let status = stream.recv_response().await?.status();
        ensure!(status == StatusCode::OK, "the answer is {status}");
        while let Some(mut data) = stream.recv_data().await? {
            data.advance(data.remaining());
        }
        times.push(began.elapsed());
    }
    Ok(times)
}
