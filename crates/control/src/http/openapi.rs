//! The OpenAPI document, generated from the routes.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::{
    Modify, OpenApi, ToSchema,
    openapi::{
        self, ContentBuilder, Ref, RefOr, ResponseBuilder,
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Dunlin",
        description = "The control plane of a Dunlin platform. Apps and machines follow the Machines API."
    ),
    components(schemas(
        api::public::ErrorBody,
        api::public::deploys::DeployEvent,
        api::public::deploys::ExecFrame,
        model::log::LogRecord
    )),
    modifiers(&Common)
)]
struct Base;

/// What every operation has in common: a token, and the shape of an error.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
        document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}

/// The OpenAPI document of the REST API.
pub fn document() -> openapi::OpenApi {
    let (_, routes) = super::documented().split_for_parts();
    let mut document = Base::openapi();
    document.merge(routes);
    let error = Ref::from_schema_name(api::public::ErrorBody::name());
    let error = ContentBuilder::new().schema(Some(error)).build();
    let error = ResponseBuilder::new()
        .description("what happened, and what to do next")
        .content("application/json", error)
        .build();
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            operation.responses.responses.insert("default".to_owned(), RefOr::T(error.clone()));
            // Handlers are named within their module; in the document a name is one operation's alone.
            let tag = operation.tags.as_deref().and_then(<[String]>::first).map_or("", String::as_str);
            operation.operation_id = operation.operation_id.take().map(|name| format!("{tag}_{name}"));
        }
    }
    document
}

/// Serves the document.
pub(super) async fn serve() -> Response {
    match document().to_pretty_json() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => crate::Error::BadRequest(error.to_string()).into_response(),
    }
}
