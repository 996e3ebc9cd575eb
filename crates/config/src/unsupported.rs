//! Keys that the format knows and this version does not support: each is named with its line, and told with what
//! happens instead. Whether that is an error depends on whether the app would still run as it was meant to.

use Without::{Broken, Less};

use crate::read::{Field, Section};

/// What it means for the app that a key has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Without {
    /// The app runs, with less than was asked for.
    Less,
    /// The app would not run as it was meant to, so the file is refused.
    Broken,
}

/// A key, what its absence means, and what happens instead.
pub(crate) type NotYet = (&'static str, Without, &'static str);

/// Notes which of these keys a section gives. A key that asks for nothing (`false`, `0`, empty) is let pass.
pub(crate) fn note(section: &Section<'_>, keys: &[NotYet]) {
    for (key, without, instead) in keys {
        if let Some(field) = section.get(key).filter(Field::says_something) {
            tell(&field, *without, instead);
        }
    }
}

/// Notes that a key which the format knows has no effect.
pub(crate) fn tell(field: &Field<'_>, without: Without, instead: &str) {
    let message = format!("`{}` is not supported yet", field.path);
    match without {
        Without::Less => field.warning(message, instead),
        Without::Broken => field.error(message, instead),
    }
}

/// At the top level.
pub(crate) const TOP: &[NotYet] = &[
    ("console_command", Less, "there is no console command yet; `dunlin machine exec -t` opens a shell"),
    ("swap_size_mb", Less, "machines run without swap; give them more memory under [[vm]] if they need it"),
    ("host_dedication_id", Less, "machines run on this host"),
    ("container", Broken, "machines of several containers cannot be run; deploy one image"),
    ("machine_config", Broken, "write the configuration in this file instead"),
    ("machine_checks", Less, "no test machine is run during a deploy; health checks are"),
    ("metrics", Less, "the app's metrics are not collected"),
    ("metric", Less, "the app's metrics are not collected"),
    ("console", Less, "there is no console yet; `dunlin machine exec -t` opens a shell"),
];

/// In `[build]`.
pub(crate) const BUILD: &[NotYet] = &[
    ("builder", Less, "buildpacks are not run; write a Dockerfile or name an image"),
    ("buildpacks", Less, "buildpacks are not run; write a Dockerfile or name an image"),
    ("builtin", Less, "there are no built-in builders; write a Dockerfile or name an image"),
    ("settings", Less, "there are no built-in builders to set; write a Dockerfile or name an image"),
    ("compose", Less, "compose files are not read; write a Dockerfile or name an image"),
    ("compression", Less, "Docker's own layer compression is used"),
    ("compression_level", Less, "Docker's own layer compression is used"),
];

/// In `[deploy]`.
pub(crate) const DEPLOY: &[NotYet] = &[
    (
        "release_command",
        Broken,
        "the app would start without it; remove it and run the command with `dunlin machine exec`, or at the app's start",
    ),
    (
        "seed_command",
        Broken,
        "the app would start without it; remove it and run the command with `dunlin machine exec`",
    ),
    ("release_command_timeout", Less, "there is no release command yet"),
    ("release_command_vm", Less, "there is no release command yet"),
    ("release_command_compute", Less, "there is no release command yet"),
];

/// In `[[statics]]`.
pub(crate) const STATICS: &[NotYet] = &[
    ("tigris_bucket", Broken, "object storage is not served from; give `guest_path` with the files in the image"),
    ("index_document", Less, "only files that are asked for by their own name are served"),
];

/// In a mount.
pub(crate) const MOUNT: &[NotYet] = &[
    ("snapshot_retention", Less, "no snapshots of the volume are made; back it up yourself"),
    ("scheduled_snapshots", Less, "no snapshots of the volume are made; back it up yourself"),
    ("auto_extend_size_threshold", Less, "the volume keeps its size"),
    ("auto_extend_size_increment", Less, "the volume keeps its size"),
    ("auto_extend_size_limit", Less, "the volume keeps its size"),
];

/// In a health check.
pub(crate) const CHECK: &[NotYet] = &[
    ("tls_skip_verify", Less, "checks speak plain HTTP"),
    ("tls_server_name", Less, "checks speak plain HTTP"),
    ("restart_limit", Less, "a failing check takes the machine out of routing and does not restart it"),
    ("kind", Less, "a check without a service is told in the status and does not take part in routing"),
];

/// In `[[vm]]`.
pub(crate) const VM: &[NotYet] = &[
    ("gpus", Broken, "machines have no GPU; remove it if the app can do without"),
    ("gpu_kind", Broken, "machines have no GPU; remove it if the app can do without"),
    ("kernel_args", Less, "the platform's own kernel arguments are used"),
    ("host_dedication_id", Less, "machines run on this host"),
    ("persist_rootfs", Less, "what a machine writes outside a mount is lost with its next version"),
    ("max_memory_mb", Less, "the machine's memory stays as it is"),
    ("rootfs", Less, "what a machine writes outside a mount is lost with its next version"),
];

/// In `[experimental]`.
pub(crate) const EXPERIMENTAL: &[NotYet] = &[
    ("enable_consul", Less, "there is no Consul cluster to attach"),
    ("enable_etcd", Less, "there is no etcd cluster to attach"),
    ("attached", Less, "nothing is attached; use `dunlin secrets set`"),
    ("machine_config", Broken, "write the configuration in this file instead"),
    ("metrics_port", Less, "the app's metrics are not collected"),
    ("metrics_path", Less, "the app's metrics are not collected"),
    ("uses_gpu", Broken, "machines have no GPU; remove it if the app can do without"),
];
