//! What an app orders by `fly-replay`: to whom its request goes instead. Parsed strictly: an order that is half understood
//! would send a request where nobody meant it to go. Pure.
//!
//! ```text
//! fly-replay: app=users;region="ams,eu";state=captured        one or more fields, values quoted where they hold ; or ,
//! fly-replay-cache: /users/*                                  remember it for this path (or: invalidate)
//! fly-replay-cache-ttl-secs: 60                               so long
//! fly-replay-cache-allow-bypass: yes                          clients may ask to be routed anew
//! ```
//!
//! or an answer of the type `application/vnd.fly.replay+json` with the same fields, a transformation of the request and
//! the cache's rule.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE, uri::PathAndQuery};
use model::{AppName, MachineId};
use thiserror::Error;

use super::pattern::{BadPattern, Pattern};
use crate::{
    http1::Fields,
    wish::{Place, Strength, Wish, places},
};

/// The type of an answer that is an order.
pub const MEDIA_TYPE: &str = "application/vnd.fly.replay+json";
/// Bytes of an order in JSON, at most.
pub const MAX_JSON_BYTES: usize = 64 * 1024;
/// Bytes of a `state`, at most.
const MAX_STATE_BYTES: usize = 1024;
/// Fields that a transformation deletes or sets, at most.
const MAX_EDITS: usize = 64;
/// How long an order may be remembered: at least and at most.
const TTL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(24 * 3600));
/// The longest wait that can be ordered.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);

const REPLAY: HeaderName = HeaderName::from_static("fly-replay");
const CACHE: HeaderName = HeaderName::from_static("fly-replay-cache");
const CACHE_TTL: HeaderName = HeaderName::from_static("fly-replay-cache-ttl-secs");
const CACHE_BYPASS: HeaderName = HeaderName::from_static("fly-replay-cache-allow-bypass");

/// An app's order to send its request elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayOrder {
    /// To this app; to the same one unless given.
    pub app: Option<AppName>,
    /// To one of these regions, the first comes first.
    pub regions: Vec<Place>,
    /// To this machine.
    pub instance: Option<MachineId>,
    /// To this machine if it can take it, else to another.
    pub prefer_instance: Option<MachineId>,
    /// To any machine but the one that ordered it.
    pub elsewhere: bool,
    /// Told to whoever gets it.
    pub state: Option<String>,
    /// How long a machine is looked for.
    pub timeout: Option<Duration>,
    /// Who gets it back if none is found.
    pub fallback: Option<Fallback>,
    /// What changes in the request.
    pub transform: Transform,
    /// Whether the order is remembered.
    pub cache: Option<CacheOrder>,
}

/// Who gets a request back that could not be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The machine that ordered it, nobody else.
    ForceSelf,
    /// The machine that ordered it, or another of its app.
    PreferSelf,
}

/// What changes in a request that is replayed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transform {
    /// The new path, with its query.
    pub path: Option<PathAndQuery>,
    /// Fields that are taken away.
    pub delete: Vec<HeaderName>,
    /// Fields that are set.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

/// What an order says about remembering it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheOrder {
    /// Later requests go the same way at once.
    Keep(CacheRule),
    /// Forget what brought this request here.
    Invalidate,
}

/// How an order is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRule {
    /// For requests like this.
    pub pattern: Pattern,
    /// For so long.
    pub ttl: Duration,
    /// Clients may ask to be routed anew.
    pub allow_bypass: bool,
}

/// Why an order cannot be carried out. `Display` completes "its fly-replay …".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadOrder {
    /// It has no field, or no field that says where to.
    #[error("does not say where to: give app, region, instance, prefer_instance or elsewhere")]
    Nowhere,
    /// It is given twice.
    #[error("gives {0} twice")]
    Twice(String),
    /// Nobody knows this field.
    #[error("has the field {0:?}, which there is not")]
    Unknown(String),
    /// It cannot be taken apart.
    #[error("cannot be read: {0}")]
    Syntax(String),
    /// A field says something that it cannot.
    #[error("gives {field} as {value:?}: {wanted}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it says, shortened.
        value: String,
        /// What it could say.
        wanted: &'static str,
    },
    /// Two fields exclude each other.
    #[error("gives both {0} and {1}")]
    Both(&'static str, &'static str),
    /// The rule for remembering it cannot be used.
    #[error("has a cache rule that cannot be used: {0}")]
    Pattern(#[from] BadPattern),
    /// What is remembered must not depend on this one request.
    #[error("is to be remembered, and gives {0}, which belongs to one request only")]
    NotForCache(&'static str),
}

impl ReplayOrder {
    /// The order in the header of an answer; `None` if it gives none.
    pub fn of_headers(headers: &HeaderMap) -> Option<Result<Self, BadOrder>> {
        let mut lines = headers.get_all(REPLAY).iter();
        let line = lines.next()?;
        if lines.next().is_some() {
            return Some(Err(BadOrder::Twice("the field itself".into())));
        }
        Some(read_line(line).and_then(|mut order| {
            order.cache = cache_of(headers)?;
            order.checked()
        }))
    }

    /// Whether an answer with these fields is an order.
    pub fn is_in(fields: &Fields) -> bool {
        let (mut is_order, mut kind) = (false, None);
        fields.each(|name, value| {
            let is = |other: HeaderName| name.eq_ignore_ascii_case(other.as_str().as_bytes());
            match name.len() {
                10 => is_order |= is(REPLAY),
                12 if is(CONTENT_TYPE) => kind = kind.or(Some(value)),
                _ => {}
            }
        });
        is_order || kind.is_some_and(is_order_in_body)
    }

    /// The order in the body of an answer.
    pub fn of_body(body: &[u8]) -> Result<Self, BadOrder> {
        super::json::read(body)?.checked()
    }

    /// Where its request wants to go. `here` is the machine that gave the order.
    pub fn wish(&self, here: &MachineId) -> Wish {
        let prefer = || self.prefer_instance.clone().map(|machine| (machine, Strength::Prefer));
        Wish {
            regions: (!self.regions.is_empty()).then(|| (self.regions.clone(), Strength::Force)),
            machine: self.instance.clone().map(|machine| (machine, Strength::Force)).or_else(prefer),
            elsewhere: self.elsewhere.then(|| here.clone()),
        }
    }

    /// Sets a field to a text, as both forms spell it.
    pub(super) fn set(&mut self, field: &str, value: &str) -> Result<(), BadOrder> {
        match field {
            "app" => self.app = Some(parse("app", value, "an app's name")?),
            "region" => self.regions = regions(value)?,
            "instance" => self.instance = Some(parse("instance", value, "a machine id")?),
            "prefer_instance" => self.prefer_instance = Some(parse("prefer_instance", value, "a machine id")?),
            "elsewhere" => self.elsewhere = parse("elsewhere", value, "true or false")?,
            "state" => self.state = Some(state(value)?),
            "timeout" => self.timeout = Some(timeout(value)?),
            "fallback" => self.fallback = Some(fallback(value)?),
            unknown => return Err(BadOrder::Unknown(short(unknown))),
        }
        Ok(())
    }

    /// The order, if its fields go together.
    fn checked(self) -> Result<Self, BadOrder> {
        if self.instance.is_some() && self.prefer_instance.is_some() {
            return Err(BadOrder::Both("instance", "prefer_instance"));
        }
        let somewhere = self.app.is_some() || self.instance.is_some() || self.prefer_instance.is_some();
        if !somewhere && self.regions.is_empty() && !self.elsewhere {
            return Err(BadOrder::Nowhere);
        }
        let kept = matches!(self.cache, Some(CacheOrder::Keep(_)));
        match self.of_one_request().filter(|_| kept) {
            Some(field) => Err(BadOrder::NotForCache(field)),
            None => Ok(self),
        }
    }

    /// The field, if any, because of which the order is for one request only and is not remembered for others.
    pub fn of_one_request(&self) -> Option<&'static str> {
        let fields = [
            ("state", self.state.is_some()),
            ("transform", self.transform != Transform::default()),
            ("timeout", self.timeout.is_some()),
            ("fallback", self.fallback.is_some()),
        ];
        fields.into_iter().find(|(_, given)| *given).map(|(field, _)| field)
    }
}

/// Whether content of this type is an order.
fn is_order_in_body(kind: &[u8]) -> bool {
    let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(MEDIA_TYPE.as_bytes())
}

/// Reads `k=v;k="v"`.
fn read_line(line: &HeaderValue) -> Result<ReplayOrder, BadOrder> {
    let text = line.to_str().map_err(|_| BadOrder::Syntax("it is not plain ASCII".into()))?;
    let (mut order, mut seen) = (ReplayOrder::default(), Vec::new());
    for field in fields(text)? {
        let (name, value) = field.split_once('=').ok_or_else(|| BadOrder::Syntax(format!("{field:?} has no =")))?;
        let (name, value) = (name.trim(), unquoted(value.trim())?);
        if seen.contains(&name) {
            return Err(BadOrder::Twice(short(name)));
        }
        seen.push(name);
        order.set(name, value)?;
    }
    Ok(order)
}

/// The pieces between semicolons that stand in no quotes; empty ones are left out.
fn fields(text: &str) -> Result<Vec<&str>, BadOrder> {
    let (mut fields, mut start, mut quoted) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b';' if !quoted => {
                fields.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if quoted {
        return Err(BadOrder::Syntax("a quotation mark is not closed".into()));
    }
    fields.push(&text[start..]);
    Ok(fields.into_iter().map(str::trim).filter(|field| !field.is_empty()).collect())
}

fn unquoted(value: &str) -> Result<&str, BadOrder> {
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    if inner.contains('"') {
        return Err(BadOrder::Syntax("a quotation mark stands inside a value".into()));
    }
    Ok(inner)
}

fn cache_of(headers: &HeaderMap) -> Result<Option<CacheOrder>, BadOrder> {
    let Some(pattern) = headers.get(CACHE) else { return Ok(None) };
    let text = |value: &HeaderValue| value.to_str().unwrap_or("?").trim().to_owned();
    let pattern = text(pattern);
    if pattern == "invalidate" {
        return Ok(Some(CacheOrder::Invalidate));
    }
    let seconds = headers.get(CACHE_TTL).map(text).unwrap_or_default();
    let seconds = seconds.parse().map_err(|_| bad("fly-replay-cache-ttl-secs", &seconds, "give whole seconds"))?;
    let allow_bypass = match headers.get(CACHE_BYPASS).map(text).as_deref() {
        None | Some("no") => false,
        Some("yes") => true,
        Some(other) => return Err(bad("fly-replay-cache-allow-bypass", other, "yes or no")),
    };
    cache_rule(&pattern, seconds, allow_bypass).map(Some)
}

/// A rule, as both forms spell it.
pub(super) fn cache_rule(pattern: &str, ttl_seconds: u64, allow_bypass: bool) -> Result<CacheOrder, BadOrder> {
    let ttl = Duration::from_secs(ttl_seconds);
    if ttl < TTL.0 {
        return Err(bad("ttl", &ttl_seconds.to_string(), "10 seconds at least"));
    }
    Ok(CacheOrder::Keep(CacheRule { pattern: pattern.parse()?, ttl: ttl.min(TTL.1), allow_bypass }))
}

/// A transformation, as an order in JSON spells it.
pub(super) fn transform(
    path: Option<&str>,
    delete: &[String],
    set: &[(String, String)],
) -> Result<Transform, BadOrder> {
    if delete.len() + set.len() > MAX_EDITS {
        return Err(bad("transform", &format!("{} fields", delete.len() + set.len()), "64 at most"));
    }
    let wanted = "a path that begins with / and has no fragment";
    let target = |path: &str| match path.parse::<PathAndQuery>() {
        Ok(target) if path.starts_with('/') && !path.contains('#') => Ok(target),
        _ => Err(bad("transform.path", path, wanted)),
    };
    let set = set.iter().map(|(name, value)| {
        let text = HeaderValue::from_str(value).map_err(|_| bad("transform.set_headers", value, "a field's value"))?;
        Ok::<_, BadOrder>((editable(name)?, text))
    });
    Ok(Transform {
        path: path.map(target).transpose()?,
        delete: delete.iter().map(|name| editable(name)).collect::<Result<_, _>>()?,
        set: set.collect::<Result<_, _>>()?,
    })
}

/// The name of a field that an app may change: not one that frames or routes the request, nor one by which the platform
/// speaks.
fn editable(name: &str) -> Result<HeaderName, BadOrder> {
    let framing = ["connection", "content-length", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"];
    let parsed: Option<HeaderName> = name.parse().ok();
    let allowed = |name: &HeaderName| {
        !framing.contains(&name.as_str()) && !name.as_str().starts_with(':') && !crate::http::is_ours(name)
    };
    parsed.filter(allowed).ok_or_else(|| bad("a transformed field", name, "a field of the app's own"))
}

fn regions(list: &str) -> Result<Vec<Place>, BadOrder> {
    match places(list) {
        (places, None) if !places.is_empty() => Ok(places),
        _ => Err(bad("region", list, "regions separated by commas")),
    }
}

fn state(value: &str) -> Result<String, BadOrder> {
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b';' && byte != b'"';
    if value.len() > MAX_STATE_BYTES || !value.bytes().all(plain) {
        return Err(bad("state", value, "plain ASCII without ; and \", 1 KiB at most"));
    }
    Ok(value.to_owned())
}

fn timeout(value: &str) -> Result<Duration, BadOrder> {
    let wrong = || bad("timeout", value, "such as 10s or 500ms, ten minutes at most");
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = value[..digits].parse().map_err(|_| wrong())?;
    let timeout = match &value[digits..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err(wrong()),
    };
    if timeout.is_zero() || timeout > MAX_TIMEOUT { Err(wrong()) } else { Ok(timeout) }
}

fn fallback(value: &str) -> Result<Fallback, BadOrder> {
    match value {
        "force_self" => Ok(Fallback::ForceSelf),
        "prefer_self" => Ok(Fallback::PreferSelf),
        _ => Err(bad("fallback", value, "force_self or prefer_self")),
    }
}

fn parse<T: std::str::FromStr>(field: &'static str, value: &str, wanted: &'static str) -> Result<T, BadOrder> {
    value.parse().map_err(|_| bad(field, value, wanted))
}

fn bad(field: &'static str, value: &str, wanted: &'static str) -> BadOrder {
    BadOrder::Value { field, value: short(value), wanted }
}

fn short(value: &str) -> String {
    value.chars().take(100).collect()
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
