//! Two upgraded connections joined into one.
//!
//! A WebSocket is asked to close when its machine is about to stop or the edge ends: between two frames the edge says
//! "going away" (1001) to the client, whose answer still reaches the app, so both ends see an orderly close.

use std::{sync::Arc, time::Duration};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split},
    time::timeout,
};

use crate::{
    context::Context,
    http::Upgrade,
    machine::Lease,
    websocket::{Frames, GOING_AWAY},
};

/// How long both ends get to close once they have been asked to.
const FAREWELL: Duration = Duration::from_secs(2);

/// Joins a client's upgraded connection with a machine's until one of them ends or both are asked to.
/// `busy` keeps the client's connection from lying idle meanwhile.
pub async fn run<T>(context: Arc<Context>, upgrade: Upgrade, machine: OnUpgrade, lease: Lease, busy: T) {
    let websocket = upgrade.is_websocket();
    let Ok((client, machine)) = tokio::try_join!(upgrade.client, machine) else { return };
    let mut closing = lease.target.machine.closing();
    let asked = async {
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => {}
            () = context.stopping.cancelled() => {}
        }
    };
    let joined = join(TokioIo::new(client), TokioIo::new(machine), websocket, asked);
    tokio::select! {
        () = joined => {}
        () = context.aborting.cancelled() => {}
    }
    drop((lease, busy));
}

async fn join(
    client: impl AsyncRead + AsyncWrite,
    machine: impl AsyncRead + AsyncWrite,
    websocket: bool,
    asked: impl Future<Output = ()>,
) {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_machine, mut to_machine) = split(machine);
    let up = async {
        let _ = copy(&mut from_client, &mut to_machine).await;
        let _ = to_machine.shutdown().await;
    };
    let down = async {
        let closed_by_us = pass_down(&mut from_machine, &mut to_client, websocket, asked).await;
        if !closed_by_us {
            let _ = to_client.shutdown().await;
        }
        closed_by_us
    };
    let mut up = std::pin::pin!(up);
    let mut down = std::pin::pin!(down);
    // A WebSocket that has ended in one direction is over; other protocols may go on in the other one.
    let limit = if websocket { FAREWELL } else { Duration::MAX };
    tokio::select! {
        () = up.as_mut() => { let _ = timeout(limit, down).await; }
        closed_by_us = down.as_mut() => { let _ = timeout(if closed_by_us { FAREWELL } else { limit }, up).await; }
    }
}

/// Passes a machine's bytes on. Returns true if it ended because both ends are asked to close.
async fn pass_down(
    from_machine: &mut (impl AsyncRead + Unpin),
    to_client: &mut (impl AsyncWrite + Unpin),
    websocket: bool,
    asked: impl Future<Output = ()>,
) -> bool {
    let mut asked = std::pin::pin!(asked);
    let mut buffer = vec![0; 16 * 1024];
    let mut frames = Frames::default();
    let mut close = false;
    loop {
        if close && (!websocket || frames.may_close()) {
            let farewell: &[u8] = if websocket { &GOING_AWAY } else { &[] };
            let _ = to_client.write_all(farewell).await;
            let _ = to_client.flush().await;
            return true;
        }
        let read = tokio::select! {
            read = from_machine.read(&mut buffer) => read,
            () = asked.as_mut(), if !close => {
                close = true;
                continue;
            }
        };
        match read {
            Ok(count) if count > 0 => {
                frames.feed(&buffer[..count]);
                if to_client.write_all(&buffer[..count]).await.is_err() || to_client.flush().await.is_err() {
                    return false;
                }
            }
            _ => return false,
        }
    }
}
