//! What a node is opened with.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use api::internal::{Drain, LogSink, RootfsSource};
use async_trait::async_trait;
use kit::seal::SealingKey;
use model::{MachineId, Region};
use thiserror::Error;

use crate::{
    kernel::{GuestKernel, KernelSource},
    net::Ipv4Pool,
    vmm::{Driver, Vmm},
};

/// What a node is opened with.
#[derive(Clone)]
pub struct NodeOptions {
    /// The platform's data directory.
    pub data_dir: PathBuf,
    /// The region this host stands in; its log records carry it.
    pub region: Region,
    /// Tells this instance's taps, control groups and firewall table from those of another on the same host.
    pub tag: Tag,
    /// Where the machines' host-local addresses come from. No other interface of the host may use it.
    pub machine_pool: Ipv4Pool,
    /// The first of the users that virtual machine monitors run as, one per machine.
    pub first_uid: u32,
    /// What runs virtual machines.
    pub machinery: Machinery,
    /// The size of a machine's writable layer in GiB. It is sparse.
    pub overlay_size_gb: u32,
    /// How long a guest may take from its launch to the start of its program.
    pub boot_timeout: Duration,
    /// What guests are told to ask for names.
    pub name_servers: Vec<IpAddr>,
    /// Opens the machines' secrets.
    pub sealing_key: SealingKey,
    /// Makes root filesystems.
    pub rootfs: Arc<dyn RootfsSource>,
    /// Takes what guests write and what the platform has to say about them.
    pub logs: Arc<dyn LogSink>,
    /// Knows when nothing is under way to a machine: the edge. Without one there is no traffic to wait for.
    pub drain: Arc<dyn Drain>,
    /// Is told of each step. A test aid; [`StepProbe::none`] otherwise.
    pub probe: StepProbe,
}

impl NodeOptions {
    /// The usual sizes and times.
    pub fn new(
        data_dir: PathBuf,
        region: Region,
        machinery: Machinery,
        sealing_key: SealingKey,
        rootfs: Arc<dyn RootfsSource>,
        logs: Arc<dyn LogSink>,
    ) -> Self {
        Self {
            data_dir,
            region,
            tag: Tag("0".into()),
            machine_pool: "10.201.0.0/16".parse().expect("it is a range"),
            first_uid: FIRST_UID,
            machinery,
            overlay_size_gb: 8,
            boot_timeout: Duration::from_secs(60),
            name_servers: vec![model::address::NAME_SERVER.into()],
            sealing_key,
            rootfs,
            logs,
            drain: Arc::new(NoTraffic),
            probe: StepProbe::none(),
        }
    }
}

/// A host without an edge.
struct NoTraffic;

#[async_trait]
impl Drain for NoTraffic {
    async fn drained(&self, _: &MachineId, _: u64, _: Duration) -> usize {
        0
    }
}

/// The first of the users that virtual machine monitors run as, unless another is chosen: above those of people,
/// services and the usual ranges of user namespaces.
pub const FIRST_UID: u32 = 900_000;

/// What runs virtual machines.
#[derive(Clone)]
pub enum Machinery {
    /// The strongest driver that works here, or the one that is wanted, with the kernel of this source.
    Choose {
        /// The driver that is wanted.
        driver: Driver,
        /// Where the kernel comes from.
        kernel: KernelSource,
    },
    /// This one.
    Given {
        /// The driver.
        vmm: Arc<dyn Vmm>,
        /// The kernel.
        kernel: Arc<GuestKernel>,
        /// Why this one.
        why: String,
    },
}

/// The short name of an instance: 1 to 6 lower-case letters and digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag(String);

/// Why a text is not a tag.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} cannot name an instance: use 1 to 6 lower-case letters and digits")]
pub struct InvalidTag(pub String);

impl FromStr for Tag {
    type Err = InvalidTag;

    fn from_str(text: &str) -> Result<Self, InvalidTag> {
        let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = (1..=6).contains(&text.len()) && text.bytes().all(valid);
        if good { Ok(Self(text.to_owned())) } else { Err(InvalidTag(text.to_owned())) }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Is told the name of each step of a machine's life before it takes effect (`launch`) and after (`launch:done`).
/// Tests use it to end the process at every one of them.
#[derive(Clone, Default)]
pub struct StepProbe(Option<Tell>);

type Tell = Arc<dyn Fn(&str) + Send + Sync>;

impl StepProbe {
    /// Nobody is told.
    pub fn none() -> Self {
        Self(None)
    }

    /// This function is told.
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    pub(crate) fn tell(&self, step: &str) {
        if let Some(tell) = &self.0 {
            tell(step);
        }
    }
}
