//! Commands in machines: one answer, or a WebSocket (RFC 6455) both ways. See [`ExecFrame`] for its messages.

use std::{sync::Arc, time::Duration};

use api::{
    internal::{ExecEvent, ExecInput, ExecRequest, ExecSession, TerminalSize},
    public::{
        deploys::ExecFrame,
        machines::{ExecMachine, ExecReply},
    },
};
use axum::{
    Json,
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    response::Response,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use super::extract::{Body, MachineInPath, OnMachine};
use crate::{Control, error::Error};

/// How long a client may take to close a connection whose command has ended.
const CLOSING: Duration = Duration::from_secs(5);

/// Runs a command to its end.
#[utoipa::path(
    post, path = "/v1/apps/{app}/machines/{machine_id}/exec", tag = "machines",
    params(MachineInPath),
    request_body = ExecMachine,
    responses((status = 200, body = ExecReply))
)]
pub(super) async fn run(
    State(control): State<Arc<Control>>,
    on: OnMachine,
    Body(request): Body<ExecMachine>,
) -> Result<Json<ExecReply>, Error> {
    control.exec(&on.app, &on.id, request).await.map(Json)
}

const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Longest wait for the client's first message.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two signs of life, by which a client that has vanished is noticed and its command ended.
const PING: Duration = Duration::from_secs(30);

/// Runs a command with its streams over a WebSocket.
#[utoipa::path(
    get, path = "/v1/apps/{app}/machines/{machine_id}/exec/stream", tag = "machines",
    params(MachineInPath),
    responses((status = 101, description = "WebSocket; its text messages are ExecFrame"))
)]
pub(super) async fn stream(State(control): State<Arc<Control>>, on: OnMachine, upgrade: WebSocketUpgrade) -> Response {
    let upgrade = upgrade.max_message_size(MAX_MESSAGE_BYTES).max_frame_size(MAX_MESSAGE_BYTES);
    upgrade.on_upgrade(move |socket| serve(control, on, socket))
}

async fn serve(control: Arc<Control>, on: OnMachine, mut socket: WebSocket) {
    let session = match first_message(&mut socket).await {
        Ok(request) => control.exec_stream(&on.app, &on.id, request).await.map_err(|error| error.to_string()),
        Err(reason) => Err(reason),
    };
    match session {
        Ok(session) => bridge(socket, session).await,
        Err(reason) => {
            let _ = socket.send(frame(&ExecFrame::Failed { reason })).await;
            let _ = socket.send(Message::Close(None)).await;
            let _ = timeout(CLOSING, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
        }
    }
}

async fn first_message(socket: &mut WebSocket) -> Result<ExecRequest, String> {
    let message = timeout(FIRST_MESSAGE_TIMEOUT, socket.recv()).await;
    let Ok(Some(Ok(Message::Text(text)))) = message else {
        return Err("the first message must be text: what to run".to_owned());
    };
    match serde_json::from_str(&text) {
        Ok(ExecFrame::Run { command, tty, user }) => {
            let tty = tty.map(|(columns, rows)| TerminalSize { columns, rows });
            Ok(ExecRequest { command, user, tty, ..ExecRequest::default() })
        }
        Ok(_) => Err("the first message must say what to run".to_owned()),
        Err(error) => Err(format!("the first message cannot be read: {error}")),
    }
}

/// Carries bytes both ways until the command has ended or the client is gone. Leaving drops the session, which ends
/// the command. Neither way waits for the other: a command may not read before what it says is taken.
async fn bridge(socket: WebSocket, session: ExecSession) {
    let ExecSession { input, mut output } = session;
    let (mut to_client, mut from_client) = socket.split();
    let up = async {
        while let Some(Ok(message)) = from_client.next().await {
            if !accept(&input, message).await {
                return;
            }
        }
    };
    let down = async {
        let mut ping = interval(PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let more = tokio::select! {
                event = output.recv() => forward(&mut to_client, event).await,
                _ = ping.tick() => to_client.send(Message::Ping(Bytes::new())).await.is_ok(),
            };
            if !more {
                return;
            }
        }
    };
    tokio::pin!(up);
    tokio::select! {
        () = &mut up => {}
        // What the client has sent meanwhile is still taken: a connection that is dropped with unread bytes is reset,
        // and the client would lose the end of what the command said, its status with it.
        () = down => drop(timeout(CLOSING, up).await),
    }
}

/// Sends what the command says; whether more may follow.
async fn forward(to_client: &mut SplitSink<WebSocket, Message>, event: Option<ExecEvent>) -> bool {
    let (message, last) = match event {
        Some(ExecEvent::Stdout(bytes)) => (marked(1, &bytes), false),
        Some(ExecEvent::Stderr(bytes)) => (marked(2, &bytes), false),
        Some(ExecEvent::Exit { code, signal }) => (frame(&ExecFrame::Exit { code, signal }), true),
        Some(ExecEvent::Failed(reason)) => (frame(&ExecFrame::Failed { reason }), true),
        None => (frame(&ExecFrame::Failed { reason: "the command was lost".to_owned() }), true),
    };
    let sent = to_client.send(message).await.is_ok();
    if last && sent {
        let _ = to_client.send(Message::Close(None)).await;
    }
    sent && !last
}

/// Hands on what the client says; whether it may say more. A command that has ended takes nothing more, but what it
/// said last is still to be sent.
async fn accept(input: &mpsc::Sender<ExecInput>, message: Message) -> bool {
    let given = match message {
        Message::Binary(bytes) => ExecInput::Stdin(bytes),
        Message::Text(text) => match serde_json::from_str(&text) {
            Ok(ExecFrame::Eof) => ExecInput::Eof,
            Ok(ExecFrame::Resize { columns, rows }) => ExecInput::Resize(TerminalSize { columns, rows }),
            Ok(ExecFrame::Signal { signal }) => ExecInput::Signal(signal),
            _ => return true,
        },
        Message::Close(_) => return false,
        Message::Ping(_) | Message::Pong(_) => return true,
    };
    let _ = input.send(given).await;
    true
}

fn frame(frame: &ExecFrame) -> Message {
    Message::Text(crate::store::to_json(frame).into())
}

/// Bytes of the command's output, behind the number of the stream they come from.
fn marked(stream: u8, bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(stream);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}
