//! The sockets: DNS messages in, DNS messages out (RFC 1035, RFC 6891, RFC 7766).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use api::internal::NodeView;
use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{AAAA, TXT},
    },
};
use model::NetworkId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    time::timeout,
};

use crate::zone::{Answer, lookup};

/// Questions under way at a time; more are dropped, and a resolver asks again.
const MAX_QUESTIONS: usize = 512;
/// TCP connections at a time.
const MAX_CONNECTIONS: usize = 128;
/// How long a TCP client may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// How long one upstream resolver may take.
const UPSTREAM: Duration = Duration::from_secs(2);
/// How long an answer may be kept, in seconds: machines come and go.
const TTL_SECONDS: u32 = 5;
/// The longest UDP answer to a client that did not offer more.
const PLAIN_UDP_BYTES: usize = 512;
/// The longest DNS message.
const MAX_MESSAGE_BYTES: usize = 65_535;

/// What answers questions.
pub struct Resolver {
    /// The node's machines.
    pub view: watch::Receiver<Arc<NodeView>>,
    /// Who answers for the outside world.
    pub upstream: Vec<SocketAddr>,
}

/// Answers datagrams until it is dropped.
pub async fn serve_udp(socket: Arc<UdpSocket>, resolver: Arc<Resolver>) {
    let slots = Arc::new(Semaphore::new(MAX_QUESTIONS));
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "a datagram could not be received");
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let (question, socket, resolver) = (buffer[..length].to_vec(), Arc::clone(&socket), Arc::clone(&resolver));
        tokio::spawn(async move {
            if let Some(answer) = resolver.answer(&question, client.ip(), Transport::Udp).await {
                let _ = socket.send_to(&answer, client).await;
            }
            drop(slot);
        });
    }
}

/// Answers connections until it is dropped.
pub async fn serve_tcp(listener: TcpListener, resolver: Arc<Resolver>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, client)) => {
                let resolver = Arc::clone(&resolver);
                tokio::spawn(async move {
                    if let Err(error) = converse(connection, client, &resolver).await {
                        tracing::debug!(%error, %client, "a DNS connection ended early");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a DNS connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut connection: TcpStream, client: SocketAddr, resolver: &Resolver) -> io::Result<()> {
    loop {
        let Ok(length) = timeout(IDLE, connection.read_u16()).await? else { return Ok(()) };
        let mut question = vec![0; length.into()];
        timeout(IDLE, connection.read_exact(&mut question)).await??;
        let Some(answer) = resolver.answer(&question, client.ip(), Transport::Tcp).await else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [length.to_be_bytes().as_slice(), &answer].concat();
        timeout(IDLE, connection.write_all(&framed)).await??;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

impl Resolver {
    /// The answer to a question, or nothing if it is no question at all.
    async fn answer(&self, question: &[u8], client: IpAddr, transport: Transport) -> Option<Vec<u8>> {
        let query = Message::from_vec(question).ok()?;
        if query.metadata.message_type != MessageType::Query {
            return None;
        }
        let [asked] = query.queries.as_slice() else {
            return respond(&query, ResponseCode::FormErr, Vec::new(), transport);
        };
        if query.metadata.op_code != OpCode::Query {
            return respond(&query, ResponseCode::NotImp, Vec::new(), transport);
        }
        let name = asked.name.to_lowercase().to_ascii();
        let view = Arc::clone(&self.view.borrow());
        match lookup(&view, network_of(client)?, name.trim_end_matches('.')) {
            Answer::NotInternal => match self.forward(question, transport).await {
                Some(answer) => Some(answer),
                None => respond(&query, ResponseCode::ServFail, Vec::new(), transport),
            },
            Answer::NoSuchName => respond(&query, ResponseCode::NXDomain, Vec::new(), transport),
            found => respond(&query, ResponseCode::NoError, records(&asked.name, asked.query_type, found), transport),
        }
    }

    /// Asks the resolvers of the host, one after the other.
    async fn forward(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        for upstream in &self.upstream {
            let asked = async {
                match transport {
                    Transport::Udp => forward_udp(question, *upstream).await,
                    Transport::Tcp => forward_tcp(question, *upstream).await,
                }
            };
            match timeout(UPSTREAM, asked).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%error, %upstream, "a resolver of the host failed"),
                Err(_) => tracing::debug!(%upstream, "a resolver of the host did not answer"),
            }
        }
        None
    }
}

/// The network that a client is in. The host itself and its operator see no network: number 0 is never given out.
fn network_of(client: IpAddr) -> Option<NetworkId> {
    match client {
        IpAddr::V6(address) if address.is_loopback() => Some(NetworkId(0)),
        IpAddr::V6(address) => NetworkId::of(address),
        IpAddr::V4(address) => address.is_loopback().then_some(NetworkId(0)),
    }
}

/// The records of an answer, of the type that was asked for.
fn records(name: &Name, kind: RecordType, answer: Answer) -> Vec<Record> {
    let record = |data| Record::from_rdata(name.clone(), TTL_SECONDS, data);
    match answer {
        Answer::Addresses(addresses) if matches!(kind, RecordType::AAAA | RecordType::ANY) => {
            addresses.into_iter().map(|address| record(RData::AAAA(AAAA(address)))).collect()
        }
        Answer::Text(text) if matches!(kind, RecordType::TXT | RecordType::ANY) => {
            let strings = text.as_bytes().chunks(255).map(|chunk| String::from_utf8_lossy(chunk).into_owned());
            vec![record(RData::TXT(TXT::new(strings.collect())))]
        }
        _ => Vec::new(),
    }
}

fn respond(query: &Message, code: ResponseCode, answers: Vec<Record>, transport: Transport) -> Option<Vec<u8>> {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.response_code = code;
    response.metadata.authoritative = true;
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.queries.clone_from(&query.queries);
    response.answers = answers;
    let bytes = response.to_vec().ok()?;
    let offered = query.edns.as_ref().map_or(0, |edns| edns.max_payload().into());
    let fits = transport == Transport::Tcp || bytes.len() <= PLAIN_UDP_BYTES.max(offered);
    if fits && bytes.len() <= MAX_MESSAGE_BYTES { Some(bytes) } else { response.truncate().to_vec().ok() }
}

async fn forward_udp(question: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // The identifier must be the question's: a late answer to another question is not ours.
        if length >= 12 && question.get(..2) == buffer.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn forward_tcp(question: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let mut connection = TcpStream::connect(upstream).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    connection.write_all(&[length.to_be_bytes().as_slice(), question].concat()).await?;
    let mut answer = vec![0; connection.read_u16().await?.into()];
    connection.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(upstream: Vec<SocketAddr>) -> Resolver {
        Resolver { view: watch::channel(Arc::default()).1, upstream }
    }

    fn question(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 4711;
        message.metadata.recursion_desired = true;
        message.add_query(hickory_proto::op::Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    const GUEST: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfdaa, 0, 1, 0, 0, 0, 0, 2));

    #[tokio::test]
    async fn an_unknown_internal_name_does_not_exist() {
        let answer =
            resolver(vec![]).answer(&question("nope.internal.", RecordType::AAAA), GUEST, Transport::Udp).await;
        let answer = Message::from_vec(&answer.unwrap()).unwrap();
        assert_eq!((answer.metadata.id, answer.metadata.response_code), (4711, ResponseCode::NXDomain));
    }

    #[tokio::test]
    async fn other_names_go_to_the_resolver_of_the_host_over_the_same_transport() {
        let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = upstream.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            let (length, client) = upstream.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let answer = respond(&query, ResponseCode::Refused, Vec::new(), Transport::Udp).unwrap();
            upstream.send_to(&answer, client).await.unwrap();
        });
        let asked = question("example.com.", RecordType::A);
        let answer = resolver(vec![address]).answer(&asked, GUEST, Transport::Udp).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().metadata.response_code, ResponseCode::Refused);
    }

    #[tokio::test]
    async fn a_stranger_and_a_broken_question_get_no_answer() {
        let resolver = resolver(vec![]);
        let asked = question("a.internal.", RecordType::AAAA);
        assert_eq!(resolver.answer(&asked, "2001:db8::1".parse().unwrap(), Transport::Udp).await, None);
        assert_eq!(resolver.answer(b"nonsense", GUEST, Transport::Udp).await, None);
        for length in 0..asked.len() {
            assert_eq!(resolver.answer(&asked[..length], GUEST, Transport::Udp).await, None);
        }
    }
}
