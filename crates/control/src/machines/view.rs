//! A machine as the API shows it: what is wanted of it, with what its node observes.

use api::public::machines::Machine;
use kit::clock::rfc3339;
use model::{
    ImageRef, Reference,
    machine::{MachineSpec, MachineState, Observed},
};

use crate::store::machines::MachineRow;

/// The machine as the API shows it. What its node does not know (yet, or any more) is told from what is wanted.
pub(crate) fn machine(row: &MachineRow, observed: Option<&Observed>) -> Machine {
    let spec = &row.spec;
    let state = state(row, observed);
    Machine {
        id: spec.id.clone(),
        name: spec.name.clone(),
        state,
        region: spec.region.clone(),
        image_ref: image_ref(spec),
        instance_id: spec.version.clone(),
        version: spec.version.clone(),
        private_ip: spec.network.machine_address(&spec.id).to_string(),
        created_at: rfc3339(row.created_at),
        updated_at: rfc3339(observed.map_or(0, |observed| observed.updated_at.0).max(row.updated_at)),
        config: spec.config.clone(),
        events: observed.map(|observed| observed.events.clone()).unwrap_or_default(),
        checks: observed.map(|observed| observed.checks.clone()).unwrap_or_default(),
        cordoned: observed.map_or(row.launch.cordoned, |observed| observed.cordoned),
        host_status: "ok".to_owned(),
        reason: observed.and_then(|observed| observed.reason.clone()),
        isolation: observed.and_then(|observed| observed.isolation),
        nonce: None,
    }
}

/// What a machine is doing.
pub(crate) fn state(row: &MachineRow, observed: Option<&Observed>) -> MachineState {
    match observed {
        _ if row.destroyed_at.is_some() => MachineState::Destroyed,
        Some(observed) => observed.state,
        None if row.gone => MachineState::Destroying,
        None => MachineState::Creating,
    }
}

fn image_ref(spec: &MachineSpec) -> ImageRef {
    let reference: Option<Reference> = spec.image.reference.parse().ok();
    let digest = Some(spec.image.digest.clone());
    match reference {
        Some(Reference { registry, repository, tag, .. }) => {
            ImageRef { registry: registry.unwrap_or_default(), repository, tag, digest, ..ImageRef::default() }
        }
        None => ImageRef { repository: spec.image.reference.clone(), digest, ..ImageRef::default() },
    }
}
