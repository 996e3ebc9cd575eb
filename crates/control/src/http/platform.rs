//! Facts about the platform.

use std::sync::Arc;

use api::public::{
    deploys::Platform,
    machines::{RegionInfo, RegionList},
};
use axum::{Json, extract::State};
use serde_json::{Value, json};

use crate::{Control, auth::Caller, error::Error};

type Answer<T> = Result<T, Error>;

/// Facts about the platform.
#[utoipa::path(get, path = "/v1/platform", tag = "platform", responses((status = 200, body = Platform)))]
pub(super) async fn facts(State(control): State<Arc<Control>>, caller: Caller) -> Answer<Json<Platform>> {
    control.platform(&caller).await.map(Json)
}

/// Regions of the platform.
#[utoipa::path(get, path = "/v1/platform/regions", tag = "platform", responses((status = 200, body = RegionList)))]
pub(super) async fn regions(State(control): State<Arc<Control>>, _caller: Caller) -> Answer<Json<RegionList>> {
    let code = control.options.region.clone();
    let region =
        RegionInfo { name: code.to_string(), code: code.clone(), gateway_available: false, requires_paid_plan: false };
    Ok(Json(RegionList { regions: vec![region], nearest: code }))
}

/// The control plane answers, and so does its database.
pub(super) async fn healthz(State(control): State<Arc<Control>>) -> Answer<Json<Value>> {
    control.check_health().await?;
    Ok(Json(json!({ "ok": true })))
}
