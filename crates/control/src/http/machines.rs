//! Machines, in the Machines API's shape.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{
    internal::StopRequest,
    public::machines::{
        LaunchMachine, Machine, MachineVersion, MetadataValue, Process, SignalMachine, StartReply, StopMachine,
        WaitReply,
    },
};
use axum::{Json, extract::State, http::StatusCode};
use model::{GoDuration, machine::Event};
use serde_json::{Value, json};

use super::extract::{AppInPath, Body, InApp, LastPart, MachineInPath, MaybeBody, OnMachine, Params};
use crate::{
    Control,
    error::Error,
    machines::{MachineFilter, Target, WaitFor, signal_name},
};

type Answer<T> = Result<T, Error>;

/// An answer that says no more than that it is done.
fn ok() -> Json<Value> {
    Json(json!({ "ok": true }))
}

/// Machines of an app.
#[utoipa::path(
    get, path = "/v1/apps/{app}/machines", tag = "machines",
    params(
        AppInPath,
        ("include_deleted" = Option<bool>, Query, description = "those lately destroyed too"),
        ("region" = Option<String>, Query, description = "only of this region"),
        ("state" = Option<String>, Query, description = "only in these states, separated by commas"),
        ("metadata.{key}" = Option<String>, Query, description = "only with this label"),
    ),
    responses((status = 200, body = [Machine]))
)]
pub(super) async fn list(State(control): State<Arc<Control>>, on: InApp, params: Params) -> Answer<Json<Vec<Machine>>> {
    let label = |(name, value): (&str, &str)| Some((name.strip_prefix("metadata.")?.to_owned(), value.to_owned()));
    let filter = MachineFilter {
        include_deleted: params.is_set("include_deleted"),
        region: params.get("region").map(str::to_owned),
        states: params.all("state").map(str::to_owned).collect(),
        metadata: params.iter().filter_map(label).collect(),
    };
    control.machines(&on.app, &filter).await.map(Json)
}

/// Creates a machine and, unless told otherwise, starts it. Answers as soon as it is certain to be made.
#[utoipa::path(
    post, path = "/v1/apps/{app}/machines", tag = "machines",
    params(AppInPath),
    request_body = LaunchMachine,
    responses((status = 200, body = Machine))
)]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    on: InApp,
    Body(request): Body<LaunchMachine>,
) -> Answer<Json<Machine>> {
    on.app.require_living()?;
    control.create_machine(&on.caller, &on.app, request).await.map(Json)
}

/// A machine.
#[utoipa::path(
    get, path = "/v1/apps/{app}/machines/{machine_id}", tag = "machines",
    params(MachineInPath),
    responses((status = 200, body = Machine))
)]
pub(super) async fn get(State(control): State<Arc<Control>>, on: OnMachine) -> Answer<Json<Machine>> {
    control.machine(&on.app, &on.id).await.map(Json)
}

/// Gives a machine another configuration, whole.
#[utoipa::path(
    post, path = "/v1/apps/{app}/machines/{machine_id}", tag = "machines",
    params(MachineInPath),
    request_body = LaunchMachine,
    responses((status = 200, body = Machine))
)]
pub(super) async fn update(
    State(control): State<Arc<Control>>,
    on: OnMachine,
    Body(request): Body<LaunchMachine>,
) -> Answer<Json<Machine>> {
    control.update_machine(&on.app, &on.id, request, &on.nonce).await.map(Json)
}

/// Destroys a machine; one that runs only with `force` (or `kill`).
#[utoipa::path(
    delete, path = "/v1/apps/{app}/machines/{machine_id}", tag = "machines",
    params(MachineInPath, ("force" = Option<bool>, Query)),
    responses((status = 200))
)]
pub(super) async fn destroy(State(control): State<Arc<Control>>, on: OnMachine, params: Params) -> Answer<Json<Value>> {
    let force = params.is_set("force") || params.is_set("kill");
    control.destroy_machine(&on.app, &on.id, force, &on.nonce).await?;
    Ok(ok())
}

/// Starts a machine; answers when its program runs.
#[utoipa::path(
    post, path = "/v1/apps/{app}/machines/{machine_id}/start", tag = "machines",
    params(MachineInPath),
    responses((status = 200, body = StartReply))
)]
pub(super) async fn start(State(control): State<Arc<Control>>, on: OnMachine) -> Answer<Json<StartReply>> {
    control.start_machine(&on.app, &on.id, &on.nonce).await.map(Json)
}

/// Stops a machine; answers when it has stopped.
#[utoipa::path(
    post, path = "/v1/apps/{app}/machines/{machine_id}/stop", tag = "machines",
    params(MachineInPath),
    request_body = StopMachine,
    responses((status = 200))
)]
pub(super) async fn stop(
    State(control): State<Arc<Control>>,
    on: OnMachine,
    MaybeBody(request): MaybeBody<StopMachine>,
) -> Answer<Json<Value>> {
    let how = how_to_stop(request.signal.as_deref(), request.timeout)?;
    control.stop_machine(&on.app, &on.id, how, &on.nonce).await?;
    Ok(ok())
}

/// Stops and starts a machine; answers when its program runs again.
#[utoipa::path(
    post, path = "/v1/apps/{app}/machines/{machine_id}/restart", tag = "machines",
    params(
        MachineInPath,
        ("timeout" = Option<String>, Query, description = "how long to wait before it is killed (`10s`)"),
        ("signal" = Option<String>, Query),
        ("force_stop" = Option<bool>, Query, description = "do not wait at all"),
    ),
    responses((status = 200))
)]
pub(super) async fn restart(State(control): State<Arc<Control>>, on: OnMachine, params: Params) -> Answer<Json<Value>> {
    let mut how = how_to_stop(params.get("signal"), params.read("timeout")?)?;
    if params.is_set("force_stop") {
        how = StopRequest { signal: Some("SIGKILL".to_owned()), timeout: how.timeout };
    }
    control.restart_machine(&on.app, &on.id, how, &on.nonce).await?;
    Ok(ok())
}

const MAX_STOP_TIMEOUT: Duration = Duration::from_secs(300);

fn how_to_stop(signal: Option<&str>, timeout: Option<GoDuration>) -> Answer<StopRequest> {
    let signal = signal.filter(|signal| !signal.is_empty()).map(|signal| signal_name(&signal.into())).transpose()?;
    let timeout = timeout.map(|timeout| timeout.0).filter(|timeout| !timeout.is_zero());
    if timeout.is_some_and(|timeout| timeout > MAX_STOP_TIMEOUT) {
        return Err(Error::invalid(format!("timeout: {} s at most", MAX_STOP_TIMEOUT.as_secs())));
    }
    Ok(StopRequest { signal, timeout })
}

/// Sends a signal to a machine's program.
#[utoipa::path(
    post, path = "/v1/apps/{app}/machines/{machine_id}/signal", tag = "machines",
    params(MachineInPath),
    request_body = SignalMachine,
    responses((status = 200))
)]
pub(super) async fn signal(
    State(control): State<Arc<Control>>,
    on: OnMachine,
    Body(request): Body<SignalMachine>,
) -> Answer<Json<Value>> {
    control.signal_machine(&on.app, &on.id, &signal_name(&request.signal)?, &on.nonce).await?;
    Ok(ok())
}

/// Keeps a machine's memory and ends its virtual machine; answers when that is so. Where memory cannot be kept, the
/// machine is stopped instead, and its log says why.
#[utoipa::path(
    post, path = "/v1/apps/{app}/machines/{machine_id}/suspend", tag = "machines",
    params(MachineInPath),
    responses((status = 200))
)]
pub(super) async fn suspend(State(control): State<Arc<Control>>, on: OnMachine) -> Answer<Json<Value>> {
    control.suspend_machine(&on.app, &on.id, &on.nonce).await?;
    Ok(ok())
}

const MAX_WAIT_S: u64 = 60;

/// Waits until a machine is in one of the states.
#[utoipa::path(
    get, path = "/v1/apps/{app}/machines/{machine_id}/wait", tag = "machines",
    params(
        MachineInPath,
        (
            "state" = Option<String>,
            Query,
            description = "started (the default), stopped, suspended, created, failed, destroyed, settled; or several",
        ),
        ("timeout" = Option<u64>, Query, description = "seconds, 1 to 60; 60 unless given"),
        (
            "version" = Option<String>,
            Query,
            description = "only with this version of the configuration (also `instance_id`)",
        ),
    ),
    responses((status = 200, body = WaitReply), (status = 408, body = api::public::ErrorBody))
)]
pub(super) async fn wait(
    State(control): State<Arc<Control>>,
    on: OnMachine,
    params: Params,
) -> Answer<Json<WaitReply>> {
    let named = params.all("state").map(|name| {
        let unknown = || {
            format!(
                "state: {name:?} cannot be waited for; use started, stopped, suspended, created, failed, destroyed or settled"
            )
        };
        Target::parse(name).ok_or_else(|| Error::BadRequest(unknown()))
    });
    let mut states: Vec<_> = named.collect::<Answer<_>>()?;
    if states.is_empty() {
        states.push(Target::State(model::machine::MachineState::Started));
    }
    // Clients write both `30` and `30s`.
    let timeout_s = params.get("timeout").map(|text| text.trim_end_matches('s').parse::<u64>());
    let timeout_s = timeout_s.transpose().map_err(|error| Error::BadRequest(format!("timeout: {error}")))?;
    let timeout = Duration::from_secs(timeout_s.unwrap_or(MAX_WAIT_S).clamp(1, MAX_WAIT_S));
    let version = params.get("version").or_else(|| params.get("instance_id")).map(str::to_owned);
    control.wait(&on.app, &on.id, &WaitFor { states, version, timeout }).await.map(Json)
}

/// Takes a machine's traffic away.
#[utoipa::path(
    post, path = "/v1/apps/{app}/machines/{machine_id}/cordon", tag = "machines",
    params(MachineInPath),
    responses((status = 200))
)]
pub(super) async fn cordon(State(control): State<Arc<Control>>, on: OnMachine) -> Answer<Json<Value>> {
    control.cordon_machine(&on.app, &on.id, true, &on.nonce).await?;
    Ok(ok())
}

/// Gives a machine its traffic back.
#[utoipa::path(
    post, path = "/v1/apps/{app}/machines/{machine_id}/uncordon", tag = "machines",
    params(MachineInPath),
    responses((status = 200))
)]
pub(super) async fn uncordon(State(control): State<Arc<Control>>, on: OnMachine) -> Answer<Json<Value>> {
    control.cordon_machine(&on.app, &on.id, false, &on.nonce).await?;
    Ok(ok())
}

/// A machine's labels.
#[utoipa::path(
    get, path = "/v1/apps/{app}/machines/{machine_id}/metadata", tag = "machines",
    params(MachineInPath),
    responses((status = 200, body = BTreeMap<String, String>))
)]
pub(super) async fn metadata(
    State(control): State<Arc<Control>>,
    on: OnMachine,
) -> Answer<Json<BTreeMap<String, String>>> {
    control.metadata(&on.app, &on.id).await.map(Json)
}

/// Sets one of a machine's labels. This makes no new version.
#[utoipa::path(
    post, path = "/v1/apps/{app}/machines/{machine_id}/metadata/{key}", tag = "machines",
    params(MachineInPath, ("key" = String, Path)),
    request_body = MetadataValue,
    responses((status = 204))
)]
pub(super) async fn set_metadata(
    State(control): State<Arc<Control>>,
    on: OnMachine,
    LastPart(key): LastPart,
    Body(request): Body<MetadataValue>,
) -> Answer<StatusCode> {
    control.set_metadata(&on.app, &on.id, &key, Some(request.value), &on.nonce).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes one of a machine's labels.
#[utoipa::path(
    delete, path = "/v1/apps/{app}/machines/{machine_id}/metadata/{key}", tag = "machines",
    params(MachineInPath, ("key" = String, Path)),
    responses((status = 204))
)]
pub(super) async fn delete_metadata(
    State(control): State<Arc<Control>>,
    on: OnMachine,
    LastPart(key): LastPart,
) -> Answer<StatusCode> {
    control.set_metadata(&on.app, &on.id, &key, None, &on.nonce).await?;
    Ok(StatusCode::NO_CONTENT)
}

const USUAL_EVENTS: usize = 20;
const MAX_EVENTS: usize = 50;

/// What happened to a machine, newest first.
#[utoipa::path(
    get, path = "/v1/apps/{app}/machines/{machine_id}/events", tag = "machines",
    params(MachineInPath, ("limit" = Option<usize>, Query, description = "50 at most; 20 unless given")),
    responses((status = 200, body = [Event]))
)]
pub(super) async fn events(
    State(control): State<Arc<Control>>,
    on: OnMachine,
    params: Params,
) -> Answer<Json<Vec<Event>>> {
    let limit = params.read("limit")?.unwrap_or(USUAL_EVENTS).min(MAX_EVENTS);
    control.machine_events(&on.app, &on.id, limit).await.map(Json)
}

/// Versions of a machine's configuration, newest first.
#[utoipa::path(
    get, path = "/v1/apps/{app}/machines/{machine_id}/versions", tag = "machines",
    params(MachineInPath),
    responses((status = 200, body = [MachineVersion]))
)]
pub(super) async fn versions(State(control): State<Arc<Control>>, on: OnMachine) -> Answer<Json<Vec<MachineVersion>>> {
    let versions = control.machine_versions(&on.app, &on.id).await?;
    let show = |(version, user_config)| MachineVersion { version, user_config };
    Ok(Json(versions.into_iter().map(show).collect()))
}

/// What runs in a machine.
#[utoipa::path(
    get, path = "/v1/apps/{app}/machines/{machine_id}/ps", tag = "machines",
    params(MachineInPath),
    responses((status = 200, body = [Process]))
)]
pub(super) async fn ps(State(control): State<Arc<Control>>, on: OnMachine) -> Answer<Json<Vec<Process>>> {
    control.processes(&on.app, &on.id).await.map(Json)
}
