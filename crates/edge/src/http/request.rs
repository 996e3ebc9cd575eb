//! The life of a request, phase by phase.
//!
//! ```text
//!  identify ─▶ route ─▶ gate ─▶ edit ─▶ recall ─▶ choose ─▶ forward ─▶ obey ─▶ edit ─▶ answer
//!     │          │        │                │        ▲  ▲       │         │
//!     id       host     port offered?      │        │  └ again ┤         └ the answer is a fly-replay: once more, to
//!                       force_https?   was it sent  │          │           whom it says
//!                                      elsewhere    │          │
//!                                      before?      └──────────┤ nothing was sent yet, or it is safe to send it twice
//!                                                              └ refusal ─▶ page for the client, line for the log
//! ```

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use catalog::{Handling, PortRoute};
use http::{HeaderValue, Method, Response, StatusCode, Uri, Version, uri::PathAndQuery};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use model::{AppName, machine::Port};
use tokio::time::{Instant, timeout};

use super::{
    answer::{Answer, Dress},
    body::{ClientBody, MachineBody, ResponseBody},
    headers::{self, ClientFields, OwnFields},
    host::{Host, check_target},
    inbound::Inbound,
    leave,
    page::{self, Format},
    prefer,
    request_id::RequestId,
    serve::{Busy, Client},
    upgrade::Upgrade,
};
use crate::{
    Fault, Refusal,
    account::{Account, Trace},
    choose::{Chosen, Search},
    context::{Context, Destination},
    limits::{AnswerBegun, Paced},
    machine::AppState,
    options::PlatformHost,
    replay::{BadOrder, Head, Journey, MAX_JSON_BYTES, Orderer, Recall, ReplayOrder},
    routing::App,
    statics, tls, tunnel,
    upstream::{Answered, Failed, KeptBody, RequestBody},
};

/// How often a request is sent again that may have reached a machine already.
const MAX_RESENDS: u32 = 2;
/// How long an answer may take to its end that is an order, or whose header was one.
const ORDER_PATIENCE: Duration = Duration::from_secs(5);

/// Answers a request, whatever happens.
///
/// What has nothing to wait for is done by plain functions, which take what they need by value: a future keeps room for
/// all that is borrowed in it, and there are as many of this one as requests under way.
pub async fn answer(context: &Arc<Context>, busy: Busy, request: Box<Inbound>) -> Answer<ClientBody> {
    let Arrival { id, mut account, format, request } = Arrival::of(context, &busy, request);
    let carried = match route(context, &busy, &id, &mut account, request) {
        Ok(Way::Here(answer)) => Ok(answer.into()),
        Ok(Way::Platform(platform, request)) => {
            Ok(signed(platform.answer((*request).into()).await.map(ResponseBody::Platform), &id).into())
        }
        Ok(Way::App(visit)) => visit.carry().await,
        Err(refusal) => Err(refusal),
    };
    finish(context, carried, (id, account, format), busy)
}

/// A request that has just come.
struct Arrival {
    id: RequestId,
    account: Box<Account>,
    /// How a refusal is told.
    format: Format,
    request: Box<Inbound>,
}

impl Arrival {
    fn of(context: &Context, busy: &Busy, mut request: Box<Inbound>) -> Self {
        let now = Instant::now();
        let id = RequestId::new(&context.region, now);
        busy.0.connection.request();
        let account = Account::open(&context.journal, &id, busy.0.ip(), &mut request, now);
        Self { id, account, format: Format::of(&request.fields), request }
    }
}

/// Makes whatever became of a request the client's answer.
fn finish(
    context: &Context,
    carried: Result<Answer<ResponseBody>, Refusal>,
    (id, mut account, format): (RequestId, Box<Account>, Format),
    busy: Busy,
) -> Answer<ClientBody> {
    let mut answer = carried.unwrap_or_else(|refusal| {
        account.refused(&refusal);
        let page = signed(page::answer(&refusal, format, &id), &id);
        Answer { is_last: refusal.ends_connection(), ..page.into() }
    });
    leave::make_last(context, &mut answer);
    account.answered(answer.status);
    answer.map(|body| ClientBody::new(body, account, busy))
}

fn signed(mut response: Response<ResponseBody>, id: &RequestId) -> Response<ResponseBody> {
    headers::sign(response.headers_mut(), id);
    response
}

/// Where a request goes.
enum Way<'a> {
    /// Nowhere: this is its answer.
    Here(Response<ResponseBody>),
    /// To the platform itself.
    Platform(PlatformHost, Box<Inbound>),
    /// To an app.
    App(Box<Visit<'a>>),
}

/// Finds out whom the request is for.
fn route<'a>(
    context: &'a Arc<Context>,
    busy: &'a Busy,
    id: &'a RequestId,
    account: &'a mut Account,
    mut request: Box<Inbound>,
) -> Result<Way<'a>, Refusal> {
    let client = &busy.0;
    let host = Host::of(&request.uri, request.version, &request.fields, client.secured_name())?;
    check_target(&request.method, &request.uri)?;
    let upgrade = Upgrade::take(&mut request);
    if request.method == Method::CONNECT && upgrade.is_none() {
        return Err(Refusal::Connect);
    }
    check_secured(client, &host)?;
    if let Some(proof) = context.hostnames.http_challenge(&host.name, request.uri.path())
        && client.port == catalog::HTTP_PORT
    {
        return Ok(Way::Here(signed(page::plain_text(proof), id)));
    }
    match context.destination(&host.name) {
        Destination::Platform(platform) if [catalog::HTTP_PORT, catalog::HTTPS_PORT].contains(&client.port) => {
            let common = client.fields(&context.region_field);
            let own = prepare(&mut request, common, &host, (id, account.trace()));
            let headers = request.fields.map_mut();
            own.put(headers);
            common.put(headers);
            Ok(Way::Platform(platform, request))
        }
        Destination::App(name, Some(app)) => {
            let visitor = Visitor { context, busy, id, account, host, app: name };
            visitor.enter(app, upgrade, request)
        }
        _ => {
            // An app without machines may be in maintenance mode.
            let closed = context.label(&host.name).and_then(|app| context.maintenance_of(app));
            Err(closed.unwrap_or(Refusal::UnknownHost { host: host.name.to_string() }))
        }
    }
}

/// A connection secured for one name carries requests for that name only: its certificate proves no other, and the
/// client may have mixed them up (RFC 9110, 15.5.20).
fn check_secured(client: &Client, host: &Host) -> Result<(), Refusal> {
    match client.secured_name().filter(|secured| **secured != *host.name) {
        Some(secured) => Err(Refusal::Misdirected { secured: secured.to_owned(), host: host.name.to_string() }),
        None => Ok(()),
    }
}

/// Makes a request what a machine gets: a target in origin form, and none of the fields that the platform says.
fn prepare(request: &mut Inbound, common: &ClientFields, host: &Host, own: (&RequestId, Trace)) -> OwnFields {
    let own = headers::to_machine(&mut request.fields, request.version, common, host, own);
    if !is_in_origin_form(&request.uri) {
        request.uri = Uri::from(origin_form(&request.uri));
    }
    request.version = Version::HTTP_11;
    own
}

/// Whether a target is what a machine gets already, as most over HTTP/1 are.
fn is_in_origin_form(uri: &Uri) -> bool {
    uri.scheme().is_none()
        && uri.authority().is_none()
        && uri.path_and_query().is_some_and(|path| path.as_str().starts_with('/'))
}

/// The target in origin form. An empty path is the root (RFC 9112, 3.2.1).
fn origin_form(uri: &Uri) -> PathAndQuery {
    match uri.path_and_query() {
        None => PathAndQuery::from_static("/"),
        Some(path) if path.as_str().starts_with('?') => {
            format!("/{}", path.as_str()).parse().unwrap_or(PathAndQuery::from_static("/"))
        }
        Some(path) => path.clone(),
    }
}

/// What the gate says.
enum Gate {
    /// Come in, by the rules of this port.
    Open(Arc<Port>),
    /// Ask for it at this address.
    Elsewhere(String),
}

/// A request that was sent: its answer, and who gave it.
type Sent = (Answered, Chosen);

/// Whose request it is, and which app's.
struct Visitor<'a> {
    context: &'a Arc<Context>,
    busy: &'a Busy,
    id: &'a RequestId,
    account: &'a mut Account,
    host: Host,
    app: AppName,
}

/// A request on its way to an app.
struct Visit<'a> {
    visitor: Visitor<'a>,
    upgrade: Option<Upgrade>,
    /// The app as it was when the request came.
    origin: Arc<App>,
    journey: Journey,
    body: KeptBody,
    /// Tells the body, if there is one, that an answer has begun.
    answered: Option<AnswerBegun>,
    dress: Dress,
    what: What,
}

impl<'a> Visitor<'a> {
    /// Comes in, if the app lets it.
    fn enter(self, app: Arc<App>, upgrade: Option<Upgrade>, mut request: Box<Inbound>) -> Result<Way<'a>, Refusal> {
        let what = self.describe(&request);
        self.account.is_for(&app.state, &self.host.name);
        let tell = |refusal: &Refusal| self.context.journal.refused(&app.state, refusal, &what);
        let limits = &self.context.limits;
        limits.enter(&self.busy.0.connection, &app.state).inspect_err(tell)?;
        self.account.holds(limits.begin(&app.state).inspect_err(tell)?);
        let gate = self.gate(&app, &request).inspect_err(tell)?;
        let dress = match gate {
            Gate::Open(port) => {
                let alternative = self.alternative(&port, request.version);
                Dress::of(port, &request).announcing(alternative)
            }
            Gate::Elsewhere(location) => {
                return page::redirect(&location).map(|answer| Way::Here(signed(answer, self.id)));
            }
        };
        if let Some(closed) = self.context.maintenance_of(self.app.as_str()) {
            return Err(closed);
        }
        let wish = prefer::wish_of(&request.fields).inspect_err(tell)?;
        let common = self.busy.0.fields(&self.context.region_field);
        let own = prepare(&mut request, common, &self.host, (self.id, self.account.trace()));
        if let Some(upgrade) = &upgrade {
            upgrade.put(&mut request);
        }
        let Inbound { method, uri, fields, body, .. } = *request;
        let (body, answered) = match upgrade.is_some() || body.is_end_stream() {
            true => (KeptBody::empty(), None),
            false => {
                let answered = AnswerBegun::default();
                let body = Paced::new(body, self.context.bounds.body_pace, answered.clone());
                (KeptBody::new(body, &self.context.kept), Some(answered))
            }
        };
        let head = Head { method, uri, fields, own: Some(own), common: Some(common.clone()) };
        let journey = Journey::new(self.app.clone(), wish, self.host.name.clone(), head);
        Ok(Way::App(Box::new(Visit { visitor: self, upgrade, origin: app, journey, body, answered, dress, what })))
    }

    /// Whether the app takes such a request here; perhaps it wants it elsewhere.
    fn gate(&self, app: &App, request: &Inbound) -> Result<Gate, Refusal> {
        let client = &self.busy.0;
        let (port, what) = (client.port, if client.is_secure() { "HTTPS" } else { "HTTP" });
        let offered = app.port(port).filter(|offered| match offered.handling {
            Handling::Http => !client.is_secure(),
            Handling::TlsHttp => client.is_secure(),
            _ => false,
        });
        let offered = offered.ok_or_else(|| Refusal::NotOffered { app: self.app.clone(), port, what })?;
        if !offered.options.force_https || client.is_secure() {
            return Ok(Gate::Open(offered.options.clone()));
        }
        let path = request.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let https_port = self.context.https_port.get().copied().unwrap_or(catalog::HTTPS_PORT);
        Ok(Gate::Elsewhere(format!("https://{}{path}", self.host.with_https_port(https_port))))
    }

    /// Where else the client can ask for the same: by HTTP/3, on the port that all apps share.
    fn alternative(&self, port: &Port, version: Version) -> Option<HeaderValue> {
        let shared = self.busy.0.is_secure() && self.busy.0.port == catalog::HTTPS_PORT;
        let better = shared && version < Version::HTTP_3 && tls::allows_http3(port);
        self.context.alternative.get().filter(|_| better).cloned()
    }

    /// Whether an app may send this request to another one: to its own organization and network only, and to a port
    /// where that takes requests.
    fn permit(&self, from: &AppName, to: &AppName) -> Result<(), Refusal> {
        let (app, target, port) = (from.clone(), to.clone(), self.busy.0.port);
        let routing = self.context.routing.load();
        let Some(there) = routing.app(to.as_str()) else { return Err(Refusal::ReplayToNobody { app, target }) };
        let here = routing.app(from.as_str()).map(|here| (&here.route.org, here.route.network));
        if here != Some((&there.route.org, there.route.network)) {
            return Err(Refusal::ReplayToStranger { app, target });
        }
        let takes = |offered: &PortRoute| matches!(offered.handling, Handling::Http | Handling::TlsHttp);
        if !there.port(port).is_some_and(takes) {
            return Err(Refusal::NotOffered { app: target, port, what: "HTTP" });
        }
        Ok(())
    }

    /// The app that a request goes to, if that is another one than where it began, and not gone.
    fn elsewhere(&self, app: &AppName) -> Option<Arc<App>> {
        (*app != self.app).then(|| self.context.routing.load().app(app.as_str()).cloned()).flatten()
    }

    fn describe(&self, request: &Inbound) -> What {
        What { method: request.method.clone(), path: request.uri.path_and_query().cloned(), id: *self.id }
    }
}

impl Visit<'_> {
    /// Sends it to its app, and from there to wherever that sends it, until somebody answers.
    async fn carry(mut self: Box<Self>) -> Result<Answer<ResponseBody>, Refusal> {
        let rules = self.origin.port(self.visitor.busy.0.port).and_then(|port| port.options.http_options.as_ref());
        let rules = rules.map(|options| options.replay_cache.as_slice()).unwrap_or_default();
        let recall = Recall { cache: &self.origin.state.replays, rules };
        let (visitor, journey) = (&self.visitor, &mut self.journey);
        if !recall.cache.is_empty() {
            journey.recall(&recall, |target| visitor.permit(&visitor.app, target).is_ok(), Instant::now());
        }
        let mut seen = Some(&self.origin);
        let (sent, state) = loop {
            let elsewhere = visitor.elsewhere(&journey.app);
            let state = &elsewhere.as_ref().unwrap_or(&self.origin).state;
            let tell = |refusal: &Refusal| visitor.context.journal.refused(state, refusal, &self.what);
            let upgrades = self.upgrade.is_some();
            let sent = match visitor.send(journey, seen.take(), &self.body, upgrades).await.inspect_err(tell) {
                Ok(sent) => sent,
                Err(refusal) if journey.turn_back(&refusal, &recall, Instant::now()) => continue,
                Err(refusal) => return Err(refusal),
            };
            if !is_order(&sent.0) {
                break (sent, state.clone());
            }
            let from = Orderer::of(&sent.1.route);
            let order = Box::pin(visitor.order_in(sent)).await.map_err(|bad| from.gave(&bad)).inspect_err(tell)?;
            visitor.obey(journey, order, &from, &recall).inspect_err(tell)?;
        };
        self.answered.iter().for_each(AnswerBegun::tell);
        self.body.let_go();
        self.finish(sent, state)
    }

    /// Makes a machine's answer the client's.
    fn finish(
        self: Box<Self>,
        (answered, chosen): Sent,
        state: Arc<AppState>,
    ) -> Result<Answer<ResponseBody>, Refusal> {
        let Self { visitor: Visitor { context, busy, id, account, .. }, upgrade, dress, what, .. } = *self;
        account.answered_by(&chosen.lease.target.machine);
        let Answered { status, version, mut fields, body } = answered;
        headers::to_client(&mut fields);
        // It would tell the client that its stream is a tunnel (RFC 8441, 5).
        if status.is_success() && upgrade.as_ref().is_some_and(|upgrade| upgrade.extended) {
            let machine = chosen.lease.target.machine.id.clone();
            let reason = "it was asked to switch protocols and answered something else".into();
            return Err(Refusal::BadAnswer { machine, protocol: "HTTP/1.1", reason });
        }
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body = Box::new(MachineBody::new(body, chosen.lease, context.clone(), state, what));
            let answer = Answer { status, fields, signature: None, is_last: false, body };
            return Ok(dress.put_on(answer, version, &context.compressor, id));
        }
        let headers = fields.map_mut();
        dress.sign(headers, version, id);
        let Some((upgrade, machine)) = upgrade.zip(body.into_stream()) else {
            let machine = chosen.lease.target.machine.id.clone();
            let reason = "it switched protocols without being asked".into();
            return Err(Refusal::BadAnswer { machine, protocol: "HTTP/1.1", reason });
        };
        let status = upgrade.consent(headers);
        let tunnel = tunnel::run(context.clone(), upgrade, machine, chosen.lease, busy.clone());
        context.tasks.spawn(tunnel);
        Ok(Answer { status, fields, signature: None, is_last: false, body: ResponseBody::default() })
    }
}

impl Visitor<'_> {
    /// Takes an order that was given for the request.
    fn obey(
        &self,
        journey: &mut Journey,
        order: ReplayOrder,
        from: &Orderer,
        recall: &Recall<'_>,
    ) -> Result<(), Refusal> {
        if let Some(target) = &order.app {
            self.permit(&from.app, target)?;
        }
        journey.follow(order, from, recall, Instant::now())
    }

    /// Sends it to a machine, and to another one where that is safe. `seen` is its app as it was a moment ago.
    async fn send(
        &self,
        journey: &mut Journey,
        seen: Option<&Arc<App>>,
        body: &KeptBody,
        upgrades: bool,
    ) -> Result<Sent, Refusal> {
        let app = journey.app.clone();
        let search = Search::new(self.context, &app, self.busy.0.port);
        let mut search = search.wishing(journey.wish.clone()).reach_by(journey.reach_by);
        if let Some(seen) = seen.filter(|_| app == self.app) {
            search = search.seen(seen);
        }
        let (mut content, interim) = (read(body)?, self.busy.interim());
        let mut resends = 0;
        loop {
            let mut chosen = search.next().await?;
            chosen.suit(upgrades);
            journey.tell_unavailable(&chosen.route.id);
            if !upgrades
                && statics::may_have(&chosen, &journey.head)
                && let Some(answered) = Box::pin(statics::ask(self.context, &chosen, &journey.head)).await
            {
                return Ok((answered, chosen));
            }
            let sent = self.context.dialer.send(&chosen, &journey.head, self.host.authority(), content, interim).await;
            let Failed { cause, unsent, untouched } = match sent {
                Ok(answer) => return Ok((answer, chosen)),
                Err(failed) => failed,
            };
            content = match unsent {
                Some(unsent) => unsent,
                // A body that broke off at its client is not whole the next time either.
                None if cause.fault() == Fault::Client => return Err(search.given_up(&chosen.lease, cause)),
                // Whoever says that it has not begun may say so as often as there are machines.
                None if cause.is_bounce() => match read(body) {
                    Ok(content) => content,
                    Err(_) => return Err(search.given_up(&chosen.lease, cause)),
                },
                None if resends < MAX_RESENDS
                    && (untouched || (!upgrades && is_safe_twice(&journey.head.method, &cause))) =>
                {
                    resends += 1;
                    let Ok(content) = read(body) else { return Err(search.given_up(&chosen.lease, cause)) };
                    content
                }
                None => return Err(search.given_up(&chosen.lease, cause)),
            };
            search.failed(&chosen.lease, cause).await?;
        }
    }

    /// The order that an answer holds instead of an answer. The rest of such an answer is thrown away.
    async fn order_in(&self, (mut answered, chosen): Sent) -> Result<ReplayOrder, BadOrder> {
        if let Some(order) = ReplayOrder::of_headers(answered.fields.map_mut()) {
            self.context.tasks.spawn(throw_away(answered, chosen));
            return order;
        }
        let body = whole(answered, MAX_JSON_BYTES).await;
        let body = body.ok_or_else(|| BadOrder::Syntax("its body did not come whole, or is too long".into()))?;
        ReplayOrder::of_body(&body)
    }
}

/// Whether a request whose machine closed the connection does no harm by being sent again: its effect is the same
/// however often it is sent (RFC 9110, 9.2.2).
fn is_safe_twice(method: &Method, cause: &Refusal) -> bool {
    method.is_idempotent() && matches!(cause, Refusal::ClosedEarly { .. })
}

/// Whether an answer is an order to send the request elsewhere.
fn is_order(answered: &Answered) -> bool {
    answered.status != StatusCode::SWITCHING_PROTOCOLS && ReplayOrder::is_in(&answered.fields)
}

/// What was asked for, in words for the app's log.
pub struct What {
    method: Method,
    path: Option<PathAndQuery>,
    id: RequestId,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.as_ref().map_or("/", PathAndQuery::path);
        let end = path.char_indices().nth(200).map_or(path.len(), |(at, _)| at);
        write!(f, "({} {}, request {})", self.method, &path[..end], self.id)
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

/// The body from its beginning, as far as that is still to be had.
fn read(body: &KeptBody) -> Result<RequestBody, Refusal> {
    body.read().map(RequestBody::from).ok_or(Refusal::BodyGone)
}

/// Reads an answer that nobody wants, so that its connection can be used again; a long one is broken off instead.
async fn throw_away(answered: Answered, chosen: Chosen) {
    let _ = whole(answered, MAX_JSON_BYTES).await;
    drop(chosen);
}

/// The body of an answer, if it comes whole, soon, and is not too long.
async fn whole(answered: Answered, limit: usize) -> Option<Bytes> {
    let body = timeout(ORDER_PATIENCE, Limited::new(answered.body, limit).collect()).await;
    Some(body.ok()?.ok()?.to_bytes())
}
