//! Leases of machines.

use std::sync::Arc;

use api::public::machines::{AcquireLease, Lease};
use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::extract::{MachineInPath, MaybeBody, OnMachine, Params};
use crate::{Control, error::Error};

type Answer<T> = Result<T, Error>;

/// The lease that holds a machine, without its nonce.
#[utoipa::path(
    get, path = "/v1/apps/{app}/machines/{machine_id}/lease", tag = "leases",
    params(MachineInPath),
    responses((status = 200, body = Lease))
)]
pub(super) async fn get(State(control): State<Arc<Control>>, on: OnMachine) -> Answer<Json<Lease>> {
    control.lease(&on.app, &on.id).await.map(Json)
}

/// Takes a machine's lease; with its nonce in `fly-machine-lease-nonce`, extends it.
#[utoipa::path(
    post, path = "/v1/apps/{app}/machines/{machine_id}/lease", tag = "leases",
    params(MachineInPath, ("ttl" = Option<u64>, Query, description = "seconds; 30 unless given")),
    request_body = AcquireLease,
    responses((status = 201, body = Lease), (status = 409, body = api::public::ErrorBody))
)]
pub(super) async fn acquire(
    State(control): State<Arc<Control>>,
    on: OnMachine,
    params: Params,
    MaybeBody(request): MaybeBody<AcquireLease>,
) -> Answer<(StatusCode, Json<Lease>)> {
    let ttl_s = params.read("ttl")?.unwrap_or(request.ttl);
    let lease = control.acquire_lease(&on.caller, &on.app, &on.id, ttl_s, &request.description, &on.nonce).await?;
    Ok((StatusCode::CREATED, Json(lease)))
}

/// Gives a machine's lease back.
#[utoipa::path(
    delete, path = "/v1/apps/{app}/machines/{machine_id}/lease", tag = "leases",
    params(MachineInPath),
    responses((status = 200))
)]
pub(super) async fn release(State(control): State<Arc<Control>>, on: OnMachine) -> Answer<Json<Value>> {
    control.release_lease(&on.app, &on.id, &on.nonce).await?;
    Ok(Json(json!({ "status": "success", "data": { "ok": true } })))
}
