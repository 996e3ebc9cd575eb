//! A client of Firecracker's API: HTTP/1.1 over a Unix socket.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, client::conn::http1::SendRequest, header};
use hyper_util::rt::TokioIo;
use kit::report::Report;
use serde::Deserialize;
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::vmm::VmmError;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

const PROGRAM: &str = "Firecracker";

/// A connection on which requests can be made.
#[derive(Debug)]
pub(super) struct Api {
    sender: SendRequest<Full<Bytes>>,
    _connection: AbortOnDropHandle<()>,
}

/// What Firecracker says when it refuses.
#[derive(Deserialize)]
struct Fault {
    fault_message: String,
}

impl Api {
    /// The API behind a connected socket.
    pub(super) async fn over(stream: UnixStream) -> Result<Self, VmmError> {
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (sender, connection) = handshake
            .await
            .map_err(|error| VmmError::Refused { program: PROGRAM, reason: Report(&error).to_string() })?;
        // Its failure shows at the request that is under way.
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, _connection: AbortOnDropHandle::new(connection) })
    }

    /// Sets what `path` names to `body`.
    pub(super) async fn put(&mut self, path: &str, body: &Value) -> Result<(), VmmError> {
        self.put_within(PATIENCE, path, body).await
    }

    /// The same, of what may take longer.
    pub(super) async fn put_within(&mut self, patience: Duration, path: &str, body: &Value) -> Result<(), VmmError> {
        self.exchange(patience, Method::PUT, path, body).await
    }

    /// Changes what `path` names as `body` says, which may take so long.
    pub(super) async fn patch_within(&mut self, patience: Duration, path: &str, body: &Value) -> Result<(), VmmError> {
        self.exchange(patience, Method::PATCH, path, body).await
    }

    async fn exchange(&mut self, patience: Duration, method: Method, path: &str, body: &Value) -> Result<(), VmmError> {
        let said = timeout(patience, self.ask(&method, path, body)).await;
        let said = said.map_err(|_| VmmError::Silent { program: PROGRAM, after: patience })?;
        said.map_err(|reason| VmmError::Refused { program: PROGRAM, reason: format!("{method} {path}: {reason}") })
    }

    async fn ask(&mut self, method: &Method, path: &str, body: &Value) -> Result<(), String> {
        let in_words = |error: &dyn std::error::Error| Report(error).to_string();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_string()))
            .map_err(|error| in_words(&error))?;
        self.sender.ready().await.map_err(|error| in_words(&error))?;
        let answer = self.sender.send_request(request).await.map_err(|error| in_words(&error))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| in_words(error.as_ref()))?.to_bytes();
        let fault = serde_json::from_slice(&body).map(|fault: Fault| fault.fault_message);
        Err(fault.unwrap_or_else(|_| status.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Puts to a server that answers with these bytes, and returns what it was sent.
    async fn put(answer: &str) -> (Result<(), VmmError>, String) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut api = Api::over(ours).await.unwrap();
        let body = json!({ "guest_cid": 3 });
        let server = async {
            let mut sent = Vec::new();
            while !sent.ends_with(b"}") {
                theirs.read_buf(&mut sent).await.unwrap();
            }
            let _ = theirs.write_all(answer.as_bytes()).await;
            String::from_utf8(sent).unwrap()
        };
        tokio::join!(api.put("/vsock", &body), server)
    }

    #[tokio::test]
    async fn a_setting_is_put_as_json() {
        let (result, sent) = put("HTTP/1.1 204 No Content\r\n\r\n").await;
        result.unwrap();
        assert!(sent.starts_with("PUT /vsock HTTP/1.1\r\n"), "{sent}");
        assert!(sent.ends_with("\r\n\r\n{\"guest_cid\":3}"), "{sent}");
    }

    #[tokio::test]
    async fn a_change_is_a_patch() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut api = Api::over(ours).await.unwrap();
        let body = json!({ "state": "Paused" });
        let (changed, _) = tokio::join!(api.patch_within(PATIENCE, "/vm", &body), async {
            let mut sent = Vec::new();
            while !sent.ends_with(b"}") {
                theirs.read_buf(&mut sent).await.unwrap();
            }
            assert!(sent.starts_with(b"PATCH /vm HTTP/1.1\r\n"));
            theirs.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        });
        assert_eq!(changed.unwrap_err().to_string(), "Firecracker refused: PATCH /vm: 400 Bad Request");
    }

    #[tokio::test]
    async fn a_fault_is_told_in_its_own_words() {
        let body = r#"{"fault_message":"The guest CID is taken"}"#;
        let (result, _) =
            put(&format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        assert_eq!(result.unwrap_err().to_string(), "Firecracker refused: PUT /vsock: The guest CID is taken");
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut() {
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096));
        let answer = format!("HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(20));
        let (result, _) = put(&answer).await;
        assert!(result.is_err());
    }
}
