//! The command line of QEMU.
//!
//! QEMU gets every file as an open descriptor, so that the user it runs as needs no right to any path. Devices are
//! left to QEMU to place: it gives them places in the order in which it tells the guest of the places that are taken
//! (both walk the same list), so that the guest finds disks in the order in which they are given here.

use std::{
    fs::{File, OpenOptions},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    process::Command,
};

use model::machine::Isolation;

use super::{CHANNEL, CONSOLE, CONTROL, tap};
use crate::vmm::{Disk, Nic, VmPlan, VmmError, setup_error, spawn::inherited_path, tsc};

/// The places for devices but the last one, whose interrupt (pin 0 of the second controller) Linux does not get.
const MAX_DEVICES: usize = 23;
/// The places that are not disks: network, serial bus, random numbers.
const OTHER_DEVICES: usize = 3;

/// How much of a guest's translated code the emulator keeps, in MiB.
pub(super) const TRANSLATION_CACHE_MB: u32 = 64;

/// A command and the descriptors that it inherits.
pub(super) struct Prepared {
    pub(super) command: Command,
    pub(super) inherited: Vec<OwnedFd>,
}

/// What is common to all guests, whatever the driver:
/// - the console is the serial port; only what is bad is printed there,
/// - a panic or a restart ends the VM at once,
/// - the kernel's tests of its own ciphers, a fifth of its start under emulation, are left out.
pub(crate) const KERNEL_ARGS: &str = "console=ttyS0 quiet reboot=t panic=-1 cryptomgr.notests";

/// Where a guest begins.
#[derive(Debug)]
pub(super) enum Start {
    /// With its kernel.
    Kernel,
    /// Where another was frozen, in this file. The machine must be made like that one's; nothing is loaded into it.
    Frozen(File),
}

pub(super) fn prepare(program: &Path, isolation: Isolation, plan: &VmPlan, start: Start) -> Result<Prepared, VmmError> {
    if plan.disks.len() + OTHER_DEVICES > MAX_DEVICES {
        return Err(VmmError::Plan(format!("it has more than {} disks", MAX_DEVICES - OTHER_DEVICES)));
    }
    let mut builder = Builder { command: Command::new(program), inherited: Vec::new() };
    builder.machine(isolation, plan);
    builder.confinement();
    match start {
        Start::Kernel => builder.kernel(isolation, plan)?,
        Start::Frozen(state) => builder.frozen(state),
    }
    for (index, disk) in plan.disks.iter().enumerate() {
        builder.disk(index, disk)?;
    }
    if let Some(nic) = &plan.nic {
        builder.nic(nic)?;
    }
    builder.channels();
    Ok(Prepared { command: builder.command, inherited: builder.inherited })
}

struct Builder {
    command: Command,
    inherited: Vec<OwnedFd>,
}

impl Builder {
    fn machine(&mut self, isolation: Isolation, plan: &VmPlan) {
        let accelerator = match isolation {
            Isolation::QemuKvm => "kvm".to_owned(),
            _ => format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE_MB}"),
        };
        let cpu = if isolation == Isolation::QemuKvm { "host" } else { "max" };
        self.args(["-name", &super::name(&plan.machine)]);
        self.args(["-machine", "microvm,x-option-roms=off,isa-serial=on,rtc=on,acpi=on"]);
        self.args(["-accel", &accelerator, "-cpu", cpu]);
        self.args(["-smp", &plan.cpus.to_string(), "-m", &format!("{}M", plan.memory_mb)]);
        self.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        // It waits until we have connected the console, so that nothing of it is missed.
        self.args(["-S", "-qmp", &format!("unix:{CONTROL},server=on,wait=off")]);
    }

    fn confinement(&mut self) {
        self.args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    }

    fn kernel(&mut self, isolation: Isolation, plan: &VmPlan) -> Result<(), VmmError> {
        for (option, path) in [("-kernel", &plan.kernel.vmlinux), ("-initrd", &plan.kernel.initramfs_qemu)] {
            let file = self.inherit(File::open(path).map_err(setup_error("open", path))?);
            self.args([option, &file]);
        }
        let mut line = format!("{KERNEL_ARGS} pci=off");
        if isolation == Isolation::QemuTcg {
            // The emulated processor has the host's counter but no clock to measure it against.
            line.push_str(&format!(" tsc_early_khz={}", tsc::host_khz()));
        }
        for word in &plan.kernel_args {
            line.push(' ');
            line.push_str(word);
        }
        self.args(["-append", &line]);
        Ok(())
    }

    fn frozen(&mut self, state: File) {
        self.args(["-incoming", &format!("fd:{}", state.as_raw_fd())]);
        self.inherited.push(state.into());
    }

    /// A disk as a set of descriptors: QEMU opens what it may write to for reading first, and takes for each way of
    /// opening the descriptor that fits.
    fn disk(&mut self, index: usize, disk: &Disk) -> Result<(), VmmError> {
        self.disk_descriptor(index, disk, OpenOptions::new().read(true))?;
        if !disk.read_only {
            self.disk_descriptor(index, disk, OpenOptions::new().read(true).write(true))?;
        }
        let access = if disk.read_only { "on" } else { "off" };
        // A file's holes stay holes, and what the guest discards becomes one.
        let holes = "discard=unmap,detect-zeroes=unmap";
        self.args([
            "-drive",
            &format!("if=none,id=disk{index},file=/dev/fdset/{index},format=raw,read-only={access},{holes}"),
        ]);
        self.args(["-device", &format!("virtio-blk-device,drive=disk{index}")]);
        Ok(())
    }

    fn disk_descriptor(&mut self, set: usize, disk: &Disk, options: &OpenOptions) -> Result<(), VmmError> {
        let file = options.open(&disk.path).map_err(setup_error("open", &disk.path))?;
        self.args(["-add-fd", &format!("fd={},set={set}", file.as_raw_fd())]);
        self.inherited.push(file.into());
        Ok(())
    }

    fn nic(&mut self, nic: &Nic) -> Result<(), VmmError> {
        let netdev = match &nic.tap {
            Some(tap) => self.tap(tap)?,
            None => "hubport,id=net0,hubid=0".to_owned(),
        };
        self.args(["-netdev", &netdev]);
        let mac = nic.mac.map(|byte| format!("{byte:02x}")).join(":");
        self.args(["-device", &format!("virtio-net-device,netdev=net0,mac={mac}")]);
        Ok(())
    }

    fn tap(&mut self, name: &str) -> Result<String, VmmError> {
        let tap = tap::open(name).map_err(|source| VmmError::Setup { what: format!("open tap {name}"), source })?;
        let descriptor = tap.as_raw_fd();
        self.inherited.push(tap.into());
        Ok(format!("tap,id=net0,fd={descriptor},vhost=off"))
    }

    fn channels(&mut self) {
        self.args(["-chardev", &format!("socket,id=console,path={CONSOLE},server=on,wait=off")]);
        self.args(["-serial", "chardev:console"]);
        self.args(["-chardev", &format!("socket,id=channel,path={CHANNEL},server=on,wait=off")]);
        self.args(["-device", "virtio-serial-device,max_ports=2"]);
        self.args(["-device", &format!("virtserialport,chardev=channel,name={}", guest::VIRTIO_PORT)]);
        self.args(["-object", "rng-builtin,id=random"]);
        self.args(["-device", "virtio-rng-device,rng=random"]);
    }

    fn inherit(&mut self, file: File) -> String {
        let path = inherited_path(file.as_fd());
        self.inherited.push(file.into());
        path
    }

    fn args<const N: usize>(&mut self, args: [&str; N]) {
        self.command.args(args);
    }
}
