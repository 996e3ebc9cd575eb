//! Looking at what a connection begins with, without taking it.

use std::{io, os::fd::AsRawFd};

use nix::sys::socket::{MsgFlags, recv};
use tokio::{io::Interest, net::TcpStream};

/// Looks at the first bytes, `most` of them at the most, until they say enough. They stay to be read.
pub async fn peek<T>(
    stream: &TcpStream,
    most: usize,
    mut look: impl FnMut(&[u8]) -> io::Result<Option<T>>,
) -> io::Result<T> {
    let (mut bytes, mut seen) = (vec![0; most], 0);
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let peeked = stream.try_io(Interest::READABLE, || {
            let length = recv(stream.as_raw_fd(), &mut bytes, MsgFlags::MSG_PEEK)?;
            // The same bytes again are no news: only more of them wake us.
            if length == seen && length > 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(length) }
        });
        match peeked {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                seen = length;
                if let Some(found) = look(&bytes[..length])? {
                    return Ok(found);
                }
                if length == most {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "it begins with too many bytes"));
                }
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if ready.is_read_closed() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn bytes_that_come_one_by_one_are_seen_and_stay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        let sending = tokio::spawn(async move {
            for byte in b"hello" {
                client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            client
        });
        let seen = peek(&server, 100, |bytes| Ok((bytes.len() == 5).then(|| bytes.to_vec()))).await.unwrap();
        assert_eq!(seen, b"hello");
        let too_many = peek(&server, 5, |_| Ok(None::<()>)).await.unwrap_err();
        assert_eq!(too_many.kind(), io::ErrorKind::InvalidData);
        drop(sending.await.unwrap());
        let ended = peek(&server, 100, |_| Ok(None::<()>)).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
        let mut rest = String::new();
        server.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "hello");
    }
}
