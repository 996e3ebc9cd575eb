//! The fields by which an edge and a worker speak about a request. A client's own of these names never get this far, and
//! neither the machine nor the client sees them: each side takes away what the other one said.

use http::{HeaderMap, HeaderName, HeaderValue};
use model::{AppName, MachineId};

use crate::{Refusal, machine::Target, refusal::NoWaking};

const APP: HeaderName = HeaderName::from_static("dunlin-hop-app");
const MACHINE: HeaderName = HeaderName::from_static("dunlin-hop-machine");
const PORT: HeaderName = HeaderName::from_static("dunlin-hop-port");
const ONLY: HeaderName = HeaderName::from_static("dunlin-hop-only");
const WANT: HeaderName = HeaderName::from_static("dunlin-hop-want");
const REFUSAL: HeaderName = HeaderName::from_static("dunlin-hop-refusal");
const REASON: HeaderName = HeaderName::from_static("dunlin-hop-reason");

/// The longest reason that is told, in bytes.
const MAX_REASON: usize = 300;

/// What an edge wants of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The answer to a request.
    Answer,
    /// A connection.
    Connection,
    /// That it takes traffic.
    Waking,
}

impl Want {
    const WORDS: [(Self, &'static str); 2] = [(Self::Connection, "connection"), (Self::Waking, "waking")];
}

/// Whom a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errand {
    /// The app.
    pub app: AppName,
    /// Its machine.
    pub machine: MachineId,
    /// The port inside the guest.
    pub port: u16,
    /// No other machine would do.
    pub only: bool,
    /// What for.
    pub want: Want,
}

impl Errand {
    /// For a port of a machine.
    pub fn of(app: &AppName, target: &Target, only: bool, want: Want) -> Self {
        let (app, machine) = (app.clone(), target.machine.id.clone());
        Self { app, machine, port: target.address.port(), only, want }
    }

    /// Says so.
    pub fn put(&self, headers: &mut HeaderMap) {
        headers.insert(APP, text(self.app.as_str()));
        headers.insert(MACHINE, text(self.machine.as_str()));
        headers.insert(PORT, self.port.into());
        if self.only {
            headers.insert(ONLY, HeaderValue::from_static("yes"));
        } else {
            headers.remove(ONLY);
        }
        match Want::WORDS.iter().find(|(want, _)| *want == self.want) {
            Some((_, word)) => drop(headers.insert(WANT, HeaderValue::from_static(word))),
            None => drop(headers.remove(WANT)),
        }
    }

    /// Takes what was said; nothing if that makes no sense.
    pub fn take(headers: &mut HeaderMap) -> Option<Self> {
        let (app, machine, port) = (headers.remove(APP), headers.remove(MACHINE), headers.remove(PORT));
        let (only, want) = (headers.remove(ONLY).is_some(), headers.remove(WANT));
        let want = match want {
            Some(said) => Want::WORDS.iter().find(|(_, word)| said == word)?.0,
            None => Want::Answer,
        };
        let (app, machine, port) = (app?, machine?, port?);
        let read = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        Some(Self {
            app: read(&app)?.parse().ok()?,
            machine: read(&machine)?.parse().ok()?,
            port: read(&port)?.parse().ok()?,
            only,
            want,
        })
    }
}

/// A way for datagrams to whatever machines of the host is wanted: which ones is said in it.
const DATAGRAMS: &str = "datagrams";

/// Says that such a way is wanted.
pub fn ask_for_datagrams(headers: &mut HeaderMap) {
    headers.insert(WANT, HeaderValue::from_static(DATAGRAMS));
}

/// Whether such a way is wanted.
pub fn asks_for_datagrams(headers: &HeaderMap) -> bool {
    headers.get(WANT).is_some_and(|want| want == DATAGRAMS)
}

/// Nothing but an answer.
const GREETING: &str = "greeting";

/// Says that nothing is wanted but to see how long an answer takes.
pub fn greet(headers: &mut HeaderMap) {
    headers.insert(WANT, HeaderValue::from_static(GREETING));
}

/// Whether nothing is wanted but an answer.
pub fn is_greeting(headers: &HeaderMap) -> bool {
    headers.get(WANT).is_some_and(|want| want == GREETING)
}

/// Why a worker has not sent a request to its machine, or has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is no such machine, or it has no such port.
    Unknown,
    /// It is at its hard limit.
    Full,
    /// It takes no traffic at the moment.
    Asleep,
    /// It could not be woken.
    NotWoken {
        /// What kind of failure.
        why: NoWaking,
        /// Why, in words.
        reason: String,
    },
    /// It could not be reached, or gave no answer.
    Failed {
        /// What happened.
        reason: String,
        /// It has got nothing of the request.
        untouched: bool,
    },
}

impl Verdict {
    /// Says so.
    pub fn put(&self, headers: &mut HeaderMap) {
        let (word, reason) = match self {
            Self::Unknown => ("unknown", None),
            Self::Full => ("full", None),
            Self::Asleep => ("asleep", None),
            Self::NotWoken { why, reason } => (word_for(*why), Some(reason)),
            Self::Failed { reason, untouched: true } => ("untouched", Some(reason)),
            Self::Failed { reason, untouched: false } => ("failed", Some(reason)),
        };
        headers.insert(REFUSAL, HeaderValue::from_static(word));
        if let Some(reason) = reason {
            let plain: String = reason.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MAX_REASON).collect();
            headers.insert(REASON, text(&plain));
        }
    }

    /// Takes what was said, so that what is left is the machine's own.
    pub fn take(headers: &mut HeaderMap) -> Option<Self> {
        let (word, reason) = (headers.remove(REFUSAL)?, headers.remove(REASON));
        let reason = reason.and_then(|reason| reason.to_str().map(str::to_owned).ok()).unwrap_or_default();
        Some(match word.as_bytes() {
            b"unknown" => Self::Unknown,
            b"full" => Self::Full,
            b"asleep" => Self::Asleep,
            word if let Some(why) = NO_WAKING.into_iter().find(|why| word_for(*why).as_bytes() == word) => {
                Self::NotWoken { why, reason }
            }
            word => Self::Failed { reason, untouched: word == b"untouched" },
        })
    }

    /// Whether the machine has got nothing of the request.
    pub fn is_untouched(&self) -> bool {
        !matches!(self, Self::Failed { untouched: false, .. })
    }

    /// What it means for the request.
    pub fn refusal(self, app: &AppName, machine: MachineId, port: u16) -> Refusal {
        match self {
            Self::Unknown => Refusal::UnknownToWorker { machine },
            Self::Full => Refusal::FullAtWorker { machine },
            Self::Asleep => Refusal::Bounced { machine },
            Self::NotWoken { why, reason } => Refusal::NotWoken { app: app.clone(), machine, why, reason },
            Self::Failed { reason, untouched: true } => Refusal::Unreachable { machine, port, reason },
            Self::Failed { reason, untouched: false } => Refusal::ClosedEarly { machine, reason },
        }
    }
}

const NO_WAKING: [NoWaking; 3] = [NoWaking::Failed, NoWaking::TooSlow, NoWaking::NotStartable];

fn word_for(why: NoWaking) -> &'static str {
    match why {
        NoWaking::Failed => "not-woken",
        NoWaking::TooSlow => "not-woken-in-time",
        NoWaking::NotStartable => "not-startable",
    }
}

/// Takes away what a machine says by the names of these fields.
pub fn clean(headers: &mut HeaderMap) {
    headers.remove(REFUSAL);
    headers.remove(REASON);
}

fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("names, ids and plain ASCII are a field's value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_and_nothing_of_it_is_left() {
        let errand = |only, want| {
            let (app, machine) = ("shop".parse().unwrap(), MachineId::from_random([1; 7]));
            Errand { app, machine, port: 8080, only, want }
        };
        for said in [Want::Answer, Want::Connection, Want::Waking].map(|want| errand(want == Want::Waking, want)) {
            let mut headers = HeaderMap::new();
            said.put(&mut headers);
            assert_eq!(Errand::take(&mut headers), Some(said));
            assert!(headers.is_empty());
        }
        let failed = |untouched| Verdict::Failed { reason: "it does not listen".into(), untouched };
        let not_woken = NO_WAKING.map(|why| Verdict::NotWoken { why, reason: "no room".into() });
        let others = [Verdict::Unknown, Verdict::Full, Verdict::Asleep, failed(true), failed(false)];
        for said in others.into_iter().chain(not_woken) {
            let mut headers = HeaderMap::new();
            said.put(&mut headers);
            assert_eq!(Verdict::take(&mut headers), Some(said));
            assert!(headers.is_empty());
        }
    }
}
