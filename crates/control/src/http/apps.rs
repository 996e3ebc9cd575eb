//! Apps, organizations, tokens.

use std::{sync::Arc, time::Duration};

use api::public::{
    ErrorBody,
    access::{CreateOrganization, CreateToken, OrganizationList, TokenList, TokenReply},
    machines::{App, AppList, CreateApp, Organization},
};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use model::GoDuration;

use super::extract::{AppInPath, Body, InApp, MaybeBody, Params};
use crate::{Control, auth::Caller, error::Error};

type Answer<T> = Result<T, Error>;

/// Apps that the caller may use.
#[utoipa::path(
    get, path = "/v1/apps", tag = "apps",
    params(("org_slug" = Option<String>, Query, description = "only of this organization")),
    responses((status = 200, body = AppList))
)]
pub(super) async fn list(State(control): State<Arc<Control>>, caller: Caller, params: Params) -> Answer<Json<AppList>> {
    control.apps(&caller, params.get("org_slug")).await.map(Json)
}

/// Creates an app.
#[utoipa::path(
    post, path = "/v1/apps", tag = "apps",
    request_body = CreateApp,
    responses((status = 201, body = App), (status = 422, body = ErrorBody))
)]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Body(request): Body<CreateApp>,
) -> Answer<(StatusCode, Json<App>)> {
    Ok((StatusCode::CREATED, Json(control.create_app(&caller, request).await?)))
}

/// An app.
#[utoipa::path(get, path = "/v1/apps/{app}", tag = "apps", params(AppInPath), responses((status = 200, body = App)))]
pub(super) async fn get(State(control): State<Arc<Control>>, on: InApp) -> Answer<Json<App>> {
    control.show_app(&on.app).await.map(Json)
}

/// Longest time that an answer waits for an app to be gone.
const GONE_TIMEOUT: Duration = Duration::from_secs(60);

/// Destroys an app: machines (each may end in the orderly way), volumes, images, logs, secrets, releases. Goes on in
/// the background if it takes long.
#[utoipa::path(
    delete, path = "/v1/apps/{app}", tag = "apps",
    params(
        AppInPath,
        (
            "force" = Option<bool>,
            Query,
            description = "taken for compatibility; running machines are destroyed either way",
        ),
    ),
    responses((status = 202, description = "it is gone, or will be"))
)]
pub(super) async fn destroy(
    State(control): State<Arc<Control>>,
    on: InApp,
) -> Answer<(StatusCode, Json<serde_json::Value>)> {
    on.caller.require_whole_org(&on.app)?;
    control.begin_to_destroy_app(&on.app).await?;
    if let Ok(waited) = tokio::time::timeout(GONE_TIMEOUT, control.app_gone(on.app.id)).await {
        waited?;
    }
    Ok((StatusCode::ACCEPTED, Json(serde_json::json!({}))))
}

/// Makes a token that reaches this app alone.
#[utoipa::path(
    post, path = "/v1/apps/{app}/deploy_token", tag = "access",
    params(AppInPath),
    request_body = CreateToken,
    responses((status = 201, body = TokenReply))
)]
pub(super) async fn create_deploy_token(
    State(control): State<Arc<Control>>,
    on: InApp,
    MaybeBody(request): MaybeBody<CreateToken>,
) -> Answer<(StatusCode, Json<TokenReply>)> {
    on.caller.require_whole_org(&on.app)?;
    let token = control.create_app_token(&on.app, lifetime_ms(&request)?).await?;
    Ok((StatusCode::CREATED, Json(token)))
}

/// Organizations that the caller may act for.
#[utoipa::path(get, path = "/v1/orgs", tag = "access", responses((status = 200, body = OrganizationList)))]
pub(super) async fn list_orgs(State(control): State<Arc<Control>>, caller: Caller) -> Answer<Json<OrganizationList>> {
    control.orgs(&caller).await.map(Json)
}

/// Creates an organization.
#[utoipa::path(
    post, path = "/v1/orgs", tag = "access",
    request_body = CreateOrganization,
    responses((status = 201, body = Organization))
)]
pub(super) async fn create_org(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Body(request): Body<CreateOrganization>,
) -> Answer<(StatusCode, Json<Organization>)> {
    Ok((StatusCode::CREATED, Json(control.create_org(&caller, request).await?)))
}

/// Makes a token that reaches this organization alone.
#[utoipa::path(
    post, path = "/v1/orgs/{slug}/tokens", tag = "access",
    params(("slug" = String, Path, description = "the organization")),
    request_body = CreateToken,
    responses((status = 201, body = TokenReply))
)]
pub(super) async fn create_org_token(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(slug): Path<String>,
    MaybeBody(request): MaybeBody<CreateToken>,
) -> Answer<(StatusCode, Json<TokenReply>)> {
    let token = control.create_org_token(&caller, &slug, &request.name, lifetime_ms(&request)?).await?;
    Ok((StatusCode::CREATED, Json(token)))
}

/// Tokens that are good and that the caller may revoke.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "access",
    params(
        ("org_slug" = Option<String>, Query, description = "only those that reach this organization or an app of it"),
        ("app" = Option<String>, Query, description = "only those that reach this app alone"),
    ),
    responses((status = 200, body = TokenList))
)]
pub(super) async fn list_tokens(
    State(control): State<Arc<Control>>,
    caller: Caller,
    params: Params,
) -> Answer<Json<TokenList>> {
    control.tokens(&caller, params.get("org_slug"), params.get("app")).await.map(Json)
}

/// Makes a token good no more, at once.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "access",
    params(("id" = String, Path, description = "the token's id, not its text")),
    responses((status = 204, description = "it is good no more"))
)]
pub(super) async fn revoke_token(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    control.revoke_token(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn lifetime_ms(request: &CreateToken) -> Answer<Option<u64>> {
    let Some(expiry) = request.expiry.as_deref().filter(|expiry| !expiry.is_empty()) else { return Ok(None) };
    let expiry: GoDuration = expiry.parse().map_err(|error| Error::invalid(format!("expiry: {error}")))?;
    Ok(Some(u64::try_from(expiry.0.as_millis()).unwrap_or(u64::MAX)))
}
