//! HTTP: connections, requests, answers.

mod body;
mod headers;
mod host;
mod inbound;
mod page;
mod request;
mod request_id;
mod serve;
mod upgrade;

pub use host::name as host_name;
pub use inbound::InboundBody;
pub use serve::{Client, Secured, serve, server};
pub use upgrade::Upgrade;
