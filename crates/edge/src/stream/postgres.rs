//! PostgreSQL through TLS (handler `pg_tls`): its clients ask for TLS in a message of their own before the handshake.
//!
//! ```text
//!  client                          edge                          machine
//!    │ GSSENCRequest ───────────────▶│ N                            │
//!    │ SSLRequest ──────────────────▶│ S                            │
//!    │ TLS handshake (server name) ─▶│   a client of version 17 may begin here, with ALPN `postgresql`
//!    │ StartupMessage ──────────────▶│─────────────────────────────▶│
//!    │◀──────────────────────────────│◀─ BackendKeyData is noted ───│
//!    │ CancelRequest (a connection   │
//!    │   of its own, without TLS) ──▶│─ to the machine of that key ▶│
//! ```
//!
//! What is noted of a session is its cancellation key alone, for as long as the session lasts.

mod cancel;
pub mod keys;

use std::{io, sync::Arc, time::Duration};

use model::AppName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub use self::cancel::{Cancels, forward};
use self::{
    cancel::{Watched, Whose},
    keys::KeyScan,
};
use super::{Socket, connect, enter, pass, tell};
use crate::{account::Counted, context::Context, http::Client, listen::peek};

/// The protocol's name in a handshake (RFC 7301).
pub const ALPN: &str = "postgresql";
/// A client's first message is never longer (PostgreSQL's own bound).
const MAX_FIRST: usize = 10_000;
/// How long a client has for its first message.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many wishes for encryption one connection may have: each kind once.
const WISHES: usize = 2;

const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
const CANCEL: u32 = 80_877_102;

/// What a connection begins with.
pub enum Greeting {
    /// A handshake, after it was asked for.
    Asked,
    /// A handshake.
    Direct,
    /// The wish to cancel what another connection does.
    Cancel(Vec<u8>),
}

/// Answers the client's wishes for encryption until a handshake or a cancellation comes. Whoever wants neither is told
/// so.
pub async fn greet(stream: &mut TcpStream) -> io::Result<Greeting> {
    for _ in 0..=WISHES {
        let head = peek(stream, 8, |bytes| match bytes {
            [0x16, ..] => Ok(Some(None)),
            _ => Ok(bytes.first_chunk::<8>().map(|head| Some(*head))),
        });
        let Some(head) = head.await? else { return Ok(Greeting::Direct) };
        let (length, code) = split(head);
        match (length, code) {
            (8, SSL) => {
                stream.read_exact(&mut [0; 8]).await?;
                stream.write_all(b"S").await?;
                return Ok(Greeting::Asked);
            }
            (8, GSS) => {
                stream.read_exact(&mut [0; 8]).await?;
                stream.write_all(b"N").await?;
            }
            (_, CANCEL) => return first_message(stream).await.map(Greeting::Cancel),
            _ => {
                let text = "this server takes connections with TLS only: connect with sslmode=require";
                let _ = stream.write_all(&fatal("28000", text)).await;
                break;
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not want TLS"))
}

/// The length and the code at the beginning of a first message.
fn split(head: [u8; 8]) -> (u32, u32) {
    let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    (number(0), number(4))
}

/// Takes a client's first message, whole.
async fn first_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = [0; 8];
    stream.read_exact(&mut head).await?;
    let length = split(head).0 as usize;
    if !(8..=MAX_FIRST).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the first message has no possible length"));
    }
    let mut message = vec![0; length];
    message[..8].copy_from_slice(&head);
    stream.read_exact(&mut message[8..]).await?;
    Ok(message)
}

/// Joins a session with a machine of the app. A cancellation goes to the machine whose session it is about.
pub async fn carry(context: Arc<Context>, app: AppName, mut io: impl Socket, client: Client) {
    let _entered = context.connections.enter(&client.connection);
    if enter(&context, &app, &mut io, &client).is_err() {
        return;
    }
    let mut io = Counted::new(io, client.connection.clone());
    let carried = async {
        let Ok(Ok(first)) = timeout(PATIENCE, first_message(&mut io)).await else { return };
        if is_cancel(&first) {
            return forward(&context, &client, &first).await;
        }
        match connect(&context, &app, &client).await {
            Ok((stream, chosen)) => {
                let whose = Whose { app: app.clone(), target: chosen.lease.target.clone() };
                let mut machine = Watched::new(stream, context.cancels.clone(), client.port, whose);
                // It fits into the socket's empty buffer; what goes wrong with it shows when the answer is read.
                let _ = machine.write_all(&first).await;
                pass(&context, &app, &mut io, &mut machine, &chosen.lease, &client).await;
            }
            Err(refusal) => {
                let _ = io.write_all(&fatal("08006", &format!("[{}] {refusal}", refusal.code()))).await;
                let _ = io.shutdown().await;
                tell(&context, &app, &refusal, &client);
            }
        }
    };
    tokio::select! {
        () = carried => {}
        () = context.aborting.cancelled() => {}
    }
}

fn is_cancel(message: &[u8]) -> bool {
    message.first_chunk::<8>().is_some_and(|head| split(*head).1 == CANCEL)
}

/// An error that ends the session (PostgreSQL's protocol, ErrorResponse).
fn fatal(code: &str, text: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0VFATAL\0C{code}\0M{}\0\0", text.replace('\0', " "));
    let mut message = vec![b'E'];
    message.extend((fields.len() as u32 + 4).to_be_bytes());
    message.extend(fields.as_bytes());
    message
}
