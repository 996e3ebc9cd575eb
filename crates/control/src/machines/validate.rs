//! Whether a machine can be made of a configuration. Pure. Every problem is told at once, with the key it is about.

use model::machine::{
    Check, CpuKind, FileSpec, Guest, Handler, MAX_STATICS, MachineConfig, Mount, Port, Protocol, Restart, Service,
    Static, StopConfig, TlsOptions,
};

use crate::error::Error;

/// Signals by which a program may be asked to end.
const STOP_SIGNALS: [&str; 8] = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGSTOP"];
const MAX_STOP_TIMEOUT_S: u64 = 300;
const MAX_ENV_BYTES: usize = 256 * 1024;
const MAX_FILES_BYTES: usize = 1024 * 1024;
const MAX_METADATA: usize = 100;
const MAX_METADATA_BYTES: usize = 4096;
const MAX_SERVICES: usize = 32;
const MAX_CHECKS: usize = 32;
const MAX_PORTS: usize = 64;
const MAX_VOLUME_GB: u32 = 500;

/// Refuses a configuration that no machine can be made of.
pub(crate) fn check(config: &MachineConfig) -> Result<(), Error> {
    let unsupported = config.unsupported();
    if !unsupported.is_empty() {
        return Err(Error::Unsupported(unsupported));
    }
    let problems = problems(config);
    if problems.is_empty() { Ok(()) } else { Err(Error::Invalid(problems)) }
}

/// What is wrong with a configuration, each with its key in front.
fn problems(config: &MachineConfig) -> Vec<String> {
    let mut problems = Vec::new();
    let mut note = |key: &str, found: Vec<String>| {
        problems.extend(found.into_iter().map(|problem| format!("config.{key}: {problem}")));
    };
    note("image", image(&config.image));
    note("guest", guest(&config.guest));
    note("env", env(config));
    note("metadata", config.metadata.iter().flat_map(|(key, value)| metadata(key, value)).collect());
    note("restart", restart(&config.restart));
    note("stop_config", stop(&config.stop_config));
    note("mounts", mounts(&config.mounts));
    note("files", files(&config.files));
    note("statics", statics(&config.statics));
    if config.metadata.len() > MAX_METADATA {
        note("metadata", vec![format!("more than {MAX_METADATA} entries")]);
    }
    if config.services.len() > MAX_SERVICES {
        note("services", vec![format!("more than {MAX_SERVICES} services")]);
    }
    for (index, item) in config.services.iter().enumerate() {
        note(&format!("services[{index}]"), service(item));
    }
    for (name, item) in &config.checks {
        let port = item.port.is_none().then(|| "port is missing".to_owned());
        note(&format!("checks.{name}"), port.into_iter().chain(health_check(item)).collect());
    }
    problems
}

fn image(image: &str) -> Vec<String> {
    match image.parse::<model::Reference>() {
        Ok(_) => Vec::new(),
        Err(_) if image.is_empty() => vec!["name an image, such as registry/repository:tag".into()],
        Err(error) => vec![error.to_string()],
    }
}

/// The sizes that exist: a machine's memory goes with its CPUs.
fn guest(guest: &Guest) -> Vec<String> {
    let (cpus, least, most, step): (&[u32], _, _, _) = match guest.cpu_kind {
        CpuKind::Shared => (&[1, 2, 4, 6, 8], 256, 2048, 256),
        CpuKind::Performance => (&[1, 2, 4, 6, 8, 10, 12, 14, 16, 32, 64, 128], 2048, 8192, 1024),
    };
    if !cpus.contains(&guest.cpus) {
        return vec![format!("{} CPUs are not offered; use one of {cpus:?}", guest.cpus)];
    }
    let (least, most) = (least * guest.cpus, most * guest.cpus);
    if !(least..=most).contains(&guest.memory_mb) || !guest.memory_mb.is_multiple_of(step) {
        return vec![format!(
            "{} MB of memory do not go with {} CPUs; use {least} to {most} MB in steps of {step}",
            guest.memory_mb, guest.cpus
        )];
    }
    Vec::new()
}

/// The one name of the platform's own that clients set.
const CLIENT_SET: &str = "FLY_PROCESS_GROUP";

fn env(config: &MachineConfig) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, value) in &config.env {
        if name.starts_with("FLY_") && name != CLIENT_SET {
            problems.push(format!("{name} belongs to the platform; choose a name that does not begin with FLY_"));
        }
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            problems.push(format!("{name:?} cannot be set: names have no '=', and nothing has a NUL character"));
        }
    }
    let bytes: usize = config.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if bytes > MAX_ENV_BYTES {
        problems.push(format!("{bytes} bytes of environment; {MAX_ENV_BYTES} at most"));
    }
    problems
}

/// What is wrong with one entry of a machine's metadata.
pub(crate) fn metadata(key: &str, value: &str) -> Option<String> {
    let good = !key.is_empty() && key.len() <= 128 && !key.contains('\0') && !value.contains('\0');
    if !good {
        return Some(format!("{key:?} is not a key: use 1 to 128 bytes without NUL"));
    }
    (value.len() > MAX_METADATA_BYTES).then(|| format!("{key}: more than {MAX_METADATA_BYTES} bytes"))
}

fn restart(restart: &Restart) -> Vec<String> {
    let many = restart.max_retries.filter(|retries| *retries > 1000);
    many.map(|retries| format!("{retries} retries; 1000 at most")).into_iter().collect()
}

fn stop(stop: &StopConfig) -> Vec<String> {
    let signal = stop.signal.as_deref().filter(|signal| !signal.is_empty() && !STOP_SIGNALS.contains(signal));
    let timeout = stop.timeout.filter(|timeout| timeout.0.as_secs() > MAX_STOP_TIMEOUT_S);
    let signal = signal.map(|signal| format!("{signal:?} is not one of {}", STOP_SIGNALS.join(", ")));
    let timeout = timeout.map(|timeout| format!("a timeout of {timeout}; {MAX_STOP_TIMEOUT_S} s at most"));
    signal.into_iter().chain(timeout).collect()
}

fn mounts(mounts: &[Mount]) -> Vec<String> {
    let mut problems = Vec::new();
    if mounts.len() > 1 {
        problems.push("a machine has one volume at most".to_owned());
    }
    for mount in mounts {
        let name = &mount.name;
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || name.len() > 30 || !name.chars().all(inner) {
            problems
                .push(format!("{name:?} is not a volume's name: 1 to 30 lower-case letters, digits and underscores"));
        }
        if !is_clean_absolute(&mount.path) || mount.path.trim_end_matches('/').is_empty() {
            problems.push(format!("{:?} is not a place for a volume: give an absolute path other than /", mount.path));
        }
        if mount.size_gb.is_some_and(|size| !(1..=MAX_VOLUME_GB).contains(&size)) {
            problems.push(format!("size_gb is 1 to {MAX_VOLUME_GB}"));
        }
    }
    problems
}

fn files(files: &[FileSpec]) -> Vec<String> {
    let mut problems: Vec<_> = files.iter().filter_map(file).collect();
    let bytes: usize = files.iter().filter_map(|file| file.raw_value.as_ref()).map(String::len).sum();
    if bytes > MAX_FILES_BYTES {
        problems.push(format!("{bytes} bytes of files; {MAX_FILES_BYTES} at most: put larger ones into the image"));
    }
    problems
}

fn file(file: &FileSpec) -> Option<String> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let path = &file.guest_path;
    if !is_clean_absolute(path) || path.ends_with('/') {
        return Some(format!("{path:?} is not a file's absolute path"));
    }
    match (&file.raw_value, &file.secret_name) {
        (Some(_), Some(_)) | (None, None) => Some(format!("{path}: give either raw_value or secret_name")),
        (Some(value), None) if STANDARD.decode(value).is_err() => Some(format!("{path}: raw_value is not base 64")),
        _ if file.mode.is_some_and(|mode| mode > 0o7777) => Some(format!("{path}: mode has permission bits only")),
        _ => None,
    }
}

fn statics(statics: &[Static]) -> Vec<String> {
    let mut problems = Vec::new();
    if statics.len() > MAX_STATICS {
        problems.push(format!("{} directories; {MAX_STATICS} at most", statics.len()));
    }
    for (index, Static { guest_path, url_prefix, .. }) in statics.iter().enumerate() {
        if !is_clean_absolute(guest_path) {
            problems.push(format!("{guest_path:?} is not a directory's absolute path"));
        }
        if !is_clean_absolute(url_prefix) {
            problems.push(format!("{url_prefix:?} is not what a URL's path begins with: it begins with /"));
        }
        let overlaps = |other: &&Static| {
            Static::holds(&other.url_prefix, url_prefix) || Static::holds(url_prefix, &other.url_prefix)
        };
        if let Some(other) = statics[..index].iter().find(overlaps) {
            problems.push(format!("url_prefix {url_prefix:?} overlaps with {:?}", other.url_prefix));
        }
    }
    problems
}

/// An absolute path that does not climb.
fn is_clean_absolute(path: &str) -> bool {
    path.starts_with('/') && path.len() <= 4096 && !path.contains('\0') && path.split('/').all(|part| part != "..")
}

fn service(service: &Service) -> Vec<String> {
    let mut problems = Vec::new();
    if service.internal_port == 0 {
        problems.push("internal_port is missing: the port that the program listens on".to_owned());
    }
    if service.ports.len() > MAX_PORTS {
        problems.push(format!("more than {MAX_PORTS} ports"));
    }
    if service.checks.len() > MAX_CHECKS {
        problems.push(format!("more than {MAX_CHECKS} checks"));
    }
    if service.autostop_after.is_some_and(|after| !(1..=24 * 3600).contains(&after.0.as_secs())) {
        problems.push("autostop_after is between 1 s and 24 h".to_owned());
    }
    let limits = (service.concurrency.soft_limit, service.concurrency.hard_limit);
    if let (Some(soft), Some(hard)) = limits
        && soft > hard
    {
        problems.push(format!("concurrency: the soft limit {soft} lies above the hard limit {hard}"));
    }
    for (index, item) in service.ports.iter().enumerate() {
        let found = port(item, service.protocol);
        problems.extend(found.into_iter().map(|problem| format!("ports[{index}]: {problem}")));
    }
    for (index, item) in service.checks.iter().enumerate() {
        let found = health_check(item);
        problems.extend(found.into_iter().map(|problem| format!("checks[{index}]: {problem}")));
    }
    problems
}

fn port(port: &Port, protocol: Protocol) -> Vec<String> {
    let mut problems = Vec::new();
    match (port.port, port.start_port, port.end_port) {
        (Some(1..), None, None) => {}
        (None, Some(start @ 1..), Some(end)) if start <= end => {}
        _ => problems.push("give port, or start_port and end_port in this order; none is 0".to_owned()),
    }
    if protocol == Protocol::Udp && !port.handlers.is_empty() {
        problems.push("handlers are for TCP".to_owned());
    }
    if port.force_https && !port.handlers.contains(&Handler::Http) {
        problems.push("force_https needs the handler http".to_owned());
    }
    for (index, handler) in port.handlers.iter().enumerate() {
        if port.handlers[..index].contains(handler) {
            problems.push("a handler is named twice".to_owned());
        }
    }
    let position = |wanted| port.handlers.iter().position(|handler| *handler == wanted);
    if let (Some(http), Some(tls)) = (position(Handler::Http), position(Handler::Tls))
        && http < tls
    {
        problems.push("handlers are applied in order: put tls before http".to_owned());
    }
    problems.extend(port.tls_options.iter().flat_map(tls));
    problems
}

fn tls(options: &TlsOptions) -> Vec<String> {
    let known = |version: &&String| !["TLSv1.2", "TLSv1.3"].contains(&version.as_str());
    let versions = options.versions.iter().filter(known);
    let alpn = options.alpn.iter().filter(|protocol| protocol.is_empty() || protocol.len() > 255);
    versions
        .map(|version| format!("tls_options: {version:?} is not one of TLSv1.2, TLSv1.3"))
        .chain(alpn.map(|_| "tls_options: an ALPN name has 1 to 255 bytes".to_owned()))
        .collect()
}

/// What is wrong with a health check.
fn health_check(check: &Check) -> Vec<String> {
    let mut problems = Vec::new();
    if check.port == Some(0) {
        problems.push("port is 0".to_owned());
    }
    for (name, value) in [("interval", check.interval), ("timeout", check.timeout)] {
        if value.is_some_and(|value| value.0.as_millis() < 1 || value.0.as_secs() > 3600) {
            problems.push(format!("{name} is between 1 ms and 1 h"));
        }
    }
    if check.grace_period.is_some_and(|grace| grace.0.as_secs() > 3600) {
        problems.push("grace_period is 1 h at most".to_owned());
    }
    let token = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if check.method.as_deref().is_some_and(|method| !token(method)) {
        problems.push("method is not an HTTP method".to_owned());
    }
    if check.path.as_deref().is_some_and(|path| !path.starts_with('/') || !token(path)) {
        problems.push("path begins with / and has no spaces".to_owned());
    }
    let header = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    let bad = check.headers.iter().any(|field| {
        !token(&field.name) || field.name.contains(':') || !field.values.iter().all(|value| value.bytes().all(header))
    });
    if bad {
        problems.push("headers: a field's name or value has characters that HTTP does not allow".to_owned());
    }
    problems
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
