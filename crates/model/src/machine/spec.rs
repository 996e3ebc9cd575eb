//! The whole wanted state of a machine, as the control plane hands it down, and what its node says of it.

use serde::{Deserialize, Serialize};

use crate::{
    Addresses, AppName, ImageSpec, InstanceId, MachineId, NetworkId, OrgSlug, Region, Timestamp,
    machine::{CheckState, CheckStatus, Event, ExitEvent, MachineConfig, MachineState},
};

/// The secrets of a machine: sealed for the host, opened only when the guest is started.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecrets {
    /// The version of the app's secrets that these are.
    pub version: u64,
    /// A sealed JSON object of names and values; empty when there are none. Written in hexadecimal digits.
    #[serde(with = "hex")]
    pub sealed: Vec<u8>,
}

impl SealedSecrets {
    /// The place that an app's secrets are sealed for: elsewhere they do not open.
    pub fn place(app: &AppName) -> String {
        format!("secrets/{app}")
    }
}

impl std::fmt::Debug for SealedSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealedSecrets {{ version: {}, sealed: {} bytes }}", self.version, self.sealed.len())
    }
}

/// The whole wanted state of one machine. A change is a new spec with a new version, never a delta.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// The machine.
    pub id: MachineId,
    /// Its name, for people.
    pub name: String,
    /// Its organization.
    pub org: OrgSlug,
    /// Its app.
    pub app: AppName,
    /// Its private network.
    pub network: NetworkId,
    /// Where it runs.
    pub region: Region,
    /// The version of its configuration.
    pub version: InstanceId,
    /// The image, complete in the platform's own blob store.
    pub image: ImageSpec,
    /// Its configuration.
    pub config: MachineConfig,
    /// Its secrets.
    pub secrets: SealedSecrets,
}

/// Which wall stands between a machine and its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Firecracker on hardware virtualization, jailed.
    Firecracker,
    /// QEMU's microvm machine on hardware virtualization.
    QemuKvm,
    /// QEMU's microvm machine in software: as isolated, but slow.
    QemuTcg,
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Firecracker => "firecracker (kvm)",
            Self::QemuKvm => "qemu (kvm)",
            Self::QemuTcg => "qemu (software emulation, slow)",
        })
    }
}

/// What a node says of one of its machines. Whole, never a delta.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// The spec it was last given.
    pub spec: MachineSpec,
    /// What it is doing.
    pub state: MachineState,
    /// Its addresses.
    pub addresses: Addresses,
    /// It gets no traffic from the edge.
    pub cordoned: bool,
    /// Its health checks.
    pub checks: Vec<CheckStatus>,
    /// What happened, newest first, bounded.
    pub events: Vec<Event>,
    /// How its program last ended, if it has.
    pub last_exit: Option<ExitEvent>,
    /// Why it is in the state it is in, where that needs words (a failure).
    pub reason: Option<String>,
    /// The wall around it, once it has run.
    pub isolation: Option<Isolation>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When any of this last changed.
    pub updated_at: Timestamp,
}

impl Observed {
    /// Whether its program runs, it may get traffic, and no check that takes part in routing fails.
    pub fn is_ready(&self) -> bool {
        self.state == MachineState::Started && !self.cordoned && self.service_checks_pass()
    }

    /// Whether every check that takes part in routing passes.
    pub fn service_checks_pass(&self) -> bool {
        let mut routing = self.checks.iter().filter(|check| check.name.starts_with("servicecheck-"));
        routing.all(|check| check.status == CheckState::Passing)
    }
}
