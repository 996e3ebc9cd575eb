//! Ending a connection at once.

use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

/// Makes the end of a connection a reset: whoever reads from it does not take it for a complete one, and the system keeps
/// nothing of it.
pub fn break_off(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
