//! The doors: each converts a request, calls one function of the domain, and converts its answer.
//!
//! Every route is registered together with its description, so the OpenAPI document cannot leave one out. Everything
//! that goes wrong, wherever, is answered with [`api::public::ErrorBody`] (see [`answer`]).

mod answer;
mod apps;
mod certificates;
mod deploys;
mod edge;
mod exec;
mod extract;
mod hosts;
mod leases;
mod machines;
mod maintenance;
mod openapi;
mod platform;
mod secrets;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub use openapi::document as openapi;

use crate::Control;

/// The largest body of a request: a machine's configuration with its files, or an app's secrets.
pub(crate) const MAX_BODY_BYTES: usize = 4 << 20;

impl Control {
    /// The REST API.
    pub fn router(self: &Arc<Self>) -> Router {
        let (router, _) = documented().split_for_parts();
        router
            .route("/v1/openapi.json", get(openapi::serve))
            .route("/healthz", get(platform::healthz))
            .route("/internal/catalog", get(hosts::catalog))
            .route("/internal/maintenance", get(hosts::maintenance))
            .route("/internal/hostnames", get(hosts::hostnames))
            .route("/internal/proofs", get(hosts::proofs))
            .route("/internal/hosts/{host}/certificate", post(hosts::certify))
            .fallback(answer::no_such_route)
            .method_not_allowed_fallback(answer::method_not_allowed)
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .layer(middleware::map_response(answer::shape))
            .with_state(Arc::clone(self))
    }
}

/// The routes that need a token, with their descriptions.
fn documented() -> OpenApiRouter<Arc<Control>> {
    OpenApiRouter::new()
        .routes(routes!(apps::list, apps::create))
        .routes(routes!(apps::get, apps::destroy))
        .routes(routes!(apps::create_deploy_token))
        .routes(routes!(apps::list_orgs, apps::create_org))
        .routes(routes!(apps::create_org_token))
        .routes(routes!(apps::list_tokens))
        .routes(routes!(apps::revoke_token))
        .routes(routes!(maintenance::get, maintenance::begin, maintenance::end))
        .routes(routes!(certificates::list))
        .routes(routes!(certificates::add))
        .routes(routes!(certificates::import))
        .routes(routes!(certificates::get, certificates::remove))
        .routes(routes!(certificates::check))
        .routes(routes!(certificates::remove_acme))
        .routes(routes!(certificates::remove_custom))
        .merge(machine_routes())
        .routes(routes!(secrets::list, secrets::set))
        .routes(routes!(secrets::get, secrets::set_one, secrets::unset))
        .routes(routes!(secrets::deploy))
        .routes(routes!(deploys::plan))
        .routes(routes!(deploys::list, deploys::create))
        .routes(routes!(deploys::get))
        .routes(routes!(deploys::events))
        .routes(routes!(deploys::releases))
        .routes(routes!(deploys::config))
        .routes(routes!(deploys::rollback))
        .routes(routes!(deploys::scale))
        .routes(routes!(deploys::logs))
        .routes(routes!(edge::routes))
        .routes(routes!(edge::connections))
        .routes(routes!(edge::metrics))
        .routes(routes!(platform::facts))
        .routes(routes!(platform::regions))
}

fn machine_routes() -> OpenApiRouter<Arc<Control>> {
    OpenApiRouter::new()
        .routes(routes!(machines::list, machines::create))
        .routes(routes!(machines::get, machines::update, machines::destroy))
        .routes(routes!(machines::start))
        .routes(routes!(machines::stop))
        .routes(routes!(machines::restart))
        .routes(routes!(machines::signal))
        .routes(routes!(machines::suspend))
        .routes(routes!(machines::wait))
        .routes(routes!(machines::cordon))
        .routes(routes!(machines::uncordon))
        .routes(routes!(machines::metadata))
        .routes(routes!(machines::set_metadata, machines::delete_metadata))
        .routes(routes!(machines::events))
        .routes(routes!(machines::versions))
        .routes(routes!(machines::ps))
        .routes(routes!(leases::get, leases::acquire, leases::release))
        .routes(routes!(exec::run))
        .routes(routes!(exec::stream))
}
