//! The HTTP options of a service or a port: `http_options`.

use std::collections::BTreeMap;

use model::machine::{HeaderEdit, HttpOptions, ReplayCache, ResponseOptions, SessionKind};

use crate::read::{Field, Section};

/// No connection lies idle for longer than this anyway: a day, in seconds.
const MAX_IDLE_S: u32 = 86_400;
/// How long the header of a request may take at most, in seconds.
const MAX_HEADER_S: u32 = 600;
/// For how many seconds a replay may be remembered.
const REPLAY_TTL_S: std::ops::RangeInclusive<u32> = 10..=604_800;

/// Reads `http_options`.
pub(crate) fn http_options(section: Section<'_>) -> HttpOptions {
    let seconds = |key, most| section.get(key).and_then(|field| field.count(1..=most));
    let options = HttpOptions {
        compress: section.get("compress").and_then(|field| field.boolean()),
        response: section.get("response").and_then(|field| field.section()).map(response),
        h2_backend: section.get("h2_backend").and_then(|field| field.boolean()).unwrap_or_default(),
        idle_timeout: seconds("idle_timeout", MAX_IDLE_S),
        headers_read_timeout: seconds("headers_read_timeout", MAX_HEADER_S),
        replay_cache: replay_cache(&section),
        ..HttpOptions::default()
    };
    section.finish();
    options
}

fn response(section: Section<'_>) -> ResponseOptions {
    let headers = section.get("headers").and_then(|field| field.section());
    let options = ResponseOptions {
        headers: headers.map(|headers| header_edits(&headers)).unwrap_or_default(),
        pristine: section.get("pristine").and_then(|field| field.boolean()).unwrap_or_default(),
        ..ResponseOptions::default()
    };
    section.finish();
    options
}

fn header_edits(section: &Section<'_>) -> BTreeMap<String, HeaderEdit> {
    let edit = |(name, field): (String, Field<'_>)| {
        if !is_field_name(&name) {
            field.error(format!("{name:?} is not the name of a header field"), "use letters, digits and dashes");
            return None;
        }
        header_edit(&field).map(|edit| (name, edit))
    };
    section.entries().into_iter().filter_map(edit).collect()
}

/// A text, a list of texts, or `false`.
fn header_edit(field: &Field<'_>) -> Option<HeaderEdit> {
    if field.is_boolean() {
        if field.boolean() == Some(false) {
            return Some(HeaderEdit::Remove);
        }
        field.bad(
            "`true` is not the value of a header field".to_owned(),
            "write the value, or false to remove the field",
        );
        return None;
    }
    let values = field.string_or_strings()?;
    if let Some(value) = values.iter().find(|value| !is_field_value(value)) {
        field.bad(format!("{value:?} cannot stand in a header field"), "leave out line breaks and control characters");
        return None;
    }
    Some(HeaderEdit::Set(values))
}

/// A token (RFC 9110, 5.6.2).
fn is_field_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn is_field_value(value: &str) -> bool {
    value.bytes().all(|byte| byte == b'\t' || (0x20..0x7f).contains(&byte) || byte >= 0x80)
}

fn replay_cache(section: &Section<'_>) -> Vec<ReplayCache> {
    let places = section.get("replay_cache").map(|field| field.sections()).unwrap_or_default();
    places.into_iter().filter_map(replay_place).collect()
}

fn replay_place(section: Section<'_>) -> Option<ReplayCache> {
    let kinds = [("cookie", SessionKind::Cookie), ("header", SessionKind::Header)];
    let path_prefix = section.need("path_prefix", "add `path_prefix = \"/\"`").and_then(|field| path_prefix(&field));
    let ttl_seconds = section.need("ttl_seconds", "add `ttl_seconds = 60`").and_then(|field| field.count(REPLAY_TTL_S));
    let kind = section.need("type", "add `type = \"cookie\"` or `\"header\"`").and_then(|field| field.word(&kinds));
    let name =
        section.need("name", "add the name of the cookie or header field").and_then(|field| session_name(&field));
    let allow_bypass = section.get("allow_bypass").and_then(|field| field.boolean()).unwrap_or_default();
    section.finish();
    Some(ReplayCache {
        path_prefix: path_prefix?,
        ttl_seconds: ttl_seconds?,
        kind: kind?,
        name: name?,
        allow_bypass,
        ..ReplayCache::default()
    })
}

fn path_prefix(field: &Field<'_>) -> Option<String> {
    let path = field.string()?;
    if !path.starts_with('/') {
        field.bad(format!("{path:?} is not the beginning of a path"), "begin it with `/`");
        return None;
    }
    Some(path)
}

fn session_name(field: &Field<'_>) -> Option<String> {
    let name = field.string()?;
    if !is_field_name(&name) {
        field.bad(
            format!("{name:?} is not the name of a cookie or a header field"),
            "use letters, digits, dashes and underscores",
        );
        return None;
    }
    Some(name)
}
