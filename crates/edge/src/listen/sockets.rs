//! The sockets that are listened on: opened here, or inherited from whoever ran before.
//!
//! ```text
//!  another process, the service manager ──inherited──▶ spare ──asked for by address──▶ in use ──copies──▶ the next process
//!                                                        └ not asked for: closed
//! ```
//!
//! A socket that is handed on keeps what waits in it: connections that nobody has accepted yet, datagrams that nobody
//! has read.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use socket2::{Socket, Type};
use tokio::net::TcpListener;

/// The sockets of a process that are listened on.
#[derive(Default)]
pub struct Sockets {
    spare: Mutex<Vec<(SocketAddr, Type, Socket)>>,
    in_use: Mutex<Vec<Weak<dyn AsFd + Send + Sync>>>,
}

impl Sockets {
    /// Sockets that were opened by another process. What listens to nothing is closed.
    pub fn inherited(files: Vec<OwnedFd>) -> Self {
        let spare = files.into_iter().map(Socket::from).filter_map(|socket| {
            let (address, kind) = (socket.local_addr().ok()?.as_socket()?, socket.r#type().ok()?);
            let listens = kind == Type::DGRAM || socket.is_listener().is_ok_and(|listens| listens);
            let ready = listens && socket.set_nonblocking(true).is_ok() && socket.set_cloexec(true).is_ok();
            ready.then_some((address, kind, socket))
        });
        Self { spare: Mutex::new(spare.collect()), in_use: Mutex::default() }
    }

    /// Whether some were opened by another process.
    pub fn are_inherited(&self) -> bool {
        !lock(&self.spare).is_empty()
    }

    /// The inherited socket that listens for connections on an address.
    pub fn take_tcp(&self, address: SocketAddr) -> Option<io::Result<TcpListener>> {
        self.take(address, Type::STREAM).map(|socket| TcpListener::from_std(socket.into()))
    }

    /// The inherited socket that takes datagrams on an address.
    pub fn take_udp(&self, address: SocketAddr) -> Option<Socket> {
        self.take(address, Type::DGRAM)
    }

    fn take(&self, address: SocketAddr, kind: Type) -> Option<Socket> {
        let mut spare = lock(&self.spare);
        let place = spare.iter().position(|(at, is, _)| (*at, *is) == (address, kind))?;
        Some(spare.swap_remove(place).2)
    }

    /// Closes what nobody asked for.
    pub fn close_spare(&self) {
        lock(&self.spare).clear();
    }

    /// This one is in use from here on.
    pub fn in_use<S: AsFd + Send + Sync + 'static>(&self, socket: S) -> Arc<S> {
        let socket = Arc::new(socket);
        let weak: Weak<S> = Arc::downgrade(&socket);
        let mut in_use = lock(&self.in_use);
        if in_use.len() == in_use.capacity() {
            in_use.retain(|socket| socket.strong_count() > 0);
        }
        in_use.push(weak);
        socket
    }

    /// Copies of those in use, for the next process.
    pub fn copies(&self) -> io::Result<Vec<OwnedFd>> {
        let in_use: Vec<_> = lock(&self.in_use).iter().filter_map(Weak::upgrade).collect();
        in_use.iter().map(|socket| socket.as_fd().try_clone_to_owned()).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_waits_is_accepted_by_the_next_one() {
        let first = Sockets::default();
        let listener = first.in_use(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let datagrams = first.in_use(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let client = TcpStream::connect(address).await.unwrap();
        let second = Sockets::inherited(first.copies().unwrap());
        drop(listener);
        assert_eq!(first.copies().unwrap().len(), 1);
        let listener = second.take_tcp(address).unwrap().unwrap();
        assert!(second.take_tcp(address).is_none() && second.take_udp(address).is_none());
        assert!(second.take_udp(datagrams.local_addr().unwrap()).is_some());
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"hello").await.unwrap();
        client.readable().await.unwrap();
    }

    #[tokio::test]
    async fn what_does_not_listen_is_no_socket_of_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let files = vec![stream.as_fd().try_clone_to_owned().unwrap(), file.into()];
        assert_eq!(lock(&Sockets::inherited(files).spare).len(), 0);
    }
}
