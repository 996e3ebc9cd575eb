//! What a guest is to run, and with what.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Everything that the init of a guest needs to know. The host resolves the image's configuration, so that
/// nothing is left to decide here but what depends on the image's files.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunSpec {
    /// Names this boot; told back in the guest's state.
    pub boot_id: String,
    /// The host name.
    pub hostname: String,
    /// The program and its arguments, as [`crate::resolve_argv`] finds them.
    pub argv: Vec<String>,
    /// `user[:group]`, each a name or a number; empty means root.
    pub user: String,
    /// `NAME=value`; of two with the same name the later one holds.
    pub env: Vec<String>,
    /// Where the program starts; empty means `/`. Made if it does not exist.
    pub working_dir: String,
    /// Give the program a terminal.
    pub tty: bool,
    /// The root file system.
    pub root: Root,
    /// Volumes.
    pub mounts: Vec<Mount>,
    /// The network.
    pub network: Network,
    /// Files to write before the program starts.
    pub files: Vec<File>,
    /// Directories that init serves beside the program; none means that nothing is served.
    pub statics: Vec<Static>,
    /// The limit on open files, or 0 for the kernel's own.
    pub nofile: u64,
    /// The signal that asks the program to end where none is given, by number; 0 means `SIGTERM`.
    pub stop_signal: i32,
    /// The wall clock: nanoseconds since 1970 (UTC), or 0 to leave the guest's clock alone.
    pub unix_ns: u64,
    /// Random bytes of the host, mixed into the guest's own before anything is chosen by those: a guest that goes on
    /// where another was frozen would else choose as that one does.
    pub entropy: Vec<u8>,
}

/// Secrets travel in the environment and in files, so neither is shown.
impl std::fmt::Debug for RunSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunSpec")
            .field("boot_id", &self.boot_id)
            .field("argv", &self.argv)
            .field("user", &self.user)
            .field("root", &self.root)
            .field("mounts", &self.mounts)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

/// A root file system: a read-only layer that machines share and a writable one of this machine's own.
///
/// Devices are named in one of these ways: `vda` or `/dev/vda`; `serial:NAME`, the serial number of the virtual
/// disk; `label:NAME`, the label of the ext4 file system on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Root {
    /// The device of the image's ext4 file system; mounted read-only.
    pub lower: String,
    /// The device of the machine's own ext4 file system.
    pub upper: String,
}

/// A volume: an ext4 file system of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Its device, named as those of [`Root`] are.
    pub device: String,
    /// Where it is mounted: an absolute path. Made if it does not exist.
    pub path: String,
}

/// The network of a guest: its one interface besides the loopback one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// The interface; none means that there is only the loopback interface.
    pub interface: Option<Interface>,
    /// Addresses of name servers, for `/etc/resolv.conf`.
    pub nameservers: Vec<IpAddr>,
    /// Lines for `/etc/hosts`, after those of the loopback addresses.
    pub hosts: Vec<HostEntry>,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its hardware address, such as `02:00:00:00:00:01`; none means the one named `eth0`.
    pub mac: Option<String>,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Where IPv4 packets for elsewhere go. It need not lie within the prefix of an address.
    pub gateway_v4: Option<Ipv4Addr>,
    /// Where IPv6 packets for elsewhere go; likewise.
    pub gateway_v6: Option<Ipv6Addr>,
    /// The largest packet in bytes; 0 leaves the interface's own.
    pub mtu: u32,
}

/// An address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The prefix's length in bits.
    pub prefix: u8,
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEntry {
    /// The address.
    pub ip: IpAddr,
    /// Its names.
    pub names: Vec<String>,
}

/// A directory whose plain files are served under the guest's host-local address, at [`crate::STATICS_PORT`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Static {
    /// The directory: an absolute path.
    pub guest_path: String,
    /// What the paths of its URLs begin with.
    pub url_prefix: String,
}

/// A file to write before the program starts. It belongs to the program's user.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct File {
    /// Where: an absolute path. Directories on the way are made.
    pub path: String,
    /// Permission bits; none means 0644.
    pub mode: Option<u32>,
    /// The content, in base 64 (RFC 4648, with padding).
    pub content: String,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File {{ path: {:?}, mode: {:?}, content: hidden }}", self.path, self.mode)
    }
}
