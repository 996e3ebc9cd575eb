//! Running a command in a machine and collecting what it says.

use std::{convert::Infallible, time::Duration};

use api::{
    internal::{ExecEvent, ExecInput, ExecRequest, ExecSession, NodeError},
    public::machines::{ExecMachine, ExecReply},
};
use bytes::Bytes;
use model::MachineId;
use tokio::time::timeout;

use crate::{Control, error::Error, store::apps::AppRow};

const DEFAULT_TIMEOUT_S: u64 = 30;
const MAX_TIMEOUT_S: u64 = 600;
/// What is collected of each of a command's outputs; who wants more uses the stream.
const MAX_OUTPUT_BYTES: usize = 1 << 20;

impl Control {
    /// Begins a command in a machine.
    pub(crate) async fn exec_stream(
        &self,
        app: &AppRow,
        id: &MachineId,
        request: ExecRequest,
    ) -> Result<ExecSession, Error> {
        self.live_machine(app, id).await?;
        if request.command.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("command: name a program to run"));
        }
        Ok(self.ports.node.exec(id, request).await?)
    }

    /// Runs a command in a machine to its end.
    pub(crate) async fn exec(&self, app: &AppRow, id: &MachineId, request: ExecMachine) -> Result<ExecReply, Error> {
        let seconds = if request.timeout == 0 { DEFAULT_TIMEOUT_S } else { request.timeout.min(MAX_TIMEOUT_S) };
        let command = command_line(&request)?;
        let session = self.exec_stream(app, id, ExecRequest { command, ..ExecRequest::default() }).await?;
        let after = Duration::from_secs(seconds);
        match timeout(after, collect(session, request.stdin.into())).await {
            Ok(reply) => reply,
            Err(_) => Err(NodeError::Timeout { what: "the command has not ended and was killed".into(), after }.into()),
        }
    }
}

/// The words of the command: given one by one, or as a line that is split as a shell would, without one.
fn command_line(request: &ExecMachine) -> Result<Vec<String>, Error> {
    if !request.command.is_empty() {
        return Ok(request.command.clone());
    }
    shlex::split(&request.cmd).ok_or_else(|| Error::invalid("cmd: a quotation mark is not closed"))
}

async fn collect(session: ExecSession, stdin: Bytes) -> Result<ExecReply, Error> {
    let ExecSession { input, mut output } = session;
    // Beside the reading: a command may talk before it has read everything.
    let feed = async {
        if !stdin.is_empty() {
            let _ = input.send(ExecInput::Stdin(stdin)).await;
        }
        let _ = input.send(ExecInput::Eof).await;
        // Held until the command ends: dropping it would kill the command.
        std::future::pending::<Infallible>().await
    };
    let read = async {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match output.recv().await {
                Some(ExecEvent::Stdout(bytes)) => append(&mut stdout, &bytes)?,
                Some(ExecEvent::Stderr(bytes)) => append(&mut stderr, &bytes)?,
                Some(ExecEvent::Exit { code, signal }) => {
                    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                    let (stdout, stderr) = (text(stdout), text(stderr));
                    return Ok(ExecReply { exit_code: code, exit_signal: signal, stdout, stderr });
                }
                Some(ExecEvent::Failed(reason)) => return Err(NodeError::Failed(reason).into()),
                None => return Err(NodeError::Internal("the command was lost".into()).into()),
            }
        }
    };
    tokio::select! {
        reply = read => reply,
        never = feed => match never {},
    }
}

fn append(collected: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Error> {
    if collected.len() + bytes.len() > MAX_OUTPUT_BYTES {
        return Err(Error::invalid(format!(
            "the command says more than {MAX_OUTPUT_BYTES} bytes and was killed: use the exec stream, or write to a \
             file"
        )));
    }
    collected.extend_from_slice(bytes);
    Ok(())
}
