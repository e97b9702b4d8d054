//! Names for containers, in namespaces that the tests make. Needs root, `ip`, `nft`, `unshare`.

#[expect(dead_code, reason = "shared with the tests of the jail, which use all of it")]
#[path = "../../jail/tests/network_world/mod.rs"]
mod network_world;
mod zone;

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::RecordType;
use jail::network::{Fabric, FabricConfig, Policy};
use network_world::{BEYOND, Container, World, soon};
use network_world::{assert_unchanged, snapshot, with_world};
use tokio::runtime::Runtime;
use worker::net::dns::{Registration, Resolver, ResolverConfig};
use zone::{Asked, ask, read_framed, serve_zone, write_framed};

const DNS_PORT: u16 = 5_300;
/// A host with a fabric and a resolver.
struct Host {
    runtime: Runtime,
    fabric: Arc<Fabric>,
    resolver: Resolver,
    resolv_conf: PathBuf,
    asked: Asked,
    _dir: tempfile::TempDir,
}

fn with_host(test: impl FnOnce(&World, &Host) + Send) {
    with_world(true, |world| {
        let before = snapshot();
        let asked = serve_zone(world);
        let runtime = Runtime::new().expect("runtime");
        let config = FabricConfig {
            table: "palisade".into(),
            interface_prefix: "pal".into(),
            subnet: None,
            dns_port: DNS_PORT,
        };
        let fabric = Arc::new(Fabric::open(&config, &[]).expect("open the fabric"));
        let dir = tempfile::tempdir().expect("folder");
        let resolv_conf = dir.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 10.50.0.5\n").expect("write");
        let config = ResolverConfig {
            listen: (fabric.gateway(), DNS_PORT).into(),
            resolv_conf: resolv_conf.clone(),
        };
        let resolver =
            runtime.block_on(Resolver::start(config, Arc::clone(&fabric))).expect("start");
        let host = Host { runtime, fabric, resolver, resolv_conf, asked, _dir: dir };
        test(world, &host);
        let start = Instant::now();
        host.runtime.block_on(host.resolver.stop());
        assert!(start.elapsed() < soon(), "stopping took {:?}", start.elapsed());
        host.fabric.close().expect("close");
        assert_unchanged(&before);
    });
}

/// A container that may ask.
struct Guest {
    container: Container,
    gateway: SocketAddr,
    _registration: Registration,
    _attachment: jail::network::Attachment,
}

impl Guest {
    fn new(host: &Host, names: &[(&str, u16)]) -> Self {
        let names: Vec<_> = names.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect();
        let container = Container::new();
        let policy = Policy { names, ..Policy::default() };
        let attachment = host.fabric.attach(container.netns.as_fd(), &policy).expect("attach");
        let registration = host.resolver.register(attachment.address, &policy).expect("register");
        let gateway = (attachment.gateway, 53).into();
        Self { container, gateway, _registration: registration, _attachment: attachment }
    }

    fn exchange(&self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        self.container.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(self.gateway)?;
            socket.set_read_timeout(Some(Duration::from_secs(8)))?;
            socket.send(bytes)?;
            let mut buffer = vec![0; 4_096];
            let len = socket.recv(&mut buffer)?;
            buffer.truncate(len);
            Ok(buffer)
        })
    }

    fn ask(&self, label: &str, kind: RecordType) -> Message {
        let asked = ask(label, kind);
        let bytes = self.exchange(&asked.to_vec().expect("encode")).expect(label);
        let reply = Message::from_vec(&bytes).expect("decode");
        assert_eq!(reply.metadata.id, asked.metadata.id);
        assert_eq!(reply.queries, asked.queries);
        reply
    }

    fn addresses(&self, label: &str) -> Vec<String> {
        let reply = self.ask(label, RecordType::A);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{label}");
        reply
            .answers
            .iter()
            .filter_map(|record| record.data.ip_addr())
            .map(|ip| ip.to_string())
            .collect()
    }
}

#[test]
fn names_resolve_and_closed_addresses_never_appear() {
    with_host(|_, host| {
        let guest = Guest::new(host, &[]);
        assert_eq!(guest.addresses("public.test."), ["203.0.113.9"]);
        assert_eq!(guest.addresses("PUBLIC.test."), ["203.0.113.9"]);
        assert_eq!(guest.addresses("mixed.test."), ["203.0.113.9"]);
        assert_eq!(guest.addresses("guessed.test."), ["203.0.113.9"]);
        for closed in ["private.test.", "metadata.test.", "index.test."] {
            let reply = guest.ask(closed, RecordType::A);
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
            assert_eq!((reply.answers.len(), reply.additionals.len()), (0, 0), "{closed}");
        }
        let code = |label, kind| guest.ask(label, kind).metadata.response_code;
        assert_eq!(code("absent.test.", RecordType::A), ResponseCode::NXDomain);
        assert_eq!(code("public.test.", RecordType::ANY), ResponseCode::Refused);
        assert_eq!(code("5.0.50.10.in-addr.arpa.", RecordType::PTR), ResponseCode::NXDomain);
        let six = guest.ask("public.test.", RecordType::AAAA);
        assert_eq!(six.metadata.response_code, ResponseCode::NoError);
        assert!(six.answers.is_empty());
        let mail = guest.ask("mail.test.", RecordType::MX);
        assert_eq!((mail.answers.len(), mail.additionals.len()), (1, 0));
    });
}

#[test]
fn a_named_hosts_addresses_pass_before_they_are_told() {
    with_host(|world, host| {
        world.serve_public(80);
        let builder = Guest::new(host, &[("Index.test", 80)]);
        let other = Guest::new(host, &[]);
        builder.container.assert_refused("192.168.7.7:80");
        assert_eq!(builder.addresses("index.test."), ["192.168.7.7"]);
        assert!(builder.container.ask("192.168.7.7:80").is_ok());
        builder.container.assert_refused("192.168.7.7:81");
        builder.container.assert_refused("169.254.169.254:80");
        assert_eq!(builder.addresses("private.test."), Vec::<String>::new());
        assert_eq!(other.addresses("index.test."), Vec::<String>::new());
        other.container.assert_refused("192.168.7.7:80");
    });
}

#[test]
fn long_answers_come_by_tcp() {
    with_host(|_, host| {
        let guest = Guest::new(host, &[]);
        let short = guest.ask("big.test.", RecordType::TXT);
        assert!(short.metadata.truncation && short.answers.is_empty());
        let mut asked = ask("big.test.", RecordType::TXT);
        let whole = guest.container.run(|| {
            let mut stream = TcpStream::connect(guest.gateway).expect("connect");
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
            // Two questions over one connection.
            for _ in 0..2 {
                write_framed(&mut stream, &asked.to_vec().expect("encode")).expect("write");
                read_framed(&mut stream).expect("read");
            }
            write_framed(&mut stream, &asked.to_vec().expect("encode")).expect("write");
            read_framed(&mut stream).expect("read")
        });
        assert_eq!(Message::from_vec(&whole).expect("decode").answers.len(), 40);
        // A program that has room for no more than 600 bytes gets no more.
        let mut edns = Edns::new();
        edns.set_max_payload(600);
        asked.set_edns(edns);
        let bytes = guest.exchange(&asked.to_vec().expect("encode")).expect("answer");
        assert!(bytes.len() <= 600);
        assert!(Message::from_vec(&bytes).expect("decode").edns.is_some());
    });
}

#[test]
fn strangers_and_junk_get_no_answer_and_do_no_harm() {
    with_host(|_, host| {
        let guest = Guest::new(host, &[]);
        let stranger = Container::new();
        let _attached =
            host.fabric.attach(stranger.netns.as_fd(), &Policy::default()).expect("attach");
        let asked = ask("public.test.", RecordType::A).to_vec().expect("encode");
        stranger.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.connect(guest.gateway).expect("connect");
            socket.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
            socket.send(&asked).expect("send");
            socket.recv(&mut [0; 512]).expect_err("a stranger is answered");
        });
        let formerr = guest.exchange(&[asked.as_slice(), &[0; 3_000]].concat()).expect("answer");
        let formerr = Message::from_vec(&formerr).expect("decode");
        assert_eq!(formerr.metadata.response_code, ResponseCode::FormErr);
        guest.container.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.connect(guest.gateway).expect("connect");
            for len in 0..64 {
                socket.send(&vec![0xc0; len]).expect("send");
                socket.send(&asked[..asked.len().min(len)]).expect("send");
            }
        });
        assert_eq!(guest.addresses("public.test."), ["203.0.113.9"]);
        // A registration that ended is a stranger again.
        let Guest { container, gateway, _registration, _attachment } = guest;
        drop(_registration);
        container.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.connect(gateway).expect("connect");
            socket.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
            socket.send(&asked).expect("send");
            socket.recv(&mut [0; 512]).expect_err("a stranger is answered");
        });
    });
}

/// Asks more than one container may have waiting, for names that nobody answers; gives the name
/// of the first reply. Without a limit that is one of those that were asked, given up.
fn flood(loud: &Guest, round: usize) -> String {
    loud.container.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.connect(loud.gateway).expect("connect");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        for n in 0..400 {
            let asked = ask(&format!("silent-{round}-{n}.test."), RecordType::A);
            socket.send(&asked.to_vec().expect("encode")).expect("send");
        }
        let mut buffer = [0; 512];
        let len = socket.recv(&mut buffer).expect("what is over the limit is refused");
        let reply = Message::from_vec(&buffer[..len]).expect("decode");
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        reply.queries[0].name.to_lowercase().to_ascii()
    })
}

#[test]
fn one_container_that_floods_does_not_stop_the_others() {
    with_host(|_, host| {
        let (loud, quiet) = (Guest::new(host, &[]), Guest::new(host, &[]));
        // On a machine with other work a thread may wait for its turn as long as an answer may
        // take: the fastest of a few counts.
        let is_fast = (0..5).any(|round| {
            let refused = flood(&loud, round);
            let asked = host.asked.lock().expect("lock").clone();
            assert!(!asked.contains(&refused), "{refused} was asked, and given up");
            let start = Instant::now();
            assert_eq!(quiet.addresses("public.test."), ["203.0.113.9"]);
            start.elapsed() < soon()
        });
        assert!(is_fast, "no answer within {:?}", soon());
    });
}

#[test]
fn a_silent_resolver_is_given_up_and_a_new_one_is_read() {
    with_host(|_, host| {
        let guest = Guest::new(host, &[]);
        let start = Instant::now();
        let reply = guest.ask("silent.test.", RecordType::A);
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
        // Nobody is at the first one: the second answers.
        let two = "nameserver 198.51.100.1\nnameserver 10.50.0.5\n";
        std::fs::write(&host.resolv_conf, two).expect("write");
        assert_eq!(guest.addresses("public.test."), ["203.0.113.9"]);
        std::fs::write(&host.resolv_conf, "nameserver 198.51.100.1\n").expect("write");
        let reply = guest.ask("public.test.", RecordType::A);
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert!(BEYOND.contains(&"10.50.0.5"));
    });
}

#[test]
fn the_systems_own_resolver_is_content() {
    with_host(|_, host| {
        let guest = Guest::new(host, &[]);
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("resolv.conf");
        std::fs::write(&path, format!("nameserver {}\n", guest.gateway.ip())).expect("write");
        let lookup = |label: &str| {
            let script = format!(
                "mount --bind {} /etc/resolv.conf && exec getent ahosts {label}",
                path.display()
            );
            guest.container.run(|| {
                let mut command = std::process::Command::new("unshare");
                let output = command.args(["--mount", "sh", "-c", &script]).output();
                let output = output.expect("run getent");
                (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
            })
        };
        let start = Instant::now();
        let (found, text) = lookup("public.test");
        assert!(found && text.starts_with("203.0.113.9"), "{text}");
        let (found, text) = lookup("private.test");
        assert!(!found && text.is_empty(), "{text}");
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    });
}
