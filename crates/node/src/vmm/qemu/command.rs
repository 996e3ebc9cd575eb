//! The command line of QEMU.
//!
//! QEMU gets every file as an open descriptor, so that the user it runs as needs no right to any path. Devices have
//! fixed places on the bus, since the guest numbers them in the order of their places.

use std::{
    fs::{File, OpenOptions},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    process::Command,
};

use model::machine::Isolation;

use super::{CHANNEL, CONSOLE, CONTROL, tap};
use crate::vmm::{Disk, Nic, VmPlan, VmmError, setup_error, spawn::inherited_path, tsc};

/// The places on microvm's bus.
const MAX_DEVICES: usize = 24;
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
pub(crate) const KERNEL_ARGS: &str = "console=ttyS0 quiet reboot=t panic=-1 pci=off cryptomgr.notests";

pub(super) fn prepare(program: &Path, isolation: Isolation, plan: &VmPlan) -> Result<Prepared, VmmError> {
    if plan.disks.len() + OTHER_DEVICES > MAX_DEVICES {
        return Err(VmmError::Plan(format!("it has more than {} disks", MAX_DEVICES - OTHER_DEVICES)));
    }
    let mut builder = Builder { command: Command::new(program), inherited: Vec::new(), devices: 0 };
    builder.machine(isolation, plan);
    builder.confinement();
    builder.kernel(isolation, plan)?;
    for disk in &plan.disks {
        builder.disk(disk)?;
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
    devices: usize,
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
        let mut line = KERNEL_ARGS.to_owned();
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

    fn disk(&mut self, disk: &Disk) -> Result<(), VmmError> {
        let options = OpenOptions::new().read(true).write(!disk.read_only).clone();
        let file = options.open(&disk.path).map_err(setup_error("open", &disk.path))?;
        let (set, id) = (self.devices + 1, format!("disk{}", self.devices));
        let descriptor = file.as_raw_fd();
        self.inherited.push(file.into());
        self.args(["-add-fd", &format!("fd={descriptor},set={set}")]);
        let access = if disk.read_only { "on" } else { "off" };
        // A file's holes stay holes, and what the guest discards becomes one.
        self.args([
            "-drive",
            &format!(
                "if=none,id={id},file=/dev/fdset/{set},format=raw,read-only={access},discard=unmap,detect-zeroes=unmap"
            ),
        ]);
        self.device(&format!("virtio-blk-device,drive={id}"));
        Ok(())
    }

    fn nic(&mut self, nic: &Nic) -> Result<(), VmmError> {
        let tap =
            tap::open(&nic.tap).map_err(|source| VmmError::Setup { what: format!("open tap {}", nic.tap), source })?;
        let descriptor = tap.as_raw_fd();
        self.inherited.push(tap.into());
        self.args(["-netdev", &format!("tap,id=net0,fd={descriptor},vhost=off")]);
        let mac = nic.mac.map(|byte| format!("{byte:02x}")).join(":");
        self.device(&format!("virtio-net-device,netdev=net0,mac={mac}"));
        Ok(())
    }

    fn channels(&mut self) {
        self.args(["-chardev", &format!("socket,id=console,path={CONSOLE},server=on,wait=off")]);
        self.args(["-serial", "chardev:console"]);
        self.args(["-chardev", &format!("socket,id=channel,path={CHANNEL},server=on,wait=off")]);
        self.device("virtio-serial-device,max_ports=2");
        self.args(["-device", &format!("virtserialport,chardev=channel,name={}", guest::VIRTIO_PORT)]);
        self.args(["-object", "rng-builtin,id=random"]);
        self.device("virtio-rng-device,rng=random");
    }

    /// A device in the next place on the bus.
    fn device(&mut self, device: &str) {
        let place = self.devices;
        self.devices += 1;
        self.args(["-device", &format!("{device},bus=virtio-mmio-bus.{place}")]);
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
