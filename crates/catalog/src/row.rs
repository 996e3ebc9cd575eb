//! One machine as the catalog knows it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use model::{
    AppName, HostId, InstanceId, MachineId, NetworkId, OrgSlug, Region, Timestamp,
    machine::{CheckState, MachineState, Observed, Service},
};
use serde::{Deserialize, Serialize};

use crate::Named;

/// Whether a machine takes traffic, and if not, whether it may soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It takes traffic.
    Ready,
    /// It is on its way up: being created, started, restarted or replaced.
    Coming,
    /// Its program runs, but a check that takes part in routing does not pass.
    Failing {
        /// Since when.
        since: Timestamp,
    },
    /// It would be ready, but is kept away from traffic.
    Cordoned {
        /// Since when.
        since: Timestamp,
    },
    /// It rests, or is about to: it takes none, but a request may wake it.
    Asleep,
    /// It takes none, and will not unless somebody starts it.
    Away,
}

/// Who reaches the machines of a host from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Worker {
    /// The host.
    pub host: HostId,
    /// Where its door for other hosts is.
    pub door: SocketAddr,
}

/// One machine: where it is, how it stands, what it offers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineRoute {
    /// The machine.
    pub id: MachineId,
    /// Its app.
    pub app: AppName,
    /// Its organization.
    pub org: OrgSlug,
    /// Its private network.
    pub network: NetworkId,
    /// Where it runs.
    pub region: Region,
    /// The version of its configuration.
    pub version: InstanceId,
    /// What it is doing.
    pub state: MachineState,
    /// Whether it takes traffic.
    pub standing: Standing,
    /// The address by which its own host reaches it.
    pub host_local: Ipv4Addr,
    /// Who reaches it from other hosts, if they can; machines of a host share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Arc<Worker>>,
    /// The stable address in its network.
    pub private: Ipv6Addr,
    /// Its labels; machines of an app that have the same share them.
    pub metadata: Arc<BTreeMap<String, String>>,
    /// What it offers to the outside; machines of an app that offer the same share it.
    pub services: Arc<Vec<Service>>,
    /// What the paths of files begin with that it may serve without its program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statics: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Named for MachineRoute {
    fn name(&self) -> &str {
        self.id.as_str()
    }
}

impl MachineRoute {
    /// The row of a machine; `None` once it is being removed.
    pub fn of(observed: &Observed) -> Option<Self> {
        let spec = &observed.spec;
        let gone = matches!(observed.state, MachineState::Destroying | MachineState::Destroyed);
        (!gone).then(|| Self {
            id: spec.id.clone(),
            app: spec.app.clone(),
            org: spec.org.clone(),
            network: spec.network,
            region: spec.region.clone(),
            version: spec.version.clone(),
            state: observed.state,
            standing: standing(observed),
            host_local: observed.addresses.host_local,
            worker: None,
            private: observed.addresses.private,
            metadata: Arc::new(spec.config.metadata.clone()),
            services: Arc::new(spec.config.services.clone()),
            statics: spec.config.statics.iter().map(|files| files.url_prefix.clone()).collect(),
            created_at: observed.created_at,
        })
    }

    /// Whether it takes traffic.
    pub fn is_ready(&self) -> bool {
        self.standing == Standing::Ready
    }

    /// Why this row cannot be used, if it cannot.
    pub(crate) fn defect(&self) -> Option<String> {
        let v4 = self.host_local;
        if v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() {
            return Some(format!("its host-local address {v4} is not the address of a machine"));
        }
        if NetworkId::of(self.private) != Some(self.network) {
            return Some(format!("its private address {} does not lie in its network", self.private));
        }
        None
    }
}

fn standing(observed: &Observed) -> Standing {
    use MachineState as S;
    match observed.state {
        S::Creating | S::Starting | S::Restarting | S::Replacing => Standing::Coming,
        S::Stopping if stops_to_come_back(observed) => Standing::Coming,
        S::Stopping | S::Stopped | S::Suspending | S::Suspended if !observed.cordoned => Standing::Asleep,
        S::Started if !observed.service_checks_pass() => Standing::Failing { since: failing_since(observed) },
        S::Started if observed.cordoned => Standing::Cordoned { since: cordoned_since(observed) },
        S::Started => Standing::Ready,
        _ => Standing::Away,
    }
}

/// A machine that stops for a restart or for another version says so in its newest event that is about running at all:
/// its program's exit and its cordons are not.
fn stops_to_come_back(observed: &Observed) -> bool {
    let mut kinds = observed.events.iter().map(|event| event.kind.as_str());
    let newest = kinds.find(|kind| !matches!(*kind, "exit" | "cordon" | "uncordon"));
    newest.is_some_and(|kind| matches!(kind, "restart" | "update"))
}

/// When the first of the checks that do not pass last changed.
fn failing_since(observed: &Observed) -> Timestamp {
    let failing = observed.checks.iter().filter(|check| check.status != CheckState::Passing);
    let routing = failing.filter(|check| check.name.starts_with("servicecheck-"));
    routing.map(|check| check.updated_at).min().unwrap_or(observed.updated_at)
}

fn cordoned_since(observed: &Observed) -> Timestamp {
    let cordon = observed.events.iter().find(|event| event.kind == "cordon");
    cordon.map_or(observed.updated_at, |event| event.timestamp)
}
