//! Containers' networks, in namespaces that the tests make. Needs root, `ip`, `nft`, `unshare`.

#[expect(dead_code, reason = "shared with other tests, which use the rest of it")]
mod network_world;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jail::network::{Error, Fabric, FabricConfig, Policy};
use network_world::{BEYOND, Container, HOST, PUBLIC};
use network_world::{
    assert_unchanged, await_up, inside, ip, run, serve, slowness, snapshot, soon, with_world,
};

const DNS_PORT: u16 = 5_300;

fn config() -> FabricConfig {
    FabricConfig {
        table: "palisade".into(),
        interface_prefix: "pal".into(),
        subnet: None,
        dns_port: DNS_PORT,
    }
}

fn open() -> Fabric {
    Fabric::open(&config(), &[]).expect("open the fabric")
}

#[test]
fn public_addresses_answer_and_see_the_hosts_address() {
    for default_route in [true, false] {
        with_world(default_route, |world| {
            world.serve_public(80);
            let fabric = open();
            let container = Container::new();
            let attachment =
                fabric.attach(container.netns.as_fd(), &Policy::default()).expect("attach");
            let said = container.ask(&format!("{PUBLIC}:80")).expect("reach the internet");
            assert_eq!(said, HOST.to_string());
            attachment.detach();
            fabric.close().expect("close");
            assert!(container.ask(&format!("{PUBLIC}:80")).is_err());
        });
    }
}

#[test]
fn what_is_closed_is_refused_at_once() {
    with_world(true, |world| {
        world.serve_public(80);
        serve(SocketAddr::from(([0, 0, 0, 0], 80)));
        let fabric = open();
        let (one, two) = (Container::new(), Container::new());
        let policy = Policy::default();
        let first = fabric.attach(one.netns.as_fd(), &policy).expect("attach");
        let second = fabric.attach(two.netns.as_fd(), &policy).expect("attach");
        two.run(|| serve(SocketAddr::from(([0, 0, 0, 0], 80))));
        // The host reaches the neighbour and what is beyond: only the rules can be the reason.
        for address in BEYOND.iter().copied().chain([second.address.to_string().as_str()]) {
            std::net::TcpStream::connect((address, 80)).expect(address);
            one.assert_refused(&format!("{address}:80"));
        }
        for address in [HOST, first.gateway] {
            std::net::TcpStream::connect((address, 80)).expect("the host's own server");
            one.assert_refused(&format!("{address}:80"));
        }
        one.assert_refused("224.0.0.1:80");
        one.assert_refused("240.0.0.1:80");
        inside(world.internet.as_fd(), || serve("[2001:db8::1]:80".parse().expect("address")));
        std::net::TcpStream::connect("[2001:db8::1]:80").expect("the host has ipv6");
        one.assert_refused("[2001:db8::1]:80");
        one.assert_refused("[fe80::1]:80");
        let addresses = one.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6"));
        assert_eq!(addresses.expect("list ipv6 addresses"), "");
        // What the container itself listens on is its own business.
        one.run(|| serve(SocketAddr::from(([127, 0, 0, 1], 81))));
        assert_eq!(one.ask("127.0.0.1:81").expect("own loopback"), "127.0.0.1");
        assert!(one.ask(&format!("{PUBLIC}:80")).is_ok());
    });
}

#[test]
fn refused_udp_and_ping_are_told_so() {
    with_world(true, |_| {
        let fabric = open();
        let container = Container::new();
        let _attachment =
            fabric.attach(container.netns.as_fd(), &Policy::default()).expect("attach");
        for address in ["10.50.0.5:53", "198.51.100.2:5353", "169.254.169.254:80"] {
            let error = container.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
                socket.connect(address).expect("connect");
                socket.set_read_timeout(Some(soon())).expect("timeout");
                socket.send(b"x").expect("send");
                socket.recv(&mut [0; 8]).expect_err("refused")
            });
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{address}: {error}");
        }
    });
}

#[test]
fn names_are_asked_at_the_gateway() {
    with_world(true, |_| {
        let fabric = open();
        let gateway = fabric.gateway();
        let socket = UdpSocket::bind((gateway, DNS_PORT)).expect("bind");
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..len], peer);
            }
        });
        serve((gateway, DNS_PORT).into());
        let container = Container::new();
        let attachment =
            fabric.attach(container.netns.as_fd(), &Policy::default()).expect("attach");
        container.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.connect((gateway, 53)).expect("connect");
            socket.set_read_timeout(Some(soon())).expect("timeout");
            socket.send(b"question").expect("send");
            let mut answer = [0; 64];
            let len = socket.recv(&mut answer).expect("answer");
            assert_eq!(&answer[..len], b"question");
        });
        // The resolver knows the container by its own address: nothing is masqueraded here.
        let said = container.ask(&format!("{gateway}:53")).expect("tcp");
        assert_eq!(said, attachment.address.to_string());
        container.assert_refused(&format!("{HOST}:53"));
    });
}

#[test]
fn spoofed_sources_are_dropped() {
    with_world(true, |world| {
        let server = inside(world.internet.as_fd(), || UdpSocket::bind("0.0.0.0:9").expect("bind"));
        server.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
        let fabric = open();
        let (one, two) = (Container::new(), Container::new());
        let policy = Policy::default();
        let first = fabric.attach(one.netns.as_fd(), &policy).expect("attach");
        let second = fabric.attach(two.netns.as_fd(), &policy).expect("attach");
        let send = |from: Ipv4Addr, what: &[u8]| {
            one.run(|| {
                let socket = UdpSocket::bind((from, 0)).expect("bind");
                socket.send_to(what, (PUBLIC, 9)).expect("send");
            });
        };
        for spoofed in [second.address, first.gateway, HOST, Ipv4Addr::new(203, 0, 113, 50)] {
            one.run(|| ip(&format!("addr add {spoofed}/32 dev eth0")));
            send(spoofed, b"spoofed");
        }
        send(first.address, b"honest");
        let mut buffer = [0; 16];
        let (len, _) = server.recv_from(&mut buffer).expect("the honest datagram");
        assert_eq!(&buffer[..len], b"honest");
        assert!(server.recv_from(&mut buffer).is_err(), "a spoofed datagram arrived");
    });
}

#[test]
fn a_policy_opens_its_own_destinations_to_its_own_container() {
    with_world(true, |world| {
        world.serve_public(80);
        world.serve_public(81);
        let fabric = open();
        let (one, two) = (Container::new(), Container::new());
        let index = Ipv4Addr::new(10, 50, 0, 5);
        let policy = Policy {
            also: vec![(IpAddr::V4(index), 80)],
            names: vec![("index.example".into(), 81), ("index.example".into(), 82)],
            ..Policy::default()
        };
        let first = fabric.attach(one.netns.as_fd(), &policy).expect("attach");
        let second = fabric.attach(two.netns.as_fd(), &Policy::default()).expect("attach");
        assert!(one.ask("10.50.0.5:80").is_ok());
        one.assert_refused("10.50.0.5:81");
        one.assert_refused("192.168.7.7:80");
        two.assert_refused("10.50.0.5:80");
        // What a name resolves to passes for its time to live, and no longer.
        let private = Ipv4Addr::new(192, 168, 7, 7);
        let ttl = Duration::from_secs(1);
        fabric.allow(first.address, private, 81, ttl).expect("allow");
        assert!(one.ask("192.168.7.7:81").is_ok());
        two.assert_refused("192.168.7.7:81");
        let server = inside(world.internet.as_fd(), || {
            std::net::TcpListener::bind((private, 82)).expect("bind")
        });
        fabric.allow(first.address, private, 82, ttl).expect("allow");
        let mut open = one.run(|| std::net::TcpStream::connect("192.168.7.7:82").expect("connect"));
        let (mut other_end, _) = server.accept().expect("accept");
        std::thread::sleep(Duration::from_millis(1_300));
        one.assert_refused("192.168.7.7:81");
        // What was open stays open.
        open.write_all(b"later").expect("write");
        open.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let mut said = String::new();
        other_end.set_read_timeout(Some(soon())).expect("timeout");
        other_end.read_to_string(&mut said).expect("read");
        assert_eq!(said, "later");
        let both = [(private, 81), (private, 82), (private, 82)];
        fabric.allow_all(first.address, &both, ttl).expect("allow again");
        assert!(one.ask("192.168.7.7:81").is_ok());
        let error = |ip: [u8; 4], port| fabric.allow(first.address, ip.into(), port, ttl);
        assert!(matches!(error([192, 168, 7, 7], 80), Err(Error::NotNamed(..))));
        assert!(matches!(error([169, 254, 169, 254], 81), Err(Error::Never(_))));
        assert!(matches!(error(second.address.octets(), 81), Err(Error::Never(_))));
        assert!(matches!(fabric.allow(second.address, private, 81, ttl), Err(Error::NotNamed(..))));
        assert!(matches!(fabric.allow(HOST, private, 81, ttl), Err(Error::Unknown(_))));
        // The next holder of the address inherits nothing.
        first.detach();
        fabric.close().expect("close");
    });
}

#[test]
fn nobody_outside_reaches_a_container() {
    with_world(true, |world| {
        let fabric = open();
        let container = Container::new();
        let attachment =
            fabric.attach(container.netns.as_fd(), &Policy::default()).expect("attach");
        container.run(|| serve(SocketAddr::from(([0, 0, 0, 0], 80))));
        let address = SocketAddr::from((attachment.address, 80));
        std::net::TcpStream::connect(address).expect("the host reaches it");
        inside(world.internet.as_fd(), || {
            ip(&format!("route add {} via {HOST}", attachment.address));
            std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1))
                .expect_err("closed");
        });
    });
}

#[test]
fn policies_that_cannot_be_kept_are_errors() {
    with_world(true, |_| {
        let before = snapshot();
        let fabric = open();
        let container = Container::new();
        let refuse = |ip: &str| {
            let also = vec![(ip.parse().expect("address"), 80)];
            let policy = Policy { also, ..Policy::default() };
            fabric.attach(container.netns.as_fd(), &policy).expect_err("refused")
        };
        assert!(matches!(refuse("fd00::1"), Error::Ipv6(_)));
        for never in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "255.255.255.255"] {
            assert!(matches!(refuse(never), Error::Never(_)), "{never}");
        }
        assert!(matches!(refuse(&fabric.gateway().to_string()), Error::Never(_)));
        fabric.close().expect("close");
        assert_unchanged(&before);
    });
}

#[test]
fn nothing_is_left_behind() {
    with_world(true, |_| {
        run("nft", &["add table inet somebody"]);
        let before = snapshot();
        let fabric = open();
        let containers: Vec<_> = (0..5).map(|_| Container::new()).collect();
        let also = vec![(IpAddr::from([10, 50, 0, 5]), 80)];
        let policy = Policy { also, ..Policy::default() };
        let attach = |container: &Container| {
            fabric.attach(container.netns.as_fd(), &policy).expect("attach")
        };
        let mut attachments: Vec<_> = containers.iter().map(attach).collect();
        assert_ne!(snapshot(), before);
        attachments.truncate(2);
        fabric.close().expect("close");
        assert_unchanged(&before);
        drop(attachments);
        let again = fabric.attach(containers[0].netns.as_fd(), &policy);
        assert!(matches!(again, Err(Error::Closed)));
    });
}

#[test]
fn a_detached_container_leaves_no_interface_and_no_opening() {
    with_world(true, |_| {
        let fabric = open();
        ["pal0a", "pal0b"].into_iter().for_each(await_up);
        let before = snapshot();
        let container = Container::new();
        let also = vec![(IpAddr::from([10, 50, 0, 5]), 80)];
        let policy = Policy { also, ..Policy::default() };
        let attachment = fabric.attach(container.netns.as_fd(), &policy).expect("attach");
        drop(container);
        attachment.detach();
        let deadline = Instant::now() + Duration::from_secs(5);
        while snapshot() != before && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_unchanged(&before);
    });
}

#[test]
fn the_hosts_own_forwarding_and_firewall_stay() {
    with_world(true, |world| {
        // Somebody behind the uplink tries to use the host as a router.
        ip("link add other0 type veth peer name other1");
        ip("addr add 10.77.0.1/24 dev other0");
        ip("link set other0 up");
        ip("link set other1 up");
        let fabric = open();
        let read = |path: &str| std::fs::read_to_string(path).expect(path).trim().to_owned();
        assert_eq!(read("/proc/sys/net/ipv4/ip_forward"), "0");
        assert_eq!(read("/proc/sys/net/ipv4/conf/up0/forwarding"), "1");
        let counter = "add table inet probe; add chain inet probe f \
            { type filter hook forward priority 100; }; add rule inet probe f counter";
        run("nft", &[counter]);
        inside(world.internet.as_fd(), || {
            ip("route add 10.77.0.0/24 via 198.51.100.2");
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.send_to(b"x", "10.77.0.9:9").expect("send");
        });
        std::thread::sleep(Duration::from_millis(100));
        let rules = run("nft", &["list", "table", "inet", "probe"]);
        assert!(rules.contains("packets 0 bytes 0"), "the host routed for a stranger: {rules}");
        // Now the host decides to route; then it is no longer ours to drop, nor to switch off.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("switch on");
        let deadline = Instant::now() + Duration::from_secs(6);
        let set = || run("nft", &["list", "set", "inet", "palisade", "uplinks"]);
        while set().contains("up0") && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        inside(world.internet.as_fd(), || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.send_to(b"x", "10.77.0.9:9").expect("send");
        });
        std::thread::sleep(Duration::from_millis(100));
        let rules = run("nft", &["list", "table", "inet", "probe"]);
        assert!(rules.contains("packets 1"), "{rules}");
        fabric.close().expect("close");
        assert_eq!(read("/proc/sys/net/ipv4/conf/up0/forwarding"), "1");
    });
}

#[test]
fn an_emptied_firewall_is_put_back() {
    with_world(true, |world| {
        world.serve_public(80);
        world.serve_public(81);
        serve(SocketAddr::from(([0, 0, 0, 0], 80)));
        let before = snapshot();
        let fabric = open();
        let container = Container::new();
        let index = Ipv4Addr::new(10, 50, 0, 5);
        let policy = Policy {
            also: vec![(IpAddr::V4(index), 80)],
            names: vec![("index.example".into(), 81)],
            ..Policy::default()
        };
        let attached = fabric.attach(container.netns.as_fd(), &policy).expect("attach");
        fabric.allow(attached.address, index, 81, soon()).expect("allow");
        for round in 0..3 {
            run("nft", &["flush ruleset"]);
            let deadline = Instant::now() + soon();
            while !run("nft", &["list", "tables"]).contains("palisade") {
                assert!(Instant::now() < deadline, "round {round}: the table does not come back");
                std::thread::sleep(Duration::from_millis(1));
            }
            container.assert_refused(&format!("{HOST}:80"));
            container.assert_refused("192.168.7.7:80");
            for open in [format!("{PUBLIC}:80"), format!("{index}:80"), format!("{index}:81")] {
                container.ask(&open).expect(&open);
            }
        }
        attached.detach();
        fabric.close().expect("close");
        assert_unchanged(&before);
    });
}

#[test]
fn chains_that_stand_in_the_way_are_named() {
    with_world(true, |_| {
        let fabric = open();
        assert_eq!(fabric.obstacles().expect("list"), Vec::<String>::new());
        run(
            "nft",
            &["add table ip engine; add chain ip engine FORWARD \
            { type filter hook forward priority 0; policy drop; }"],
        );
        assert_eq!(fabric.obstacles().expect("list"), ["ip engine FORWARD"]);
    });
}

#[test]
fn servers_on_one_host_do_not_touch_each_other() {
    with_world(true, |world| {
        world.serve_public(80);
        let before = snapshot();
        let first = open();
        let second = open();
        let (one, two) = (Container::new(), Container::new());
        let policy = Policy::default();
        let a = first.attach(one.netns.as_fd(), &policy).expect("attach");
        let b = second.attach(two.netns.as_fd(), &policy).expect("attach");
        assert_ne!(a.address, b.address);
        two.run(|| serve(SocketAddr::from(([0, 0, 0, 0], 80))));
        one.assert_refused(&format!("{}:80", b.address));
        one.assert_refused(&format!("{}:53", b.gateway));
        assert!(one.ask(&format!("{PUBLIC}:80")).is_ok());
        first.close().expect("close");
        assert!(two.ask(&format!("{PUBLIC}:80")).is_ok());
        second.close().expect("close");
        assert_unchanged(&before);
    });
}

#[test]
fn what_a_killed_server_left_is_removed() {
    with_world(true, |world| {
        world.serve_public(80);
        let before = snapshot();
        let mut victim = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "a_server_holds_its_fabric", "--nocapture"])
            .env("PALISADE_TEST_VICTIM", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the victim");
        let mut seen = String::new();
        let stdout = victim.stdout.as_mut().expect("stdout");
        while !seen.contains("attached") {
            let mut byte = [0];
            stdout.read_exact(&mut byte).expect("read what the victim says");
            seen.push(char::from(byte[0]));
        }
        // A living server is left alone; a dead one is not.
        let other = open();
        assert_eq!(run("nft", &["list", "tables"]).lines().count(), 2);
        other.close().expect("close");
        victim.kill().expect("kill");
        victim.wait().expect("wait");
        assert_ne!(snapshot(), before);
        let fabric = open();
        let container = Container::new();
        let _a = fabric.attach(container.netns.as_fd(), &Policy::default()).expect("attach");
        container.ask(&format!("{PUBLIC}:80")).expect("reach the internet");
        fabric.close().expect("close");
        assert_unchanged(&before);
    });
}

/// The victim of the test above; by itself, a check that opening and closing works on the host
/// as it is.
#[test]
fn a_server_holds_its_fabric() {
    let hold = || {
        let fabric = open();
        let container = Container::new();
        let attachment =
            fabric.attach(container.netns.as_fd(), &Policy::default()).expect("attach");
        assert!(fabric.subnet().contains(attachment.address));
        println!("attached");
        if std::env::var_os("PALISADE_TEST_VICTIM").is_some() {
            // Until killed, or until the other test is gone.
            let _ = std::io::stdin().read(&mut [0]);
        }
        fabric.close().expect("close");
    };
    match std::env::var_os("PALISADE_TEST_VICTIM") {
        Some(_) => hold(),
        None => with_world(true, |_| hold()),
    }
}

#[test]
fn attaching_and_detaching_take_milliseconds() {
    with_world(true, |_| {
        let start = Instant::now();
        let fabric = open();
        let opened = start.elapsed();
        let containers: Vec<_> = (0..20).map(|_| Container::new()).collect();
        let mut times = Vec::new();
        let mut attachments = Vec::new();
        for container in &containers {
            let start = Instant::now();
            let policy = Policy::default();
            attachments.push(fabric.attach(container.netns.as_fd(), &policy).expect("attach"));
            times.push(start.elapsed());
        }
        times.sort();
        let start = Instant::now();
        drop(attachments);
        let asked = start.elapsed();
        fabric.close().expect("close");
        let closed = start.elapsed();
        println!(
            "open {opened:?}; attach median {:?}, worst {:?}; 20 detached: asked {asked:?}, \
             with close {closed:?}",
            times[10], times[19]
        );
        assert!(
            times[10] < Duration::from_millis(200) * slowness(),
            "attach takes {:?}",
            times[10]
        );
    });
}
