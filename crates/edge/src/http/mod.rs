//! HTTP: connections, requests, answers.

mod answer;
mod body;
mod compress;
mod connection;
mod date;
mod headers;
mod host;
mod inbound;
mod interim;
mod leave;
mod multiplex;
mod page;
mod prefer;
mod request;
mod request_id;
mod serve;
mod upgrade;

pub use compress::Compressor;
pub use headers::{ClientFields, OwnFields, clean_trailers, has_token, is_ours, leave_connection};
pub use host::name as host_name;
pub use inbound::{Inbound, InboundBody};
pub use interim::Interim;
pub use request::answer;
pub use request_id::RequestId;
pub use serve::{Busy, Client, Secured, serve};
pub use upgrade::{HandedOver, Upgrade};
