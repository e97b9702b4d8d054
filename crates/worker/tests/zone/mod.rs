//! A host's resolver with a few names, and questions to it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, MX, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::network_world::{World, inside};

/// The host's resolver lies in a private range, as they do.
const UPSTREAM: &str = "10.50.0.5:53";

pub(crate) fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("name")
}

/// What the host's resolver knows.
fn zone(question: &Query) -> Vec<Record> {
    let asked = question.name.to_lowercase().to_ascii();
    let a = |owner: &str, ip: &str| {
        Record::from_rdata(name(owner), 30, RData::A(A(ip.parse().expect("address"))))
    };
    let own = |ip: &str| a(&asked, ip);
    match (asked.as_str(), question.query_type) {
        ("public.test.", RecordType::A) => vec![own("203.0.113.9")],
        ("other.test." | "deep.wild.test.", RecordType::A) => vec![own("192.0.2.10")],
        ("alias.test.", RecordType::A) => vec![
            Record::from_rdata(name("alias.test."), 30, RData::CNAME(CNAME(name("hidden.test.")))),
            a("hidden.test.", "203.0.113.9"),
        ],
        ("private.test.", RecordType::A) => vec![own("10.50.0.5")],
        ("metadata.test.", RecordType::A) => vec![own("169.254.169.254")],
        ("mixed.test.", RecordType::A) => vec![own("10.50.0.5"), own("203.0.113.9")],
        ("index.test.", RecordType::A) => vec![
            Record::from_rdata(name("index.test."), 1, RData::CNAME(CNAME(name("files.test.")))),
            a("files.test.", "192.168.7.7"),
            a("files.test.", "169.254.169.254"),
        ],
        ("big.test.", RecordType::TXT) => (0..40)
            .map(|n| {
                let text = TXT::new(vec![format!("{n:0100}")]);
                Record::from_rdata(name("big.test."), 30, RData::TXT(text))
            })
            .collect(),
        ("mail.test.", RecordType::MX) => {
            vec![Record::from_rdata(
                name("mail.test."),
                30,
                RData::MX(MX::new(1, name("in.test."))),
            )]
        }
        _ => Vec::new(),
    }
}

fn answer(bytes: &[u8], is_udp: bool, seen: &Asked) -> Option<Vec<Vec<u8>>> {
    let asked = Message::from_vec(bytes).ok()?;
    let question = asked.queries.first()?.clone();
    let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
    reply.add_query(question.clone());
    reply.insert_answers(zone(&question));
    let label = question.name.to_lowercase().to_ascii();
    seen.lock().expect("nobody panicked").push(label.clone());
    match label.as_str() {
        label if label.starts_with("silent") => return None,
        "absent.test." => reply.metadata.response_code = ResponseCode::NXDomain,
        "mail.test." => {
            let address = RData::A(A(Ipv4Addr::new(10, 50, 0, 5)));
            reply.add_additional(Record::from_rdata(name("in.test."), 30, address));
        }
        // Somebody answers with a guessed id before the true answer comes.
        "guessed.test." => {
            let mut guess = reply.clone();
            guess.metadata.id = asked.metadata.id.wrapping_add(1);
            let wrong = RData::A(A(Ipv4Addr::new(203, 0, 113, 66)));
            guess.add_answer(Record::from_rdata(question.name.clone(), 30, wrong));
            let right = RData::A(A(Ipv4Addr::new(203, 0, 113, 9)));
            reply.add_answer(Record::from_rdata(question.name.clone(), 30, right));
            return Some(vec![guess.to_vec().ok()?, reply.to_vec().ok()?]);
        }
        _ => {}
    }
    let bytes = reply.to_vec().ok()?;
    if is_udp && bytes.len() > 1_232 {
        reply.answers.clear();
        reply.metadata.truncation = true;
        return Some(vec![reply.to_vec().ok()?]);
    }
    Some(vec![bytes])
}

/// The names that the host's resolver was asked for, in lower case.
pub(crate) type Asked = Arc<Mutex<Vec<String>>>;

/// Serves the zone in the internet.
pub(crate) fn serve_zone(world: &World) -> Asked {
    let asked = Asked::default();
    let (by_udp, by_tcp) = (Arc::clone(&asked), Arc::clone(&asked));
    let (udp, tcp) = inside(world.internet.as_fd(), || {
        (UdpSocket::bind(UPSTREAM).expect("bind"), TcpListener::bind(UPSTREAM).expect("bind"))
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 4_096];
        while let Ok((len, peer)) = udp.recv_from(&mut buffer) {
            for reply in answer(&buffer[..len], true, &by_udp).unwrap_or_default() {
                let _ = udp.send_to(&reply, peer);
            }
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { continue };
            let Ok(bytes) = read_framed(&mut stream) else { continue };
            for reply in answer(&bytes, false, &by_tcp).unwrap_or_default() {
                let _ = write_framed(&mut stream, &reply);
            }
        }
    });
    asked
}

pub(crate) fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn write_framed(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let len = u16::try_from(bytes.len()).expect("length").to_be_bytes();
    stream.write_all(&[&len, bytes].concat())
}

pub(crate) fn ask(label: &str, kind: RecordType) -> Message {
    let mut asked = Message::query();
    asked.metadata.recursion_desired = true;
    asked.add_query(Query::query(name(label), kind));
    asked
}
