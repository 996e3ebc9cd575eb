//! Secrets of an app. Their values go in and never come out.

use std::sync::Arc;

use api::public::{
    deploys::Deployment,
    machines::{Secret, SecretList, SecretValue, SetSecrets},
};
use axum::{Json, extract::State, http::StatusCode};

use super::extract::{AppInPath, Body, InApp, LastPart};
use crate::{Control, error::Error};

type Answer<T> = Result<T, Error>;

/// An app's secrets, without their values.
#[utoipa::path(
    get, path = "/v1/apps/{app}/secrets", tag = "secrets",
    params(AppInPath),
    responses((status = 200, body = SecretList))
)]
pub(super) async fn list(State(control): State<Arc<Control>>, on: InApp) -> Answer<Json<SecretList>> {
    control.secrets(&on.app).await.map(Json)
}

/// Sets and removes secrets, all or none. Machines see it once it is deployed.
#[utoipa::path(
    post, path = "/v1/apps/{app}/secrets", tag = "secrets",
    params(AppInPath),
    request_body = SetSecrets,
    responses((status = 200, body = SecretList))
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    on: InApp,
    Body(request): Body<SetSecrets>,
) -> Answer<Json<SecretList>> {
    on.app.require_living()?;
    control.set_secrets(&on.app, request.values).await.map(Json)
}

/// One secret, without its value.
#[utoipa::path(
    get, path = "/v1/apps/{app}/secrets/{name}", tag = "secrets",
    params(AppInPath, ("name" = String, Path)),
    responses((status = 200, body = Secret))
)]
pub(super) async fn get(
    State(control): State<Arc<Control>>,
    on: InApp,
    LastPart(name): LastPart,
) -> Answer<Json<Secret>> {
    control.secret(&on.app, &name).await.map(Json)
}

/// Sets one secret.
#[utoipa::path(
    post, path = "/v1/apps/{app}/secrets/{name}", tag = "secrets",
    params(AppInPath, ("name" = String, Path)),
    request_body = SecretValue,
    responses((status = 200, body = SecretList))
)]
pub(super) async fn set_one(
    State(control): State<Arc<Control>>,
    on: InApp,
    LastPart(name): LastPart,
    Body(request): Body<SecretValue>,
) -> Answer<Json<SecretList>> {
    on.app.require_living()?;
    control.set_secrets(&on.app, [(name, Some(request.value))].into()).await.map(Json)
}

/// Removes one secret.
#[utoipa::path(
    delete, path = "/v1/apps/{app}/secrets/{name}", tag = "secrets",
    params(AppInPath, ("name" = String, Path)),
    responses((status = 200, body = SecretList))
)]
pub(super) async fn unset(
    State(control): State<Arc<Control>>,
    on: InApp,
    LastPart(name): LastPart,
) -> Answer<Json<SecretList>> {
    on.app.require_living()?;
    control.unset_secret(&on.app, &name).await.map(Json)
}

/// Brings the newest secrets to the machines: the current release, with them, as a new release.
#[utoipa::path(
    post, path = "/v1/apps/{app}/secrets/deploy", tag = "secrets",
    params(AppInPath),
    responses((status = 202, body = Deployment))
)]
pub(super) async fn deploy(State(control): State<Arc<Control>>, on: InApp) -> Answer<(StatusCode, Json<Deployment>)> {
    on.app.require_living()?;
    Ok((StatusCode::ACCEPTED, Json(control.deploy_secrets(&on.caller, &on.app).await?)))
}
