//! Apps that end TLS themselves on the port that all apps share: the server name says whose connection it is, and the
//! app gets all of it, from the first byte.
//!
//! The name is read from the handshake's first message, which stays in the socket. With an encrypted one (RFC 9849) it
//! is the outer, public name that counts; a handshake without a name, or with one of no such app, is answered here.

use std::io;

use catalog::{HTTPS_PORT, Handling};
use model::AppName;
use rustls::server::{Acceptor, ClientHello};
use tokio::net::TcpStream;

use crate::{
    context::{Context, Destination},
    http,
    listen::peek,
};

/// A first message is never longer here: those of today's clients, post-quantum keys included, have about 2 kB.
const MAX_HELLO: usize = 16 * 1024;

/// The app that ends TLS itself, and the name it was asked for by, if this is a connection to one.
pub async fn look(context: &Context, stream: &TcpStream) -> io::Result<Option<(String, AppName)>> {
    peek(stream, MAX_HELLO, |bytes| Ok(hello(bytes, |hello| whose(context, hello)))).await
}

/// Reads a handshake's first message, once it is whole. What is none is nobody's.
fn hello<T>(bytes: &[u8], read: impl FnOnce(&ClientHello<'_>) -> Option<T>) -> Option<Option<T>> {
    let (mut acceptor, mut rest) = (Acceptor::default(), bytes);
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return Some(None);
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Some(read(&accepted.client_hello())),
            Ok(None) => {}
            Err(_) => return Some(None),
        }
    }
    None
}

fn whose(context: &Context, hello: &ClientHello<'_>) -> Option<(String, AppName)> {
    if context.hostnames.challenge(hello).is_some() {
        return None;
    }
    let name = hello.server_name().and_then(http::host_name)?;
    let Destination::App(app, known) = context.destination(&name) else { return None };
    let known = known?;
    let offered = known.port(HTTPS_PORT)?;
    (offered.handling == Handling::Passthrough).then_some((name, app))
}
