//! What becomes of an app's answer before its client gets it.
//!
//! ```text
//!  machine ─▶ fields of the connection away ─▶ compress ─▶ sign ─▶ the app's own edits ─▶ client
//!                                                          └ not if the port is `pristine`
//! ```
//!
//! Where nothing but the first and the signature has to be done, the fields stay the list that came, and the signature
//! stands beside them until they are written.

use std::sync::Arc;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header, response};
use http_body::Body;
use model::machine::{HeaderEdit, HttpOptions, Port, ResponseOptions};

use super::{
    body::{MachineBody, ResponseBody},
    compress::{Compressor, Wish},
    headers,
    inbound::Inbound,
    request_id::RequestId,
};
use crate::http1::{Fields, write_field};

/// Fields that frame a message, or belong to one connection: an edit of them is not heard.
const NOT_EDITABLE: [&str; 7] =
    ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// An answer on its way to a client.
pub struct Answer<B> {
    /// Its status.
    pub status: StatusCode,
    /// What it says.
    pub fields: Fields,
    /// What the platform says beside, unless it is among the fields.
    pub signature: Option<Signature>,
    /// Over HTTP/1 it is the last one of its connection.
    pub is_last: bool,
    /// Its content.
    pub body: B,
}

impl<B> Answer<B> {
    /// The same with other content.
    pub fn map<T>(self, make: impl FnOnce(B) -> T) -> Answer<T> {
        let Self { status, fields, signature, is_last, body } = self;
        Answer { status, fields, signature, is_last, body: make(body) }
    }

    /// The same as the libraries for HTTP/2 and HTTP/3 take it.
    pub fn into_response(self) -> Response<B> {
        let mut response = Response::new(self.body);
        let mut headers = self.fields.into_map();
        if let Some(signature) = &self.signature {
            signature.put(&mut headers);
        }
        (*response.status_mut(), *response.headers_mut()) = (self.status, headers);
        response
    }
}

impl<B> From<Response<B>> for Answer<B> {
    fn from(response: Response<B>) -> Self {
        let (response::Parts { status, headers, .. }, body) = response.into_parts();
        Self { status, fields: Fields::Map(headers), signature: None, is_last: false, body }
    }
}

/// What the platform says in an answer that it passes on.
pub struct Signature {
    /// In which version of HTTP the machine gave it.
    version: Version,
    id: RequestId,
    /// Where else the app can be reached.
    alternative: Option<HeaderValue>,
}

impl Signature {
    /// Says so among the other fields.
    pub fn put(&self, headers: &mut HeaderMap) {
        headers::pass_on(headers, self.version);
        headers::sign(headers, &self.id);
        if let Some(alternative) = &self.alternative {
            headers.entry(header::ALT_SVC).or_insert_with(|| alternative.clone());
        }
    }

    /// Says so in lines of their own, where none of the fields says anything of the kind.
    pub fn write(&self, text: &mut BytesMut) {
        self.each(|name, value| write_field(text, name, value));
    }

    /// Shows each name and its value.
    pub fn each(&self, mut see: impl FnMut(&str, &[u8])) {
        see("via", headers::via(self.version).as_bytes());
        see("server", headers::SERVER.as_bytes());
        see(headers::FLY_REQUEST_ID.as_str(), self.id.as_str().as_bytes());
        if let Some(alternative) = &self.alternative {
            see("alt-svc", alternative.as_bytes());
        }
    }
}

/// How the answer to one request is to be changed.
pub struct Dress {
    port: Arc<Port>,
    wish: Wish,
    /// Where else the app can be reached.
    alternative: Option<HeaderValue>,
}

impl Dress {
    /// By what the request asks for and what the port's options say.
    pub fn of(port: Arc<Port>, request: &Inbound) -> Self {
        Self { port, wish: Wish::of(&request.method, &request.fields), alternative: None }
    }

    /// Says where else the app can be reached, unless it says so itself.
    pub fn announcing(self, alternative: Option<HeaderValue>) -> Self {
        Self { alternative, ..self }
    }

    /// Makes a machine's answer, given in `version`, the client's.
    pub fn put_on(
        &self,
        mut answer: Answer<Box<MachineBody>>,
        version: Version,
        compressor: &Compressor,
        id: &RequestId,
    ) -> Answer<ResponseBody> {
        let Answer { status, fields, body, .. } = &mut answer;
        let compresses = self.compresses().then_some(self.wish);
        let compression = compresses.and_then(|wish| compressor.begin(wish, *status, fields, &body.size_hint()));
        let edits = self.response().map(|response| &response.headers).filter(|edits| !edits.is_empty());
        match self.signature(version, id) {
            Some(signature) if edits.is_some() || !headers::leave_room(fields) => signature.put(fields.map_mut()),
            beside => answer.signature = beside,
        }
        if let Some(edits) = edits {
            let headers = answer.fields.map_mut();
            edits.iter().for_each(|(name, edit)| apply(headers, name, edit));
        }
        answer.map(|body| match compression {
            Some(compression) => ResponseBody::Compressed(Box::new(compression.body(*body))),
            None => ResponseBody::Machine(body),
        })
    }

    /// Adds the platform's own fields, unless the app wants its answers without.
    pub fn sign(&self, headers: &mut HeaderMap, version: Version, id: &RequestId) {
        if let Some(signature) = self.signature(version, id) {
            signature.put(headers);
        }
    }

    fn signature(&self, version: Version, id: &RequestId) -> Option<Signature> {
        let pristine = self.response().is_some_and(|response| response.pristine);
        (!pristine).then(|| Signature { version, id: *id, alternative: self.alternative.clone() })
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
