//! Health checks: of a service (they take part in routing) and of the app, by name.

use std::collections::BTreeMap;

use model::{
    GoDuration,
    machine::{Check, CheckKind, config::CheckHeader},
};

use crate::{
    document::Scoped,
    processes::Groups,
    read::{BareNumber, Field, Section},
    unsupported::{self, Without},
};

const SHORTEST: GoDuration = GoDuration::from_secs(1);
const LONGEST: GoDuration = GoDuration::from_secs(60);
/// The shortest time between two looks of a check that has a name.
const SHORTEST_INTERVAL: GoDuration = GoDuration::from_secs(2);

/// Reads a service's checks of one kind. Unwise times are only warned of.
pub(crate) fn of_service(service: &Section<'_>, key: &'static str, kind: CheckKind, bare: BareNumber) -> Vec<Check> {
    let sections = service.get(key).map(|field| field.sections()).unwrap_or_default();
    sections
        .into_iter()
        .map(|section| {
            let check = read(&section, kind, bare);
            for (key, value) in
                [("interval", check.interval), ("timeout", check.timeout), ("grace_period", check.grace_period)]
            {
                if let (Some(field), Some(value)) = (section.get(key), value)
                    && (value > LONGEST || (value < SHORTEST && key != "grace_period"))
                {
                    field.warning(format!("`{}` is {value}", field.path), "between 1s and 1m is usual");
                }
            }
            section.finish();
            check
        })
        .collect()
}

/// Reads `[checks.<name>]`, or the older `[[checks]]` with `name`. A check without a port looks at `http_port`.
pub(crate) fn named(top: &Section<'_>, groups: &Groups, http_port: Option<u16>) -> BTreeMap<String, Scoped<Check>> {
    let mut checks = BTreeMap::new();
    let Some(field) = top.get("checks") else { return checks };
    for (name, section) in named_sections(&field) {
        if let Some(check) = named_check(section, groups, http_port)
            && checks.insert(name.clone(), check).is_some()
        {
            field.error(format!("check `{name}` is given twice"), "give each check its own name");
        }
    }
    checks
}

fn named_sections<'t>(field: &Field<'t>) -> Vec<(String, Section<'t>)> {
    if field.is_array() {
        let sections = field.sections().into_iter();
        return sections
            .filter_map(|section| {
                let name = section.need("name", "add `name = \"alive\"`")?.string()?;
                Some((name, section))
            })
            .collect();
    }
    let Some(section) = field.section() else { return Vec::new() };
    section.entries().into_iter().filter_map(|(name, field)| Some((name, field.section()?))).collect()
}

fn named_check(section: Section<'_>, groups: &Groups, http_port: Option<u16>) -> Option<Scoped<Check>> {
    let processes = groups.scope(&section);
    let kinds = [("http", CheckKind::Http), ("tcp", CheckKind::Tcp)];
    let kind = section.need("type", "add `type = \"http\"` or `type = \"tcp\"`").and_then(|field| field.word(&kinds));
    let mut check = read(&section, kind.unwrap_or_default(), BareNumber::Milliseconds);
    check.port = check.port.or(http_port);
    if check.port.is_none() && section.get("port").is_none() {
        section.error(format!("{} has no port", section.name()), "add `port = 8080`, the port the app listens on");
    }
    if let Some(field) = section.get("interval")
        && check.interval.is_some_and(|interval| interval < SHORTEST_INTERVAL)
    {
        field.bad(format!("`{}` is shorter than {SHORTEST_INTERVAL}", field.path), "use \"2s\" or more");
    }
    if let Some(field) = section.get("timeout")
        && check.timeout.is_some_and(|timeout| timeout > LONGEST)
    {
        field.bad(format!("`{}` is longer than {LONGEST}", field.path), "use \"60s\" or less");
    }
    section.finish();
    kind.map(|_| Scoped { processes, value: check })
}

fn read(section: &Section<'_>, kind: CheckKind, bare: BareNumber) -> Check {
    let duration = |key| section.get(key).and_then(|field| field.duration(bare));
    let check = Check {
        kind,
        port: section.get("port").and_then(|field| field.port()),
        interval: duration("interval"),
        timeout: duration("timeout"),
        grace_period: duration("grace_period"),
        method: section.get("method").and_then(|field| method(&field)),
        path: section.get("path").and_then(|field| path(&field)),
        headers: section.get("headers").map(|field| headers(&field)).unwrap_or_default(),
        ..Check::default()
    };
    if let Some(field) = section.get("protocol")
        && field.word(&[("http", "http"), ("https", "https")]) == Some("https")
    {
        unsupported::tell(&field, Without::Broken, "checks speak plain HTTP; check a plain port, or use a tcp check");
    }
    unsupported::note(section, unsupported::CHECK);
    check
}

fn method(field: &Field<'_>) -> Option<String> {
    let method = field.string()?.to_ascii_uppercase();
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
    if !known.contains(&method.as_str()) {
        field
            .bad(format!("{method:?} is not an HTTP method that a check can use"), format!("use {}", known.join(", ")));
        return None;
    }
    Some(method)
}

fn path(field: &Field<'_>) -> Option<String> {
    let path = field.string()?;
    if !path.starts_with('/') || path.contains(|c: char| c.is_ascii_control() || c == ' ') {
        field.bad(format!("{path:?} is not a path"), "begin it with `/` and leave out spaces");
        return None;
    }
    Some(path)
}

/// Header fields: a table whose values are a text or a list of texts.
fn headers(field: &Field<'_>) -> Vec<CheckHeader> {
    let entries = field.sections().into_iter().flat_map(|section| section.entries());
    entries.filter_map(|(name, value)| header(name, &value)).collect()
}

fn header(name: String, field: &Field<'_>) -> Option<CheckHeader> {
    let values = field.string_or_strings()?;
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) || values.iter().any(|value| value.contains(['\r', '\n', '\0'])) {
        field.error(format!("{name:?} is not a header field that can be sent"), "see RFC 9110, section 5");
        return None;
    }
    Some(CheckHeader { name, values })
}
