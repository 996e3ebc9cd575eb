//! A request on its way: to whom it goes now, what brought it there, and who gets it back if that comes to nothing.

use std::{sync::Arc, time::Duration};

use catalog::MachineRoute;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, uri::PathAndQuery};
use model::{
    AppName, MachineId, Region,
    machine::{ReplayCache as SessionRule, SessionKind},
};
use tokio::time::Instant;

use super::{
    BadOrder, BadPattern, CacheOrder, Fallback, ReplayCache, ReplayOrder, Transform,
    cache::{Key, Remembered},
    pattern::lies_below,
};
use crate::{
    Refusal,
    http::{ClientFields, OwnFields},
    http1::Fields,
    wish::{Strength, Wish},
};

/// How often one request may be replayed.
const MAX_REPLAYS: u32 = 10;
/// The value of a cookie or of a field that tells a session, at most.
const MAX_SESSION_BYTES: usize = 4096;

const REPLAY_SRC: HeaderName = HeaderName::from_static("fly-replay-src");
const REPLAY_FAILED: HeaderName = HeaderName::from_static("fly-replay-failed");
/// Tells the app that another machine than this one was preferred.
const UNAVAILABLE: HeaderName = HeaderName::from_static("fly-preferred-instance-unavailable");
const CACHE_STATUS: HeaderName = HeaderName::from_static("fly-replay-cache-status");
const CACHE_CONTROL: HeaderName = HeaderName::from_static("fly-replay-cache-control");

/// A request's head, as a machine gets it.
#[derive(Debug, Clone)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// The target, in origin form.
    pub uri: Uri,
    /// The fields,
    pub fields: Fields,
    /// beside them what the platform says in this request, unless it is among them,
    pub own: Option<OwnFields>,
    /// and in all of the client's requests.
    pub common: Option<Arc<ClientFields>>,
}

impl Head {
    /// The fields, those of the platform's in this request among them from here on: to be changed.
    pub fn map_mut(&mut self) -> &mut HeaderMap {
        let headers = self.fields.map_mut();
        if let Some(own) = self.own.take() {
            own.put(headers);
        }
        headers
    }

    /// All of the fields.
    pub fn to_map(&self) -> HeaderMap {
        let mut headers = self.fields.clone().into_map();
        if let Some(own) = &self.own {
            own.put(&mut headers);
        }
        if let Some(common) = &self.common {
            common.put(&mut headers);
        }
        headers
    }

    /// The value of the first field of this name.
    pub fn first(&self, name: &HeaderName) -> Option<&[u8]> {
        self.own.as_ref().and_then(|own| own.get(name)).or_else(|| self.fields.first(name))
    }

    /// What is asked for, in origin form.
    pub fn target(&self) -> &str {
        self.uri.path_and_query().map_or("/", PathAndQuery::as_str)
    }
}

/// A request on its way.
pub struct Journey {
    /// The app it goes to.
    pub app: AppName,
    /// Where in that app.
    pub wish: Wish,
    /// What is sent.
    pub head: Head,
    /// Until when a machine has to be found.
    pub reach_by: Option<Instant>,
    /// The host that the client asked for.
    host: Arc<str>,
    /// Where it began, once it has gone on from there. By address: hardly any request does.
    origin: Option<Box<Origin>>,
    replays: u32,
    /// By address: hardly any request has one.
    way_back: Option<Box<WayBack>>,
    /// It came back: it may not be replayed again.
    returned: bool,
    memory: Memory,
    /// An app may have been told of a machine that it does not get.
    told_unavailable: bool,
}

/// Where a request began.
struct Origin {
    app: AppName,
    wish: Wish,
    target: Uri,
}

/// Who gets the request back if it reaches nobody.
struct WayBack {
    app: AppName,
    wish: Wish,
    head: Head,
    orderer: MachineId,
    began: Instant,
}

/// What is remembered about requests like this one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Memory {
    /// Nothing.
    None,
    /// It goes where it was remembered to go.
    Hit(Key),
    /// The client wants to be routed anew.
    Bypass,
    /// What was remembered turned out to be wrong.
    Forgotten,
}

/// The machine that gave an order.
pub struct Orderer {
    /// Its app.
    pub app: AppName,
    /// Which.
    pub machine: MachineId,
    /// Where it runs.
    pub region: Region,
}

impl Orderer {
    /// The machine of this row.
    pub fn of(machine: &MachineRoute) -> Self {
        Self { app: machine.app.clone(), machine: machine.id.clone(), region: machine.region.clone() }
    }

    /// What to tell of a bad order that it gave.
    pub fn gave(&self, bad: &BadOrder) -> Refusal {
        Refusal::BadReplay { app: self.app.clone(), reason: bad.to_string() }
    }
}

/// What an app's configuration says about remembering, and what is remembered.
pub struct Recall<'a> {
    /// What is remembered of the app's replays.
    pub cache: &'a ReplayCache,
    /// How its sessions are told.
    pub rules: &'a [SessionRule],
}

impl Journey {
    /// A request that begins.
    pub fn new(app: AppName, wish: Wish, host: Arc<str>, head: Head) -> Self {
        Self {
            app,
            wish,
            head,
            reach_by: None,
            host,
            origin: None,
            replays: 0,
            way_back: None,
            returned: false,
            memory: Memory::None,
            told_unavailable: false,
        }
    }

    /// It goes on to somewhere else.
    fn leave(&mut self) {
        let Self { app, wish, head, .. } = self;
        self.origin
            .get_or_insert_with(|| Box::new(Origin { app: app.clone(), wish: wish.clone(), target: head.uri.clone() }));
    }

    /// The app that the client asked for.
    fn first_app(&self) -> &AppName {
        self.origin.as_ref().map_or(&self.app, |origin| &origin.app)
    }

    /// The path that the client asked for.
    fn first_path(&self) -> &str {
        self.origin.as_ref().map_or(&self.head.uri, |origin| &origin.target).path()
    }

    /// Tells the app whether its client gets another machine than the preferred one.
    pub fn tell_unavailable(&mut self, chosen: &MachineId) {
        if std::mem::take(&mut self.told_unavailable) {
            self.head.map_mut().remove(UNAVAILABLE);
        }
        if let Some(preferred) = self.wish.preferred().filter(|preferred| *preferred != chosen)
            && let Ok(value) = HeaderValue::from_str(preferred.as_str())
        {
            self.head.map_mut().insert(UNAVAILABLE, value);
            self.told_unavailable = true;
        }
    }

    /// Goes at once where requests like this were sent before, if that is remembered and `may` be.
    pub fn recall(&mut self, recall: &Recall<'_>, may: impl FnOnce(&AppName) -> bool, now: Instant) {
        let session = self.session(recall).and_then(|(_, session)| recall.cache.of_session(session, now));
        let found = session.or_else(|| recall.cache.of_path(&self.host, self.head.uri.path(), now));
        let Some((key, Remembered { app, wish, allow_bypass })) = found else { return };
        let skip = self.head.first(&CACHE_CONTROL) == Some(b"skip");
        if skip && allow_bypass {
            self.memory = Memory::Bypass;
        } else if may(&app) {
            self.leave();
            (self.app, self.wish, self.memory) = (app, wish, Memory::Hit(key));
            self.head.map_mut().insert(CACHE_STATUS, HeaderValue::from_static("hit"));
        } else {
            recall.cache.forget(&key);
        }
    }

    /// Carries out an order, and remembers it where it says so.
    pub fn follow(
        &mut self,
        order: ReplayOrder,
        from: &Orderer,
        recall: &Recall<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
        if self.returned {
            let reason = "came for a request that had come back: such a request is not replayed again";
            return Err(Refusal::BadReplay { app: from.app.clone(), reason: reason.into() });
        }
        if self.replays >= MAX_REPLAYS {
            return Err(Refusal::TooManyReplays { app: from.app.clone(), replays: self.replays });
        }
        let wish = order.wish(&from.machine);
        self.remember(&order, &wish, from, recall, now)?;
        self.leave();
        self.replays += 1;
        self.way_back = order.fallback.map(|fallback| Box::new(self.way_back(fallback, from, now)));
        self.reach_by = order.timeout.map(|timeout| now + timeout);
        transform(&mut self.head, &order.transform);
        let source = source(from, order.state.as_deref());
        self.head.map_mut().insert(REPLAY_SRC, source);
        self.head.map_mut().remove(REPLAY_FAILED);
        (self.app, self.wish) = (order.app.unwrap_or_else(|| from.app.clone()), wish);
        Ok(())
    }

    /// The machine could not be reached: who gets the request now, if anybody. Tells whether there is one.
    pub fn turn_back(&mut self, cause: &Refusal, recall: &Recall<'_>, now: Instant) -> bool {
        let Some(reason) = reason(cause) else { return false };
        if let Some(back) = self.way_back.take() {
            let failed = self.failed(&back, cause.machine(), reason, now);
            (self.app, self.wish, self.head) = (back.app, back.wish, back.head);
            self.head.map_mut().insert(REPLAY_FAILED, failed);
            (self.reach_by, self.returned) = (None, true);
            // The head is one of before.
            self.told_unavailable = true;
            return true;
        }
        let Memory::Hit(key) = &self.memory else { return false };
        if self.replays > 0 {
            return false;
        }
        recall.cache.forget(key);
        if let Some(origin) = &self.origin {
            (self.app, self.wish) = (origin.app.clone(), origin.wish.clone());
        }
        self.head.map_mut().remove(CACHE_STATUS);
        self.memory = Memory::Forgotten;
        true
    }

    /// Keeps or forgets, as an order says, and tells the next machine which of both.
    fn remember(
        &mut self,
        order: &ReplayOrder,
        wish: &Wish,
        from: &Orderer,
        recall: &Recall<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.head.map_mut().remove(CACHE_STATUS);
        if let (Some(CacheOrder::Invalidate), Memory::Hit(key)) = (&order.cache, &self.memory) {
            recall.cache.forget(key);
            self.memory = Memory::Forgotten;
            return Ok(());
        }
        let Some((key, ttl, allow_bypass)) = self.key(order, from, recall)? else { return Ok(()) };
        let app = order.app.clone().unwrap_or_else(|| from.app.clone());
        recall.cache.keep(key, Remembered { app, wish: wish.clone(), allow_bypass }, ttl, now);
        let status = if self.memory == Memory::Bypass { "bypass" } else { "miss" };
        self.head.map_mut().insert(CACHE_STATUS, HeaderValue::from_static(status));
        Ok(())
    }

    /// By what requests like this are remembered: only the first step from the app that the client asked for is.
    fn key(
        &self,
        order: &ReplayOrder,
        from: &Orderer,
        recall: &Recall<'_>,
    ) -> Result<Option<(Key, Duration, bool)>, Refusal> {
        let first = self.replays == 0 || self.memory == Memory::Forgotten;
        if from.app != *self.first_app() || !first || matches!(self.memory, Memory::Hit(_)) {
            return Ok(None);
        }
        if let Some(CacheOrder::Keep(rule)) = &order.cache {
            if !rule.pattern.matches(&self.host, self.first_path()) {
                return Err(from.gave(&BadOrder::Pattern(BadPattern::OtherRequest)));
            }
            let key = Key::Path { host: self.host.to_string(), path: rule.pattern.path.clone() };
            return Ok(Some((key, rule.ttl, rule.allow_bypass)));
        }
        let session = self.session(recall).filter(|_| order.of_one_request().is_none() && order.cache.is_none());
        Ok(session.map(|(rule, session)| {
            let ttl = Duration::from_secs(u64::from(rule.ttl_seconds.max(10)));
            (Key::Session(session), ttl, rule.allow_bypass)
        }))
    }

    /// The session of the request, by the rule with the longest prefix that its path has.
    fn session<'r>(&self, recall: &Recall<'r>) -> Option<(&'r SessionRule, super::cache::Session)> {
        let has = |rule: &&SessionRule| lies_below(self.first_path(), rule.path_prefix.trim_end_matches(['/', '*']));
        let rule = recall.rules.iter().filter(has).max_by_key(|rule| rule.path_prefix.len())?;
        let value = match rule.kind {
            SessionKind::Header => self.head.first(&rule.name.parse().ok()?)?,
            SessionKind::Cookie => cookie(&self.head.fields, &rule.name)?,
        };
        let told = !value.is_empty() && value.len() <= MAX_SESSION_BYTES;
        told.then(|| (rule, recall.cache.session(&self.host, &rule.path_prefix, &rule.name, value)))
    }

    fn way_back(&self, fallback: Fallback, from: &Orderer, began: Instant) -> WayBack {
        let strength = match fallback {
            Fallback::ForceSelf => Strength::Force,
            Fallback::PreferSelf => Strength::Prefer,
        };
        let wish = Wish { machine: Some((from.machine.clone(), strength)), ..Wish::default() };
        let mut head = self.head.clone();
        head.map_mut().remove(CACHE_STATUS);
        WayBack { app: from.app.clone(), wish, head, orderer: from.machine.clone(), began }
    }

    /// What whoever gets the request back is told.
    fn failed(&self, back: &WayBack, machine: Option<&MachineId>, reason: &str, now: Instant) -> HeaderValue {
        let wanted = self.wish.machine.as_ref().map(|(machine, _)| machine).or(machine);
        let mut text = wanted.map(|machine| format!("instance={machine};")).unwrap_or_default();
        text += &format!("app={};", self.app);
        if let Some((places, _)) = &self.wish.regions {
            let names: Vec<String> = places.iter().map(ToString::to_string).collect();
            text += &format!("region={};", names.join(","));
        }
        let elapsed_ms = now.saturating_duration_since(back.began).as_millis();
        text += &format!("replay_source={};reason={reason};elapsed_ms={elapsed_ms}", back.orderer);
        HeaderValue::from_str(&text).expect("names, ids and numbers are a field's value")
    }
}

/// The word for a failure that another machine may make good, because nothing has reached one yet.
fn reason(cause: &Refusal) -> Option<&'static str> {
    match cause {
        Refusal::NoMachine { .. } | Refusal::NotReady { .. } => Some("no_candidate"),
        Refusal::Full { .. } | Refusal::TooManyWaiting { .. } => Some("no_candidate"),
        Refusal::FullAtWorker { .. } | Refusal::Bounced { .. } | Refusal::UnknownToWorker { .. } => {
            Some("no_candidate")
        }
        Refusal::ConnectRefused { .. } | Refusal::Unreachable { .. } => Some("retries_exhausted"),
        Refusal::Exhausted { last, .. } => reason(last).map(|_| "retries_exhausted"),
        Refusal::ReplayTimeout { .. } => Some("timeout"),
        _ => None,
    }
}

fn transform(head: &mut Head, transform: &Transform) {
    if let Some(path) = &transform.path {
        head.uri = Uri::from(path.clone());
    }
    for name in &transform.delete {
        head.map_mut().remove(name);
    }
    for (name, value) in &transform.set {
        head.map_mut().insert(name.clone(), value.clone());
    }
}

/// Whoever gets a replayed request is told where it comes from.
fn source(from: &Orderer, state: Option<&str>) -> HeaderValue {
    let Orderer { machine, region, .. } = from;
    let micros = kit::clock::unix_ns() / 1000;
    let state = state.map(|state| format!(";state={state}")).unwrap_or_default();
    let text = format!("instance={machine};region={region};t={micros}{state}");
    HeaderValue::from_str(&text).expect("a state is plain ASCII")
}

/// The value of a cookie.
fn cookie<'a>(fields: &'a Fields, name: &str) -> Option<&'a [u8]> {
    // A machine gets them in one line.
    let list = fields.first(&http::header::COOKIE)?;
    let mut pairs = list.split(|byte| *byte == b';').filter_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        Some((pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii()))
    });
    pairs.find(|(key, _)| *key == name.as_bytes()).map(|(_, value)| value)
}
