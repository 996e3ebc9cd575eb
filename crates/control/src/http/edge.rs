//! The edge as it is at this moment, cut down to what the caller may see.

use std::{collections::BTreeSet, sync::Arc};

use api::public::edge::{EdgeConnections, EdgeRoutes};
use axum::{
    Json,
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use model::AppName;

use super::extract::Params;
use crate::{
    Control,
    auth::{Caller, Scope},
    error::Error,
};

type Answer<T> = Result<T, Error>;

/// What leads where, and why a machine is not chosen.
#[utoipa::path(get, path = "/v1/edge/routes", tag = "edge", params(("app" = Option<String>, Query, description = "one app only")), responses((status = 200, body = EdgeRoutes)))]
pub(super) async fn routes(
    State(control): State<Arc<Control>>,
    caller: Caller,
    params: Params,
) -> Answer<Json<EdgeRoutes>> {
    let visible = Visible::of(&control, &caller, params.read("app")?).await?;
    let mut routes = control.ports.edge.routes();
    routes.apps.retain(|app| visible.has(Some(&app.name)));
    routes.left_out.retain(|left_out| visible.has(left_out.app.as_ref()));
    Ok(Json(routes))
}

/// The live connections of clients.
#[utoipa::path(get, path = "/v1/edge/connections", tag = "edge", params(("app" = Option<String>, Query, description = "one app only")), responses((status = 200, body = EdgeConnections)))]
pub(super) async fn connections(
    State(control): State<Arc<Control>>,
    caller: Caller,
    params: Params,
) -> Answer<Json<EdgeConnections>> {
    let visible = Visible::of(&control, &caller, params.read("app")?).await?;
    let mut live = control.ports.edge.connections();
    live.connections.retain(|connection| visible.has(connection.app.as_ref()));
    Ok(Json(live))
}

/// Counters in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "edge", responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn metrics(State(control): State<Arc<Control>>, caller: Caller) -> Answer<Response> {
    let visible = Visible::of(&control, &caller, None).await?;
    let text = control.ports.edge.metrics(visible.apps.as_ref());
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// Which apps a caller may see.
struct Visible {
    /// None: everything, and what belongs to no app.
    apps: Option<BTreeSet<AppName>>,
}

impl Visible {
    async fn of(control: &Control, caller: &Caller, wanted: Option<AppName>) -> Answer<Self> {
        if let Some(app) = wanted {
            control.app_row(caller, app.as_str()).await?;
            return Ok(Self { apps: Some(BTreeSet::from([app])) });
        }
        if caller.scope == Scope::Admin {
            return Ok(Self { apps: None });
        }
        let apps = control.apps(caller, None).await?.apps;
        Ok(Self { apps: Some(apps.into_iter().map(|app| app.name).collect()) })
    }

    fn has(&self, app: Option<&AppName>) -> bool {
        self.apps.as_ref().is_none_or(|apps| app.is_some_and(|app| apps.contains(app)))
    }
}
