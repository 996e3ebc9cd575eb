//! Whether a node can run a spec at all.

use std::{collections::BTreeSet, time::Duration};

use model::machine::{MachineConfig, MachineSpec};

use super::run_spec::signal_number;
use crate::{checks, disk};

/// The longest time a program may take to end.
pub const MAX_STOP_TIMEOUT: Duration = Duration::from_secs(300);
const MAX_MEMORY_MB: u32 = 1 << 20;
const MIN_MEMORY_MB: u32 = 64;
const MAX_CPUS: u32 = 64;
const MAX_VOLUME_GB: u32 = 10_000;
const MAX_FILES: usize = 100;
const MAX_FILE_BYTES: usize = 1 << 20;
const MAX_ENV_BYTES: usize = 1 << 20;

/// Checks a spec.
///
/// # Errors
/// In words: the first thing that is wrong with it, and what would be right.
pub fn validate(spec: &MachineSpec) -> Result<(), String> {
    let config = &spec.config;
    size(config)?;
    volume(config)?;
    files(config)?;
    checks::probes(config)?;
    if let Some(signal) = config.stop_config.signal.as_deref().filter(|signal| !signal.is_empty()) {
        signal_number(signal)?;
    }
    if config.stop_config.timeout.is_some_and(|timeout| timeout.0 > MAX_STOP_TIMEOUT) {
        return Err(format!("stop_config.timeout is at most {} s", MAX_STOP_TIMEOUT.as_secs()));
    }
    environment(config)
}

fn size(config: &MachineConfig) -> Result<(), String> {
    let guest = &config.guest;
    if !(1..=MAX_CPUS).contains(&guest.cpus) {
        return Err(format!("guest.cpus is {}; it must be from 1 to {MAX_CPUS}", guest.cpus));
    }
    if !(MIN_MEMORY_MB..=MAX_MEMORY_MB).contains(&guest.memory_mb) {
        return Err(format!("guest.memory_mb is {}; it must be at least {MIN_MEMORY_MB}", guest.memory_mb));
    }
    Ok(())
}

fn volume(config: &MachineConfig) -> Result<(), String> {
    let [mount] = config.mounts.as_slice() else {
        return if config.mounts.is_empty() { Ok(()) } else { Err("a machine has one volume at most".into()) };
    };
    if !disk::is_volume_name(&mount.name) {
        return Err(format!("{:?} is no name for a volume; use letters, digits, _ and -", mount.name));
    }
    if !is_clean_path(&mount.path) {
        return Err(format!("a volume cannot be mounted at {:?}; give an absolute path below /", mount.path));
    }
    if !(1..=MAX_VOLUME_GB).contains(&mount.size_gb.unwrap_or(1)) {
        return Err(format!("a volume has from 1 to {MAX_VOLUME_GB} GB"));
    }
    Ok(())
}

fn files(config: &MachineConfig) -> Result<(), String> {
    if config.files.len() > MAX_FILES {
        return Err(format!("a machine has {MAX_FILES} files at most"));
    }
    let mut paths = BTreeSet::new();
    for file in &config.files {
        let path = &file.guest_path;
        if !is_clean_path(path) || !paths.insert(path) {
            return Err(format!("a file cannot be written to {path:?}; give an absolute path, each one once"));
        }
        if file.raw_value.is_some() == file.secret_name.is_some() {
            return Err(format!("file {path} needs either raw_value or secret_name"));
        }
        if file.raw_value.as_ref().is_some_and(|content| content.len() > MAX_FILE_BYTES) {
            return Err(format!("file {path} is larger than {MAX_FILE_BYTES} bytes; put it into the image"));
        }
    }
    Ok(())
}

fn environment(config: &MachineConfig) -> Result<(), String> {
    let bad =
        config.env.iter().find(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'));
    if let Some((name, _)) = bad {
        return Err(format!("{name:?} cannot be an environment variable"));
    }
    let bytes: usize = config.env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_ENV_BYTES {
        return Err(format!("the environment has {bytes} bytes; at most {MAX_ENV_BYTES} are allowed"));
    }
    Ok(())
}

/// Whether a path is absolute, goes nowhere up and is not the root itself.
fn is_clean_path(path: &str) -> bool {
    let mut parts = path.strip_prefix('/').unwrap_or_default().split('/').filter(|part| !part.is_empty()).peekable();
    path.len() <= 4096 && !path.contains('\0') && parts.peek().is_some() && parts.all(|part| part != "..")
}
