//! Chooses the strongest driver that truly works on this host: Firecracker, QEMU with hardware virtualization, QEMU
//! in software.
//!
//! That `/dev/kvm` exists proves nothing, so each is tried out in turn with a guest of the real kernel and init. What
//! came out is remembered in `<data>/kernel/probe.json` until the host restarts or something that matters changes.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use model::machine::Isolation;
use sha2::{Digest, Sha256};

use super::{
    VmUser, Vmm, VmmError,
    firecracker::Firecracker,
    hardware, probe, process,
    qemu::{Qemu, template::Templates},
};
use crate::kernel::GuestKernel;

/// Which driver an operator wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    /// The strongest that works.
    #[default]
    Auto,
    /// Firecracker, or nothing.
    Firecracker,
    /// QEMU, with hardware virtualization where that works.
    Qemu,
}

/// A driver, and why it is this one.
#[derive(Clone)]
pub struct Choice {
    /// The driver.
    pub vmm: Arc<dyn Vmm>,
    /// In words: what one gets, why nothing stronger, and what to do about that.
    pub why: String,
}

/// Names the Firecracker to use; else it is looked for in `PATH`. Its jailer lies beside it, or in `PATH`.
const FIRECRACKER_VARIABLE: &str = "DUNLIN_FIRECRACKER";
const QEMU: &str = "qemu-system-x86_64";

/// Chooses a driver. What is not known from an earlier start of this host is tried out: a guest is booted, which
/// takes up to some seconds. `data` is the data directory, `user` who the trial VMs run as.
///
/// # Errors
/// Nothing that is wanted works; the error says why.
pub async fn choose(wanted: Driver, kernel: &Arc<GuestKernel>, data: &Path, user: VmUser) -> Result<Choice, VmmError> {
    probe::clean(data).await;
    let mut verdicts = Verdicts::load(data, kernel, user);
    let mut refusals: Vec<String> = Vec::new();
    for isolation in ladder(wanted) {
        let vmm = match candidate(*isolation, data, user) {
            Ok(vmm) => vmm,
            Err(reason) => {
                refusals.push(format!("no {isolation}: {reason}"));
                continue;
            }
        };
        match verdicts.of(&vmm, kernel, data, user).await {
            Ok(()) => return Ok(Choice { why: explain(*isolation, &refusals), vmm: vmm.vmm }),
            Err(reason) => refusals.push(format!("no {isolation}: {reason}")),
        }
    }
    Err(VmmError::Nothing(refusals.join("; ")))
}

/// The drivers to try, strongest first.
fn ladder(wanted: Driver) -> &'static [Isolation] {
    match wanted {
        Driver::Auto => &[Isolation::Firecracker, Isolation::QemuKvm, Isolation::QemuTcg],
        Driver::Firecracker => &[Isolation::Firecracker],
        Driver::Qemu => &[Isolation::QemuKvm, Isolation::QemuTcg],
    }
}

fn explain(isolation: Isolation, refusals: &[String]) -> String {
    let got = match isolation {
        Isolation::Firecracker => "each machine runs under Firecracker on hardware virtualization, jailed",
        Isolation::QemuKvm => "each machine runs under QEMU on hardware virtualization",
        Isolation::QemuTcg => "each machine runs under QEMU in software emulation: as isolated, but many times slower",
    };
    [&[got.to_owned()], refusals].concat().join("; ")
}

/// A driver that could work: its programs are there.
struct Candidate {
    vmm: Arc<dyn Vmm>,
    /// The programs.
    programs: Vec<PathBuf>,
}

/// The driver of a kind, or what it lacks.
fn candidate(isolation: Isolation, data: &Path, user: VmUser) -> Result<Candidate, String> {
    match isolation {
        Isolation::Firecracker => {
            let firecracker = env::var_os(FIRECRACKER_VARIABLE).map(PathBuf::from).or_else(|| in_path("firecracker"));
            let firecracker = firecracker.ok_or_else(|| {
                format!("the program firecracker is not installed; put it in PATH or name it in {FIRECRACKER_VARIABLE}")
            })?;
            let beside = Some(firecracker.with_file_name("jailer")).filter(|jailer| jailer.is_file());
            let jailer = beside.or_else(|| in_path("jailer"));
            let jailer = jailer.ok_or("its jailer is not installed; put the program jailer beside firecracker")?;
            hardware::check()?;
            let vmm = Arc::new(Firecracker::new(firecracker.clone(), jailer.clone()));
            Ok(Candidate { vmm, programs: vec![firecracker, jailer] })
        }
        Isolation::QemuKvm | Isolation::QemuTcg => {
            let program = in_path(QEMU).ok_or_else(|| format!("{QEMU} is not installed; run `dunlin setup`"))?;
            let (programs, templates) = (vec![program.clone()], Arc::new(Templates::below(data)));
            if isolation == Isolation::QemuTcg {
                return Ok(Candidate { vmm: Arc::new(Qemu::emulated(program, templates)), programs });
            }
            hardware::check()?;
            hardware::check_access(user)?;
            Ok(Candidate { vmm: Arc::new(Qemu::accelerated(program, templates)), programs })
        }
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(program)).find(|program| program.is_file())
}

/// What trials have shown: for each a digest of all that it depended on, and why it failed if it did.
struct Verdicts {
    path: PathBuf,
    /// What all trials depend on.
    circumstances: Vec<u8>,
    known: BTreeMap<String, Option<String>>,
}

impl Verdicts {
    fn load(data: &Path, kernel: &GuestKernel, user: VmUser) -> Self {
        let path = data.join("kernel").join("probe.json");
        let known = fs::read(&path).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
        let boot = process::boot_id().unwrap_or_default();
        let circumstances = format!("{boot} {} {user:?} {}", kernel.key, hardware::fingerprint()).into_bytes();
        Self { path, circumstances, known }
    }

    /// Whether a driver works: from memory, or tried out now.
    async fn of(
        &mut self,
        candidate: &Candidate,
        kernel: &Arc<GuestKernel>,
        data: &Path,
        user: VmUser,
    ) -> Result<(), String> {
        let key = self.key(candidate);
        if let Some(verdict) = self.known.get(&key) {
            let again =
                |reason: &String| format!("{reason} (found earlier; remove {} to try again)", self.path.display());
            return verdict.as_ref().map_or(Ok(()), |reason| Err(again(reason)));
        }
        let verdict = probe::boots(&candidate.vmm, kernel, data, user).await;
        self.known.insert(key, verdict.as_ref().err().cloned());
        self.store();
        verdict
    }

    fn key(&self, candidate: &Candidate) -> String {
        let mut digest = Sha256::new_with_prefix(&self.circumstances);
        digest.update(format!("{:?}", candidate.vmm.isolation()));
        for program in &candidate.programs {
            digest.update(program.as_os_str().as_encoded_bytes());
            let state = fs::metadata(program).map(|state| (state.size(), state.mtime(), state.ino()));
            digest.update(format!("{state:?}"));
        }
        hex::encode(digest.finalize())
    }

    /// A trial costs seconds, a lost memory of it nothing else; so a failure to write is only told.
    fn store(&mut self) {
        // Those of other circumstances are of no use any more, and there are never many of these.
        const MAX_KNOWN: usize = 16;
        while self.known.len() > MAX_KNOWN {
            self.known.pop_first();
        }
        let json = serde_json::to_vec_pretty(&self.known).expect("texts under texts");
        if let Err(error) = kit::durable::write(&self.path, &json, 0o600) {
            tracing::warn!(%error, path = %self.path.display(), "what works on this host is not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_tell_what_one_gets_and_each_reason_why_not_more() {
        let refusals =
            ["no firecracker (kvm): not installed".to_owned(), "no qemu (kvm): /dev/kvm is missing".to_owned()];
        let why = explain(Isolation::QemuTcg, &refusals);
        assert!(why.contains("software emulation"), "{why}");
        assert!(refusals.iter().all(|reason| why.contains(reason)), "{why}");
        assert_eq!(ladder(Driver::Auto).len(), 3);
    }
}
