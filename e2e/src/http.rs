//! A small HTTP/1.1 client that hides nothing: one connection per request, and every error counts.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

use crate::platform::REQUEST_TIMEOUT;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its header, as it came.
    pub head: String,
    /// Its body, chunks joined.
    pub body: String,
}

/// Gets a page from a port of this machine under a host name.
pub fn get(port: u16, host: &str, path: &str) -> io::Result<Answer> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    write!(connection, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\naccept: text/plain\r\n\r\n")?;
    let mut bytes = Vec::new();
    connection.read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| io::Error::other("the answer is cut short"))
}

/// Asks a port of this machine to act, with a token.
pub fn post(port: u16, path: &str, token: &str) -> io::Result<Answer> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    write!(
        connection,
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
         content-length: 0\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    connection.read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| io::Error::other("the answer is cut short"))
}

/// Reads a whole answer; none if it is not whole.
fn parse(text: &str) -> Option<Answer> {
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let field = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let body = if field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        dechunk(rest)?
    } else {
        let length = field("content-length").and_then(|length| length.parse::<usize>().ok());
        if length.is_some_and(|length| length != rest.len()) {
            return None;
        }
        rest.to_owned()
    };
    Some(Answer { status, head: head.to_owned(), body })
}

fn dechunk(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, tail) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(tail.get(..size)?);
        rest = tail.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_cut_short_is_no_answer() {
        assert_eq!(parse("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap().body, "ok");
        assert!(parse("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok").is_none());
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().body, "ok");
        assert!(parse(&chunked[..chunked.len() - 7]).is_none());
    }
}
