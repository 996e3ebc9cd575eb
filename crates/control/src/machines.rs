//! Machines by request: create, look, update, destroy.
//!
//! What is wanted of a machine is stored first, then handed to its node; [`reconcile`] repairs what a crash in between
//! leaves open. What a machine does, its node alone knows: the views it publishes are read, never copied.

mod act;
mod exec;
mod intent;
mod lease;
mod reconcile;
pub(crate) mod validate;
mod view;
mod wait;

use std::{collections::BTreeMap, sync::Arc};

use api::{
    internal::{Launch, NodeView, PullCredentials},
    public::machines::{LaunchMachine, Machine},
};
use model::{
    ImageSpec, InstanceId, MachineId,
    machine::{Action, Event, MachineConfig, MachineSpec, MachineState, Observed, SealedSecrets, Verdict},
};

pub(crate) use act::signal_name;
pub(crate) use lease::Nonce;
pub(crate) use wait::{Target, WaitFor};

use crate::{
    Control,
    auth::Caller,
    error::Error,
    store::{
        apps::AppRow,
        machines::{self, MachineRow},
    },
};

/// How many machines an app may have.
const MAX_MACHINES: i64 = 200;

/// Which machines of an app are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MachineFilter {
    /// Those lately destroyed too.
    pub include_deleted: bool,
    /// Only those of this region.
    pub region: Option<String>,
    /// Only those in one of these states, by name; any if empty.
    pub states: Vec<String>,
    /// Only those with all of these labels.
    pub metadata: BTreeMap<String, String>,
}

impl MachineFilter {
    fn covers(&self, machine: &Machine) -> bool {
        let label = |(key, value): (&String, &String)| machine.config.metadata.get(key) == Some(value);
        (self.include_deleted || machine.state != MachineState::Destroyed)
            && self.region.as_deref().is_none_or(|region| region == machine.region.as_str())
            && (self.states.is_empty() || self.states.contains(&machine.state.to_string()))
            && self.metadata.iter().all(label)
    }
}

impl Control {
    /// What the node knows now.
    pub(crate) fn view(&self) -> Arc<NodeView> {
        self.ports.node.observe().borrow().clone()
    }

    /// What the node knows now of one machine.
    pub(crate) fn observed(&self, id: &MachineId) -> Option<Arc<Observed>> {
        self.ports.node.observe().borrow().machines.get(id).cloned()
    }

    /// The app's machine of this id, destroyed or not.
    pub(crate) async fn machine_row(&self, app: &AppRow, id: &MachineId) -> Result<MachineRow, Error> {
        let row = machines::find(self.store.reader(), app.id, id).await?;
        row.ok_or_else(|| Error::not_found("machine", id.as_str()))
    }

    /// The app's machine of this id, which still exists.
    pub(crate) async fn live_machine(&self, app: &AppRow, id: &MachineId) -> Result<MachineRow, Error> {
        let row = self.machine_row(app, id).await?;
        if row.gone { Err(Error::not_found("machine", format!("{id} is destroyed"))) } else { Ok(row) }
    }

    /// One machine.
    pub(crate) async fn machine(&self, app: &AppRow, id: &MachineId) -> Result<Machine, Error> {
        let row = self.machine_row(app, id).await?;
        Ok(view::machine(&row, self.observed(id).as_deref()))
    }

    /// The app's machines, oldest first.
    pub(crate) async fn machines(&self, app: &AppRow, filter: &MachineFilter) -> Result<Vec<Machine>, Error> {
        let rows = machines::of_app(self.store.reader(), app.id).await?;
        let view = self.view();
        let show = |row: &MachineRow| view::machine(row, view.machines.get(&row.spec.id).map(|observed| &**observed));
        Ok(rows.iter().map(show).filter(|machine| filter.covers(machine)).collect())
    }

    /// Makes a machine.
    pub(crate) async fn create_machine(
        &self,
        caller: &Caller,
        app: &AppRow,
        request: LaunchMachine,
    ) -> Result<Machine, Error> {
        validate::check(&request.config)?;
        self.check_region(&request.region)?;
        self.check_secrets_version(app, request.min_secrets_version)?;
        let name = check_name(&request.name)?;
        let image = self.resolve_image(app, &request.config.image, PullCredentials::Anonymous).await?.image;
        let secrets = self.secrets_of_request(app, &request).await?;
        let id = new_machine_id();
        let spec = self.spec(app, id.clone(), new_version(), name, image, request.config, secrets);
        let launch = Launch { start: !request.skip_launch, cordoned: request.skip_service_registration };
        if machines::count(self.store.reader(), app.id).await? >= MAX_MACHINES {
            return Err(Error::invalid(format!("the app has {MAX_MACHINES} machines, which is all that it may have")));
        }
        self.launch(app.id, spec, launch, None).await?;
        let mut machine = self.machine(app, &id).await?;
        if request.lease_ttl > 0 {
            let lease = self.acquire_lease(caller, app, &id, request.lease_ttl, "", &Nonce::none()).await?;
            machine.nonce = lease.data.nonce;
        }
        Ok(machine)
    }

    /// Gives a machine another configuration.
    pub(crate) async fn update_machine(
        &self,
        app: &AppRow,
        id: &MachineId,
        request: LaunchMachine,
        nonce: &Nonce,
    ) -> Result<Machine, Error> {
        let row = self.live_machine(app, id).await?;
        self.check_lease(id, nonce).await?;
        self.check_same_place(&row, &request)?;
        validate::check(&request.config)?;
        self.check_secrets_version(app, request.min_secrets_version)?;
        let image = self.resolve_image(app, &request.config.image, PullCredentials::Anonymous).await?.image;
        let secrets = self.secrets_of_request(app, &request).await?;
        let name = row.spec.name.clone();
        let spec = self.spec(app, id.clone(), new_version(), name, image, request.config, secrets);
        let runs = self.observed(id).is_some_and(|observed| observed.state.may_run());
        if request.skip_launch && runs {
            self.ports.node.stop(id, api::internal::StopRequest::default()).await?;
        }
        self.give_spec(app.id, spec, request.current_version.as_deref()).await?;
        if !request.skip_launch && !runs {
            self.ports.node.start(id).await?;
        }
        self.machine(app, id).await
    }

    /// Removes a machine; a running one only with `force`.
    pub(crate) async fn destroy_machine(
        &self,
        app: &AppRow,
        id: &MachineId,
        force: bool,
        nonce: &Nonce,
    ) -> Result<(), Error> {
        let row = self.machine_row(app, id).await?;
        if row.destroyed_at.is_some() {
            return Ok(());
        }
        self.check_lease(id, nonce).await?;
        if let Some(observed) = self.observed(id)
            && let Verdict::Deny(reason) = observed.state.may(Action::Destroy { force })
        {
            let (machine, state) = (id.clone(), observed.state);
            return Err(api::internal::NodeError::Denied { machine, state, reason: reason.to_owned() }.into());
        }
        self.remove(id, force).await
    }

    /// What happened to a machine, newest first.
    pub(crate) async fn machine_events(&self, app: &AppRow, id: &MachineId, limit: usize) -> Result<Vec<Event>, Error> {
        let mut machine = self.machine(app, id).await?;
        machine.events.truncate(limit);
        Ok(machine.events)
    }

    /// The whole wanted state of a machine.
    #[expect(clippy::too_many_arguments, reason = "a spec has this many independent parts")]
    pub(crate) fn spec(
        &self,
        app: &AppRow,
        id: MachineId,
        version: InstanceId,
        name: String,
        image: ImageSpec,
        config: MachineConfig,
        secrets: SealedSecrets,
    ) -> MachineSpec {
        MachineSpec {
            id,
            name,
            org: app.org.clone(),
            app: app.name.clone(),
            network: app.network(),
            region: self.options.region.clone(),
            version,
            image,
            config,
            secrets,
        }
    }

    async fn secrets_of_request(&self, app: &AppRow, request: &LaunchMachine) -> Result<SealedSecrets, Error> {
        if request.skip_secrets {
            return Ok(SealedSecrets::default());
        }
        self.sealed_secrets(app, app.secrets_version).await
    }

    fn check_region(&self, region: &str) -> Result<(), Error> {
        if region.is_empty() || region == self.options.region.as_str() {
            return Ok(());
        }
        Err(Error::invalid(format!("region {region:?}: this platform runs in {} only", self.options.region)))
    }

    /// Region and name of a machine never change.
    fn check_same_place(&self, row: &MachineRow, request: &LaunchMachine) -> Result<(), Error> {
        self.check_region(&request.region)?;
        if request.name.is_empty() || request.name == row.spec.name {
            return Ok(());
        }
        Err(Error::invalid(format!("the machine's name is {} and cannot be changed", row.spec.name)))
    }

    fn check_secrets_version(&self, app: &AppRow, least: Option<u64>) -> Result<(), Error> {
        match least {
            Some(least) if least > app.secrets_version => Err(Error::Conflict {
                message: format!("the app's secrets have version {}, not yet {least}", app.secrets_version),
                hint: "set the secrets first, or ask for the version that `GET …/secrets` tells",
            }),
            _ => Ok(()),
        }
    }
}

/// A name for a machine: the one asked for, or one made up.
fn check_name(name: &str) -> Result<String, Error> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    match name {
        "" => Ok(made_up_name()),
        name if name.len() <= 63 && name.chars().all(inner) => Ok(name.to_owned()),
        name => Err(Error::invalid(format!("{name:?} is not a machine's name: 1 to 63 letters, digits, '-' and '_'"))),
    }
}

const WEATHER: [&str; 16] = [
    "breezy", "bright", "calm", "clear", "cool", "dewy", "frosty", "hazy", "mild", "misty", "rainy", "snowy", "starry",
    "still", "sunny", "windy",
];
const WADERS: [&str; 16] = [
    "avocet",
    "curlew",
    "dotterel",
    "dunlin",
    "godwit",
    "knot",
    "lapwing",
    "phalarope",
    "plover",
    "redshank",
    "ruff",
    "sanderling",
    "snipe",
    "stilt",
    "turnstone",
    "whimbrel",
];

/// A name for people, such as `misty-curlew-4821`.
pub(crate) fn made_up_name() -> String {
    let [a, b, c, d] = kit::random::bytes::<4>();
    let number = u16::from_le_bytes([c, d]) % 10_000;
    format!("{}-{}-{number:04}", WEATHER[usize::from(a) % 16], WADERS[usize::from(b) % 16])
}

pub(crate) fn new_machine_id() -> MachineId {
    MachineId::from_random(kit::random::bytes())
}

pub(crate) fn new_version() -> InstanceId {
    InstanceId::new(kit::clock::unix_ms(), kit::random::bytes())
}
