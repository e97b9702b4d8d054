//! Asking the host's resolvers.
//!
//! Every question goes from a socket of its own, with a random id; only an answer from the
//! address that was asked, with that id and that question, is taken.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::folded;
use crate::limits::{
    QUESTION_MS_MAX, ROUNDS_MAX, SERVER_MS_MAX, TCP_ANSWER_BYTES_MAX, UDP_ANSWER_BYTES_MAX,
};

/// The first useful answer of one of `servers`, else the last one of any kind; `None` if none
/// answers in time.
pub(super) async fn ask(servers: &[SocketAddr], question: &Query) -> Option<Message> {
    let mut last = None;
    let all = async {
        for server in servers.iter().cycle().take(servers.len() * ROUNDS_MAX) {
            let wait = Duration::from_millis(SERVER_MS_MAX);
            let Ok(Ok(answer)) = timeout(wait, exchange(*server, question)).await else {
                continue;
            };
            let is_useful = matches!(
                answer.metadata.response_code,
                ResponseCode::NoError | ResponseCode::NXDomain
            );
            last = Some(answer);
            if is_useful {
                return;
            }
        }
    };
    // What came until then is the answer.
    let _ = timeout(Duration::from_millis(QUESTION_MS_MAX), all).await;
    last
}

/// Asks one server by UDP, and by TCP if its answer is longer than that.
async fn exchange(server: SocketAddr, question: &Query) -> io::Result<Message> {
    let mut asked = Message::query();
    asked.metadata.recursion_desired = true;
    asked.add_query(question.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_ANSWER_BYTES_MAX);
    asked.set_edns(edns);
    let bytes = asked.to_vec().map_err(io::Error::other)?;
    let answer = by_udp(server, &asked, &bytes).await?;
    if answer.metadata.truncation { by_tcp(server, &asked, &bytes).await } else { Ok(answer) }
}

async fn by_udp(server: SocketAddr, asked: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; TCP_ANSWER_BYTES_MAX];
    loop {
        let len = socket.recv(&mut buffer).await?;
        // What does not fit the question is somebody's try to answer it: wait for the true one.
        if let Some(answer) = fitting(&buffer[..len], asked) {
            return Ok(answer);
        }
    }
}

async fn by_tcp(server: SocketAddr, asked: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), bytes].concat()).await?;
    let len = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(len)];
    stream.read_exact(&mut buffer).await?;
    fitting(&buffer, asked).ok_or_else(|| io::Error::other("the answer is to another question"))
}

/// The bytes as an answer to `asked`, if they are one.
fn fitting(bytes: &[u8], asked: &Message) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = match (asked.queries.as_slice(), answer.queries.as_slice()) {
        ([asked], [echoed]) => {
            asked.query_type == echoed.query_type
                && asked.query_class == echoed.query_class
                && folded(&asked.name) == folded(&echoed.name)
        }
        _ => false,
    };
    let is_answer = answer.metadata.message_type == MessageType::Response;
    (same && is_answer && answer.metadata.id == asked.metadata.id).then_some(answer)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Name, RecordType};

    use super::*;

    #[test]
    fn only_an_answer_to_the_question_fits() {
        let question = |name: &str, kind| Query::query(Name::from_ascii(name).expect("name"), kind);
        let mut asked = Message::query();
        asked.add_query(question("example.org.", RecordType::A));
        let answer = |id: u16, queries: Vec<Query>| {
            let mut answer = Message::response(id, asked.metadata.op_code);
            answer.add_queries(queries);
            answer.to_vec().expect("encode")
        };
        let id = asked.metadata.id;
        let good = vec![question("EXAMPLE.org.", RecordType::A)];
        assert!(fitting(&answer(id, good.clone()), &asked).is_some());
        assert!(fitting(&answer(id.wrapping_add(1), good), &asked).is_none());
        let other = vec![question("example.com.", RecordType::A)];
        assert!(fitting(&answer(id, other), &asked).is_none());
        let other = vec![question("example.org.", RecordType::MX)];
        assert!(fitting(&answer(id, other), &asked).is_none());
        assert!(fitting(&answer(id, Vec::new()), &asked).is_none());
        assert!(fitting(&asked.to_vec().expect("encode"), &asked).is_none());
        assert!(fitting(b"junk", &asked).is_none());
    }
}
