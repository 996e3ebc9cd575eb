//! Tries a driver out: boots a guest of the real kernel and waits until its init says hello.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kit::report::Report;
use model::{MachineId, machine::Isolation};
use tokio::time::{Instant, timeout};

use super::{VmPlan, VmRecord, VmUser, Vmm, VmmError, hardware};
use crate::{
    kernel::GuestKernel,
    link::{Link, LinkStatus, Session, console_tail},
};

/// A guest that has printed nothing by then does not run. In software it runs for certain, and late.
const FIRST_SIGN: Duration = Duration::from_secs(5);
const FIRST_SIGN_EMULATED: Duration = Duration::from_secs(60);
/// A guest that has printed something may take so long to say hello.
const HELLO: Duration = Duration::from_secs(60);
/// How often the console is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Memory of the guest in MiB.
const MEMORY_MB: u32 = 256;

/// Whether guests run under this driver; if not, why.
pub(super) async fn boots(
    vmm: &Arc<dyn Vmm>,
    kernel: &Arc<GuestKernel>,
    data: &Path,
    user: VmUser,
) -> Result<(), String> {
    let machine = MachineId::from_random(kit::random::bytes());
    let dir = directory(data).join(machine.as_str());
    let plan = VmPlan {
        machine,
        dir: dir.clone(),
        cpus: 1,
        memory_mb: MEMORY_MB,
        kernel: kernel.clone(),
        // The kernel's first line is a notice: with it, a guest that is merely slow shows that it runs.
        kernel_args: vec!["loglevel=6".into()],
        disks: Vec::new(),
        nic: None,
        cgroup_procs: Vec::new(),
        memory: None,
        user,
    };
    let outcome = match vmm.launch(&plan).await {
        Ok(vm) => {
            let (record, console) = (vm.record.clone(), dir.join("console.log"));
            let link = Link::open(vm, console.clone(), Arc::new(|_| {}));
            let outcome = says_hello(&link, &console, vmm.isolation()).await;
            let _ = record.process.kill().await;
            link.close().await;
            outcome
        }
        Err(error) => Err(refusal(&error, vmm.isolation())),
    };
    let _ = super::clear(&dir);
    outcome
}

async fn says_hello(link: &Link, console: &Path, isolation: Isolation) -> Result<(), String> {
    let start = Instant::now();
    let patience = if isolation == Isolation::QemuTcg { FIRST_SIGN_EMULATED } else { FIRST_SIGN };
    let mut status = link.status();
    let settled = |status: &LinkStatus| status.session != Session::Connecting;
    loop {
        if let Ok(reached) = timeout(LOOK, status.wait_for(settled)).await {
            return match reached.map(|status| status.session.clone()) {
                Ok(Session::Open(_)) => Ok(()),
                _ => Err(format!("a trial guest ended before it was up: {}", last_words(console))),
            };
        }
        if !kernel_speaks(console) && start.elapsed() > patience {
            let seconds = patience.as_secs();
            return Err(format!("a trial guest did not begin to run within {seconds} s: {}", hardware::suspicion()));
        }
        if start.elapsed() > HELLO {
            return Err(format!("a trial guest was not up within {} s: {}", HELLO.as_secs(), last_words(console)));
        }
    }
}

/// Whether the guest's kernel has printed its first line. What else is there comes from the VMM.
fn kernel_speaks(console: &Path) -> bool {
    console_tail(console, 64 * 1024).contains("Linux version")
}

fn last_words(console: &Path) -> String {
    let tail = console_tail(console, 2000);
    let last = tail.lines().rev().find(|line| !line.trim().is_empty());
    last.map_or_else(|| "it printed nothing".into(), |line| format!("its last words were: {}", line.trim()))
}

fn refusal(error: &VmmError, isolation: Isolation) -> String {
    let text = Report(error).to_string();
    if isolation == Isolation::QemuTcg { text } else { format!("{text}; {}", hardware::suspicion()) }
}

pub(super) fn directory(data: &Path) -> PathBuf {
    data.join("kernel").join("probe")
}

/// Ends the trial guests of an earlier process that was killed while it tried.
pub(super) async fn clean(data: &Path) {
    for entry in fs::read_dir(directory(data)).into_iter().flatten().flatten() {
        let machine = entry.file_name().to_str().and_then(|name| name.parse::<MachineId>().ok());
        let left: Option<VmRecord> = machine.and_then(|machine| super::find(&machine, &entry.path()));
        if let Some(record) = left {
            let _ = record.process.kill().await;
        }
        let _ = super::clear(&entry.path());
    }
}
