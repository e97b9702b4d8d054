//! What containers reach under each policy, through the firewall and the resolver together, in
//! namespaces that the tests make. Needs root, `ip`, `nft`, `unshare`.

#[path = "../../jail/tests/network_world/mod.rs"]
mod network_world;
mod zone;

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use jail::network::{Outbound, Policy};
use network_world::{BEYOND, Container, HOST, OTHER, PORT, PUBLIC, World};
use network_world::{assert_unchanged, inside, reaches, serve, snapshot, with_two};
use tokio::runtime::Runtime;
use worker::Networks;
use worker::networks::{Attached, NetworksConfig};
use zone::{Asked, ask, read_framed, serve_zone, write_framed};

/// A host with the networks of a worker.
struct Host {
    runtime: Runtime,
    networks: Networks,
    asked: Asked,
    config: NetworksConfig,
    _dir: tempfile::TempDir,
}

fn with_host(test: impl FnOnce(&World, &mut Host) + Send) {
    with_two(|world| {
        let before = snapshot();
        let asked = serve_zone(world);
        let runtime = Runtime::new().expect("runtime");
        let dir = tempfile::tempdir().expect("folder");
        let resolv_conf = dir.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 10.50.0.5\n").expect("write");
        let config = NetworksConfig { resolv_conf, keep: Vec::new() };
        let networks = runtime.block_on(Networks::open(config.clone()));
        assert_eq!(networks.missing(), None);
        // A server on every address of the host, and one beyond it where IPv6 leads.
        serve(SocketAddr::from(([0, 0, 0, 0], PORT)));
        inside(world.internet.as_fd(), || serve("[2001:db8::1]:80".parse().expect("address")));
        let mut host = Host { runtime, networks, asked, config, _dir: dir };
        test(world, &mut host);
        host.runtime.block_on(host.networks.close());
        assert_unchanged(&before);
    });
}

impl Host {
    fn attach(&self, container: &Container, policy: &Policy) -> Attached {
        let netns: OwnedFd = container.netns.try_clone().expect("duplicate");
        self.networks.attach(netns, policy).expect("attach")
    }

    /// The addresses that a container is told for `label`; both transports must agree.
    fn resolve(&self, container: &Container, label: &str) -> Result<Vec<Ipv4Addr>, ResponseCode> {
        let gateway = SocketAddr::from((self.networks.gateway().expect("a gateway"), 53));
        let asked = ask(label, RecordType::A).to_vec().expect("encode");
        let by_udp = container.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.connect(gateway).expect("connect");
            socket.set_read_timeout(Some(Duration::from_secs(8))).expect("timeout");
            socket.send(&asked).expect("send");
            let mut buffer = [0; 4_096];
            let len = socket.recv(&mut buffer).expect(label);
            told(&buffer[..len])
        });
        let by_tcp = container.run(|| {
            let mut stream = TcpStream::connect(gateway).expect("connect");
            stream.set_read_timeout(Some(Duration::from_secs(8))).expect("timeout");
            write_framed(&mut stream, &asked).expect("write");
            told(&read_framed(&mut stream).expect(label))
        });
        assert_eq!(by_udp, by_tcp, "{label}");
        by_udp
    }
}

fn told(bytes: &[u8]) -> Result<Vec<Ipv4Addr>, ResponseCode> {
    let reply = Message::from_vec(bytes).expect("decode");
    match reply.metadata.response_code {
        ResponseCode::NoError => Ok(reply
            .answers
            .iter()
            .filter_map(|record| match record.data.ip_addr() {
                Some(std::net::IpAddr::V4(ip)) => Some(ip),
                _ => None,
            })
            .collect()),
        code => Err(code),
    }
}

fn list(cidrs: &[&str], domains: &[&str]) -> Policy {
    let cidrs = cidrs.iter().map(|text| text.parse().expect("range")).collect();
    let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
    Policy { outbound: Outbound::List { cidrs, domains }, ..Policy::default() }
}

/// One row of the table: a policy, and what it must mean.
struct Row {
    policy: Policy,
    /// Of the zone's names those that resolve.
    names: &'static [&'static str],
    /// Whether [`PUBLIC`] and [`OTHER`] answer before a name was asked for.
    before: (bool, bool),
    /// The same afterwards.
    after: (bool, bool),
}

/// The zone's names and their addresses.
const NAMES: [(&str, &[Ipv4Addr]); 6] = [
    ("public.test.", &[PUBLIC]),
    ("OTHER.test.", &[OTHER]),
    ("alias.test.", &[PUBLIC]),
    ("deep.wild.test.", &[OTHER]),
    ("private.test.", &[]),
    ("metadata.test.", &[]),
];

fn rows() -> Vec<Row> {
    let all = &[
        "public.test.",
        "OTHER.test.",
        "alias.test.",
        "deep.wild.test.",
        "private.test.",
        "metadata.test.",
    ];
    let closed = (false, false);
    let (first, second, both) = ((true, false), (false, true), (true, true));
    let row = |policy, names, before, after| Row { policy, names, before, after };
    let closed_names = &["private.test", "metadata.test"];
    vec![
        row(Policy::blocked(), &[], closed, closed),
        row(Policy::default(), all, both, both),
        row(list(&["203.0.113.0/24"], &[]), &[], first, first),
        row(list(&["0.0.0.0/0"], &[]), &[], both, both),
        row(list(&["10.0.0.0/8", "169.254.0.0/16", "198.51.100.0/24"], &[]), &[], closed, closed),
        row(list(&[], &["public.test"]), &["public.test."], closed, first),
        row(list(&[], &["*.WILD.test."]), &["deep.wild.test."], closed, second),
        // The name that is asked for decides, not what it is an alias of.
        row(list(&[], &["alias.test"]), &["alias.test."], closed, first),
        row(list(&[], &["hidden.test"]), &[], closed, closed),
        row(list(&[], closed_names), &["private.test.", "metadata.test."], closed, closed),
        row(list(&["192.0.2.0/24"], &["public.test"]), &["public.test."], second, both),
    ]
}

/// Asserts every cell of a row. What a container was told under an earlier policy passes for its
/// time where the new one allows the name: only the first begins with nothing.
fn check(host: &Host, container: &Container, neighbour: Ipv4Addr, row: &Row, is_first: bool) {
    let policy = &row.policy;
    let reached = || (reaches(container, PUBLIC), reaches(container, OTHER));
    if is_first || row.names.is_empty() {
        assert_eq!(reached(), row.before, "before names were asked for: {policy:?}");
    }
    host.asked.lock().expect("asked").clear();
    for (name, addresses) in NAMES {
        let told = host.resolve(container, name);
        let want = match row.names.contains(&name) {
            true => Ok(addresses.to_vec()),
            false => Err(ResponseCode::NXDomain),
        };
        assert_eq!(told, want, "{name}: {policy:?}");
    }
    let leaked = host.asked.lock().expect("asked").clone();
    let listed = |asked: &String| row.names.iter().any(|name| name.eq_ignore_ascii_case(asked));
    assert!(leaked.iter().all(listed), "{leaked:?} were asked for: {policy:?}");
    assert_eq!(reached(), row.after, "after names were asked for: {policy:?}");
    // The host, what is private or serves metadata, neighbours, IPv6.
    let gateway = host.networks.gateway().expect("a gateway").to_string();
    let host_address = HOST.to_string();
    let (neighbour, here) = (neighbour.to_string(), [host_address.as_str(), &gateway]);
    for closed in BEYOND.iter().copied().chain(here).chain([neighbour.as_str()]) {
        container.assert_refused(&format!("{closed}:{PORT}"));
    }
    container.assert_refused("[2001:db8::1]:80");
    assert!(!reaches(container, "169.254.169.254".parse().expect("address")), "{policy:?}");
    assert!(!reaches(container, HOST), "{policy:?}");
}

#[test]
fn each_policy_means_the_same_from_the_start_and_after_a_change() {
    with_host(|_, host| {
        let neighbour = Container::new();
        let beside = host.attach(&neighbour, &Policy::default());
        neighbour.run(|| serve(SocketAddr::from(([0, 0, 0, 0], PORT))));
        let address = beside.kept().expect("describe").address;
        for row in rows() {
            let container = Container::new();
            let _attached = host.attach(&container, &row.policy);
            check(host, &container, address, &row, true);
        }
        // One container goes through all of them.
        let container = Container::new();
        let mut attached = host.attach(&container, &Policy::default());
        for row in rows().iter().chain(rows().iter().rev()) {
            attached.set_policy(&row.policy).expect("set");
            check(host, &container, address, row, false);
        }
        assert!(reaches(&neighbour, PUBLIC));
    });
}

#[test]
fn a_blocked_container_gets_a_network_while_it_runs_and_loses_it_again() {
    with_host(|_, host| {
        let container = Container::new();
        let closed = |what: &str| {
            let error = container.ask(&format!("{PUBLIC}:{PORT}")).expect_err(what);
            assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{what}");
        };
        closed("no interface");
        let mut attached = host.attach(&container, &list(&[], &["public.test"]));
        assert!(!reaches(&container, PUBLIC));
        assert_eq!(host.resolve(&container, "public.test."), Ok(vec![PUBLIC]));
        assert!(reaches(&container, PUBLIC) && !reaches(&container, OTHER));
        attached.set_policy(&Policy::blocked()).expect("block");
        closed("blocked again");
        assert_eq!(host.resolve(&container, "public.test."), Err(ResponseCode::NXDomain));
        attached.set_policy(&Policy::default()).expect("open");
        assert!(reaches(&container, PUBLIC) && reaches(&container, OTHER));
    });
}

#[test]
fn the_next_server_resolves_for_the_containers_that_the_last_one_left() {
    with_host(|_, host| {
        let (listed, open) = (Container::new(), Container::new());
        let policy = list(&[], &["public.test"]);
        let attached = host.attach(&listed, &policy);
        let beside = host.attach(&open, &Policy::default());
        assert_eq!(host.resolve(&listed, "public.test."), Ok(vec![PUBLIC]));
        let described = attached.kept().expect("describe");
        let keep = [attached.leave().expect("leave"), beside.leave().expect("leave")];
        assert_eq!(keep[0], described);
        host.runtime.block_on(host.networks.close());
        assert!(reaches(&listed, PUBLIC) && !reaches(&listed, OTHER) && reaches(&open, OTHER));
        let config = NetworksConfig { keep: keep.to_vec(), ..host.config.clone() };
        host.networks = host.runtime.block_on(Networks::open(config));
        assert_eq!(host.networks.missing(), None);
        let mut adopted = host.networks.adopt(&keep[0]).expect("adopt");
        let _beside = host.networks.adopt(&keep[1]).expect("adopt");
        assert!(host.networks.adopt(&keep[1]).is_err(), "it is adopted twice");
        assert!(reaches(&listed, PUBLIC) && !reaches(&listed, OTHER) && reaches(&open, OTHER));
        assert_eq!(host.resolve(&listed, "public.test."), Ok(vec![PUBLIC]));
        assert_eq!(host.resolve(&listed, "other.test."), Err(ResponseCode::NXDomain));
        assert_eq!(host.resolve(&open, "other.test."), Ok(vec![OTHER]));
        adopted.set_policy(&list(&[], &["other.test"])).expect("set");
        assert!(!reaches(&listed, PUBLIC));
        assert_eq!(host.resolve(&listed, "other.test."), Ok(vec![OTHER]));
        assert!(reaches(&listed, OTHER));
    });
}
