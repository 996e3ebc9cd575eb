//! Real guests under real VMMs.

mod firecracker;
mod guests;

use std::{collections::BTreeSet, fs, time::Duration};

use api::internal::{ExecEvent, ExecRequest, ExecSession};
use guest::{
    RunSpec,
    spec::{Interface, Network},
};
use guests::{PATIENCE, SERVE, host_or_skip, run_script};
use node::{
    link::{GuestPhase, Session},
    vmm::{self, Disk, Driver, Nic, Vm, VmPlan, VmRecord},
};
use tokio::time::{Instant, timeout};

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_boots_runs_its_program_takes_commands_and_stops() {
    let host = host_or_skip!("a_guest_boots_runs_its_program_takes_commands_and_stops");
    let (qemu, plan) = (host.qemu().await, host.plan());
    let begun = Instant::now();
    let vm = qemu.launch(&plan).await.unwrap();
    let record = vm.record.clone();
    let (link, logs) = host.link(vm);
    host.reach(&link, |status| matches!(status.session, Session::Open(_))).await;
    let hello = begun.elapsed();
    host.boot(&link, SERVE).await;
    let started = begun.elapsed();
    let start = link.status().borrow().start.unwrap();
    eprintln!("hello after {hello:?}, started after {started:?}; by the guest's clock {start:?}");
    logs.wait_for("ready").await;

    let (code, stdout) = shell(&link, "cat /proc/cmdline; ls /sys/block; cat /marker").await;
    assert_eq!((code, stdout.lines().skip(1).collect::<Vec<_>>()), (0, vec!["vda", "vdb", "vdc", "the image"]));
    eprintln!("command line: {}", stdout.lines().next().unwrap());
    // Disks come in the order of the plan, and a read-only one cannot be written to even by root.
    let (_, sizes) = shell(&link, "cat /sys/block/vda/size /sys/block/vdb/size /sys/block/vdc/size").await;
    let sectors = |disk: &Disk| (fs::metadata(&disk.path).unwrap().len() / 512).to_string();
    assert_eq!(sizes.lines().collect::<Vec<_>>(), plan.disks.iter().map(sectors).collect::<Vec<_>>());
    let (code, _) = shell(&link, "dd if=/dev/zero of=/dev/vda count=1 2>/dev/null").await;
    assert_ne!(code, 0, "the shared image was written to");

    let report = link.inspect().await.unwrap();
    assert!(report.processes.iter().any(|process| process.command.contains("trap")), "{report:?}");

    let exit = timeout(PATIENCE, link.stop(0, Duration::from_secs(30))).await.unwrap().unwrap();
    assert_eq!(exit.code, 3);
    link.power_off().await.unwrap();
    let last = host.reach(&link, |status| status.session == Session::Gone).await;
    assert_eq!(last.guest, GuestPhase::Exited(exit));
    assert!(!record.process.alive());
    link.close().await;
    vmm::clear(&plan.dir).unwrap();
    assert!(!plan.dir.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_outlives_every_handle_and_is_adopted_by_its_record_or_by_its_name() {
    let host = host_or_skip!("a_vm_outlives_every_handle_and_is_adopted_by_its_record_or_by_its_name");
    let plan = host.plan();
    let vm = host.qemu().await.launch(&plan).await.unwrap();
    let written = serde_json::to_string(&vm.record).unwrap();
    let (link, logs) = host.link(vm);
    host.boot(&link, SERVE).await;
    logs.wait_for("ready").await;
    link.close().await;

    let record: vmm::VmRecord = serde_json::from_str(&written).unwrap();
    assert_eq!(vmm::find(&plan.machine, &plan.dir).as_ref(), Some(&record));
    assert!(record.process.alive());
    let twice = host.qemu().await.launch(&plan).await.unwrap_err();
    assert!(twice.to_string().contains("runs already"), "{twice}");
    let (link, _) = host.link(Vm::adopt(record.clone()));
    host.boot(&link, "exit 99").await;
    let (code, stdout) = shell(&link, "echo still here").await;
    assert_eq!((code, stdout.as_str()), (0, "still here\n"));

    // Another machine of the same image runs beside it.
    let mut beside = host.plan();
    beside.disks.truncate(1);
    let other = host.qemu().await.launch(&beside).await.unwrap();
    other.record.process.kill().await.unwrap();

    // Killed from outside, it is gone at once, and the link says so by itself.
    record.process.kill().await.unwrap();
    let last = host.reach(&link, |status| status.session == Session::Gone).await;
    assert_eq!(last.guest, GuestPhase::Running);
    assert!(vmm::find(&plan.machine, &plan.dir).is_none());
    link.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_goes_on_with_the_memory_that_was_kept() {
    let host = host_or_skip!("a_guest_goes_on_with_the_memory_that_was_kept");
    let (qemu, mut plan) = (host.qemu().await, host.plan());
    let vm = qemu.launch(&plan).await.unwrap();
    let record = vm.record.clone();
    let (link, logs) = host.link(vm);
    host.boot(&link, SERVE).await;
    logs.wait_for("ready").await;
    let before = shell(&link, "echo kept > /kept; echo 5 > /dev/shm/number; cat /proc/sys/kernel/random/boot_id").await;
    link.close().await;

    let memory = host.data().join("memory");
    let begun = Instant::now();
    qemu.suspend(&record, &memory).await.unwrap();
    eprintln!("{} MiB written in {:?}", fs::metadata(&memory).unwrap().len() >> 20, begun.elapsed());
    record.process.kill().await.unwrap();
    vmm::clear(&plan.dir).unwrap();

    plan.memory = Some(memory);
    let begun = Instant::now();
    let (link, _) = host.link(qemu.launch(&plan).await.unwrap());
    host.reach(&link, |status| status.guest == GuestPhase::Running).await;
    eprintln!("goes on after {:?}", begun.elapsed());
    assert_eq!(shell(&link, "cat /proc/sys/kernel/random/boot_id").await, before);
    assert_eq!(shell(&link, "cat /kept /dev/shm/number").await, (0, "kept\n5\n".to_owned()));
    let exit = timeout(PATIENCE, link.stop(0, Duration::from_secs(30))).await.unwrap().unwrap();
    assert_eq!(exit.code, 3, "its program is the one that was started then");
    link.power_off().await.unwrap();
    host.reach(&link, |status| status.session == Session::Gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_that_refuses_says_why_and_leaves_nothing() {
    let host = host_or_skip!("a_vmm_that_refuses_says_why_and_leaves_nothing");
    let qemu = host.qemu().await;
    let mut plan = host.plan();
    plan.memory_mb = 1 << 30;
    let error = qemu.launch(&plan).await.unwrap_err().to_string();
    assert!(error.contains("memory"), "{error}");
    assert!(!plan.dir.exists());

    let mut plan = host.plan();
    plan.disks.push(Disk { path: plan.dir.join("missing"), read_only: true });
    let error = qemu.launch(&plan).await.unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(!plan.dir.exists());
    assert!(vmm::find(&plan.machine, &plan.dir).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_guests_kernel_ends_the_vm_and_is_told_on_its_console() {
    let host = host_or_skip!("a_panic_of_the_guests_kernel_ends_the_vm_and_is_told_on_its_console");
    let mut plan = host.plan();
    plan.kernel_args.push("rdinit=/nowhere init=/nowhere root=/dev/vdz".into());
    let vm = host.qemu().await.launch(&plan).await.unwrap();
    let (link, _) = host.link(vm);
    host.reach(&link, |status| status.session == Session::Gone).await;
    link.close().await;
    let console = node::link::console_tail(&host.console(), 100_000);
    assert!(console.contains("Kernel panic"), "{console}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_choice_is_what_truly_runs_and_is_remembered() {
    let host = host_or_skip!("the_choice_is_what_truly_runs_and_is_remembered");
    let begun = Instant::now();
    let choice = vmm::choose(Driver::Auto, &host.kernel, &host.data(), guests::user()).await.unwrap();
    eprintln!("the choice took {:?}: {}", begun.elapsed(), choice.why);
    let begun = Instant::now();
    let again = vmm::choose(Driver::Auto, &host.kernel, &host.data(), guests::user()).await.unwrap();
    eprintln!("the second choice took {:?}: {}", begun.elapsed(), again.why);
    assert_eq!(again.vmm.isolation(), choice.vmm.isolation());
    let vm = again.vmm.launch(&host.plan()).await.unwrap();
    let record = vm.record.clone();
    let (link, _) = host.link(vm);
    host.boot(&link, SERVE).await;
    record.process.kill().await.unwrap();
    link.close().await;
    let left = fs::read_dir(host.data().join("kernel/probe")).unwrap().count();
    assert_eq!(left, 0, "a trial guest has left something");
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_go_on_where_their_like_was_frozen_with_disks_network_and_random_numbers_of_their_own() {
    let host =
        host_or_skip!("guests_go_on_where_their_like_was_frozen_with_disks_network_and_random_numbers_of_their_own");
    let qemu = host.qemu().await;
    let nic = |last| Some(Nic { tap: None, mac: [2, 0, 0, 0, 0, last] });
    let begun = Instant::now();
    qemu.prepare_for(&VmPlan { nic: nic(1), ..host.plan() }).await.unwrap();
    eprintln!("the template took {:?}", begun.elapsed());

    let mut chosen = BTreeSet::new();
    for last in [2, 3] {
        let plan = VmPlan { nic: nic(last), ..host.plan() };
        let begun = Instant::now();
        let vm = qemu.launch(&plan).await.unwrap();
        let record = vm.record.clone();
        assert!(goes_on(&record), "it was booted");
        let (link, logs) = host.link(vm);
        let mac = format!("02:00:00:00:00:0{last}");
        let interface = Interface { mac: Some(mac.clone()), ..Interface::default() };
        let network = Network { interface: Some(interface), ..Network::default() };
        let spec = RunSpec { entropy: vec![last; 64], network, ..run_script(SERVE) };
        let booted = timeout(PATIENCE, link.boot(spec)).await.expect("the guest boots");
        booted.unwrap_or_else(|error| panic!("{error}:\n{}", node::link::console_tail(&host.console(), 10_000)));
        eprintln!("started after {:?}", begun.elapsed());
        logs.wait_for("ready").await;
        let (_, seen) = shell(&link, "cat /sys/class/net/eth0/address /sys/block/vd?/size /marker").await;
        let sizes = plan.disks.iter().map(|disk| (fs::metadata(&disk.path).unwrap().len() / 512).to_string());
        let expected: Vec<_> = [mac].into_iter().chain(sizes).chain(["the image".into()]).collect();
        assert_eq!(seen.lines().collect::<Vec<_>>(), expected);
        let (_, random) = shell(&link, "cd /proc/sys/kernel/random; cat boot_id uuid").await;
        chosen.extend(random.lines().map(str::to_owned));
        record.process.kill().await.unwrap();
        link.close().await;
    }
    assert_eq!(chosen.len(), 4, "two guests chose alike: {chosen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_boots_if_the_template_that_it_should_go_on_from_is_damaged() {
    let host = host_or_skip!("a_guest_boots_if_the_template_that_it_should_go_on_from_is_damaged");
    let (qemu, plan) = (host.qemu().await, host.plan());
    qemu.prepare_for(&plan).await.unwrap();
    let template = fs::read_dir(host.data().join("kernel/templates")).unwrap().next().unwrap().unwrap().path();
    let template = template.join("1x256-rww");
    let file = fs::File::options().write(true).open(&template).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();

    let vm = qemu.launch(&plan).await.unwrap();
    let record = vm.record.clone();
    assert!(!goes_on(&record) && !template.exists());
    let (link, logs) = host.link(vm);
    host.boot(&link, SERVE).await;
    logs.wait_for("ready").await;
    record.process.kill().await.unwrap();
    link.close().await;
}

/// Whether a VM was not booted but goes on from a template.
fn goes_on(vm: &VmRecord) -> bool {
    let line = fs::read_to_string(format!("/proc/{}/cmdline", vm.process.pid)).unwrap();
    line.split('\0').any(|argument| argument == "-incoming")
}

async fn shell(link: &node::link::Link, script: &str) -> (i32, String) {
    let command = ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec();
    let session = link.exec(ExecRequest { command, ..ExecRequest::default() }).await.unwrap();
    let ExecSession { mut output, .. } = session;
    let mut stdout = Vec::new();
    loop {
        match timeout(PATIENCE, output.recv()).await.unwrap().unwrap() {
            ExecEvent::Stdout(bytes) => stdout.extend_from_slice(&bytes),
            ExecEvent::Stderr(bytes) => eprintln!("{}", String::from_utf8_lossy(&bytes)),
            ExecEvent::Exit { code, .. } => return (code, String::from_utf8(stdout).unwrap()),
            ExecEvent::Failed(reason) => panic!("{reason}"),
        }
    }
}
