//! HTTPS to an ACME server, bounded in time and size. It remembers when the server last asked to be left alone, which
//! the protocol's library does not tell.

use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use kit::clock::unix_ms;
use model::Timestamp;
use reqwest::Certificate;
use thiserror::Error;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer: a chain of certificates is a few kilobytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Longest time for which the server is left alone because of what it says.
const MAX_RETRY_AFTER_S: u64 = 8 * 86_400;

/// Why the ACME server cannot be spoken to.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The file of authorities cannot be used.
    #[error("the authorities in {} cannot be used: {reason}; give --acme-ca a file of certificates in PEM", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No client could be made.
    #[error("no HTTPS client could be made")]
    Client(#[source] reqwest::Error),
}

/// A client for one ACME server. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    client: reqwest::Client,
    retry_after: Arc<Mutex<Option<Timestamp>>>,
}

impl Transport {
    /// A client that trusts the authorities of the web, or those of a file in their place.
    pub fn new(ca: Option<&Path>) -> Result<Self, TransportError> {
        let mut client = reqwest::Client::builder().timeout(TIMEOUT).https_only(true);
        if let Some(path) = ca {
            let unusable = |reason: String| TransportError::Authorities { path: path.to_owned(), reason };
            let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
            let authorities = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(error.to_string()))?;
            if authorities.is_empty() {
                return Err(unusable("it holds no certificate".into()));
            }
            client = client.tls_certs_only(authorities).no_proxy();
        }
        Ok(Self { client: client.build().map_err(TransportError::Client)?, retry_after: Arc::default() })
    }

    /// When the server, at its last refusal, asked to be asked again.
    pub fn retry_after(&self) -> Option<Timestamp> {
        let now = Timestamp(unix_ms());
        self.retry_after.lock().unwrap_or_else(PoisonError::into_inner).filter(|until| *until > now)
    }

    async fn send(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let other = |error: reqwest::Error| Error::Other(Box::new(error));
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let request = Request::from_parts(parts, reqwest::Body::from(body.to_bytes()));
        let mut response = self.client.execute(request.try_into().map_err(other)?).await.map_err(other)?;
        self.note(&response);
        let mut answer = Response::new(());
        *answer.status_mut() = response.status();
        answer.headers_mut().clone_from(response.headers());
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(other)? {
            if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Error::Str("an answer of a bearable size"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(answer.map(|()| Full::new(Bytes::from(bytes))).into())
    }

    fn note(&self, response: &reqwest::Response) {
        if !matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return;
        }
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let until = seconds.map(|seconds: u64| Timestamp(unix_ms() + seconds.min(MAX_RETRY_AFTER_S) * 1000));
        *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().send(request))
    }
}
