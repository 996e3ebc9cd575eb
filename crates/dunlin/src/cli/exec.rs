//! `dunlin machine exec`: a command in a machine, with this terminal's streams.
//!
//! ```text
//! keyboard ──▶ binary messages ──▶ its standard input          (WebSocket, see `ExecFrame`)
//! screen   ◀── binary messages, first byte 1 or 2 ◀── its output and errors
//! signals, window size ──▶ text messages (JSON)       exit ◀── text message (JSON)
//! ```

use std::io::{IsTerminal, Read};

use api::public::{deploys::ExecFrame, machines::ExecMachine};
use bytes::Bytes;
use clap::Args;
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use model::{AppName, MachineId, machine::MachineState};
use reqwest::Upgraded;
use tokio::{
    io::AsyncWriteExt,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{
    client::Client,
    context::Context,
    exit::{Exit, Failure},
    terminal,
};

/// What to run, and where.
#[derive(Debug, Args)]
pub struct Exec {
    /// The machine; one that runs unless given
    id: Option<MachineId>,
    /// Give the command a terminal
    #[arg(long, short)]
    tty: bool,
    /// Who runs it: USER or USER:GROUP; the machine's own user unless given
    #[arg(long, short)]
    user: Option<String>,
    /// The program and its arguments, after `--`; no shell takes part
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

type Sink = SplitSink<WebSocketStream<Upgraded>, Message>;
type Stream = SplitStream<WebSocketStream<Upgraded>>;

/// Runs it.
pub async fn run(context: &Context, command: Exec) -> Result<Exit, Failure> {
    let (client, app) = (context.client()?, context.app()?);
    let machine = match &command.id {
        Some(id) => id.clone(),
        None => any_machine(&client, &app).await?,
    };
    if context.out.is_json() {
        return run_whole(context, &client, &app, &machine, command).await;
    }
    if command.tty && !std::io::stdin().is_terminal() {
        return Err(Failure::usage("there is no terminal here to give the command one").hint("leave out --tty"));
    }
    let socket = client.web_socket(&format!("/v1/apps/{app}/machines/{machine}/exec/stream")).await?;
    let (mut sink, stream) = socket.split();
    let tty = command.tty.then(terminal::size);
    send(&mut sink, &ExecFrame::Run { command: command.command, tty, user: command.user }).await?;
    let raw = if tty.is_some() { Some(terminal::Mode::raw()?) } else { None };
    let input = tokio::spawn(feed(sink, tty.is_some()));
    let ended = receive(stream).await;
    input.abort();
    drop(raw);
    ended
}

async fn any_machine(client: &Client, app: &AppName) -> Result<MachineId, Failure> {
    let machines = client.machines(app).await?;
    let running = machines.into_iter().find(|machine| machine.state == MachineState::Started);
    running.map(|machine| machine.id).ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("no machine of {app} runs"))
            .hint("see `dunlin status`, and start one with `dunlin machine start`")
    })
}

/// With `--json`: without streams, and told whole at its end.
async fn run_whole(
    context: &Context,
    client: &Client,
    app: &AppName,
    machine: &MachineId,
    command: Exec,
) -> Result<Exit, Failure> {
    if command.tty || command.user.is_some() {
        return Err(Failure::usage("--json goes with neither --tty nor --user"));
    }
    let request = ExecMachine { command: command.command, ..ExecMachine::default() };
    let reply = client.exec(app, machine, &request).await?;
    context.out.data(&reply, String::new)?;
    Ok(remote(reply.exit_code, reply.exit_signal))
}

/// The status as a shell would give it.
fn remote(code: i32, signal: i32) -> Exit {
    let status = if signal == 0 { code } else { 128 + signal };
    Exit::Remote(u8::try_from(status).unwrap_or(255))
}

async fn send(sink: &mut Sink, frame: &ExecFrame) -> Result<(), Failure> {
    let text = serde_json::to_string(frame).map_err(|error| Failure::other(error.to_string()))?;
    sink.send(Message::text(text)).await.map_err(|error| lost(&error.to_string()))
}

fn lost(reason: &str) -> Failure {
    Failure::new(Exit::Unreachable, format!("the connection to the machine was lost: {reason}"))
        .hint("the command may have been ended; see `dunlin machine status`")
}

/// How many chunks of the keyboard's input wait for the connection.
const INPUT_CHUNKS: usize = 16;

/// Sends input, signals and window sizes until the command has ended.
async fn feed(mut sink: Sink, tty: bool) -> Result<(), Failure> {
    let mut input = keyboard();
    let mut interrupts = listen(SignalKind::interrupt())?;
    let mut terminations = listen(SignalKind::terminate())?;
    let mut resizes = listen(SignalKind::window_change())?;
    let mut open = true;
    loop {
        let frame = tokio::select! {
            chunk = input.recv(), if open => match chunk {
                Some(bytes) => {
                    sink.send(Message::binary(bytes)).await.map_err(|error| lost(&error.to_string()))?;
                    continue;
                }
                None => {
                    open = false;
                    ExecFrame::Eof
                }
            },
            _ = interrupts.recv() => ExecFrame::Signal { signal: SignalKind::interrupt().as_raw_value() },
            _ = terminations.recv() => ExecFrame::Signal { signal: SignalKind::terminate().as_raw_value() },
            _ = resizes.recv(), if tty => {
                let (columns, rows) = terminal::size();
                ExecFrame::Resize { columns, rows }
            }
        };
        send(&mut sink, &frame).await?;
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::other(format!("cannot listen for signals: {error}")))
}

/// Standard input as it comes, until its end. It is read by a thread that nobody waits for: a read from a keyboard
/// cannot be called off, and must not keep this program from ending.
fn keyboard() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(INPUT_CHUNKS);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
            if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Writes what the command says until it has ended.
async fn receive(mut stream: Stream) -> Result<Exit, Failure> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(message) = stream.next().await {
        match message.map_err(|error| lost(&error.to_string()))? {
            Message::Binary(bytes) => {
                let written = match bytes.split_first() {
                    Some((1, bytes)) => write(&mut stdout, bytes).await,
                    Some((2, bytes)) => write(&mut stderr, bytes).await,
                    _ => Ok(()),
                };
                // Nobody reads any more: dropping the connection ends the command.
                written.map_err(|_| Failure::said(Exit::Failure))?;
            }
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(ExecFrame::Exit { code, signal }) => return Ok(remote(code, signal)),
                Ok(ExecFrame::Failed { reason }) => return Err(Failure::other(reason)),
                _ => return Err(lost("it said something that cannot be read")),
            },
            Message::Close(_) => break,
            _ => {}
        }
    }
    Err(lost("it was closed"))
}

async fn write(output: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    output.write_all(bytes).await?;
    output.flush().await
}
