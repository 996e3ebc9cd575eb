//! A client of the QEMU Machine Protocol: a JSON object a line.
//!
//! The server greets; `qmp_capabilities` ends the negotiation; then each command is answered in turn, with events in
//! between. QEMU is not trusted: lines and their number are bounded, and each exchange has a deadline.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::BorrowedFd,
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest},
    net::UnixStream,
    time::timeout,
};

use crate::vmm::VmmError;

/// The longest line that is read, in bytes.
const MAX_LINE_BYTES: u64 = 256 * 1024;
/// The most events that may stand between a command and its answer.
const MAX_EVENTS: usize = 1000;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

const PROGRAM: &str = "QEMU";

/// A connection on which commands can be given.
#[derive(Debug)]
pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
}

/// A line from QEMU.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    #[serde(rename = "QMP")]
    Greeting(Value),
    Return(Value),
    Error {
        desc: String,
    },
    /// Not what is waited for: an event, or something of a later release.
    #[serde(skip)]
    Other,
}

impl Qmp {
    /// Takes the greeting and negotiates.
    pub(super) async fn negotiate(stream: UnixStream) -> Result<Self, VmmError> {
        let mut qmp = Self { stream: BufReader::new(stream) };
        match within_patience(read_line(&mut qmp.stream)).await? {
            Line::Greeting(_) => {}
            line => return Err(refused(format!("it did not greet but said {line:?}"))),
        }
        qmp.command("qmp_capabilities").await?;
        Ok(qmp)
    }

    /// Gives a command without arguments and returns its answer.
    pub(super) async fn command(&mut self, name: &str) -> Result<Value, VmmError> {
        self.command_with(name, json!({})).await
    }

    /// Gives a command and returns its answer.
    pub(super) async fn command_with(&mut self, name: &str, arguments: Value) -> Result<Value, VmmError> {
        within_patience(self.exchange(name, arguments, None))
            .await?
            .map_err(|reason| refused(format!("{name}: {reason}")))
    }

    /// Hands an open file over, which later commands call by this name.
    pub(super) async fn give_file(&mut self, name: &str, file: BorrowedFd<'_>) -> Result<(), VmmError> {
        let given = self.exchange("getfd", json!({ "fdname": name }), Some(file));
        within_patience(given).await?.map(drop).map_err(|reason| refused(format!("getfd: {reason}")))
    }

    async fn exchange(
        &mut self,
        name: &str,
        arguments: Value,
        file: Option<BorrowedFd<'_>>,
    ) -> io::Result<Result<Value, String>> {
        let line = format!("{}\n", json!({ "execute": name, "arguments": arguments }));
        let sent = match file {
            Some(file) => send_with(self.stream.get_ref(), line.as_bytes(), file).await?,
            None => 0,
        };
        self.stream.get_mut().write_all(&line.as_bytes()[sent..]).await?;
        for _ in 0..MAX_EVENTS {
            match read_line(&mut self.stream).await? {
                Line::Return(value) => return Ok(Ok(value)),
                Line::Error { desc } => return Ok(Err(desc)),
                Line::Greeting(_) | Line::Other => {}
            }
        }
        Err(io::Error::other("too many events"))
    }
}

/// Sends the first of these bytes, and a descriptor with them (unix(7), `SCM_RIGHTS`).
async fn send_with(stream: &UnixStream, bytes: &[u8], file: BorrowedFd<'_>) -> io::Result<usize> {
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut rights = SendAncillaryBuffer::new(&mut space);
            let descriptors = [file];
            rights.push(SendAncillaryMessage::ScmRights(&descriptors));
            Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut rights, SendFlags::NOSIGNAL)?)
        })
        .await
}

async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Line> {
    let mut line = Vec::new();
    stream.take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await?;
    match line.last() {
        Some(b'\n') => Ok(parse(&line)),
        _ if line.len() as u64 == MAX_LINE_BYTES => Err(io::Error::other("its line is too long")),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn parse(line: &[u8]) -> Line {
    serde_json::from_slice(line).unwrap_or(Line::Other)
}

async fn within_patience<T>(exchange: impl Future<Output = io::Result<T>>) -> Result<T, VmmError> {
    match timeout(PATIENCE, exchange).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(refused(format!("its control socket failed: {error}"))),
        Err(_) => Err(VmmError::Silent { program: PROGRAM, after: PATIENCE }),
    }
}

fn refused(reason: String) -> VmmError {
    VmmError::Refused { program: PROGRAM, reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}}"#;

    /// A QEMU that says these lines, whatever it hears.
    async fn scripted(lines: &[&str]) -> Result<Value, VmmError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for line in lines {
            theirs.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        }
        Qmp::negotiate(ours).await?.command("query-status").await
    }

    #[tokio::test]
    async fn events_between_a_command_and_its_answer_are_passed_over() {
        let event = r#"{"timestamp": {"seconds": 1}, "event": "RESUME"}"#;
        let answer = scripted(&[GREETING, r#"{"return": {}}"#, event, event, r#"{"return": {"running": true}}"#]).await;
        assert_eq!(answer.unwrap(), json!({"running": true}));
    }

    #[tokio::test]
    async fn an_error_is_told_in_its_own_words() {
        let error = r#"{"error": {"class": "GenericError", "desc": "no such thing"}}"#;
        let error = scripted(&[GREETING, r#"{"return": {}}"#, error]).await.unwrap_err();
        assert_eq!(error.to_string(), "QEMU refused: query-status: no such thing");
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let flood = tokio::spawn(async move { while theirs.write_all(&[b'x'; 4096]).await.is_ok() {} });
        let error = Qmp::negotiate(ours).await.unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
        flood.await.unwrap();
    }

    #[tokio::test]
    async fn a_flood_of_events_ends_the_wait() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let flood = tokio::spawn(async move {
            theirs.write_all(format!("{GREETING}\n").as_bytes()).await.unwrap();
            while theirs.write_all(b"{\"event\": \"BALLOON_CHANGE\"}\n").await.is_ok() {}
        });
        let error = Qmp::negotiate(ours).await.unwrap_err();
        assert!(error.to_string().contains("too many events"), "{error}");
        flood.await.unwrap();
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line: Vec<u8>) {
            parse(&line);
        }

        #[test]
        fn what_is_no_answer_is_passed_over(text: String) {
            let event = json!({ "event": text, "data": text }).to_string();
            prop_assert_eq!(parse(event.as_bytes()), Line::Other);
        }
    }
}
