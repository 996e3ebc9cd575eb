//! A name server of these tests answers what it is told to.

use std::collections::HashMap;

use hickory_proto::rr::{
    Record,
    rdata::{A, AAAA, CNAME, TXT},
};
use tokio::net::TcpListener;

use super::*;

type Zone = HashMap<(&'static str, RecordType), Vec<RData>>;

fn alias(target: &str) -> RData {
    RData::CNAME(CNAME(fully_qualified(target).unwrap()))
}

/// Answers from a zone; what it does not know does not exist. Says by UDP that everything is too long if told so.
async fn name_server(zone: Zone, truncates: bool) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    let answer = move |question: &[u8], truncated: bool| {
        let question = Message::from_vec(question).unwrap();
        let query = question.queries[0].clone();
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        let name = plain(query.name());
        let known = |kind| zone.iter().find(|((known, of), _)| **known == name && *of == kind);
        answer.metadata.truncation = truncated;
        match known(query.query_type()).or_else(|| known(RecordType::CNAME)) {
            Some(_) if truncated => {}
            Some((_, data)) => {
                for data in data {
                    answer.add_answer(Record::from_rdata(query.name().clone(), 60, data.clone()));
                }
            }
            None => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        answer.add_query(query);
        answer.to_vec().unwrap()
    };
    let by_udp = answer.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            // What comes first is forged and must be passed over.
            socket.send_to(b"nonsense", peer).await.unwrap();
            socket.send_to(&by_udp(&buffer[..length], truncates), peer).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut question = vec![0; usize::from(length)];
            stream.read_exact(&mut question).await.unwrap();
            let bytes = answer(&question, false);
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    address
}

fn question(hostname: &str) -> DnsQuestion {
    let hostname: model::Hostname = hostname.parse().unwrap();
    DnsQuestion {
        acme_name: format!("_acme-challenge.{}", hostname.base()),
        ownership_name: format!("_fly-ownership.{}", hostname.base()),
        hostname,
    }
}

fn zone() -> Zone {
    [
        (("shop.example.com", RecordType::CNAME), vec![alias("Edge.Example.NET")]),
        (("edge.example.net", RecordType::A), vec![RData::A(A([192, 0, 2, 7].into()))]),
        (("edge.example.net", RecordType::AAAA), vec![RData::AAAA(AAAA("2001:db8::7".parse().unwrap()))]),
        (("_acme-challenge.shop.example.com", RecordType::CNAME), vec![alias("shop.abc.acme.example.net")]),
        (
            ("_fly-ownership.shop.example.com", RecordType::TXT),
            vec![RData::TXT(TXT::new(vec!["app-1;".into(), "org-2".into()])), RData::TXT(TXT::new(vec!["x".into()]))],
        ),
        (("loop.example.com", RecordType::CNAME), vec![alias("loop.example.com")]),
    ]
    .into()
}

#[tokio::test]
async fn aliases_are_followed_and_every_record_is_seen() {
    for truncates in [false, true] {
        let server = name_server(zone(), truncates).await;
        let seen = look_up(&[server], &question("shop.example.com")).await;
        assert_eq!(seen.a, ["192.0.2.7".parse::<std::net::Ipv4Addr>().unwrap()]);
        assert_eq!(seen.aaaa, ["2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap()]);
        assert_eq!(seen.cname, ["edge.example.net"]);
        assert_eq!(seen.acme_cname.as_deref(), Some("shop.abc.acme.example.net"));
        assert_eq!(seen.ownership_txt, ["app-1;org-2", "x"]);
        assert!(seen.errors.is_empty(), "{:?}", seen.errors);
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_an_error_and_what_goes_in_circles_is() {
    let server = name_server(zone(), false).await;
    assert_eq!(look_up(&[server], &question("nobody.example.com")).await, DnsSeen::default());
    let seen = look_up(&[server], &question("loop.example.com")).await;
    assert!(seen.errors.iter().any(|error| error.contains("aliases")), "{:?}", seen.errors);
    assert_eq!(look_up(&[server], &question("*.example.com")).await, DnsSeen::default());
}

#[tokio::test]
async fn the_next_name_server_is_asked_where_one_is_down() {
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let seen = look_up(&[closed, name_server(zone(), false).await], &question("edge.example.net")).await;
    assert_eq!(seen.a.len(), 1, "{:?}", seen.errors);
    let seen = look_up(&[closed], &question("edge.example.net")).await;
    assert!(seen.a.is_empty() && !seen.errors.is_empty());
    assert!(look_up(&[], &question("a.b")).await.errors[0].contains("no name server"));
}
