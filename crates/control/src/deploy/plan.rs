//! What a deployment does, worked out from what there is and what is wanted. Pure: identifiers are passed in.

use api::public::deploys::PlanStep;
use model::{InstanceId, MachineId};
use serde::{Deserialize, Serialize};

/// A machine of the app that a deployment may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Present {
    pub id: MachineId,
    pub group: String,
    /// The release it runs, if it is known.
    pub release: Option<u32>,
    pub version: InstanceId,
    /// The volumes it uses.
    pub volumes: Vec<String>,
    pub state: Before,
}

/// What a machine did before it was touched, so that undoing leads back to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Before {
    pub running: bool,
    pub cordoned: bool,
}

/// A process group as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub name: String,
    pub count: u32,
    /// The volumes that its machines use.
    pub volumes: Vec<String>,
}

/// Where new identifiers come from.
pub(crate) trait Ids {
    fn machine(&mut self) -> MachineId;
    fn version(&mut self) -> InstanceId;
}

/// What becomes of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// There will be a new one.
    Create { group: String, new: MachineId, version: InstanceId },
    /// A new one takes its place, started before the old one stops.
    Replace { old: Present, new: MachineId, version: InstanceId },
    /// It is given another configuration, with a short pause.
    Update { old: Present, version: InstanceId },
    /// It runs the release already.
    Keep { old: Present },
    /// It is no longer wanted.
    Destroy { old: Present },
}

/// One step of a deployment. See the module of deployments for what each rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(crate) enum Step {
    /// Make and start a machine. Undone: destroy it.
    Launch { machine: MachineId, version: InstanceId, group: String, cordoned: bool },
    /// Give a machine another configuration. Undone: give it the one it had.
    Update { machine: MachineId, from: InstanceId, to: InstanceId, group: String, before: Before },
    /// Wait until a machine is started and healthy.
    AwaitReady { machine: MachineId, version: InstanceId, group: String },
    /// Give a machine traffic.
    Admit { machine: MachineId },
    /// Take a machine's traffic away, let what is under way end, and stop it. Undone: start it and give it traffic.
    Retire { machine: MachineId, before: Before },
    /// The release is the current one now. Nothing is undone from here on.
    Commit,
    /// Remove a machine.
    Destroy { machine: MachineId },
}

/// What becomes of each machine. Groups come in the order wanted; within a group old machines come first. Of too
/// many, the newest go. `present` is in order of age, oldest first.
pub(crate) fn changes(present: &[Present], wanted: &[Wanted], release: u32, ids: &mut impl Ids) -> Vec<Change> {
    let mut changes = Vec::new();
    for group in wanted {
        let here: Vec<_> = present.iter().filter(|machine| machine.group == group.name).collect();
        let count = group.count as usize;
        for old in here.iter().take(count) {
            changes.push(change((*old).clone(), group, release, ids));
        }
        for _ in here.len()..count {
            changes.push(Change::Create { group: group.name.clone(), new: ids.machine(), version: ids.version() });
        }
        changes.extend(here.iter().skip(count).map(|old| Change::Destroy { old: (*old).clone() }));
    }
    let unwanted = present.iter().filter(|machine| wanted.iter().all(|group| group.name != machine.group));
    changes.extend(unwanted.map(|old| Change::Destroy { old: old.clone() }));
    changes
}

fn change(old: Present, group: &Wanted, release: u32, ids: &mut impl Ids) -> Change {
    if old.release == Some(release) {
        Change::Keep { old }
    } else if old.volumes.is_empty() && group.volumes.is_empty() {
        Change::Replace { old, new: ids.machine(), version: ids.version() }
    } else {
        Change::Update { old, version: ids.version() }
    }
}

/// The steps that make the changes, in order. A machine that goes and holds a volume is stopped first, because the
/// machine that comes may want the same volume; others that go are stopped last.
pub(crate) fn steps(changes: &[Change], immediate: bool) -> Vec<Step> {
    let going = |volumes: bool| {
        changes.iter().filter_map(move |change| match change {
            Change::Destroy { old } if old.volumes.is_empty() != volumes => Some(old),
            _ => None,
        })
    };
    let mut steps: Vec<_> = going(true).map(retire).collect();
    steps.extend(changes.iter().flat_map(|change| steps_of(change, immediate)));
    steps.push(Step::Commit);
    steps.extend(going(false).map(retire));
    steps.extend(changes.iter().filter_map(removed).map(|machine| Step::Destroy { machine: machine.clone() }));
    steps
}

fn steps_of(change: &Change, immediate: bool) -> Vec<Step> {
    let launch = |machine: &MachineId, version: &InstanceId, group: &str| Step::Launch {
        machine: machine.clone(),
        version: version.clone(),
        group: group.to_owned(),
        cordoned: !immediate,
    };
    let ready = |machine: &MachineId, version: &InstanceId, group: &str| Step::AwaitReady {
        machine: machine.clone(),
        version: version.clone(),
        group: group.to_owned(),
    };
    let admit = |machine: &MachineId| Step::Admit { machine: machine.clone() };
    let mut steps = match change {
        Change::Create { group, new, version } => {
            vec![launch(new, version, group), ready(new, version, group), admit(new)]
        }
        Change::Replace { old, new, version } => {
            vec![launch(new, version, &old.group), ready(new, version, &old.group), admit(new), retire(old)]
        }
        Change::Update { old, version } => vec![update(old, version), ready(&old.id, version, &old.group)],
        Change::Keep { .. } | Change::Destroy { .. } => Vec::new(),
    };
    if immediate {
        steps.retain(|step| !matches!(step, Step::AwaitReady { .. } | Step::Admit { .. }));
    }
    steps
}

fn update(old: &Present, to: &InstanceId) -> Step {
    Step::Update {
        machine: old.id.clone(),
        from: old.version.clone(),
        to: to.clone(),
        group: old.group.clone(),
        before: old.state,
    }
}

fn retire(old: &Present) -> Step {
    Step::Retire { machine: old.id.clone(), before: old.state }
}

/// The machine that a change does away with.
fn removed(change: &Change) -> Option<&MachineId> {
    match change {
        Change::Replace { old, .. } | Change::Destroy { old } => Some(&old.id),
        _ => None,
    }
}

/// The machine that there was before the change, which nobody else may change meanwhile.
pub(crate) fn touched(change: &Change) -> Option<&Present> {
    match change {
        Change::Replace { old, .. } | Change::Update { old, .. } | Change::Destroy { old } => Some(old),
        Change::Create { .. } | Change::Keep { .. } => None,
    }
}

/// The plan in words.
pub(crate) fn describe(change: &Change) -> PlanStep {
    let step = |action: &str, group: &str, machine: Option<&MachineId>, description: String| PlanStep {
        action: action.to_owned(),
        group: group.to_owned(),
        machine: machine.cloned(),
        description,
    };
    match change {
        Change::Create { group, .. } => step("create", group, None, format!("create a machine for {group}")),
        Change::Replace { old, .. } => {
            let words = format!("replace machine {}: start a new one, then drain and stop the old one", old.id);
            step("replace", &old.group, Some(&old.id), words)
        }
        Change::Update { old, .. } => {
            step("update", &old.group, Some(&old.id), format!("update machine {} in place", old.id))
        }
        Change::Keep { old } => step("keep", &old.group, Some(&old.id), format!("keep machine {}", old.id)),
        Change::Destroy { old } => {
            step("destroy", &old.group, Some(&old.id), format!("drain, stop and destroy machine {}", old.id))
        }
    }
}

/// What to know before the plan is carried out.
pub(crate) fn warnings(changes: &[Change], immediate: bool) -> Vec<String> {
    let mut warnings: Vec<_> = changes.iter().filter_map(pause).collect();
    if immediate && changes.iter().any(|change| touched(change).is_some()) {
        warnings
            .push("strategy immediate: machines are replaced without waiting for health, so requests may fail".into());
    }
    warnings
}

fn pause(change: &Change) -> Option<String> {
    let Change::Update { old, .. } = change else { return None };
    let volume = old.volumes.first().map_or_else(|| "its volume".to_owned(), |name| format!("volume {name}"));
    Some(format!(
        "a short pause: {volume} can be used by one machine at a time, so machine {} is updated in place; requests are \
         held meanwhile",
        old.id
    ))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
