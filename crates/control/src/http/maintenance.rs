//! Maintenance mode.

use std::sync::Arc;

use api::public::{
    ErrorBody,
    maintenance::{BeginMaintenance, Maintenance},
};
use axum::{Json, extract::State};

use super::extract::{AppInPath, InApp, MaybeBody};
use crate::{Control, error::Error};

type Answer<T> = Result<T, Error>;

/// Whether an app is in maintenance mode.
#[utoipa::path(
    get, path = "/v1/apps/{app}/maintenance", tag = "maintenance",
    params(AppInPath),
    responses((status = 200, body = Maintenance))
)]
pub(super) async fn get(State(control): State<Arc<Control>>, on: InApp) -> Json<Maintenance> {
    Json(control.maintenance_of(&on.app.name))
}

/// Begins maintenance mode: requests to the app are answered with 503, whatever its machines do.
#[utoipa::path(
    put, path = "/v1/apps/{app}/maintenance", tag = "maintenance",
    params(AppInPath),
    request_body = BeginMaintenance,
    responses((status = 200, body = Maintenance), (status = 422, body = ErrorBody))
)]
pub(super) async fn begin(
    State(control): State<Arc<Control>>,
    on: InApp,
    MaybeBody(request): MaybeBody<BeginMaintenance>,
) -> Answer<Json<Maintenance>> {
    control.begin_maintenance(&on.app, request).await.map(Json)
}

/// Ends maintenance mode.
#[utoipa::path(
    delete, path = "/v1/apps/{app}/maintenance", tag = "maintenance",
    params(AppInPath),
    responses((status = 200, body = Maintenance))
)]
pub(super) async fn end(State(control): State<Arc<Control>>, on: InApp) -> Answer<Json<Maintenance>> {
    control.end_maintenance(&on.app).await.map(Json)
}
