//! Two upgraded connections joined into one.
//!
//! A WebSocket is asked to close when its machine is about to stop or the edge ends: between two frames the edge says
//! "going away" (1001) to the client, whose answer still reaches the app, so both ends see an orderly close.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink, split},
    time::timeout,
};

use crate::{
    context::Context,
    http::{HandedOver, Upgrade},
    http1::Prefixed,
    machine::Lease,
    upstream::Line,
    websocket::{Frames, GOING_AWAY},
};

/// How long both ends get to close once they have been asked to.
const FAREWELL: Duration = Duration::from_secs(1);

/// Joins a client's upgraded connection with a machine's until one of them ends or both are asked to.
/// `busy` keeps the client's connection from lying idle meanwhile.
pub async fn run<T>(context: Arc<Context>, upgrade: Upgrade, machine: Prefixed<Line>, lease: Lease, busy: T) {
    let websocket = upgrade.is_websocket();
    let Ok(HandedOver { stream: client, held: _held }) = upgrade.client.await else { return };
    let mut closing = lease.target.machine.closing();
    let asked = async {
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => {}
            () = context.stopping.cancelled() => {}
        }
    };
    let joined = join(client, machine, websocket, asked);
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
        let end = pass_down(&mut from_machine, &mut to_client, websocket, asked).await;
        match end {
            End::Asked => drain(&mut from_machine).await,
            End::Machine => drop(to_client.shutdown().await),
        }
        end
    };
    let mut up = std::pin::pin!(up);
    let mut down = std::pin::pin!(down);
    // A WebSocket that has ended in one direction is over; other protocols may go on in the other one.
    let limit = if websocket { FAREWELL } else { Duration::MAX };
    tokio::select! {
        () = up.as_mut() => { let _ = timeout(limit, down).await; }
        end = down.as_mut() => {
            if end == End::Machine {
                let _ = timeout(limit, up).await;
            }
        }
    }
}

/// Why a machine's bytes are no longer passed on.
#[derive(PartialEq, Eq)]
enum End {
    /// There are no more.
    Machine,
    /// Both ends are asked to close; the client has been told.
    Asked,
}

/// Waits until a machine has closed, too, but not for long. What it still says came after the goodbye.
async fn drain(from_machine: &mut (impl AsyncRead + Unpin)) {
    let _ = timeout(FAREWELL, copy(from_machine, &mut sink())).await;
}

/// Passes a machine's bytes on.
async fn pass_down(
    from_machine: &mut (impl AsyncRead + Unpin),
    to_client: &mut (impl AsyncWrite + Unpin),
    websocket: bool,
    asked: impl Future<Output = ()>,
) -> End {
    let mut asked = std::pin::pin!(asked);
    let mut buffer = vec![0; 16 * 1024];
    let mut frames = Frames::default();
    let mut close = false;
    loop {
        if close && (!websocket || frames.may_close()) {
            let farewell: &[u8] = if websocket { &GOING_AWAY } else { &[] };
            let _ = to_client.write_all(farewell).await;
            let _ = to_client.flush().await;
            return End::Asked;
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
                    return End::Machine;
                }
            }
            _ => return End::Machine,
        }
    }
}
