//! What other hosts of the platform ask for. Both ends are Dunlin's, so the document of the API leaves it out.

use std::{convert::Infallible, sync::Arc, time::Duration};

use api::internal::{HostCertificate, HostRequest, HostnameView, MaintenanceView, OpenHostname};
use axum::{
    Json,
    body::{self, Bytes},
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use model::HostId;
use tokio::{sync::watch, time::timeout};

use super::extract::{Body, LastPart, Params};
use crate::{Control, auth::Caller, error::Error};

type Answer<T> = Result<T, Error>;

/// How often something is said where nothing changes, so that a listener knows that somebody is there.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Makes a host one of the platform's.
pub(super) async fn certify(
    State(control): State<Arc<Control>>,
    caller: Caller,
    LastPart(host): LastPart,
    Body(request): Body<HostRequest>,
) -> Answer<Json<HostCertificate>> {
    caller.require_admin("speak for a host of the platform")?;
    let host: HostId = host.parse().map_err(|error: model::InvalidName| Error::BadRequest(error.to_string()))?;
    let certificate = control.ports.hosts.certify(&host, &request.request_pem);
    let certificate = certificate.map_err(|error| Error::BadRequest(error.to_string()))?;
    tracing::info!(%host, "a host of the platform has a new certificate");
    Ok(Json(certificate))
}

/// The catalog, for edges on other hosts: it goes on as long as they listen.
pub(super) async fn catalog(State(control): State<Arc<Control>>, caller: Caller, params: Params) -> Answer<Response> {
    caller.require_admin("follow the catalog")?;
    let lines = control.ports.catalog.feed(params.read("since")?);
    let lines = stream::unfold(lines, |mut lines| async { Some((lines.recv().await?, lines)) });
    Ok(told(&control, lines))
}

/// The apps in maintenance mode, for edges on other hosts: a line whenever they are others.
pub(super) async fn maintenance(State(control): State<Arc<Control>>, caller: Caller) -> Answer<Response> {
    caller.require_admin("follow the maintenance of apps")?;
    let view = |view: &MaintenanceView| serde_json::to_string(view);
    Ok(told(&control, views(control.maintenance(), view)))
}

/// The host names that apps bring along with their certificates, keys included, for edges on other hosts: a line whenever
/// they are others. Those ask over a connection that nobody else reads, or not at all.
pub(super) async fn hostnames(State(control): State<Arc<Control>>, caller: Caller) -> Answer<Response> {
    caller.require_admin("follow the host names of apps")?;
    let sealing_key = control.ports.sealing_key.clone();
    let open = move |view: &HostnameView| {
        let rows: Vec<_> = view.rows.values().map(|row| OpenHostname::of(row, &sealing_key)).collect();
        serde_json::to_string(&rows)
    };
    Ok(told(&control, views(control.hostnames(), open)))
}

/// The proofs of host names that are pending, for edges on other hosts: a line whenever they are others. They are for
/// everybody to read who asks those edges.
pub(super) async fn proofs(State(control): State<Arc<Control>>, caller: Caller) -> Answer<Response> {
    caller.require_admin("follow the proofs of host names")?;
    let lines = stream::unfold(control.ports.proofs.listen(), |mut listener| async {
        let line = match listener.next(HEARTBEAT).await {
            Some(answers) => serde_json::to_string(&*answers).ok()?,
            None => "null".to_owned(),
        };
        Some((Bytes::from(line + "\n"), listener))
    });
    Ok(told(&control, lines))
}

/// Each view as a line, the present one first; `null` now and then where nothing changes.
fn views<T: Send + Sync + 'static>(
    mut views: watch::Receiver<Arc<T>>,
    in_json: impl Fn(&T) -> serde_json::Result<String> + Send + Sync + 'static,
) -> impl stream::Stream<Item = Bytes> + Send + 'static {
    views.mark_changed();
    stream::unfold((views, in_json), |(mut views, in_json)| async {
        let line = match timeout(HEARTBEAT, views.changed()).await {
            Ok(Ok(())) => in_json(&views.borrow_and_update()).ok()?,
            Ok(Err(_)) => return None,
            Err(_) => "null".to_owned(),
        };
        Some((Bytes::from(line + "\n"), (views, in_json)))
    })
}

/// Lines until the control plane ends.
fn told(control: &Control, lines: impl stream::Stream<Item = Bytes> + Send + 'static) -> Response {
    let lines = lines.map(Ok::<_, Infallible>).take_until(control.stop.clone().cancelled_owned());
    ([(CONTENT_TYPE, "application/x-ndjson")], body::Body::from_stream(lines)).into_response()
}
