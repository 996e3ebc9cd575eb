//! Releases, deployments, logs.

use std::{convert::Infallible, sync::Arc};

use api::{
    internal::LogFilter,
    public::deploys::{
        DeployEvent, DeployRequest, Deployment, Plan, Release, ReleaseConfig, RollbackRequest, ScaleRequest,
    },
};
use axum::{
    Json,
    body::Body as HttpBody,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use model::{GoDuration, log::LogRecord};
use serde::Serialize;

use super::extract::{AppInPath, Body, InApp, LastPart, MaybeBody, Params};
use crate::{Control, error::Error, store::apps::AppRow};

type Answer<T> = Result<T, Error>;
type Accepted = Answer<(StatusCode, Json<Deployment>)>;

/// What a deployment would do. Nothing is changed.
#[utoipa::path(
    post, path = "/v1/apps/{app}/plan", tag = "deployments",
    params(AppInPath),
    request_body = DeployRequest,
    responses((status = 200, body = Plan))
)]
pub(super) async fn plan(
    State(control): State<Arc<Control>>,
    on: InApp,
    Body(request): Body<DeployRequest>,
) -> Answer<Json<Plan>> {
    on.app.require_living()?;
    control.plan(&on.app, request).await.map(Json)
}

/// Makes a release and begins its rollout, which goes on whether or not anyone watches.
#[utoipa::path(
    post, path = "/v1/apps/{app}/deployments", tag = "deployments",
    params(AppInPath),
    request_body = DeployRequest,
    responses((status = 202, body = Deployment))
)]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    on: InApp,
    Body(request): Body<DeployRequest>,
) -> Accepted {
    on.app.require_living()?;
    Ok((StatusCode::ACCEPTED, Json(control.deploy(&on.caller, &on.app, request).await?)))
}

/// The app's last deployments, newest first.
#[utoipa::path(
    get, path = "/v1/apps/{app}/deployments", tag = "deployments",
    params(AppInPath),
    responses((status = 200, body = [Deployment]))
)]
pub(super) async fn list(State(control): State<Arc<Control>>, on: InApp) -> Answer<Json<Vec<Deployment>>> {
    control.deployments(&on.app).await.map(Json)
}

/// A deployment.
#[utoipa::path(
    get, path = "/v1/apps/{app}/deployments/{id}", tag = "deployments",
    params(AppInPath, ("id" = String, Path)),
    responses((status = 200, body = Deployment))
)]
pub(super) async fn get(
    State(control): State<Arc<Control>>,
    on: InApp,
    LastPart(id): LastPart,
) -> Answer<Json<Deployment>> {
    control.deployment(&on.app, &id).await.map(Json)
}

/// A deployment's story, one JSON object a line, until it has ended.
#[utoipa::path(
    get, path = "/v1/apps/{app}/deployments/{id}/events", tag = "deployments",
    params(
        AppInPath,
        ("id" = String, Path),
        ("after" = Option<u64>, Query, description = "only events with a higher number"),
    ),
    responses((status = 200, body = DeployEvent, content_type = "application/x-ndjson"))
)]
pub(super) async fn events(
    State(control): State<Arc<Control>>,
    on: InApp,
    LastPart(id): LastPart,
    params: Params,
) -> Answer<Response> {
    control.deployment(&on.app, &id).await?;
    let after = params.read("after")?.unwrap_or(0);
    Ok(ndjson(&control, event_stream(Arc::clone(&control), on.app, id, after)))
}

fn event_stream(control: Arc<Control>, app: AppRow, id: String, after: u64) -> impl Stream<Item = DeployEvent> {
    let batches = stream::unfold((control, app, id, after), |(control, app, id, after)| async move {
        let batch = control.deployment_events(&app, &id, after).await.unwrap_or_default();
        let last = batch.last()?.number;
        Some((stream::iter(batch), (control, app, id, last)))
    });
    batches.flatten()
}

/// The app's last releases, newest first.
#[utoipa::path(
    get, path = "/v1/apps/{app}/releases", tag = "deployments",
    params(AppInPath),
    responses((status = 200, body = [Release]))
)]
pub(super) async fn releases(State(control): State<Arc<Control>>, on: InApp) -> Answer<Json<Vec<Release>>> {
    control.releases(&on.app).await.map(Json)
}

/// The configuration file of a release; of the current one unless another is named.
#[utoipa::path(
    get, path = "/v1/apps/{app}/config", tag = "deployments",
    params(AppInPath, ("version" = Option<u32>, Query)),
    responses((status = 200, body = ReleaseConfig))
)]
pub(super) async fn config(
    State(control): State<Arc<Control>>,
    on: InApp,
    params: Params,
) -> Answer<Json<ReleaseConfig>> {
    control.release_config(&on.app, params.read("version")?).await.map(Json)
}

/// Rolls an earlier release out again: image, configuration and secrets, as a new release.
#[utoipa::path(
    post, path = "/v1/apps/{app}/rollback", tag = "deployments",
    params(AppInPath),
    request_body = RollbackRequest,
    responses((status = 202, body = Deployment))
)]
pub(super) async fn rollback(
    State(control): State<Arc<Control>>,
    on: InApp,
    MaybeBody(request): MaybeBody<RollbackRequest>,
) -> Accepted {
    on.app.require_living()?;
    Ok((StatusCode::ACCEPTED, Json(control.rollback(&on.caller, &on.app, &request).await?)))
}

/// Makes the current release run on another number of machines.
#[utoipa::path(
    post, path = "/v1/apps/{app}/scale", tag = "deployments",
    params(AppInPath),
    request_body = ScaleRequest,
    responses((status = 202, body = Deployment))
)]
pub(super) async fn scale(
    State(control): State<Arc<Control>>,
    on: InApp,
    Body(request): Body<ScaleRequest>,
) -> Accepted {
    on.app.require_living()?;
    Ok((StatusCode::ACCEPTED, Json(control.scale(&on.app, &request).await?)))
}

const USUAL_LINES: usize = 100;
const MAX_LINES: usize = 10_000;

/// The app's log, one JSON object a line; with `follow`, then what comes.
#[utoipa::path(
    get, path = "/v1/apps/{app}/logs", tag = "logs",
    params(
        AppInPath,
        ("follow" = Option<bool>, Query, description = "go on with what comes"),
        (
            "since" = Option<String>,
            Query,
            description = "nanoseconds since 1970, an RFC 3339 time, or a duration before now (`10m`)",
        ),
        ("machine" = Option<String>, Query, description = "of this machine only"),
        ("limit" = Option<usize>, Query, description = "the last so many; 100 unless given, 10000 at most"),
    ),
    responses((status = 200, body = LogRecord, content_type = "application/x-ndjson"))
)]
pub(super) async fn logs(State(control): State<Arc<Control>>, on: InApp, params: Params) -> Answer<Response> {
    let filter = LogFilter {
        app: on.app.name.clone(),
        machine: params.read("machine")?,
        since_ns: params.get("since").map(since_ns).transpose()?,
        limit: params.read("limit")?.unwrap_or(USUAL_LINES).min(MAX_LINES),
    };
    if params.is_set("follow") {
        let records = control.ports.logs.follow(filter);
        let records = stream::unfold(records, |mut records| async { Some((records.recv().await?, records)) });
        return Ok(ndjson(&control, records));
    }
    Ok(ndjson(&control, stream::iter(control.ports.logs.query(filter).await)))
}

/// A moment: nanoseconds since 1970, an RFC 3339 time, or a duration before now.
fn since_ns(text: &str) -> Answer<u64> {
    if let Ok(nanoseconds) = text.parse() {
        return Ok(nanoseconds);
    }
    if let Ok(ago) = text.parse::<GoDuration>() {
        let ago = u64::try_from(ago.0.as_nanos()).unwrap_or(u64::MAX);
        return Ok(kit::clock::unix_ns().saturating_sub(ago));
    }
    let moment = text.parse::<jiff::Timestamp>().ok().and_then(|moment| u64::try_from(moment.as_nanosecond()).ok());
    moment.ok_or_else(|| {
        Error::BadRequest(format!(
            "since: {text:?} is no moment; write nanoseconds since 1970, 2026-01-31T12:00:00Z, or 10m"
        ))
    })
}

/// A body of one JSON object a line. It ends with the control plane.
fn ndjson<T: Serialize + Send + 'static>(control: &Control, items: impl Stream<Item = T> + Send + 'static) -> Response {
    let items = items.take_until(control.stop.clone().cancelled_owned());
    let lines = items.map(|item| Ok::<_, Infallible>(Bytes::from(crate::store::to_json(&item) + "\n")));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], HttpBody::from_stream(lines)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_in_three_ways() {
        assert_eq!(since_ns("1700000000000000000").unwrap(), 1_700_000_000_000_000_000);
        assert_eq!(since_ns("2023-11-14T22:13:20Z").unwrap(), 1_700_000_000_000_000_000);
        assert!(since_ns("10m").unwrap() < kit::clock::unix_ns());
        assert!(since_ns("yesterday").unwrap_err().to_string().contains("yesterday"));
    }
}
