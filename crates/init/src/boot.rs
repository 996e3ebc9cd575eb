//! From a spec to everything that its program needs.

use std::path::{Path, PathBuf};

use guest::{BootFailure, RunSpec};
use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_settime},
};

use crate::{
    credentials::{self, Credentials},
    disks::{self, Root},
    entropy,
    environment::{self, Environment},
    etc,
    failure::{OrFailure, failure},
    network, statics,
    uevents::Uevents,
    virtio,
};

/// How the program runs; what commands beside it inherit.
pub struct Program {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its environment.
    pub env: Environment,
    /// Where it starts.
    pub working_dir: PathBuf,
    /// Who runs it.
    pub user: Credentials,
    /// Its limit on open files, or 0 for the kernel's own.
    pub nofile: u64,
    /// It has a terminal.
    pub tty: bool,
}

/// Sets the guest up, step by step. `root` is set as soon as there is a root file system to put in order later.
pub fn prepare(spec: &RunSpec, uevents: &Uevents, root: &mut Option<Root>) -> Result<Program, BootFailure> {
    entropy::add(&spec.entropy).or_failure("random numbers", "mixing in the host's")?;
    set_clock(spec.unix_ns);
    virtio::attach_all();
    *root = Some(disks::enter_root(&spec.root, uevents)?);
    network::bring_up(&spec.network, uevents)?;
    etc::set_names(&spec.hostname, &spec.network)?;
    let user = credentials::look_up(&spec.user).map_err(|reason| failure("user", reason))?;
    for volume in &spec.mounts {
        disks::mount_volume(volume, &user, uevents)?;
    }
    etc::write_files(&spec.files, &user)?;
    let working_dir = working_dir(&spec.working_dir)?;
    statics::start(&spec.statics, &spec.network, &user)?;
    let mut env = environment::build(Environment::new(), &spec.env, &user);
    if spec.tty {
        environment::name_terminal(&mut env);
    }
    Ok(Program { argv: spec.argv.clone(), env, working_dir, user, nofile: spec.nofile, tty: spec.tty })
}

/// Sets the wall clock, unless `unix_ns` is 0.
pub fn set_clock(unix_ns: u64) {
    if unix_ns != 0 {
        let time = TimeSpec::new((unix_ns / 1_000_000_000) as i64, (unix_ns % 1_000_000_000) as i64);
        let _ = clock_settime(ClockId::CLOCK_REALTIME, time);
    }
}

fn working_dir(path: &str) -> Result<PathBuf, BootFailure> {
    let path = Path::new("/").join(path);
    disks::make_directory(&path).or_failure("working directory", path.display())?;
    Ok(path)
}
