//! Where other hosts knock for the machines of this one.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context as Waking, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, server};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body::{Body, Frame, SizeHint};
use kit::report::Report;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Errand, Said, Tunnel, Verdict, Want, fields, flows, identity::ALPN, speak};
use crate::{
    choose::{Chosen, Search},
    context::Context,
    gathered::Gathered,
    http::{InboundBody, Interim, clean_trailers, leave_connection},
    http1::Fields,
    limits::{AnswerBegun, Paced},
    machine::Lease,
    options::BoxError,
    refusal::Refusal,
    replay::Head,
    statics,
    stream::{End, Socket, relay},
    upstream::{
        AnswerBody, Answered, Content, Failed, GIVEN_UP, KeepBounds, KeptBody, MAX_WINDOW, RequestBody, SMALL_FRAMES,
        STREAM_WINDOW, is_expecting, keep_alive, pump, tell_length,
    },
    wake::{self, Outlook},
    wish::{Strength, Wish},
};

/// Edges that are connected, or about to be, at a time.
const MAX_PEERS: usize = 1024;
/// Interim answers of one request that wait to be told.
const MAX_INTERIM: usize = 16;
/// How long accepting rests when the system has no more sockets or memory to give.
const REST: Duration = Duration::from_millis(100);

/// Lets in the edges of other hosts until the edge stops.
pub fn open(context: &Arc<Context>, listener: Arc<TcpListener>, credentials: Arc<super::Credentials>) {
    let context = context.clone();
    context.tasks.clone().spawn(async move {
        let places = Arc::new(Semaphore::new(MAX_PEERS));
        context.opened.cancelled().await;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = context.retiring.cancelled() => return,
            };
            let Ok((stream, peer)) = accepted else {
                tokio::time::sleep(REST).await;
                continue;
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::warn!(%peer, "an edge is turned away: {MAX_PEERS} are here");
                continue;
            };
            let (context, credentials) = (context.clone(), credentials.clone());
            context.tasks.clone().spawn(async move {
                match timeout(context.bounds.handshake, shake_hands(&credentials, stream)).await {
                    Ok(Ok(stream)) => serve(&context, stream).await,
                    Ok(Err(why)) => tracing::debug!(%peer, "a peer is refused at the worker's door: {why}"),
                    Err(_) => tracing::debug!(%peer, "a handshake at the worker's door took too long"),
                }
                drop(place);
            });
        }
    });
}

async fn shake_hands(credentials: &super::Credentials, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
    let identity = credentials.get().ok_or("this host has no certificate yet")?;
    let _ = stream.set_nodelay(true);
    // The edge asks whether we are there, in HTTP/2; both asking at once could stop each other.
    keep_alive(&stream);
    let acceptor = TlsAcceptor::from(identity.server.clone());
    let stream = acceptor.accept(stream).await.map_err(|error| error.to_string())?;
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err("it does not say what it wants to speak".into());
    }
    Ok(stream)
}

async fn serve(context: &Arc<Context>, stream: TlsStream<TcpStream>) {
    let bounds = &context.bounds;
    let streams = u32::try_from(bounds.requests + bounds.connections).unwrap_or(u32::MAX);
    let mut settings = server::Builder::new();
    settings
        // Both requests and connections are streams here, and an edge has no more of them than this.
        .max_concurrent_streams(streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(MAX_WINDOW)
        // What its clients do, an edge does in one go.
        .max_pending_accept_reset_streams(streams as usize)
        .max_local_error_reset_streams(None)
        .max_concurrent_reset_streams(GIVEN_UP.0)
        .reset_stream_duration(GIVEN_UP.1)
        // What a client may send, and what the edge adds to it. In how many frames it may come follows from that, and some
        // bytes take three and a half times their room on the way (RFC 7541, B).
        .max_header_list_size(u32::try_from(context.bounds.header_bytes * 4).unwrap_or(u32::MAX))
        .data_frame_budget(SMALL_FRAMES);
    let begun = timeout(context.bounds.handshake, settings.handshake(Gathered::new(stream))).await;
    let Ok(Ok(mut connection)) = begun else { return tracing::debug!("an edge does not begin to speak") };
    let mut leaves = false;
    loop {
        tokio::select! {
            next = connection.accept() => match next {
                Some(Ok((request, respond))) => {
                    // By address: what awaits it is moved about before it runs.
                    context.tasks.spawn(Box::pin(converse(context.clone(), request, respond)));
                }
                Some(Err(error)) => return tracing::debug!("the connection of an edge ended: {}", Report(&error)),
                None => return,
            },
            () = context.retiring.cancelled(), if !leaves => {
                connection.graceful_shutdown();
                leaves = true;
            }
            () = context.aborting.cancelled(), if leaves => return,
        }
    }
}

/// Answers a request, as long as the edge waits for that.
async fn converse(context: Arc<Context>, request: Request<RecvStream>, mut respond: server::SendResponse<Bytes>) {
    let (parts, content) = request.into_parts();
    let (sender, mut interim) = mpsc::channel(MAX_INTERIM);
    let content = Content::new(content, &parts.headers);
    let content = if is_expecting(&parts.headers) { content.wanted_by(sender.clone()) } else { content };
    let (is_head, request) = (parts.method == Method::HEAD, Request::from_parts(parts, content));
    let response = {
        let mut answering = pin!(answer(&context, request, Interim::Stream(sender)));
        loop {
            tokio::select! {
                response = &mut answering => break response,
                Some(said) = interim.recv() => drop(respond.send_informational(said)),
                // The edge has taken it back, or is gone.
                _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
            }
        }
    };
    while let Ok(said) = interim.try_recv() {
        let _ = respond.send_informational(said);
    }
    let (mut parts, body) = response.into_parts();
    leave_connection(&mut parts.headers);
    let is_bare = is_head || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    tell_length(&mut parts.headers, &body, |_| !is_bare);
    let ends = body.is_end_stream();
    if let Ok(stream) = respond.send_response(Response::from_parts(parts, ()), ends)
        && !ends
    {
        // The edge hears of it if the body breaks off.
        let _ = pump(body, stream).await;
    }
}

async fn answer(context: &Arc<Context>, request: Request<Content>, interim: Interim) -> Response<AnswerToEdge> {
    carry(context, request, interim).await.unwrap_or_else(|verdict| {
        let mut response = Response::new(AnswerToEdge::Nothing);
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        verdict.put(response.headers_mut());
        response
    })
}

/// Sends a request to the machine that it names.
async fn carry(
    context: &Arc<Context>,
    mut request: Request<Content>,
    interim: Interim,
) -> Result<Response<AnswerToEdge>, Verdict> {
    if fields::asks_for_datagrams(request.headers()) {
        return Ok(Response::new(AnswerToEdge::Connection(flows::join(context, request.into_body()))));
    }
    if fields::is_greeting(request.headers()) {
        return Ok(Response::new(AnswerToEdge::Nothing));
    }
    let errand = Errand::take(request.headers_mut()).ok_or(Verdict::Unknown)?;
    if errand.want == Want::Waking && wake_for_datagrams(context, &errand).await? {
        return Ok(Response::new(AnswerToEdge::Nothing));
    }
    let chosen = choose(context, &errand).await?;
    match errand.want {
        Want::Answer => {}
        Want::Connection => return connect(context, chosen, request.into_body()).await,
        Want::Waking => return Ok(Response::new(AnswerToEdge::Nothing)),
    }
    let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let (parts, body) = request.into_parts();
    let fields = Fields::Map(parts.headers);
    let mut head = Head { method: parts.method, uri: parts.uri, fields, own: None, common: None };
    head.uri = Uri::from(head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
    if let Ok(host) = HeaderValue::from_str(&authority) {
        head.map_mut().insert(header::HOST, host);
    }
    if statics::may_have(&chosen, &head)
        && let Some(answered) = Box::pin(statics::ask(context, &chosen, &head)).await
    {
        return Ok(to_edge(answered, chosen.lease));
    }
    let answered = AnswerBegun::default();
    let body = Paced::new(InboundBody::from(body), context.bounds.body_pace, answered.clone());
    // The edge keeps what may have to be sent again.
    let body = KeptBody::new(body, &KeepBounds::new(0, 0));
    let content = body.read().map(RequestBody::from).unwrap_or_default();
    body.let_go();
    match context.dialer.send(&chosen, &head, &authority, content, &interim).await {
        Ok(response) if response.status == StatusCode::SWITCHING_PROTOCOLS => {
            let reason = "it switched protocols without being asked".into();
            Err(Verdict::Failed { reason, untouched: false })
        }
        Ok(response) => {
            answered.tell();
            Ok(to_edge(response, chosen.lease))
        }
        Err(Failed { cause, unsent, untouched }) => {
            context.routing.load().blame(&errand.app, &chosen.lease.target);
            Err(Verdict::Failed { reason: cause.to_string(), untouched: untouched || unsent.is_some() })
        }
    }
}

/// Joins an edge's way to speak with a connection to the machine that was chosen.
async fn connect(context: &Arc<Context>, chosen: Chosen, heard: Content) -> Result<Response<AnswerToEdge>, Verdict> {
    let connected = context.dialer.connect(&chosen.route.app, &chosen.lease.target, true, None).await;
    let mut machine = connected.map_err(|cause| {
        context.routing.load().blame(&chosen.route.app, &chosen.lease.target);
        Verdict::Failed { reason: cause.to_string(), untouched: true }
    })?;
    let (mouth, said) = speak();
    let mut edge = Tunnel::new(mouth, heard);
    let aborting = context.aborting.token().clone();
    context.tasks.spawn(async move {
        tokio::select! {
            end = relay(&mut edge, &mut machine, None) => match end {
                End::Both | End::Idle => {}
                End::Client(_) => machine.break_off(),
                End::Machine { .. } => edge.break_off(),
            },
            () = aborting.cancelled() => {}
        }
        chosen.lease.target.machine.metrics().disconnects.one();
    });
    Ok(Response::new(AnswerToEdge::Connection(said)))
}

/// Wakes a machine that is reached by datagrams alone. Tells whether it is one.
async fn wake_for_datagrams(context: &Arc<Context>, errand: &Errand) -> Result<bool, Verdict> {
    let wish = Wish { machine: Some((errand.machine.clone(), Strength::Force)), ..Wish::default() };
    let end = Instant::now() + context.bounds.hold;
    let mut changes = context.routed.subscribe();
    loop {
        changes.mark_unchanged();
        let routing = context.routing.load_full();
        let app = routing.app(errand.app.as_str()).ok_or(Verdict::Unknown)?;
        if app.public_port(&errand.machine, errand.port).is_some() {
            return Ok(false);
        }
        let public = app.public_datagram_port(&errand.machine, errand.port).ok_or(Verdict::Unknown)?;
        if app.ready_for_datagrams(public).iter().any(|candidate| candidate.route.id == errand.machine) {
            return Ok(true);
        }
        let mut stirred = pin!(app.state.stirred.notified());
        stirred.as_mut().enable();
        let route = app.route.datagrams.get(&public).ok_or(Verdict::Unknown)?;
        match wake::rouse(context, app, route, &wish) {
            Outlook::Waking => {}
            Outlook::Failed(Refusal::NotWoken { why, reason, .. }) => return Err(Verdict::NotWoken { why, reason }),
            Outlook::Failed(refusal) => return Err(Verdict::Failed { reason: refusal.to_string(), untouched: true }),
            Outlook::Nobody => return Err(Verdict::Asleep),
        }
        let news = async {
            tokio::select! {
                _ = changes.changed() => {}
                () = stirred => {}
            }
        };
        if timeout_at(end, news).await.is_err() {
            return Err(Verdict::Failed { reason: "it was not awake in time".into(), untouched: true });
        }
    }
}

/// A place on the machine that is asked for. One that takes no traffic is waited for, and woken, only if no other will do.
async fn choose(context: &Arc<Context>, errand: &Errand) -> Result<Chosen, Verdict> {
    let routing = context.routing.load_full();
    let app = routing.app(errand.app.as_str()).ok_or(Verdict::Unknown)?;
    let public = app.public_port(&errand.machine, errand.port).ok_or(Verdict::Unknown)?;
    let ready = app.ready(public).iter().find(|candidate| candidate.route.id == errand.machine);
    if let Some(candidate) = ready.filter(|candidate| candidate.target.hop.is_none()) {
        let lease = candidate.target.lease(candidate.hard_limit);
        let closed = !candidate.target.machine.is_open();
        match lease {
            Some(lease) => return Ok(Chosen::of(candidate, lease)),
            None if closed && !errand.only => return Err(Verdict::Asleep),
            None if !errand.only => return Err(Verdict::Full),
            None => {}
        }
    } else if ready.is_some() {
        // It is reached through yet another host: requests do not go around in circles.
        return Err(Verdict::Unknown);
    } else if !errand.only {
        return Err(Verdict::Asleep);
    }
    let wish = Wish { machine: Some((errand.machine.clone(), Strength::Force)), ..Wish::default() };
    let chosen = Search::new(context, &errand.app, public).wishing(wish).next().await;
    let chosen = chosen.map_err(|refusal| match refusal {
        Refusal::NotWoken { why, reason, .. } => Verdict::NotWoken { why, reason },
        refusal => Verdict::Failed { reason: refusal.to_string(), untouched: true },
    })?;
    if chosen.lease.target.hop.is_some() { Err(Verdict::Unknown) } else { Ok(chosen) }
}

fn to_edge(answered: Answered, lease: Lease) -> Response<AnswerToEdge> {
    let mut response = Response::new(AnswerToEdge::Machine { answer: answered.body, _place: lease });
    (*response.status_mut(), *response.headers_mut()) = (answered.status, answered.fields.into_map());
    fields::clean(response.headers_mut());
    response
}

/// What goes to the edge.
enum AnswerToEdge {
    Nothing,
    /// A machine's answer. Its place becomes free with it.
    Machine {
        answer: AnswerBody,
        _place: Lease,
    },
    /// What comes over a connection to a machine.
    Connection(Said),
}

impl Body for AnswerToEdge {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Waking<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Nothing => Poll::Ready(None),
            Self::Machine { answer, .. } => Pin::new(answer).poll_frame(cx).map_ok(|mut frame| {
                frame.trailers_mut().into_iter().for_each(clean_trailers);
                frame
            }),
            Self::Connection(said) => Pin::new(said).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Machine { answer, .. } => answer.is_end_stream(),
            Self::Connection(said) => said.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Machine { answer, .. } => answer.size_hint(),
            Self::Connection(said) => said.size_hint(),
        }
    }
}
