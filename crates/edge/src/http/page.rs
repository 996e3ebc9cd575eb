//! The answer to a request that is not carried: plain and honest, in the form that the client reads.

use bytes::Bytes;
use http::{
    HeaderValue, Response,
    header::{self, HeaderName},
};
use http_body_util::Full;
use model::Region;
use tokio::time::Instant;

use super::{body::ResponseBody, headers, request_id::RequestId};
use crate::{
    Fault, Refusal,
    http1::{BadHead, Fields},
};

/// Tells the code of a refusal to programs.
const DUNLIN_ERROR: HeaderName = HeaderName::from_static("dunlin-error");

/// What the client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A browser's page.
    Html,
    /// One object.
    Json,
    /// Lines.
    Text,
}

impl Format {
    /// What a request says it accepts; lines if it says nothing.
    pub fn of(fields: &Fields) -> Self {
        let mut kinds = fields.all(&header::ACCEPT).flat_map(|list| list.split(|byte| *byte == b','));
        kinds.find_map(Self::of_kind).unwrap_or(Self::Text)
    }

    fn of_kind(kind: &[u8]) -> Option<Self> {
        match kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii() {
            b"text/html" | b"application/xhtml+xml" => Some(Self::Html),
            b"application/json" => Some(Self::Json),
            b"text/plain" => Some(Self::Text),
            _ => None,
        }
    }
}

/// The answer to what is no request that can be read.
pub fn unreadable(region: &Region, bad: BadHead) -> Response<ResponseBody> {
    let id = RequestId::new(region, Instant::now());
    let mut response = answer(&Refusal::Unreadable { bad }, Format::Text, &id);
    headers::sign(response.headers_mut(), &id);
    response
}

/// The answer that says why.
pub fn answer(refusal: &Refusal, format: Format, id: &RequestId) -> Response<ResponseBody> {
    let (kind, text) = match format {
        Format::Html => ("text/html; charset=utf-8", html(refusal, id)),
        Format::Json => ("application/json", json(refusal, id)),
        Format::Text => ("text/plain; charset=utf-8", plain(refusal, id)),
    };
    let mut response = Response::new(ResponseBody::Whole(Full::new(Bytes::from(text))));
    *response.status_mut() = refusal.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(DUNLIN_ERROR, HeaderValue::from_static(refusal.code()));
    if let Some(seconds) = refusal.retry_after_s() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A text as it is.
pub fn plain_text(text: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(Full::new(Bytes::from(text))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A redirect to the same address by HTTPS. The method may change: it is `301`, as it always was.
pub fn redirect(location: &str) -> Result<Response<ResponseBody>, Refusal> {
    let bad = |_| Refusal::BadTarget { reason: "it cannot be sent elsewhere" };
    let mut response = Response::new(ResponseBody::default());
    *response.status_mut() = http::StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(location).map_err(bad)?);
    Ok(response)
}

fn plain(refusal: &Refusal, id: &RequestId) -> String {
    format!(
        "{code}: {refusal}\n{fault}\n{hint}\nRequest {id}\n",
        code = refusal.code(),
        fault = whose(refusal.fault()),
        hint = refusal.hint()
    )
}

fn json(refusal: &Refusal, id: &RequestId) -> String {
    let object = serde_json::json!({
        "error": refusal.to_string(),
        "hint": refusal.hint(),
        "status": refusal.code(),
        "fault": refusal.fault().word(),
        "request_id": id.to_string(),
    });
    format!("{object}\n")
}

fn html(refusal: &Refusal, id: &RequestId) -> String {
    format!(
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{status} ({code})</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem;color:#222;background:#fff}}
h1{{font-size:1.4rem}}small{{color:#666}}@media(prefers-color-scheme:dark){{body{{color:#ddd;background:#181818}}}}</style></head>
<body><h1>{status}</h1><p>{what}.</p><p>{fault} {hint}</p><p><small>{code} &middot; request {id}</small></p></body></html>
"#,
        status = refusal.status(),
        code = refusal.code(),
        what = escape(&refusal.to_string()),
        fault = whose(refusal.fault()),
        hint = escape(refusal.hint()),
    )
}

fn whose(fault: Fault) -> &'static str {
    match fault {
        Fault::Client => "The request has to change.",
        Fault::App => "The app has to change; the platform works.",
        Fault::Platform => "The platform is at fault, not the app and not the request.",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn the_form_follows_what_the_client_accepts() {
        let of = |accept: &'static str| {
            Format::of(&Fields::Map([(header::ACCEPT, HeaderValue::from_static(accept))].into_iter().collect()))
        };
        assert_eq!(of("text/html,application/xhtml+xml,*/*;q=0.8"), Format::Html);
        assert_eq!(of("application/json"), Format::Json);
        assert_eq!(of("*/*"), Format::Text);
        assert_eq!(Format::of(&Fields::Map(HeaderMap::new())), Format::Text);
    }

    #[test]
    fn a_page_cannot_be_made_to_run_a_script() {
        let refusal = Refusal::UnknownHost { host: "<script>alert(1)</script>".into() };
        let page = html(&refusal, &RequestId::new(&"local".parse().unwrap(), tokio::time::Instant::now()));
        assert!(!page.contains("<script"), "{page}");
    }
}
