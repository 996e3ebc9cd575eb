//! What the edge offers to the outside: `[http_service]`, `[[services]]`.

use model::{
    GoDuration,
    machine::{
        AutoStop, CheckKind, Concurrency, ConcurrencyKind, Handler, Port, Protocol, ProxyProtoOptions,
        ProxyProtoVersion, Service, TlsOptions,
    },
};

use crate::{
    check,
    document::Scoped,
    http_options::http_options,
    processes::Groups,
    read::{BareNumber, Field, Section},
    storage::sections,
    unsupported::{self, Without},
};

/// Reads `[http_service]`: a service on the public ports 80 and 443.
pub(crate) fn http_service(top: &Section<'_>, groups: &Groups) -> Option<Scoped<Service>> {
    let section = top.get("http_service")?.section()?;
    let (processes, mut service) = common(&section, groups);
    let force_https = section.get("force_https").and_then(|field| field.boolean()).unwrap_or_default();
    let http_options = section.get("http_options").and_then(|field| field.section()).map(http_options);
    let tls_options = section.get("tls_options").and_then(|field| field.section()).map(tls_options);
    let port = |port, handlers: &[Handler]| Port {
        port: Some(port),
        handlers: handlers.to_vec(),
        http_options: http_options.clone(),
        ..Port::default()
    };
    service.ports = vec![
        Port { force_https, ..port(80, &[Handler::Http]) },
        Port { tls_options, ..port(443, &[Handler::Tls, Handler::Http]) },
    ];
    service.checks = check::of_service(&section, "checks", CheckKind::Http, BareNumber::Nanoseconds);
    section.finish();
    Some(Scoped { processes, value: service })
}

/// Reads `[[services]]`.
pub(crate) fn services(top: &Section<'_>, groups: &Groups) -> Vec<Scoped<Service>> {
    sections(top, &["services"]).into_iter().map(|section| service(section, groups)).collect()
}

fn service(section: Section<'_>, groups: &Groups) -> Scoped<Service> {
    let (processes, mut service) = common(&section, groups);
    service.protocol = section.get("protocol").and_then(|field| protocol(&field)).unwrap_or_default();
    service.ports = sections(&section, &["ports"]).into_iter().map(|section| port(section, &service)).collect();
    if service.ports.is_empty() {
        section.warning(
            format!("{} has no ports, so nothing from outside reaches it", section.name()),
            "add [[services.ports]] with `port` and `handlers`, or remove the service",
        );
    }
    service.checks = check::of_service(&section, "tcp_checks", CheckKind::Tcp, BareNumber::Milliseconds);
    service.checks.extend(check::of_service(&section, "http_checks", CheckKind::Http, BareNumber::Milliseconds));
    section.finish();
    Scoped { processes, value: service }
}

/// What both kinds of service have.
fn common(section: &Section<'_>, groups: &Groups) -> (Vec<String>, Service) {
    let processes = groups.scope(section);
    groups.need_scope(section, &processes);
    let internal_port = section.need("internal_port", "add `internal_port = 8080`, the port the app listens on");
    let service = Service {
        internal_port: internal_port.and_then(|field| field.port()).unwrap_or_default(),
        autostop: section.get("auto_stop_machines").and_then(|field| auto_stop(&field)).unwrap_or_default(),
        autostop_after: section.get("auto_stop_after").and_then(|field| auto_stop_after(&field)),
        // The API starts nobody unless told to; the file starts them unless told not to.
        autostart: Some(section.get("auto_start_machines").and_then(|field| field.boolean()).unwrap_or(true)),
        min_machines_running: section.get("min_machines_running").and_then(|field| field.count(0..=10_000)),
        concurrency: section.get("concurrency").map(|field| concurrency(&field)).unwrap_or_default(),
        ..Service::default()
    };
    unsupported::note(section, SERVICE);
    check_sleep(section, &service);
    (processes, service)
}

const SERVICE: &[unsupported::NotYet] = &[
    ("machine_checks", Without::Less, "no test machine is run during a deploy; health checks are"),
    ("force_instance_key", Without::Less, "every machine of the service gets requests"),
    ("proxy_proto_options", Without::Broken, "write it under the [[services.ports]] whose handlers name `proxy_proto`"),
];

/// The older files say `true` and `false`.
fn auto_stop(field: &Field<'_>) -> Option<AutoStop> {
    if field.is_boolean() {
        return field.boolean().map(|stops| if stops { AutoStop::Stop } else { AutoStop::Off });
    }
    field.word(&[("off", AutoStop::Off), ("stop", AutoStop::Stop), ("suspend", AutoStop::Suspend), ("", AutoStop::Off)])
}

fn auto_stop_after(field: &Field<'_>) -> Option<GoDuration> {
    let after = field.duration(BareNumber::Seconds)?;
    let sensible = (1..=24 * 3600).contains(&after.0.as_secs());
    if !sensible {
        field.bad(
            format!("{after} is no time after which a machine can be idle"),
            "write a time from \"1s\" to \"24h\"",
        );
    }
    sensible.then_some(after)
}

/// What is stopped must be started again by somebody.
fn check_sleep(section: &Section<'_>, service: &Service) {
    if service.autostop != AutoStop::Off && service.autostart == Some(false) {
        section.warning(
            format!("{} stops its machines when they are idle and starts none for a request", section.name()),
            "set `auto_start_machines = true`, or start them with `dunlin machine start`",
        );
    }
}

fn protocol(field: &Field<'_>) -> Option<Protocol> {
    field.word(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)])
}

fn port(section: Section<'_>, service: &Service) -> Port {
    let number = |key| section.get(key).and_then(|field| field.port());
    let port = Port {
        port: number("port"),
        start_port: number("start_port"),
        end_port: number("end_port"),
        handlers: section.get("handlers").map(|field| handlers(&field)).unwrap_or_default(),
        force_https: section.get("force_https").and_then(|field| field.boolean()).unwrap_or_default(),
        tls_options: section.get("tls_options").and_then(|field| field.section()).map(tls_options),
        http_options: section.get("http_options").and_then(|field| field.section()).map(http_options),
        proxy_proto_options: section
            .get("proxy_proto_options")
            .and_then(|field| field.section())
            .map(proxy_proto_options),
        ..Port::default()
    };
    check_numbers(&section, &port);
    check_handlers(&section, &port.handlers);
    if service.protocol == Protocol::Udp {
        check_datagrams(&section, &port, service.internal_port);
    }
    if port.force_https && port.handlers != [Handler::Http] {
        section.error("`force_https` needs the handler `http` alone", "use `handlers = [\"http\"]` on this port");
    }
    section.finish();
    port
}

/// A port, or a range, and not both.
fn check_numbers(section: &Section<'_>, port: &Port) {
    let given = |key| section.get(key).is_some();
    let range = (given("start_port"), given("end_port"));
    let good = match (given("port"), range) {
        (true, (false, false)) => true,
        (false, (true, true)) => port.start_port.zip(port.end_port).is_none_or(|(start, end)| start <= end),
        _ => false,
    };
    if !good {
        let help = "give `port`, or `start_port` and a larger `end_port`";
        section.error(format!("{} is neither one port nor a range", section.name()), help);
    }
}

/// TLS ends before HTTP is read, whichever is named first.
fn handlers(field: &Field<'_>) -> Vec<Handler> {
    let words = [
        ("http", Some(Handler::Http)),
        ("tls", Some(Handler::Tls)),
        ("pg_tls", Some(Handler::PgTls)),
        ("proxy_proto", Some(Handler::ProxyProto)),
        ("edge_http", None),
    ];
    let mut handlers = Vec::new();
    for item in field.items().unwrap_or_default() {
        match item.word(&words) {
            Some(Some(handler)) => handlers.push(handler),
            Some(None) => {
                let name = item.string().unwrap_or_default();
                item.bad(format!("handler `{name}` is not known any more"), "use `http`");
            }
            None => {}
        }
    }
    handlers.sort_by_key(|handler| *handler == Handler::Http);
    handlers
}

/// What is different where datagrams come.
fn check_datagrams(section: &Section<'_>, port: &Port, internal_port: u16) {
    if !port.handlers.is_empty() {
        section.error(format!("{}: UDP has no handlers", section.name()), "take `handlers` out");
    }
    if port.port == Some(443) {
        let help = "choose another port: HTTP/3 of all apps comes there";
        section.error(format!("{}: UDP port 443 is not for one app", section.name()), help);
    }
    if port.port.is_some_and(|port| port != internal_port) {
        let help = "let the app listen on the public port, and give the same `internal_port`";
        section.warning(format!("{}: datagrams keep the public port's number", section.name()), help);
    }
}

fn check_handlers(section: &Section<'_>, handlers: &[Handler]) {
    if handlers.windows(2).any(|pair| pair[0] == pair[1]) {
        section.error(format!("{} names a handler twice", section.name()), "name each handler once");
    }
    let has = |handler| handlers.contains(&handler);
    if has(Handler::PgTls) && (has(Handler::Tls) || has(Handler::Http)) {
        let help = "use `pg_tls` alone, or with `proxy_proto`";
        section.error(format!("{}: `pg_tls` ends TLS itself, in PostgreSQL's way", section.name()), help);
    }
    if has(Handler::ProxyProto) && has(Handler::Http) {
        let help = "take `proxy_proto` out: the header fields `Fly-Client-IP` and `X-Forwarded-For` name the client";
        section.error(format!("{}: `proxy_proto` does not go with `http`", section.name()), help);
    }
}

fn tls_options(section: Section<'_>) -> TlsOptions {
    let versions = [("TLSv1.2", "TLSv1.2"), ("TLSv1.3", "TLSv1.3")];
    let versions = section
        .get("versions")
        .and_then(|field| field.items())
        .unwrap_or_default()
        .iter()
        .filter_map(|item| item.word(&versions))
        .map(str::to_owned)
        .collect();
    let alpn = section.get("alpn").and_then(|field| field.strings()).unwrap_or_default();
    let default_self_signed = section.get("default_self_signed").and_then(|field| field.boolean()).unwrap_or_default();
    section.finish();
    TlsOptions { alpn, versions, default_self_signed, ..TlsOptions::default() }
}

fn proxy_proto_options(section: Section<'_>) -> ProxyProtoOptions {
    let versions = [("v1", ProxyProtoVersion::V1), ("v2", ProxyProtoVersion::V2)];
    let version = section.get("version").and_then(|field| field.word(&versions)).unwrap_or_default();
    section.finish();
    ProxyProtoOptions { version, ..ProxyProtoOptions::default() }
}

/// Reads `concurrency`: a table, or the older text `"soft,hard"`, which counts requests.
fn concurrency(field: &Field<'_>) -> Concurrency {
    if field.is_string() {
        return old_concurrency(field).unwrap_or_default();
    }
    let Some(section) = field.section() else { return Concurrency::default() };
    let kinds = [("connections", ConcurrencyKind::Connections), ("requests", ConcurrencyKind::Requests)];
    let limit = |key| section.get(key).and_then(|field| field.count(1..=1_000_000));
    let limits = Concurrency {
        kind: section.get("type").and_then(|field| field.word(&kinds)).unwrap_or_default(),
        soft_limit: limit("soft_limit"),
        hard_limit: limit("hard_limit"),
        ..Concurrency::default()
    };
    if let (Some(soft), Some(hard)) = (limits.soft_limit, limits.hard_limit)
        && soft > hard
    {
        section
            .warning(format!("soft_limit {soft} is above hard_limit {hard}, so it has no effect"), "make it smaller");
    }
    section.finish();
    limits
}

fn old_concurrency(field: &Field<'_>) -> Option<Concurrency> {
    let text = field.string()?;
    let limits = text.split_once(',').and_then(|(soft, hard)| {
        let limit = |text: &str| text.trim().parse::<u32>().ok().filter(|limit| *limit > 0);
        Some((limit(soft)?, limit(hard)?))
    });
    let Some((soft, hard)) = limits else {
        field.bad(format!("{text:?} is not a pair of limits"), "write \"20,25\" (soft, hard), or a table");
        return None;
    };
    let kind = ConcurrencyKind::Requests;
    Some(Concurrency { kind, soft_limit: Some(soft), hard_limit: Some(hard), ..Concurrency::default() })
}
