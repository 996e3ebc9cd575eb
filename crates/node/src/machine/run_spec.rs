//! What the guest is told to run, from the machine's spec and what its image says.
//!
//! Of two variables with one name the later holds, in this order: image, configuration, secrets, platform. Nothing an
//! app sets changes what the platform says of itself (`FLY_*`).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use guest::spec::{Address, File, HostEntry, Interface, Network, Root, RunSpec};
use guest::{ArgvSources, resolve_argv};
use model::{Addresses, ImageConfig, machine::MachineSpec};
use zeroize::Zeroizing;

use crate::net;

/// Open files that a guest's program may have.
const OPEN_FILES: u64 = 10_240;
/// What asks a program to end where neither the configuration nor the image names a signal.
pub const DEFAULT_STOP_SIGNAL: &str = "SIGINT";

/// The plain secrets of a machine, by name.
pub type Secrets = BTreeMap<String, Zeroizing<String>>;

/// The parts of a [`RunSpec`].
pub struct Sources<'a> {
    /// The machine.
    pub spec: &'a MachineSpec,
    /// What its image says.
    pub image: &'a ImageConfig,
    /// Its secrets.
    pub secrets: &'a Secrets,
    /// Its addresses.
    pub addresses: Addresses,
    /// Its name servers.
    pub name_servers: &'a [IpAddr],
    /// The name of this boot.
    pub boot_id: &'a str,
    /// The wall clock, in nanoseconds since 1970.
    pub unix_ns: u64,
    /// Random bytes for its kernel.
    pub entropy: [u8; 64],
}

/// The guest's disks, in the order in which the virtual machine gets them: root filesystem, writable layer, volume.
const LOWER: &str = "vda";
const UPPER: &str = "vdb";
const VOLUME: &str = "vdc";

/// Puts together what the guest is told to run.
///
/// # Errors
/// In words for the user: there is nothing to run, a secret file does not exist, a signal is unknown.
pub fn run_spec(sources: &Sources<'_>) -> Result<RunSpec, String> {
    let (spec, image) = (sources.spec, sources.image);
    let init = &spec.config.init;
    let argv = resolve_argv(ArgvSources {
        image_entrypoint: &image.entrypoint,
        image_cmd: &image.cmd,
        exec: init.exec.as_deref(),
        entrypoint: init.entrypoint.as_deref(),
        cmd: init.cmd.as_deref(),
    });
    Ok(RunSpec {
        boot_id: sources.boot_id.to_owned(),
        hostname: spec.id.to_string(),
        argv: argv.map_err(|error| error.to_string())?,
        user: image.user.clone(),
        env: environment(sources),
        working_dir: image.working_dir.clone(),
        tty: init.tty,
        root: Root { lower: LOWER.into(), upper: UPPER.into() },
        mounts: spec.config.mounts.iter().map(mount).collect(),
        network: network(sources),
        files: files(sources)?,
        statics: spec.config.statics.iter().map(served).collect(),
        nofile: OPEN_FILES,
        stop_signal: stop_signal(spec, image)?,
        unix_ns: sources.unix_ns,
        entropy: sources.entropy.to_vec(),
    })
}

/// The signal that asks the program to end: the configuration's, the image's, or `SIGINT`.
///
/// # Errors
/// The signal is unknown.
pub fn stop_signal(spec: &MachineSpec, image: &ImageConfig) -> Result<i32, String> {
    let configured = spec.config.stop_config.signal.as_deref().filter(|signal| !signal.is_empty());
    let name = configured.or(image.stop_signal.as_deref()).unwrap_or(DEFAULT_STOP_SIGNAL);
    signal_number(name)
}

/// The number of a signal given by name.
///
/// # Errors
/// The signal is unknown.
pub fn signal_number(name: &str) -> Result<i32, String> {
    guest::signal::number(name).ok_or_else(|| format!("{name:?} is no signal; write one such as SIGTERM or SIGUSR1"))
}

fn environment(sources: &Sources<'_>) -> Vec<String> {
    let config = &sources.spec.config;
    let mut env = sources.image.env.clone();
    env.extend(config.env.iter().map(|(name, value)| format!("{name}={value}")));
    env.extend(sources.secrets.iter().map(|(name, value)| format!("{name}={}", value.as_str())));
    env.extend(platform_environment(sources).into_iter().map(|(name, value)| format!("{name}={value}")));
    env
}

fn platform_environment(sources: &Sources<'_>) -> Vec<(&'static str, String)> {
    let spec = sources.spec;
    let mut env = vec![
        ("FLY_APP_NAME", spec.app.to_string()),
        ("FLY_MACHINE_ID", spec.id.to_string()),
        ("FLY_ALLOC_ID", spec.id.to_string()),
        ("FLY_MACHINE_VERSION", spec.version.to_string()),
        ("FLY_REGION", spec.region.to_string()),
        ("FLY_IMAGE_REF", spec.config.image.clone()),
        ("FLY_PRIVATE_IP", sources.addresses.private.to_string()),
        ("FLY_VM_MEMORY_MB", spec.config.guest.memory_mb.to_string()),
    ];
    let metadata = &spec.config.metadata;
    env.extend(metadata.get("fly_process_group").map(|group| ("FLY_PROCESS_GROUP", group.clone())));
    // The app's configuration file names its primary region; a machine of an app without one is in its own.
    if !spec.config.env.contains_key("PRIMARY_REGION") {
        env.push(("PRIMARY_REGION", spec.region.to_string()));
    }
    env
}

fn mount(mount: &model::machine::Mount) -> guest::spec::Mount {
    guest::spec::Mount { device: VOLUME.into(), path: mount.path.clone() }
}

// The edge knows the port by the product's words, init by those of the channel.
const _: () = assert!(guest::STATICS_PORT == model::machine::STATICS_PORT);

fn served(files: &model::machine::Static) -> guest::spec::Static {
    guest::spec::Static { guest_path: files.guest_path.clone(), url_prefix: files.url_prefix.clone() }
}

fn network(sources: &Sources<'_>) -> Network {
    let Addresses { private, host_local } = sources.addresses;
    let mac: Vec<String> = net::mac_of(&sources.spec.id).iter().map(|byte| format!("{byte:02x}")).collect();
    let addresses = vec![Address { ip: host_local.into(), prefix: 32 }, Address { ip: private.into(), prefix: 128 }];
    Network {
        interface: Some(Interface {
            mac: Some(mac.join(":")),
            addresses,
            gateway_v4: Some(net::GATEWAY_V4),
            gateway_v6: Some(net::GATEWAY_V6),
            mtu: net::MTU,
        }),
        nameservers: sources.name_servers.to_vec(),
        hosts: hosts(sources.spec, private, host_local.into()),
    }
}

fn hosts(spec: &MachineSpec, private: Ipv6Addr, host_local: IpAddr) -> Vec<HostEntry> {
    let own = vec!["fly-local-6pn".to_owned(), spec.id.to_string(), format!("{}.vm.{}.internal", spec.id, spec.app)];
    vec![
        HostEntry { ip: private.into(), names: own },
        HostEntry { ip: host_local, names: vec!["fly-global-services".to_owned()] },
    ]
}

fn files(sources: &Sources<'_>) -> Result<Vec<File>, String> {
    let content = |file: &model::machine::FileSpec| match (&file.raw_value, &file.secret_name) {
        (Some(raw), None) => Ok(raw.clone()),
        (None, Some(name)) => sources.secrets.get(name).map(|secret| secret.trim().to_owned()).ok_or_else(|| {
            format!("file {} wants the secret {name}, which the app does not have; set it first", file.guest_path)
        }),
        _ => Err(format!("file {} needs either raw_value or secret_name", file.guest_path)),
    };
    let file = |file: &model::machine::FileSpec| {
        Ok(File { path: file.guest_path.clone(), mode: file.mode, content: content(file)? })
    };
    sources.spec.config.files.iter().map(file).collect()
}
