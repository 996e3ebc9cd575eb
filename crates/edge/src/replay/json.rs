//! An order in JSON, field by field. A field that nobody knows is a mistake, not a comment.

use serde::Deserialize;

use super::order::{self, BadOrder, CacheOrder, MAX_JSON_BYTES, ReplayOrder};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    app: Option<String>,
    region: Option<String>,
    instance: Option<String>,
    prefer_instance: Option<String>,
    elsewhere: Option<bool>,
    state: Option<String>,
    timeout: Option<String>,
    fallback: Option<String>,
    transform: Option<Transform>,
    cache: Option<Cache>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Transform {
    path: Option<String>,
    #[serde(default)]
    delete_headers: Vec<String>,
    #[serde(default)]
    set_headers: Vec<Header>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cache {
    prefix: Option<String>,
    #[serde(alias = "ttl_secs", alias = "ttl_seconds")]
    ttl: Option<u64>,
    #[serde(default)]
    invalidate: bool,
    #[serde(default)]
    allow_bypass: bool,
}

/// Reads an order; its fields may still contradict each other.
pub fn read(body: &[u8]) -> Result<ReplayOrder, BadOrder> {
    if body.len() > MAX_JSON_BYTES {
        return Err(BadOrder::Syntax("an order has 64 KiB at most".into()));
    }
    let document: Document = serde_json::from_slice(body).map_err(|error| BadOrder::Syntax(error.to_string()))?;
    let mut order = ReplayOrder { elsewhere: document.elsewhere.unwrap_or(false), ..ReplayOrder::default() };
    for (field, value) in [
        ("app", document.app),
        ("region", document.region),
        ("instance", document.instance),
        ("prefer_instance", document.prefer_instance),
        ("state", document.state),
        ("timeout", document.timeout),
        ("fallback", document.fallback),
    ] {
        if let Some(value) = value {
            order.set(field, &value)?;
        }
    }
    if let Some(Transform { path, delete_headers, set_headers }) = document.transform {
        let set: Vec<_> = set_headers.into_iter().map(|header| (header.name, header.value)).collect();
        order.transform = order::transform(path.as_deref(), &delete_headers, &set)?;
    }
    order.cache = document.cache.map(cache).transpose()?;
    Ok(order)
}

fn cache(cache: Cache) -> Result<CacheOrder, BadOrder> {
    match cache {
        Cache { invalidate: true, prefix: None, ttl: None, .. } => Ok(CacheOrder::Invalidate),
        Cache { invalidate: true, .. } => Err(BadOrder::Both("cache.invalidate", "a rule to remember it by")),
        Cache { prefix: Some(prefix), ttl: Some(ttl), allow_bypass, .. } => {
            order::cache_rule(&prefix, ttl, allow_bypass)
        }
        _ => Err(BadOrder::Syntax("cache needs prefix and ttl".into())),
    }
}
