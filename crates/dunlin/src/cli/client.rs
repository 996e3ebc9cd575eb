//! HTTP to the platform: requests, answers, streams, and what goes wrong with them.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use api::public::ErrorBody;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http::StatusCode;
use reqwest::{Method, RequestBuilder, Response, Upgraded, header};
use serde::{Serialize, de::DeserializeOwned};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::Role,
    },
};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    io::StreamReader,
};

use super::exit::{Exit, Failure};

/// A connection to a platform's API.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for an answer that is not a stream: stopping a machine alone may take five minutes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(900);
/// Longest answer that is read into memory.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Longest line of a stream.
const MAX_LINE_BYTES: usize = 4 << 20;

/// Addresses of carriers and overlay networks (RFC 6598).
fn is_shared(ip: Ipv4Addr) -> bool {
    matches!(ip.octets(), [100, 64..=127, ..])
}

impl Client {
    /// A client of the API at `url`. Nothing is sent yet.
    pub fn new(url: &str, token: Option<String>) -> Result<Self, Failure> {
        let url = url.trim_end_matches('/').to_owned();
        let unusable = |reason: String| {
            Failure::usage(format!("{url:?} is not the address of a platform: {reason}"))
                .hint("write it like http://127.0.0.1:4280")
        };
        let parsed = reqwest::Url::parse(&url).map_err(|error| unusable(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(unusable("it begins with neither http:// nor https://".to_owned()));
        }
        let mut http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).http1_only();
        if is_loopback(&parsed) {
            // A proxy for the way out has no business with what runs here.
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| Failure::other(format!("no HTTP client: {error}")))?;
        Ok(Self { http, url, token })
    }

    /// The API's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The token that is sent.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Asks for something.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, Failure> {
        self.answer(self.request(Method::GET, path).query(query)).await
    }

    /// Sends something and reads the answer.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.answer(self.request(Method::POST, path).json(body)).await
    }

    /// Puts something in its place and reads the answer.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.answer(self.request(Method::PUT, path).json(body)).await
    }

    /// Sends something; what is answered does not matter.
    pub async fn order(&self, path: &str, body: &impl Serialize) -> Result<(), Failure> {
        self.send(self.request(Method::POST, path).json(body).timeout(ANSWER_TIMEOUT)).await.map(drop)
    }

    /// Removes something.
    pub async fn delete(&self, path: &str, query: &[(&str, String)]) -> Result<(), Failure> {
        self.send(self.request(Method::DELETE, path).query(query).timeout(ANSWER_TIMEOUT)).await.map(drop)
    }

    /// Asks for a stream of JSON documents, one a line, and reads it as it comes.
    pub async fn lines<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<impl Stream<Item = Result<T, Failure>> + use<T>, Failure> {
        let response = self.send(self.request(Method::GET, path).query(query)).await?;
        let url = self.url.clone();
        let bytes = response.bytes_stream().map_err(std::io::Error::other);
        let lines = FramedRead::new(StreamReader::new(bytes), LinesCodec::new_with_max_length(MAX_LINE_BYTES));
        Ok(lines.filter_map(move |line| {
            let item = match line {
                Ok(line) if line.trim().is_empty() => None,
                Ok(line) => Some(serde_json::from_str(&line).map_err(|error| unreadable(&error.to_string()))),
                Err(error) => Some(Err(unreachable(&url, &error.to_string()))),
            };
            std::future::ready(item)
        }))
    }

    /// Whether what is said stays between us: over TLS, within this host, or within a network of the user's own.
    pub fn is_private(&self) -> bool {
        let Ok(url) = reqwest::Url::parse(&self.url) else { return false };
        let of_host = |host: &str| match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local() || is_shared(ip),
            Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
            Err(_) => host == "localhost",
        };
        url.scheme() == "https" || url.host_str().is_some_and(of_host)
    }

    /// Asks for bytes and reads them as they come.
    pub async fn bytes(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<impl Stream<Item = Result<Bytes, Failure>> + use<>, Failure> {
        let response = self.send(self.request(Method::GET, path).query(query)).await?;
        let url = self.url.clone();
        Ok(response.bytes_stream().map_err(move |error| unreachable(&url, &told(&error))))
    }

    /// Opens a WebSocket (RFC 6455).
    pub async fn web_socket(&self, path: &str) -> Result<WebSocketStream<Upgraded>, Failure> {
        let key = generate_key();
        let request = self
            .request(Method::GET, path)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key);
        let response = self.send(request).await?;
        let accepted = response
            .headers()
            .get(header::SEC_WEBSOCKET_ACCEPT)
            .is_some_and(|accept| accept.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes());
        if response.status() != StatusCode::SWITCHING_PROTOCOLS || !accepted {
            return Err(unreadable("it does not speak WebSocket at this address"));
        }
        let upgraded = response.upgrade().await.map_err(|error| unreachable(&self.url, &told(&error)))?;
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        let request = request.header(header::USER_AGENT, concat!("dunlin/", env!("CARGO_PKG_VERSION")));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let response = self.send(request.timeout(ANSWER_TIMEOUT)).await?;
        let body = read(response, &self.url).await?;
        serde_json::from_slice(&body).map_err(|error| unreadable(&error.to_string()))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| {
            if error.is_builder() {
                // Such as a token that no header can hold.
                return Failure::usage(format!("this request cannot be sent: {}", told(&error)));
            }
            unreachable(&self.url, &told(&error))
        })?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let body = read(response, &self.url).await.unwrap_or_default();
        Err(refusal(status, &body))
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn read(response: Response, url: &str) -> Result<Bytes, Failure> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| unreachable(url, &told(&error)))?;
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(unreadable("it is too long"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

/// The platform said no.
fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let told: Option<ErrorBody> = serde_json::from_slice(body).ok();
    let told = told.unwrap_or_else(|| ErrorBody {
        error: format!("the platform answered {status}"),
        hint: Some("check that the address is that of Dunlin's API (--url)".to_owned()),
        status: None,
    });
    let exit = exit_of(status, told.status.as_deref());
    let hint = match (told.hint, exit) {
        (_, Exit::Unauthorized) if status == StatusCode::UNAUTHORIZED => Some(
            "sign in with `dunlin auth login`, or set DUNLIN_API_TOKEN; `dunlin serve` shows the first token once"
                .into(),
        ),
        (hint, _) => hint,
    };
    Failure { exit, message: told.error, hint }
}

fn exit_of(status: StatusCode, word: Option<&str>) -> Exit {
    match (status.as_u16(), word) {
        (_, Some("invalid_config")) => Exit::InvalidConfig,
        (_, Some("insufficient_capacity")) => Exit::Failure,
        (401 | 403, _) => Exit::Unauthorized,
        (404, _) => Exit::NotFound,
        (409 | 412 | 423, _) => Exit::Conflict,
        (408 | 504, _) => Exit::Timeout,
        (_, Some("name_taken")) => Exit::Conflict,
        // Not the platform's own words, so something in front of it: the platform is away.
        (502 | 503, None) => Exit::Unreachable,
        _ => Exit::Failure,
    }
}

/// The platform does not answer.
fn unreachable(url: &str, reason: &str) -> Failure {
    Failure::new(Exit::Unreachable, format!("no answer from the platform at {url}: {reason}"))
        .hint("start it there with `dunlin serve`, or name another address with --url or DUNLIN_API_URL")
}

/// The platform answers in a way that this version does not understand.
fn unreadable(reason: &str) -> Failure {
    Failure::other(format!("the platform's answer cannot be read: {reason}"))
        .hint("check that this command and the platform are of the same version (`dunlin version`)")
}

fn told(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_asked_for_where_nobody_else_listens() {
        let is_private = |url: &str| Client::new(url, None).is_ok_and(|client| client.is_private());
        for private in [
            "https://api.example.com",
            "http://127.0.0.1:4280",
            "http://[::1]:4280",
            "http://10.0.0.7:4280",
            "http://100.64.0.9:4280",
            "http://[fd00::7]:4280",
            "http://localhost:4280",
        ] {
            assert!(is_private(private), "{private}");
        }
        for open in [
            "http://203.0.113.7:4280",
            "http://api.example.com",
            "http://[2001:db8::7]:4280",
            "http://100.128.0.1:4280",
        ] {
            assert!(!is_private(open), "{open}");
        }
    }
}
