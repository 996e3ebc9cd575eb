//! What becomes of an app's answer before its client gets it.
//!
//! ```text
//!  machine ─▶ fields of the connection away ─▶ compress ─▶ sign ─▶ the app's own edits ─▶ client
//!                                                          └ not if the port is `pristine`
//! ```

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version, header};
use model::machine::{HeaderEdit, HttpOptions, Port, ResponseOptions};

use super::{
    body::{MachineBody, ResponseBody},
    compress::{Compressor, Wish},
    headers,
    request_id::RequestId,
};

/// Fields that frame a message, or belong to one connection: an edit of them is not heard.
const NOT_EDITABLE: [&str; 7] =
    ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// How the answer to one request is to be changed.
pub struct Dress {
    port: Arc<Port>,
    wish: Wish,
    /// Where else the app can be reached.
    alternative: Option<HeaderValue>,
}

impl Dress {
    /// By what the request asks for and what the port's options say.
    pub fn of<B>(port: Arc<Port>, request: &Request<B>) -> Self {
        Self { port, wish: Wish::of(request), alternative: None }
    }

    /// Says where else the app can be reached, unless it says so itself.
    pub fn announcing(self, alternative: Option<HeaderValue>) -> Self {
        Self { alternative, ..self }
    }

    /// Makes a machine's answer, given in `version`, the client's.
    pub fn put_on(
        &self,
        mut response: Response<MachineBody>,
        version: Version,
        compressor: &Compressor,
        id: &RequestId,
    ) -> Response<ResponseBody> {
        let compression = self.compresses().then(|| compressor.begin(self.wish, &mut response)).flatten();
        self.sign(response.headers_mut(), version, id);
        if let Some(edits) = self.response().map(|response| &response.headers) {
            edits.iter().for_each(|(name, edit)| apply(response.headers_mut(), name, edit));
        }
        response.map(|body| match compression {
            Some(compression) => ResponseBody::Compressed(Box::new(compression.body(body))),
            None => ResponseBody::Machine(Box::new(body)),
        })
    }

    /// Adds the platform's own fields, unless the app wants its answers without.
    pub fn sign(&self, headers: &mut HeaderMap, version: Version, id: &RequestId) {
        if !self.response().is_some_and(|response| response.pristine) {
            headers::pass_on(headers, version);
            headers::sign(headers, id);
            if let Some(alternative) = &self.alternative {
                headers.entry(header::ALT_SVC).or_insert_with(|| alternative.clone());
            }
        }
    }

    /// Unless the app says something else, answers that gain by it are compressed.
    fn compresses(&self) -> bool {
        self.http().and_then(|options| options.compress).unwrap_or(true)
    }

    fn response(&self) -> Option<&ResponseOptions> {
        self.http()?.response.as_ref()
    }

    fn http(&self) -> Option<&HttpOptions> {
        self.port.http_options.as_ref()
    }
}

/// Makes one edit. A name or a value that is none was refused when the configuration was read; one that comes another
/// way changes nothing.
fn apply(headers: &mut HeaderMap, name: &str, edit: &HeaderEdit) {
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { return };
    if NOT_EDITABLE.contains(&name.as_str()) {
        return;
    }
    headers.remove(&name);
    if let HeaderEdit::Set(values) = edit {
        for value in values.iter().filter_map(|value| HeaderValue::from_bytes(value.as_bytes()).ok()) {
            headers.append(&name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_replaces_every_value_and_cannot_break_the_framing() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("old"));
        headers.append("x-a", HeaderValue::from_static("older"));
        headers.append("server", HeaderValue::from_static("me"));
        headers.append("content-length", HeaderValue::from_static("5"));
        let set = |values: &[&str]| HeaderEdit::Set(values.iter().map(|value| (*value).to_owned()).collect());
        apply(&mut headers, "X-A", &set(&["1", "2"]));
        apply(&mut headers, "server", &HeaderEdit::Remove);
        apply(&mut headers, "Content-Length", &HeaderEdit::Remove);
        apply(&mut headers, "Transfer-Encoding", &set(&["chunked"]));
        apply(&mut headers, "x-split", &set(&["a\r\nx-evil: 1"]));
        apply(&mut headers, "not a name", &set(&["1"]));
        assert_eq!(headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(headers.len(), 3, "{headers:?}");
        assert_eq!(headers["content-length"], "5");
    }
}
