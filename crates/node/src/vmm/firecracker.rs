//! Firecracker, under its jailer: a root directory of its own, an unprivileged user, its own system call filter.
//!
//! ```text
//!   <dir>/vmm.out                                what the jailer and Firecracker print: the guest's serial port too
//!   <dir>/jail/<program>/<machine>/root/         the root directory that Firecracker sees
//!       <program>, dev/kvm, dev/net/tun            put there by the jailer
//!       lib, …                                     the libraries of a Firecracker that is not static
//!       vmlinux, initramfs, disk0, disk1, …        links to the files themselves, put there by us
//!       api.sock, vsock.sock                       made by Firecracker
//!       ram, devices                               the memory of a guest that goes on, or is being kept ([`memory`])
//! ```
//!
//! Files are linked, not copied: the jail lies on the same file system as they do, in the data directory. What the
//! guest may write to is given to the VM's user; what it may only read is not, and Firecracker cannot write to it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use async_trait::async_trait;
use model::{MachineId, machine::Isolation};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::{
    Disk, Vm, VmPlan, VmRecord, Vmm, VmmError, process, setup_error, socket,
    spawn::{self, Newborn, Spawn},
};

mod api;
mod libraries;
mod memory;

use api::Api;

const PROGRAM: &str = "Firecracker";
/// How long Firecracker may take until it can be controlled.
const START_PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take to pass a connection on to the guest.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Memory of Firecracker itself, its threads and its devices, in MiB.
const OVERHEAD_MB: u32 = 32;
/// The most descriptors it may have open.
const MAX_OPEN_FILES: u32 = 1024;
/// The guest's address on its vsock; each guest has a bus of its own, so all have the same.
const GUEST_CID: u32 = 3;

const JAIL: &str = "jail";
const API_SOCKET: &str = "api.sock";
const VSOCK_SOCKET: &str = "vsock.sock";

/// The driver.
#[derive(Debug, Clone)]
pub(super) struct Firecracker {
    firecracker: PathBuf,
    jailer: PathBuf,
}

impl Firecracker {
    /// With these programs, which must be of the same release.
    pub(super) fn new(firecracker: PathBuf, jailer: PathBuf) -> Self {
        Self { firecracker, jailer }
    }

    fn spawn(&self, plan: &VmPlan, base: &Path) -> Result<Newborn, VmmError> {
        let root = base.join(self.program_name()?).join(plan.machine.as_str()).join("root");
        fs::create_dir_all(&root).map_err(setup_error("make", &root))?;
        libraries::copy_into(&root, &self.firecracker)?;
        furnish(&root, plan)?;
        let mut command = Command::new(&self.jailer);
        command
            .args(["--id", plan.machine.as_str()])
            .arg("--exec-file")
            .arg(&self.firecracker)
            .arg("--chroot-base-dir")
            .arg(base)
            .args(["--uid", &plan.user.uid.to_string(), "--gid", &plan.user.gid.to_string()])
            .args(["--resource-limit", &format!("no-file={MAX_OPEN_FILES}")])
            .args(["--", "--api-sock", API_SOCKET]);
        let isolation = Isolation::Firecracker;
        spawn::spawn(Spawn { command, dir: &plan.dir, user: None, inherited: Vec::new(), plan, isolation })
    }

    /// The jailer names the jail after the program.
    fn program_name(&self) -> Result<&std::ffi::OsStr, VmmError> {
        self.firecracker.file_name().ok_or_else(|| VmmError::Plan("Firecracker's path names no file".into()))
    }
}

#[async_trait]
impl Vmm for Firecracker {
    fn isolation(&self) -> Isolation {
        Isolation::Firecracker
    }

    fn memory_overhead_mb(&self) -> u32 {
        OVERHEAD_MB
    }

    async fn launch(&self, plan: &VmPlan) -> Result<Vm, VmmError> {
        let (driver, spawned) = (self.clone(), plan.clone());
        let start = move || spawn::in_directory(&spawned, JAIL, |base| driver.spawn(&spawned, base));
        let newborn = spawn::blocking(start).await?;
        newborn.bring_up(PROGRAM, |record| begin(record, plan)).await
    }

    async fn suspend(&self, vm: &VmRecord, memory: &Path) -> Result<(), VmmError> {
        memory::write(vm, memory).await
    }
}

/// Puts the VM's files into its root directory.
fn furnish(root: &Path, plan: &VmPlan) -> Result<(), VmmError> {
    match &plan.memory {
        Some(memory) => memory::furnish(root, memory, plan.user)?,
        None => {
            link(&plan.kernel.vmlinux, &root.join("vmlinux"))?;
            link(&plan.kernel.initramfs_firecracker, &root.join("initramfs"))?;
        }
    }
    for (index, disk) in plan.disks.iter().enumerate() {
        if disk.read_only {
            make_readable(&disk.path)?;
        } else {
            spawn::give(&disk.path, plan.user)?;
        }
        link(&disk.path, &root.join(disk_name(index)))?;
    }
    Ok(())
}

fn disk_name(index: usize) -> String {
    format!("disk{index}")
}

fn link(file: &Path, name: &Path) -> Result<(), VmmError> {
    fs::hard_link(file, name).map_err(|error| match error.kind() {
        io::ErrorKind::CrossesDevices => VmmError::Plan(format!(
            "{} lies on another file system than {}; Firecracker's jail needs both on one, so move the data directory \
             or use the driver `qemu`",
            file.display(),
            name.display()
        )),
        _ => setup_error("link into the jail", file)(error),
    })
}

/// Lets everybody read a file that VMs of several users share. Only root gets as far as to its directory.
fn make_readable(path: &Path) -> Result<(), VmmError> {
    let permissions = fs::metadata(path).map_err(setup_error("look at", path))?.permissions();
    let wanted = permissions.mode() | 0o444;
    if permissions.mode() == wanted {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(wanted)).map_err(setup_error("make readable", path))
}

/// Tells Firecracker what the VM is made of, then lets it run.
async fn begin(record: VmRecord, plan: &VmPlan) -> Result<Vm, VmmError> {
    let outputs = super::connect_outputs(&record).await?;
    let place = root(&record.machine, &record.dir);
    let control = timeout(START_PATIENCE, async {
        // The jailer makes the directory, so it is there for certain only after its socket is.
        let root = place.map_err(setup_error("look into", &record.dir))?;
        let stream = socket::connect_to(&record.process, &root, API_SOCKET).await;
        let control = stream.ok_or(VmmError::Died { program: PROGRAM, output: String::new() })?;
        Ok((control, root))
    });
    let (control, root) = control.await.map_err(|_| VmmError::Silent { program: PROGRAM, after: START_PATIENCE })??;
    let mut api = Api::over(control).await?;
    if plan.memory.is_some() {
        memory::go_on(&mut api, &root).await?;
        return Ok(Vm { record, outputs });
    }
    for (path, body) in configuration(plan) {
        api.put(&path, &body).await?;
    }
    Ok(Vm { record, outputs })
}

/// The requests that make up a VM, in order; the last one starts it.
fn configuration(plan: &VmPlan) -> Vec<(String, Value)> {
    let arguments = [super::qemu::command::KERNEL_ARGS.to_owned()].into_iter().chain(plan.kernel_args.iter().cloned());
    let arguments = arguments.collect::<Vec<_>>().join(" ");
    let machine = json!({ "vcpu_count": plan.cpus, "mem_size_mib": plan.memory_mb, "smt": false });
    let kernel = json!({ "kernel_image_path": "vmlinux", "initrd_path": "initramfs", "boot_args": arguments });
    let mut requests = vec![("/machine-config".to_owned(), machine), ("/boot-source".to_owned(), kernel)];
    requests.extend(plan.disks.iter().enumerate().map(|(index, disk)| drive(index, disk)));
    requests.extend(plan.nic.iter().filter_map(|nic| {
        let mac = nic.mac.map(|byte| format!("{byte:02x}")).join(":");
        let body = json!({ "iface_id": "net0", "host_dev_name": nic.tap.as_ref()?, "guest_mac": mac });
        Some(("/network-interfaces/net0".to_owned(), body))
    }));
    requests.push(("/vsock".to_owned(), json!({ "guest_cid": GUEST_CID, "uds_path": VSOCK_SOCKET })));
    requests.push(("/entropy".to_owned(), json!({})));
    requests.push(("/actions".to_owned(), json!({ "action_type": "InstanceStart" })));
    requests
}

fn drive(index: usize, disk: &Disk) -> (String, Value) {
    let name = disk_name(index);
    let body = json!({
        "drive_id": name,
        "path_on_host": name,
        "is_root_device": false,
        "is_read_only": disk.read_only,
        // What the guest has flushed is on the host's disk.
        "cache_type": "Writeback",
    });
    (format!("/drives/{name}"), body)
}

/// The channel of the guest's init: a connection to its vsock port, made in Firecracker's own way.
pub(super) async fn channel(machine: &MachineId, dir: &Path) -> io::Result<UnixStream> {
    let mut stream = socket::connect(&root(machine, dir)?, VSOCK_SOCKET).await?;
    let greeting = format!("CONNECT {}\n", guest::VSOCK_PORT);
    timeout(CONNECT_PATIENCE, async {
        stream.write_all(greeting.as_bytes()).await?;
        read_ok(&mut stream).await
    })
    .await
    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(stream)
}

/// Reads `OK <port>`, and not a byte of what follows: that is the guest's.
async fn read_ok(stream: &mut UnixStream) -> io::Result<()> {
    let mut line = Vec::new();
    while line.len() < 32 {
        match stream.read_u8().await? {
            b'\n' if line.starts_with(b"OK ") => return Ok(()),
            b'\n' => break,
            byte => line.push(byte),
        }
    }
    Err(io::Error::other("Firecracker did not connect us to the guest"))
}

/// The root directory that a machine's Firecracker sees, whatever its program is called.
fn root(machine: &MachineId, dir: &Path) -> io::Result<PathBuf> {
    let program = fs::read_dir(dir.join(JAIL))?.next().ok_or(io::ErrorKind::NotFound)??;
    Ok(program.path().join(machine.as_str()).join("root"))
}

/// The Firecracker that runs a machine now, or the jailer that is about to become it.
pub(super) fn find(machine: &MachineId, dir: &Path) -> Option<VmRecord> {
    let joined = format!("--id={machine}");
    let process = process::find(|arguments| {
        let given = |name: &str, value: &str| arguments.windows(2).any(|pair| pair == [name, value]);
        (given("--id", machine.as_str()) || arguments.contains(&joined)) && given("--api-sock", API_SOCKET)
    })?;
    Some(VmRecord { machine: machine.clone(), isolation: Isolation::Firecracker, dir: dir.to_owned(), process })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_answer_to_connect_is_taken_and_nothing_of_the_guest() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"OK 1073741824\nhello").await.unwrap();
        read_ok(&mut ours).await.unwrap();
        let mut rest = [0; 5];
        ours.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"hello");
    }

    #[tokio::test]
    async fn a_refusal_or_a_flood_is_an_error() {
        for said in ["NO\n".to_owned(), "OK ".repeat(100), String::new()] {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(said.as_bytes()).await.unwrap();
            drop(theirs);
            assert!(read_ok(&mut ours).await.is_err(), "{said:?}");
        }
    }
}
