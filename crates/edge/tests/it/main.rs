//! The edge as its clients and its machines see it: real listeners, real connections.

mod account;
mod balance;
mod content;
mod curl;
mod errors;
mod hostnames;
mod http;
mod passthrough;
mod postgres;
mod prefer;
mod proxy_protocol;
mod replay;
mod replay_cache;
mod smuggling;
mod start;
mod support;
mod tcp;
mod tls;
mod udp;
mod udp_sources;
mod websocket;
