//! What can go wrong with a request or a connection: a stable code, whose fault it is, what to do next.

use std::time::Duration;

use api::internal::NodeError;
use http::StatusCode;
use model::{AppName, MachineId};
use thiserror::Error;

use crate::http1::BadHead;

/// After how many seconds a client may try again what does not go for want of a machine.
const RETRY_AFTER_S: u32 = 5;

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Whoever sent the request.
    Client,
    /// Whoever runs the app.
    App,
    /// Whoever runs the platform.
    Platform,
}

impl Fault {
    /// The word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::App => "app",
            Self::Platform => "platform",
        }
    }
}

/// Why a request or a connection is not carried. `Display` says what happened and why; [`Self::hint`] what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The host is not one of the platform's.
    #[error("no app answers to {host}: there is none of this name here, or it has no machine")]
    UnknownHost {
        /// The host that was asked for.
        host: String,
    },
    /// The request names no host, two hosts, or something that is none.
    #[error("the request does not say which host it is for: {reason}")]
    BadHost {
        /// What is wrong.
        reason: &'static str,
    },
    /// The request's target is not one that an app can answer to.
    #[error("the target of the request makes no sense: {reason}")]
    BadTarget {
        /// What is wrong.
        reason: &'static str,
    },
    /// What came is no request, or could be read in more than one way.
    #[error("the request cannot be read: {bad}")]
    Unreadable {
        /// What is wrong with it.
        bad: BadHead,
    },
    /// The app offers nothing on this port in this way.
    #[error("{app} offers no {what} on port {port}")]
    NotOffered {
        /// The app.
        app: AppName,
        /// The public port.
        port: u16,
        /// What was asked for: `HTTP`, `HTTPS`.
        what: &'static str,
    },
    /// `CONNECT`: this is not a forward proxy.
    #[error("CONNECT is not answered: this is no forward proxy")]
    Connect,
    /// The request's host is not the one that the connection was secured for.
    #[error("this connection was secured for {secured}, not for {host}")]
    Misdirected {
        /// The server name of the TLS handshake.
        secured: String,
        /// The host of the request.
        host: String,
    },
    /// The app's owner has closed it for a while.
    #[error("{app} is in maintenance mode{}", in_words(message))]
    Maintenance {
        /// The app.
        app: AppName,
        /// In its owner's words; empty if there are none.
        message: String,
        /// After how many seconds it is worth trying again.
        retry_after_s: u32,
    },
    /// No machine takes traffic, and none will by itself.
    #[error("{app} has no machine{wanted} that takes traffic ({machines})")]
    NoMachine {
        /// The app.
        app: AppName,
        /// Which one the request insists on, in words; nothing if any will do.
        wanted: String,
        /// Its machines by state, in words.
        machines: String,
    },
    /// A machine sleeps and could not be woken, and there is no other.
    #[error("machine {machine} of {app} sleeps and could not be woken: {reason}")]
    NotWoken {
        /// The app.
        app: AppName,
        /// The machine.
        machine: MachineId,
        /// Why, for programs.
        why: NoWaking,
        /// Why, in words.
        reason: String,
    },
    /// A machine was on its way up and did not arrive.
    #[error("{app} did not become ready within {} s ({machines})", waited.as_secs())]
    NotReady {
        /// The app.
        app: AppName,
        /// How long was waited.
        waited: Duration,
        /// Its machines by state, in words.
        machines: String,
    },
    /// Every machine is at its hard limit, and stayed there.
    #[error("every machine of {app} is at its hard limit, for {} s now", waited.as_secs())]
    Full {
        /// The app.
        app: AppName,
        /// How long was waited.
        waited: Duration,
    },
    /// Too many wait already.
    #[error("too many requests wait for a machine of {app} already")]
    TooManyWaiting {
        /// The app.
        app: AppName,
    },
    /// The machine refuses the connection.
    #[error("machine {machine} refused the connection to port {port}: the app does not listen on 0.0.0.0:{port}")]
    ConnectRefused {
        /// The machine.
        machine: MachineId,
        /// The port inside the guest.
        port: u16,
    },
    /// The machine does not answer.
    #[error("machine {machine} could not be reached on port {port}: {reason}")]
    Unreachable {
        /// The machine.
        machine: MachineId,
        /// The port inside the guest.
        port: u16,
        /// What the system said.
        reason: String,
    },
    /// The connection ended before an answer came.
    #[error("machine {machine} closed the connection before it answered: {reason}")]
    ClosedEarly {
        /// The machine.
        machine: MachineId,
        /// What the connection said.
        reason: String,
    },
    /// The connection broke in the middle of an answer.
    #[error("machine {machine} broke off in the middle of an answer: {reason}")]
    BrokenOff {
        /// The machine.
        machine: MachineId,
        /// What the connection said.
        reason: String,
    },
    /// The client's end of a connection broke.
    #[error("the client reset the connection: {reason}")]
    ClientReset {
        /// What the connection said.
        reason: String,
    },
    /// A client says over HTTP/2 too much that asks for nothing.
    #[error("a client's connection was closed: it sent too many {what}")]
    Flood {
        /// What it sent.
        what: &'static str,
    },
    /// The body of a request comes too slowly.
    #[error("the body of the request came too slowly")]
    SlowBody,
    /// A client does not take the answers that it asked for.
    #[error("a client's connection was closed: it took its answers too slowly")]
    SlowReader,
    /// Too many TLS handshakes come from one range of addresses.
    #[error("a TLS handshake for {name} was refused: too many come from {range}")]
    HandshakesOfRange {
        /// The server name.
        name: String,
        /// The range.
        range: String,
    },
    /// Too many TLS handshakes come for one server name.
    #[error("a TLS handshake for {name} was refused: too many come for that name")]
    HandshakesOfName {
        /// The server name.
        name: String,
    },
    /// An app has as many connections as it may have.
    #[error("a connection to {app} was refused: it has as many as it may have now")]
    TooManyConnections {
        /// The app.
        app: AppName,
    },
    /// An app has as many requests under way as it may have.
    #[error("a request for {app} was refused: it has as many under way as it may have now")]
    TooManyRequests {
        /// The app.
        app: AppName,
    },
    /// There is no certificate for a server name.
    #[error("there is no certificate for {name}, so its TLS handshake was refused")]
    NoCertificate {
        /// The server name.
        name: String,
    },
    /// A TLS handshake came to nothing.
    #[error("a TLS handshake for {name} failed: {reason}")]
    Handshake {
        /// The server name.
        name: String,
        /// What went wrong.
        reason: String,
    },
    /// A TLS handshake took too long.
    #[error("a TLS handshake for {name} did not end within {} s", waited.as_secs())]
    HandshakeTimeout {
        /// The server name.
        name: String,
        /// How long was waited.
        waited: Duration,
    },
    /// What came is not HTTP.
    #[error("machine {machine} answered with something that is not {protocol}: {reason}")]
    BadAnswer {
        /// The machine.
        machine: MachineId,
        /// What was expected: `HTTP/1.1`, `HTTP/2`.
        protocol: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// No answer came in time.
    #[error("machine {machine} did not answer within {} s", waited.as_secs())]
    NoAnswer {
        /// The machine.
        machine: MachineId,
        /// How long was waited.
        waited: Duration,
    },
    /// The client broke off while its request was being sent.
    #[error("the client broke off before its request was complete: {reason}")]
    ClientGone {
        /// What the connection said.
        reason: String,
    },
    /// The request insists on a region or a machine that there cannot be.
    #[error("{field} names {value:?}, which is no {what}")]
    BadWish {
        /// The field that says so.
        field: &'static str,
        /// What it says, shortened.
        value: String,
        /// What it should be.
        what: &'static str,
    },
    /// The body of a request has passed and was not kept, so that it cannot be sent once more.
    #[error("the request cannot be sent again: its body is longer than what is kept of one")]
    BodyGone,
    /// A request was replayed too often.
    #[error("{app} replays a request that has been replayed {replays} times already")]
    TooManyReplays {
        /// The app that gave the last order.
        app: AppName,
        /// How often it was replayed.
        replays: u32,
    },
    /// A `fly-replay` cannot be carried out.
    #[error("{app} answered with a fly-replay that cannot be carried out: it {reason}")]
    BadReplay {
        /// The app that gave the order.
        app: AppName,
        /// What is wrong with it.
        reason: String,
    },
    /// A `fly-replay` names an app that there is not.
    #[error("{app} replays to {target}, which is no app, or has no machine")]
    ReplayToNobody {
        /// The app that gave the order.
        app: AppName,
        /// The app that it names.
        target: AppName,
    },
    /// A `fly-replay` names an app of somebody else, or of another network.
    #[error("{app} replays to {target}, which is not of the same organization and private network")]
    ReplayToStranger {
        /// The app that gave the order.
        app: AppName,
        /// The app that it names.
        target: AppName,
    },
    /// A replay reached no machine in the time that its order gave it.
    #[error("a replay to {app} reached no machine within {} ms", waited.as_millis())]
    ReplayTimeout {
        /// The app that it was sent to.
        app: AppName,
        /// How long was waited.
        waited: Duration,
    },
    /// A machine of another host was at its hard limit when the request came there.
    #[error("machine {machine} is at its hard limit, says its host")]
    FullAtWorker {
        /// The machine.
        machine: MachineId,
    },
    /// A machine of another host had stopped taking traffic when the request came there.
    #[error("machine {machine} takes no traffic any more, says its host")]
    Bounced {
        /// The machine.
        machine: MachineId,
    },
    /// Another host does not know a machine of its own.
    #[error("machine {machine} is not known to its host, or has no such port")]
    UnknownToWorker {
        /// The machine.
        machine: MachineId,
    },
    /// Several machines were tried, none took it.
    #[error("no machine took it in {attempts} attempts; the last one: {last}")]
    Exhausted {
        /// How often it was tried.
        attempts: u32,
        /// What happened last.
        last: Box<Refusal>,
    },
}

/// Why a machine could not be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoWaking {
    /// Its start failed.
    Failed,
    /// It took too long.
    TooSlow,
    /// It is in no state in which it could be started.
    NotStartable,
}

impl NoWaking {
    /// The kind of a node's refusal.
    pub fn of(error: &NodeError) -> Self {
        match error {
            NodeError::Timeout { .. } => Self::TooSlow,
            NodeError::NotFound(_) | NodeError::Denied { .. } => Self::NotStartable,
            _ => Self::Failed,
        }
    }
}

impl Refusal {
    /// A worker has turned the request away, because its machine has no room or sleeps by now, before it reached it.
    pub fn is_bounce(&self) -> bool {
        matches!(self, Self::Bounced { .. } | Self::FullAtWorker { .. } | Self::UnknownToWorker { .. })
    }

    /// The stable code, for logs, pages and programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownHost { .. } => "PH01",
            Self::BadHost { .. } => "PH02",
            Self::NotOffered { .. } => "PH03",
            Self::Connect => "PH04",
            Self::Misdirected { .. } => "PH05",
            Self::ClientGone { .. } => "PH06",
            Self::BadTarget { .. } => "PH07",
            Self::BadWish { .. } => "PH08",
            Self::Flood { .. } => "PH09",
            Self::SlowBody => "PH10",
            Self::SlowReader => "PH11",
            Self::Unreadable { .. } => "PH12",
            Self::BodyGone => "PA01",
            Self::TooManyReplays { .. } => "PA02",
            Self::BadReplay { .. } => "PA03",
            Self::ReplayToNobody { .. } => "PA04",
            Self::ReplayToStranger { .. } => "PA05",
            Self::ReplayTimeout { .. } => "PA06",
            Self::NotWoken { why: NoWaking::Failed, .. } => "PM01",
            Self::NotWoken { why: NoWaking::TooSlow, .. } => "PM03",
            Self::NotWoken { why: NoWaking::NotStartable, .. } => "PM08",
            Self::Maintenance { .. } => "PH13",
            Self::Bounced { .. } => "PM11",
            Self::NoMachine { .. } => "PR01",
            Self::UnknownToWorker { .. } => "PR02",
            Self::Exhausted { .. } => "PR03",
            Self::NotReady { .. } => "PR04",
            Self::Full { .. } | Self::FullAtWorker { .. } => "PL01",
            Self::TooManyWaiting { .. } => "PL02",
            Self::TooManyConnections { .. } => "PL05",
            Self::TooManyRequests { .. } => "PL06",
            Self::ConnectRefused { .. } => "PC01",
            Self::Unreachable { .. } => "PC02",
            Self::ClosedEarly { .. } => "PC03",
            Self::ClientReset { .. } => "PC04",
            Self::BrokenOff { .. } => "PC05",
            Self::HandshakesOfRange { .. } => "PT01",
            Self::HandshakesOfName { .. } => "PT02",
            Self::NoCertificate { .. } => "PT05",
            Self::Handshake { .. } => "PT06",
            Self::HandshakeTimeout { .. } => "PT08",
            Self::BadAnswer { protocol: "HTTP/2", .. } => "PU01",
            Self::BadAnswer { .. } => "PU02",
            Self::NoAnswer { .. } => "PU03",
        }
    }

    /// The status of the answer (RFC 9110).
    pub fn status(&self) -> StatusCode {
        match self {
            Self::UnknownHost { .. } | Self::NotOffered { .. } => StatusCode::NOT_FOUND,
            Self::BadHost { .. } | Self::BadTarget { .. } => StatusCode::BAD_REQUEST,
            Self::ClientGone { .. } | Self::BadWish { .. } => StatusCode::BAD_REQUEST,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Unreadable { bad } => bad.status(),
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::Misdirected { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Maintenance { .. } | Self::NoMachine { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotReady { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Full { .. } | Self::TooManyWaiting { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyConnections { .. } | Self::TooManyRequests { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotWoken { .. } | Self::FullAtWorker { .. } | Self::Bounced { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoAnswer { .. } | Self::ReplayTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Exhausted { last, .. } => last.status(),
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::UnknownHost { .. } | Self::BadHost { .. } | Self::Connect => Fault::Client,
            Self::Misdirected { .. } | Self::BadTarget { .. } => Fault::Client,
            Self::ClientGone { .. } | Self::BadWish { .. } | Self::Unreadable { .. } => Fault::Client,
            Self::ClientReset { .. } | Self::Handshake { .. } | Self::HandshakeTimeout { .. } => Fault::Client,
            Self::HandshakesOfRange { .. } | Self::HandshakesOfName { .. } => Fault::Client,
            Self::Flood { .. } | Self::SlowBody | Self::SlowReader => Fault::Client,
            Self::TooManyConnections { .. } | Self::TooManyRequests { .. } => Fault::Client,
            Self::Unreachable { .. } | Self::Bounced { .. } | Self::UnknownToWorker { .. } => Fault::Platform,
            Self::Exhausted { last, .. } => last.fault(),
            _ => Fault::App,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::UnknownHost { .. } => {
                "Check the address. `dunlin apps list` shows the apps, `dunlin deploy` makes one."
            }
            Self::BadHost { .. } => "Send one Host field (or :authority) with a host name.",
            Self::Unreadable { bad: BadHead::TooLong(_) | BadHead::TooManyFields | BadHead::TargetTooLong } => {
                "Send less: fewer or shorter fields, fewer cookies, a shorter path."
            }
            Self::Unreadable { .. } => "Send HTTP/1.1 as RFC 9112 has it, in one reading only.",
            Self::BadTarget { .. } => "Send a path that begins with `/`, or `*` with OPTIONS.",
            Self::NotOffered { .. } => "Add the port to [http_service] or [[services]] in fly.toml and deploy again.",
            Self::Connect => "Send the request to the app's own address.",
            Self::Misdirected { .. } => "Open another connection for the other host.",
            Self::Maintenance { .. } => "Try again later. `dunlin maintenance off` opens the app again.",
            Self::NoMachine { .. } => "Start one with `dunlin machine start`, or deploy with `dunlin deploy`.",
            Self::NotWoken { .. } => {
                "See `dunlin machine status` and `dunlin logs`; `dunlin machine start` tries again."
            }
            Self::NotReady { .. } => {
                "See `dunlin status` and `dunlin logs`: the app does not start, or its checks fail."
            }
            Self::Full { .. } | Self::TooManyWaiting { .. } | Self::FullAtWorker { .. } => {
                "Try again later. `dunlin scale count` adds machines; hard_limit in fly.toml is the bound of one."
            }
            Self::ConnectRefused { .. } => {
                "Make the app listen on 0.0.0.0 (not on 127.0.0.1) and on the internal_port of fly.toml."
            }
            Self::Bounced { .. } | Self::UnknownToWorker { .. } => {
                "Try again: the picture that this edge routes by is older than that of the machine's host."
            }
            Self::Unreachable { .. } => "See `dunlin machine status` and the host's own log.",
            Self::ClosedEarly { .. } | Self::BrokenOff { .. } => {
                "See `dunlin logs`: the app crashed or closed the connection."
            }
            Self::BadAnswer { protocol: "HTTP/2", .. } => {
                "Make the app speak HTTP/2 without TLS, or take h2_backend out of fly.toml."
            }
            Self::BadAnswer { .. } => "Make the app speak HTTP on its internal_port, or take the http handler out.",
            Self::NoAnswer { .. } => "See `dunlin logs`: the app takes too long.",
            Self::ClientGone { .. } => "Send the whole request.",
            Self::ClientReset { .. } => "Nothing, unless it happens often: then look at the client or at its network.",
            Self::NoCertificate { .. } => {
                "See `dunlin certs check`; tls_options.default_self_signed shows a certificate of nobody meanwhile."
            }
            Self::Flood { .. } => "Nothing, unless a client of yours is cut off: then look at what it sends.",
            Self::SlowBody => "Send at least 500 bytes a second, or answer before the body is complete.",
            Self::SlowReader => "Nothing, unless a client of yours is cut off: then let it ask for less at a time.",
            Self::HandshakesOfRange { .. } => {
                "Keep connections open; if it is a load balancer in front of the platform, name it with --unlimited-sources."
            }
            Self::HandshakesOfName { .. } => "Keep connections open; those who have one are served as before.",
            Self::TooManyConnections { .. } | Self::TooManyRequests { .. } => {
                "Try again later. An app may have as much as is left free, so that others are served, too."
            }
            Self::Handshake { .. } => "Check the client's TLS versions and ALPN against tls_options in fly.toml.",
            Self::HandshakeTimeout { .. } => "Look at the client: it began a handshake and did not go on.",
            Self::BodyGone => {
                "Send less than 1 MiB in requests that may be replayed, or send them to the right app at once."
            }
            Self::TooManyReplays { .. } => {
                "Make the apps agree on who answers: they send the request around in a circle."
            }
            Self::BadReplay { .. } => "Correct the fly-replay field, or the answer of its type, that the app sends.",
            Self::ReplayToNobody { .. } => "Check the name. `dunlin apps list` shows the apps.",
            Self::ReplayToStranger { .. } => "Replay to an app of the same organization and network.",
            Self::ReplayTimeout { .. } => {
                "See `dunlin status` of that app; a fallback in the fly-replay hands it back."
            }
            Self::BadWish { .. } => "Name regions separated by commas, or one machine id; `dunlin status` shows both.",
            Self::Exhausted { last, .. } => last.hint(),
        }
    }

    /// After how many seconds it is worth trying again, if it is at all.
    pub fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::Maintenance { retry_after_s, .. } => Some(*retry_after_s),
            _ => (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_S),
        }
    }

    /// Whether nothing that follows on the connection can be trusted to be a request, or shall be one.
    pub(crate) fn ends_connection(&self) -> bool {
        matches!(self, Self::BadHost { .. } | Self::BadTarget { .. } | Self::Connect)
            || matches!(self, Self::TooManyConnections { .. } | Self::SlowBody)
    }

    /// The machine it happened at.
    pub fn machine(&self) -> Option<&MachineId> {
        match self {
            Self::ConnectRefused { machine, .. }
            | Self::Unreachable { machine, .. }
            | Self::ClosedEarly { machine, .. }
            | Self::BrokenOff { machine, .. }
            | Self::BadAnswer { machine, .. }
            | Self::NoAnswer { machine, .. }
            | Self::FullAtWorker { machine }
            | Self::Bounced { machine }
            | Self::UnknownToWorker { machine }
            | Self::NotWoken { machine, .. } => Some(machine),
            Self::Exhausted { last, .. } => last.machine(),
            _ => None,
        }
    }
}

/// The owner's words, after ours.
fn in_words(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}
