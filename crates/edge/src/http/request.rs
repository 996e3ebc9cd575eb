//! The life of a request, phase by phase.
//!
//! ```text
//!  identify ─▶ route ─▶ gate ─▶ edit ─▶ choose ─▶ forward ─▶ edit ─▶ answer
//!     │          │        │               ▲          │
//!     id       host     port offered?     └── again ─┤ nothing was sent yet, or it is safe to send it twice
//!                       force_https?                 └ refusal ─▶ page for the client, line for the app's log
//! ```

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::Body;
use model::{AppName, machine::Port};

use super::{
    answer::Dress,
    body::{ClientBody, MachineBody, ResponseBody},
    headers,
    host::{Host, check_target},
    inbound::InboundBody,
    page::{self, Format},
    prefer,
    request_id::RequestId,
    serve::{Busy, Client},
    upgrade::Upgrade,
};
use crate::{
    Refusal,
    account::Account,
    choose::{Chosen, Search},
    context::{Context, Destination},
    machine::AppState,
    routing::App,
    tunnel,
    upstream::{Answered, Failed, RequestBody},
    wish::Wish,
};

/// How often a request is sent again that may have reached a machine already.
const MAX_RESENDS: u32 = 2;

/// Answers a request, whatever happens.
pub async fn answer(context: Arc<Context>, busy: Busy, mut request: Request<InboundBody>) -> Response<ClientBody> {
    let id = RequestId::new(&context.region);
    busy.0.connection.request();
    let account = Account::open(&context.journal, &id, busy.0.ip(), &mut request);
    let (format, version) = (Format::of(request.headers()), request.version());
    let response = route(&context, &busy, &id, &account, request).await.unwrap_or_else(|refusal| {
        account.refused(&refusal);
        let mut page = page::answer(&refusal, format, &id);
        if refusal.ends_connection() && version < Version::HTTP_2 {
            page.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
        signed(page, &id)
    });
    account.answered(response.status());
    response.map(|body| ClientBody::new(body, account, busy))
}

fn signed(mut response: Response<ResponseBody>, id: &RequestId) -> Response<ResponseBody> {
    headers::sign(response.headers_mut(), id);
    response
}

/// Finds out whom the request is for.
async fn route(
    context: &Arc<Context>,
    busy: &Busy,
    id: &RequestId,
    account: &Account,
    mut request: Request<InboundBody>,
) -> Result<Response<ResponseBody>, Refusal> {
    let client = &busy.0;
    let host = Host::of(&request, client.secured_name())?;
    check_target(request.method(), request.uri())?;
    let upgrade = Upgrade::take(&mut request);
    if request.method() == Method::CONNECT && upgrade.is_none() {
        return Err(Refusal::Connect);
    }
    check_secured(client, &host)?;
    match context.destination(&host.name) {
        Destination::Platform(platform) if [catalog::HTTP_PORT, catalog::HTTPS_PORT].contains(&client.port) => {
            prepare(&mut request, context, client, &host, id);
            Ok(signed(platform.answer(request).await.map(ResponseBody::Platform), id))
        }
        Destination::App(app) => {
            let visit = Visit { context, busy, id, account, host, app: &app, upgrade };
            visit.carry(request).await
        }
        _ => Err(Refusal::UnknownHost { host: host.name }),
    }
}

/// A connection secured for one name carries requests for that name only: its certificate proves no other, and the
/// client may have mixed them up (RFC 9110, 15.5.20).
fn check_secured(client: &Client, host: &Host) -> Result<(), Refusal> {
    match client.secured_name().filter(|secured| *secured != host.name) {
        Some(secured) => Err(Refusal::Misdirected { secured: secured.to_owned(), host: host.name.clone() }),
        None => Ok(()),
    }
}

/// Makes a request what a machine gets: a target in origin form, the platform's fields.
fn prepare<B>(request: &mut Request<B>, context: &Context, client: &Client, host: &Host, id: &RequestId) {
    let version = request.version();
    headers::to_machine(request.headers_mut(), version, client, host, id, context.region.as_str());
    let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
}

/// What the gate says.
enum Gate {
    /// Come in, by the rules of this port.
    Open(Arc<Port>),
    /// Ask for it at this address.
    Elsewhere(String),
}

/// A request on its way to an app.
struct Visit<'a> {
    context: &'a Arc<Context>,
    busy: &'a Busy,
    id: &'a RequestId,
    account: &'a Account,
    host: Host,
    app: &'a AppName,
    upgrade: Option<Upgrade>,
}

impl Visit<'_> {
    async fn carry(self, mut request: Request<InboundBody>) -> Result<Response<ResponseBody>, Refusal> {
        let routing = self.context.routing.load_full();
        let unknown = || Refusal::UnknownHost { host: self.host.name.clone() };
        let app = routing.app(self.app.as_str()).ok_or_else(unknown)?;
        let (state, what) = (app.state.clone(), self.describe(&request));
        self.account.is_for(&state, &self.host.name);
        self.busy.0.connection.is_for(&state);
        let gate = self.gate(app, &request).inspect_err(|refusal| self.tell(&state, refusal, &what))?;
        let dress = match gate {
            Gate::Open(port) => Dress::of(port, &request),
            Gate::Elsewhere(location) => return page::redirect(&location).map(|answer| signed(answer, self.id)),
        };
        let wish = prefer::wish_of(request.headers()).inspect_err(|refusal| self.tell(&state, refusal, &what))?;
        drop(routing);
        prepare(&mut request, self.context, &self.busy.0, &self.host, self.id);
        let request = self.outgoing(request);
        let sent = self.send(request, wish).await.inspect_err(|refusal| self.tell(&state, refusal, &what))?;
        self.finish(sent, &dress, state, what)
    }

    /// Whether the app takes such a request here; perhaps it wants it elsewhere.
    fn gate<B>(&self, app: &App, request: &Request<B>) -> Result<Gate, Refusal> {
        let client = &self.busy.0;
        let (port, what) = (client.port, if client.is_secure() { "HTTPS" } else { "HTTP" });
        let offered = app.port(port).filter(|offered| match offered.handling {
            catalog::Handling::Http => !client.is_secure(),
            catalog::Handling::TlsHttp => client.is_secure(),
            catalog::Handling::Tls | catalog::Handling::Raw => false,
        });
        let offered = offered.ok_or_else(|| Refusal::NotOffered { app: self.app.clone(), port, what })?;
        if !offered.options.force_https || client.is_secure() {
            return Ok(Gate::Open(offered.options.clone()));
        }
        let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        let https_port = self.context.https_port.get().copied().unwrap_or(catalog::HTTPS_PORT);
        Ok(Gate::Elsewhere(format!("https://{}{path}", self.host.with_https_port(https_port))))
    }

    fn outgoing(&self, request: Request<InboundBody>) -> Request<RequestBody> {
        match &self.upgrade {
            Some(upgrade) => {
                let mut request = request.map(|_| RequestBody::default());
                upgrade.put(&mut request);
                request
            }
            None => request.map(RequestBody::new),
        }
    }

    /// Sends it to a machine, and to another one where that is safe.
    async fn send(&self, mut request: Request<RequestBody>, wish: Wish) -> Result<(Answered, Chosen), Refusal> {
        let mut search = Search::new(self.context, self.app, self.busy.0.port).wishing(wish);
        let mut resends = 0;
        loop {
            let mut chosen = search.next().await?;
            chosen.suit(self.upgrade.is_some());
            prefer::tell_unavailable(request.headers_mut(), search.wish(), &chosen.lease.target.machine.id);
            let spare = is_safe_twice(&request).then(|| copy_of(&request));
            let failed = match self.context.dialer.send(&chosen, target_form(request, &chosen, &self.host)).await {
                Ok(answered) => return Ok((answered, chosen)),
                Err(failed) => failed,
            };
            let Failed { cause, unsent } = failed;
            request = match (unsent, spare) {
                (Some(unsent), _) => unsent,
                (None, Some(spare)) if resends < MAX_RESENDS && matches!(cause, Refusal::ClosedEarly { .. }) => {
                    resends += 1;
                    spare
                }
                _ => return Err(cause),
            };
            search.failed(&chosen.lease, cause).await?;
        }
    }

    /// Makes a machine's answer the client's.
    fn finish(
        mut self,
        (answered, chosen): (Answered, Chosen),
        dress: &Dress,
        state: Arc<AppState>,
        what: String,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let Answered { mut response, keep } = answered;
        self.account.answered_by(&chosen.lease.target.machine);
        let version = response.version();
        headers::to_client(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (context, lease) = (self.context.clone(), chosen.lease);
            let response = response.map(|body| MachineBody::new(body, keep, lease, context, state, what));
            return Ok(dress.put_on(response, version, &self.context.compressor, self.id));
        }
        dress.sign(response.headers_mut(), version, self.id);
        let Some(upgrade) = self.upgrade.take() else {
            let machine = chosen.lease.target.machine.id.clone();
            let reason = "it switched protocols without being asked".into();
            return Err(Refusal::BadAnswer { machine, protocol: "HTTP/1.1", reason });
        };
        let machine = hyper::upgrade::on(&mut response);
        *response.status_mut() = upgrade.consent(response.headers_mut());
        let tunnel = tunnel::run(self.context.clone(), upgrade, machine, chosen.lease, self.busy.clone());
        self.context.tasks.spawn(tunnel);
        Ok(response.map(|_| ResponseBody::default()))
    }

    fn describe<B>(&self, request: &Request<B>) -> String {
        let path: String = request.uri().path().chars().take(200).collect();
        format!("({} {path}, request {})", request.method(), self.id)
    }

    fn tell(&self, state: &AppState, refusal: &Refusal, what: &str) {
        self.context.journal.refused(state, refusal, what);
    }
}

impl Chosen {
    /// An upgrade goes over HTTP/1.1, and its connection is never used again.
    fn suit(&mut self, upgrade: bool) {
        if upgrade {
            self.h2 = false;
            self.reuse = false;
        }
    }
}

/// Whether a second sending does no harm: nothing is changed by it and nothing of it is lost (RFC 9110, 9.2.1).
fn is_safe_twice(request: &Request<RequestBody>) -> bool {
    request.method().is_safe()
        && request.body().is_end_stream()
        && !request.headers().contains_key(http::header::UPGRADE)
}

fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::default());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// The request as the machine's protocol spells it: HTTP/2 has the host in its target.
fn target_form(mut request: Request<RequestBody>, chosen: &Chosen, host: &Host) -> Request<RequestBody> {
    let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    if !chosen.h2 {
        *request.version_mut() = Version::HTTP_11;
        *request.uri_mut() = Uri::from(path);
        set_host(request.headers_mut(), host);
        return request;
    }
    if let Ok(authority) = Authority::try_from(host.authority.as_str()) {
        let mut parts = http::uri::Parts::default();
        (parts.scheme, parts.authority, parts.path_and_query) = (Some(Scheme::HTTP), Some(authority), Some(path));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(http::header::HOST);
    request
}

fn set_host(headers: &mut HeaderMap, host: &Host) {
    if !headers.contains_key(http::header::HOST)
        && let Ok(value) = host.authority.parse()
    {
        headers.insert(http::header::HOST, value);
    }
}
