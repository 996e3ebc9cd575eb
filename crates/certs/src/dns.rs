//! What the public DNS says about a host name, asked now: what a user has just set must be seen, so nothing is kept.
//!
//! A stub resolver (RFC 1034, 5.3.1): each question goes by UDP to one name server after the other, and by TCP where
//! the answer does not fit. Aliases are followed where the name server has not done it. Forged answers are kept out as
//! far as a stub can: the port and the number of each question are random, and the answer must repeat the question.

use std::{net::SocketAddr, time::Duration};

use api::internal::{DnsQuestion, DnsSeen};
use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// How long one name server has for one answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How many aliases are followed.
const MAX_ALIASES: usize = 8;
/// How many values of one kind are kept.
const MAX_VALUES: usize = 32;
/// Longest text that is kept, in bytes.
const MAX_TEXT: usize = 512;
/// Longest answer by UDP that is asked for: a size that is not cut into fragments.
const MAX_UDP: usize = 1232;

/// Why a question has no answer. A name that does not exist is an answer.
#[derive(Debug, Error)]
enum Unanswered {
    #[error("no name server is known")]
    NoServer,
    #[error("{0} did not answer in time")]
    Late(SocketAddr),
    #[error("{server}: {source}")]
    Io { server: SocketAddr, source: std::io::Error },
    #[error("{server} answers with {code}")]
    Refused { server: SocketAddr, code: ResponseCode },
    #[error("{0} answers with nonsense")]
    Nonsense(SocketAddr),
    #[error("{0:?} cannot be asked for")]
    Name(String),
    #[error("more than {MAX_ALIASES} aliases lead on from it")]
    Aliases,
}

/// What the name servers say.
pub async fn look_up(servers: &[SocketAddr], question: &DnsQuestion) -> DnsSeen {
    let mut seen = DnsSeen::default();
    let hostname = question.hostname.as_str();
    if !question.hostname.is_wildcard() {
        let (v4, v6) =
            tokio::join!(resolve(servers, hostname, RecordType::A), resolve(servers, hostname, RecordType::AAAA));
        for found in [v4, v6] {
            match found {
                Ok(found) => found.into_seen(&mut seen),
                Err(error) => seen.errors.push(format!("{hostname}: {error}")),
            }
        }
    }
    let (alias, text) = tokio::join!(
        resolve(servers, &question.acme_name, RecordType::CNAME),
        resolve(servers, &question.ownership_name, RecordType::TXT)
    );
    match alias {
        Ok(found) => seen.acme_cname = found.aliases.into_iter().next(),
        Err(error) => seen.errors.push(format!("{}: {error}", question.acme_name)),
    }
    match text {
        Ok(found) => seen.ownership_txt = found.texts,
        Err(error) => seen.errors.push(format!("{}: {error}", question.ownership_name)),
    }
    seen.errors.dedup();
    seen
}

/// What was found under a name.
#[derive(Default)]
struct Found {
    aliases: Vec<String>,
    addresses: Vec<std::net::IpAddr>,
    texts: Vec<String>,
}

impl Found {
    fn into_seen(self, seen: &mut DnsSeen) {
        for address in self.addresses {
            match address {
                std::net::IpAddr::V4(address) => seen.a.push(address),
                std::net::IpAddr::V6(address) => seen.aaaa.push(address),
            }
        }
        for alias in self.aliases {
            if !seen.cname.contains(&alias) {
                seen.cname.push(alias);
            }
        }
    }
}

/// The records of a kind under a name, aliases followed; asked for an alias, the first one alone.
async fn resolve(servers: &[SocketAddr], name: &str, kind: RecordType) -> Result<Found, Unanswered> {
    let mut found = Found::default();
    let mut name = fully_qualified(name)?;
    loop {
        let answer = ask(servers, &name, kind).await?;
        let mut led_on = false;
        // The aliases of an answer stand in any order; each step takes the one that leads on from here.
        while let Some(target) = alias_of(&answer, &name) {
            if found.aliases.len() >= MAX_ALIASES {
                return Err(Unanswered::Aliases);
            }
            found.aliases.push(plain(&target));
            name = target;
            led_on = true;
            if kind == RecordType::CNAME {
                return Ok(found);
            }
        }
        found.take(&answer, &name, kind);
        let empty = found.addresses.is_empty() && found.texts.is_empty();
        if !(led_on && empty) || answer.answers.iter().any(|record| record.name == name) {
            return Ok(found);
        }
    }
}

impl Found {
    fn take(&mut self, answer: &Message, name: &Name, kind: RecordType) {
        let mine = answer.answers.iter().filter(|record| record.name == *name && record.record_type() == kind);
        for record in mine.take(MAX_VALUES) {
            match &record.data {
                RData::A(address) => self.addresses.push(address.0.into()),
                RData::AAAA(address) => self.addresses.push(address.0.into()),
                RData::TXT(text) => {
                    let bytes: Vec<u8> = text.txt_data.concat();
                    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into_owned();
                    self.texts.push(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect());
                }
                _ => {}
            }
        }
    }
}

fn alias_of(answer: &Message, name: &Name) -> Option<Name> {
    answer.answers.iter().filter(|record| record.name == *name).find_map(|record| match &record.data {
        RData::CNAME(target) => Some(target.0.clone()),
        _ => None,
    })
}

fn fully_qualified(name: &str) -> Result<Name, Unanswered> {
    let mut parsed = Name::from_ascii(name).map_err(|_| Unanswered::Name(name.to_owned()))?;
    parsed.set_fqdn(true);
    Ok(parsed)
}

/// A name as people write it: in lower case, without the dot at its end.
fn plain(name: &Name) -> String {
    let text = name.to_ascii().to_ascii_lowercase();
    text.strip_suffix('.').unwrap_or(&text).to_owned()
}

/// Asks one name server after the other. One that answers that there is no such name has answered.
async fn ask(servers: &[SocketAddr], name: &Name, kind: RecordType) -> Result<Message, Unanswered> {
    let mut last = Unanswered::NoServer;
    for server in servers {
        match ask_one(*server, name, kind).await {
            Ok(answer) => match answer.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => return Ok(answer),
                code => last = Unanswered::Refused { server: *server, code },
            },
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn ask_one(server: SocketAddr, name: &Name, kind: RecordType) -> Result<Message, Unanswered> {
    let mut question = Message::query();
    question.metadata.id = u16::from_ne_bytes(kit::random::bytes());
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), kind));
    let bytes = question.to_vec().map_err(|_| Unanswered::Nonsense(server))?;
    let answered = timeout(ANSWER, exchange(server, &question, &bytes)).await;
    answered.map_err(|_| Unanswered::Late(server))?
}

async fn exchange(server: SocketAddr, question: &Message, bytes: &[u8]) -> Result<Message, Unanswered> {
    let failed = |source| Unanswered::Io { server, source };
    let answer = by_udp(server, question, bytes).await.map_err(failed)?;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    let answer = by_tcp(server, bytes).await.map_err(failed)?;
    fits(question, &answer).ok_or(Unanswered::Nonsense(server))
}

/// Sends the question and waits for its answer; what is no answer to it is passed over.
async fn by_udp(server: SocketAddr, question: &Message, bytes: &[u8]) -> std::io::Result<Message> {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; MAX_UDP];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = fits(question, &buffer[..length]) {
            return Ok(answer);
        }
    }
}

async fn by_tcp(server: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The answer in these bytes, if it is one to this question.
fn fits(question: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = answer.metadata.id == question.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == question.queries;
    same.then_some(answer)
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
