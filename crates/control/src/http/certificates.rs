//! Custom host names and their certificates.

use std::sync::Arc;

use api::public::{
    ErrorBody,
    certificates::{AddCertificate, Certificate, CertificateList, ImportCertificate},
};
use axum::{Json, extract::State, http::StatusCode};
use utoipa::IntoParams;

use super::extract::{AppInPath, Body, InApp, LastPart, Params};
use crate::{Control, error::Error, store::hostnames::Source};

type Answer<T> = Result<T, Error>;

/// A host name in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes what the handlers take from the path")]
pub(super) struct HostnameInPath {
    /// The app's name.
    app: String,
    /// The host name; a wildcard's star is written `%2A`.
    hostname: String,
}

/// The host names of an app.
#[utoipa::path(
    get, path = "/v1/apps/{app}/certificates", tag = "certificates",
    params(AppInPath, ("filter" = Option<String>, Query, description = "names that contain this"),
        ("cursor" = Option<String>, Query, description = "where the page before ended"),
        ("limit" = Option<usize>, Query, description = "how many, 500 at most")),
    responses((status = 200, body = CertificateList))
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    on: InApp,
    params: Params,
) -> Answer<Json<CertificateList>> {
    let limit = params.read("limit")?;
    control.certificates(&on.app, params.get("filter"), params.get("cursor"), limit).await.map(Json)
}

/// Adds a host name; certificates are ordered for it by ACME.
#[utoipa::path(
    post, path = "/v1/apps/{app}/certificates/acme", tag = "certificates",
    params(AppInPath),
    request_body = AddCertificate,
    responses((status = 201, body = Certificate), (status = 422, body = ErrorBody))
)]
pub(super) async fn add(
    State(control): State<Arc<Control>>,
    on: InApp,
    Body(request): Body<AddCertificate>,
) -> Answer<(StatusCode, Json<Certificate>)> {
    let added = control.add_certificate(&on.app, &request.hostname).await?;
    Ok((StatusCode::CREATED, Json(added)))
}

/// Imports a certificate for a host name, which is added if the app has it not yet.
#[utoipa::path(
    post, path = "/v1/apps/{app}/certificates/custom", tag = "certificates",
    params(AppInPath),
    request_body = ImportCertificate,
    responses((status = 201, body = Certificate), (status = 422, body = ErrorBody))
)]
pub(super) async fn import(
    State(control): State<Arc<Control>>,
    on: InApp,
    Body(request): Body<ImportCertificate>,
) -> Answer<(StatusCode, Json<Certificate>)> {
    let imported = control.import_certificate(&on.app, request).await?;
    Ok((StatusCode::CREATED, Json(imported)))
}

/// One host name with everything that is known of it.
#[utoipa::path(
    get, path = "/v1/apps/{app}/certificates/{hostname}", tag = "certificates",
    params(HostnameInPath),
    responses((status = 200, body = Certificate), (status = 404, body = ErrorBody))
)]
pub(super) async fn get(
    State(control): State<Arc<Control>>,
    on: InApp,
    LastPart(hostname): LastPart,
) -> Answer<Json<Certificate>> {
    control.certificate(&on.app, &hostname).await.map(Json)
}

/// Looks at DNS now, and has a failed order tried again.
#[utoipa::path(
    post, path = "/v1/apps/{app}/certificates/{hostname}/check", tag = "certificates",
    params(HostnameInPath),
    responses((status = 200, body = Certificate), (status = 404, body = ErrorBody))
)]
pub(super) async fn check(
    State(control): State<Arc<Control>>,
    on: InApp,
    LastPart(hostname): LastPart,
) -> Answer<Json<Certificate>> {
    control.check_certificate(&on.app, &hostname).await.map(Json)
}

/// Removes a host name with all its certificates.
#[utoipa::path(
    delete, path = "/v1/apps/{app}/certificates/{hostname}", tag = "certificates",
    params(HostnameInPath),
    responses((status = 204), (status = 404, body = ErrorBody))
)]
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    on: InApp,
    LastPart(hostname): LastPart,
) -> Answer<StatusCode> {
    control.remove_hostname(&on.app, &hostname).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes the ordered certificate, and orders no other.
#[utoipa::path(
    delete, path = "/v1/apps/{app}/certificates/{hostname}/acme", tag = "certificates",
    params(HostnameInPath),
    responses((status = 200, body = Certificate), (status = 404, body = ErrorBody))
)]
pub(super) async fn remove_acme(
    State(control): State<Arc<Control>>,
    on: InApp,
    LastPart(hostname): LastPart,
) -> Answer<Json<Certificate>> {
    control.remove_certificate(&on.app, &hostname, Source::Acme).await.map(Json)
}

/// Removes the imported certificate.
#[utoipa::path(
    delete, path = "/v1/apps/{app}/certificates/{hostname}/custom", tag = "certificates",
    params(HostnameInPath),
    responses((status = 200, body = Certificate), (status = 404, body = ErrorBody))
)]
pub(super) async fn remove_custom(
    State(control): State<Arc<Control>>,
    on: InApp,
    LastPart(hostname): LastPart,
) -> Answer<Json<Certificate>> {
    control.remove_certificate(&on.app, &hostname, Source::Custom).await.map(Json)
}
