//! The edge as its clients and its machines see it: real listeners, real connections.

mod abuse;
mod account;
mod balance;
mod content;
mod curl;
mod errors;
mod faults;
mod hostnames;
mod http;
mod limits;
mod load;
mod passthrough;
mod postgres;
mod prefer;
mod proxy_protocol;
mod replay;
mod replay_cache;
mod smuggling;
mod start;
mod support;
mod takeover;
mod tcp;
mod tls;
mod udp;
mod udp_sources;
mod websocket;
