//! Allow lists, their change and their survival, in namespaces that the tests make. Needs root,
//! `ip`, `nft`, `unshare`.

mod network_world;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jail::network::{Attachment, Error, Fabric, FabricConfig, Kept, Outbound, Policy};
use network_world::{BEYOND, Container, HOST, OTHER, PORT, PUBLIC, World};
use network_world::{assert_unchanged, inside, reaches, run, serve, snapshot, soon, with_two};

fn open(keep: &[Kept]) -> Fabric {
    let config = FabricConfig {
        table: "palisade".into(),
        interface_prefix: "pal".into(),
        subnet: None,
        dns_port: 5_300,
    };
    Fabric::open(&config, keep).expect("open the fabric")
}

fn list(cidrs: &[&str], domains: &[&str]) -> Policy {
    let cidrs = cidrs.iter().map(|text| text.parse().expect("range")).collect();
    let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
    Policy { outbound: Outbound::List { cidrs, domains }, ..Policy::default() }
}

fn attach(fabric: &Fabric, container: &Container, policy: &Policy) -> Attachment {
    fabric.attach(container.netns.as_fd(), policy).expect("attach")
}

/// An open connection to a machine in the internet, and its other end.
struct Talk {
    here: TcpStream,
    there: TcpStream,
}

impl Talk {
    fn begin(world: &World, container: &Container, to: Ipv4Addr) -> Self {
        let listener = inside(world.internet.as_fd(), || TcpListener::bind((to, 0)).expect("bind"));
        let address = listener.local_addr().expect("address");
        let here = container.run(|| TcpStream::connect_timeout(&address, soon()).expect("connect"));
        let (there, _) = listener.accept().expect("accept");
        for end in [&here, &there] {
            end.set_read_timeout(Some(soon())).expect("timeout");
        }
        Self { here, there }
    }

    /// Whether words pass, in both directions, whoever begins.
    fn goes_on(&mut self) -> bool {
        let (here, there) = (&mut self.here, &mut self.there);
        let passes = |from: &mut TcpStream, to: &mut TcpStream| {
            from.write_all(b"word").and_then(|()| to.read_exact(&mut [0; 4])).is_ok()
        };
        let inward = passes(there, here);
        let outward = passes(here, there);
        assert_eq!(inward, outward, "one direction is cut");
        outward
    }

    /// Asserts that the container's end is told that it is cut, by its own next word.
    fn assert_cut(&mut self) {
        let start = Instant::now();
        let error = loop {
            if let Err(error) = self.here.write_all(b"word") {
                break error;
            }
            assert!(start.elapsed() < soon(), "the connection goes on");
            std::thread::sleep(Duration::from_millis(5));
        };
        let kinds = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
        assert!(kinds.contains(&error.kind()), "{error}");
        let mut buffer = [0; 64];
        let got = self.there.read(&mut buffer);
        assert!(!matches!(got, Ok(n) if n > 0), "a word arrived");
    }
}

#[test]
fn a_list_lets_its_own_ranges_pass_and_nothing_else() {
    with_two(|_| {
        serve(SocketAddr::from(([0, 0, 0, 0], PORT)));
        let fabric = open(&[]);
        let wide = ["10.0.0.0/8", "0.0.0.0/0"];
        let rows: [(&[&str], bool, bool); 4] = [
            (&[], false, false),
            (&["203.0.113.9/32"], true, false),
            (&["203.0.113.0/24", "203.0.113.9/32", "198.18.0.0/15"], true, false),
            (&wide, true, true),
        ];
        let neighbour = Container::new();
        let beside = attach(&fabric, &neighbour, &Policy::default());
        neighbour.run(|| serve(SocketAddr::from(([0, 0, 0, 0], PORT))));
        for (cidrs, public, other) in rows {
            let container = Container::new();
            let attachment = attach(&fabric, &container, &list(cidrs, &[]));
            assert_eq!(reaches(&container, PUBLIC), public, "{cidrs:?}");
            assert_eq!(reaches(&container, OTHER), other, "{cidrs:?}");
            // What is closed to all stays closed, whatever covers it.
            assert!(!reaches(&container, BEYOND[0].parse().expect("address")), "{cidrs:?}");
            for closed in BEYOND {
                container.assert_refused(&format!("{closed}:{PORT}"));
            }
            for closed in [HOST, attachment.gateway, beside.address] {
                container.assert_refused(&format!("{closed}:{PORT}"));
            }
            container.assert_refused(&format!("[2001:db8::1]:{PORT}"));
        }
        assert!(reaches(&neighbour, OTHER), "another container's list counts for this one");
        fabric.close().expect("close");
    });
}

#[test]
fn a_change_cuts_what_is_no_longer_allowed_and_nothing_else() {
    with_two(|world| {
        let fabric = open(&[]);
        let container = Container::new();
        let attachment = attach(&fabric, &container, &Policy::default());
        let mut stays = Talk::begin(world, &container, PUBLIC);
        let mut ends = Talk::begin(world, &container, OTHER);
        let udp = container.run(|| UdpSocket::bind("0.0.0.0:0").expect("bind"));
        udp.set_read_timeout(Some(soon())).expect("timeout");
        udp.connect((OTHER, PORT)).expect("connect");
        let echo = || udp.send(b"x").and_then(|_| udp.recv(&mut [0; 8]));
        echo().expect("open");
        assert!(stays.goes_on() && ends.goes_on());
        let set = |policy: &Policy| fabric.set_policy(&attachment, policy).expect("set");
        set(&list(&["203.0.113.0/24"], &[]));
        assert!(stays.goes_on());
        ends.assert_cut();
        echo().expect_err("an open datagram flow is cut");
        assert!(reaches(&container, PUBLIC) && !reaches(&container, OTHER));
        set(&list(&["192.0.2.10/32", "203.0.113.9/32"], &[]));
        assert!(stays.goes_on() && reaches(&container, OTHER));
        set(&Policy::blocked());
        stays.assert_cut();
        assert!(!reaches(&container, PUBLIC) && !reaches(&container, OTHER));
        set(&Policy::default());
        assert!(reaches(&container, PUBLIC) && reaches(&container, OTHER));
        let mut again = Talk::begin(world, &container, OTHER);
        set(&Policy::default());
        assert!(again.goes_on());
        // A policy that cannot be kept changes nothing.
        let mixed =
            Policy { also: vec![(IpAddr::from([10, 50, 0, 5]), PORT)], ..Policy::blocked() };
        assert!(matches!(fabric.set_policy(&attachment, &mixed), Err(Error::Mixed)));
        let more = Policy { also: mixed.also, ..Policy::default() };
        assert!(matches!(fabric.set_policy(&attachment, &more), Err(Error::Fixed)));
        assert!(again.goes_on());
        // Nobody may remain whose chains could count for the next holder of the address.
        set(&list(&["203.0.113.9/32"], &["a.example"]));
        attachment.detach();
        let deadline = Instant::now() + 5 * soon();
        let table = || run("nft", &["list", "table", "inet", "palisade"]);
        while ["out2", "back2", "named2", "past2"].iter().any(|name| table().contains(name)) {
            assert!(Instant::now() < deadline, "{}", table());
            std::thread::sleep(Duration::from_millis(20));
        }
        fabric.close().expect("close");
    });
}

#[test]
fn what_comes_in_on_a_cut_connection_does_not_arrive() {
    with_two(|world| {
        let fabric = open(&[]);
        let container = Container::new();
        let attachment = attach(&fabric, &container, &Policy::default());
        let mut pushed = Talk::begin(world, &container, OTHER);
        let mut quiet = Talk::begin(world, &container, PUBLIC);
        assert!(pushed.goes_on() && quiet.goes_on());
        fabric.set_policy(&attachment, &list(&["203.0.113.9/32"], &[])).expect("set");
        pushed.there.write_all(b"secret").expect("write");
        pushed.here.read(&mut [0; 8]).expect_err("a word arrived");
        // The container says nothing first: what is still allowed comes in all the same.
        quiet.there.write_all(b"news").expect("write");
        quiet.here.read_exact(&mut [0; 4]).expect("the word");
        fabric.close().expect("close");
    });
}

#[test]
fn addresses_of_allowed_names_pass_and_open_connections_outlast_them() {
    with_two(|world| {
        let fabric = open(&[]);
        let container = Container::new();
        let attachment = attach(&fabric, &container, &list(&[], &["*.example.com", "b.test"]));
        let minute = Duration::from_secs(60);
        let admit =
            |name: &str, ip: Ipv4Addr| fabric.admit_named(attachment.address, name, &[ip], minute);
        assert!(!reaches(&container, PUBLIC));
        admit("API.example.com.", PUBLIC).expect("admit");
        admit("b.test", OTHER).expect("admit");
        assert!(reaches(&container, PUBLIC) && reaches(&container, OTHER));
        assert!(matches!(admit("c.test", OTHER), Err(Error::NotAllowed(..))));
        for closed in ["169.254.169.254", "10.50.0.5", "127.0.0.1"] {
            let closed = closed.parse().expect("address");
            assert!(matches!(admit("b.test", closed), Err(Error::Never(_))), "{closed}");
        }
        let mut talk = Talk::begin(world, &container, PUBLIC);
        // Its time ends: the kernel would do it five minutes later.
        let end = |ip: Ipv4Addr| {
            run(
                "nft",
                &["delete", "element", "inet", "palisade", "named2", &format!("{{ {ip} }}")],
            );
        };
        end(PUBLIC);
        assert!(!reaches(&container, PUBLIC), "a new connection after the address's time");
        assert!(talk.goes_on());
        // Another list with that name lets it go on, one without it does not.
        let set = |policy: &Policy| fabric.set_policy(&attachment, policy).expect("set");
        set(&list(&[], &["api.example.com"]));
        assert!(talk.goes_on());
        assert!(reaches(&container, PUBLIC), "what the name resolved to passes for its time");
        assert!(!reaches(&container, OTHER));
        end(PUBLIC);
        set(&list(&[], &["b.test"]));
        talk.assert_cut();
        assert!(!reaches(&container, PUBLIC) && reaches(&container, OTHER));
        // An emptied firewall is put back with all of it.
        run("nft", &["flush ruleset"]);
        let deadline = Instant::now() + soon();
        while !run("nft", &["list", "tables"]).contains("palisade") {
            assert!(Instant::now() < deadline, "the table does not come back");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!reaches(&container, PUBLIC) && reaches(&container, OTHER));
        fabric.close().expect("close");
    });
}

#[test]
fn a_list_finds_what_an_open_container_resolved() {
    with_two(|world| {
        let fabric = open(&[]);
        let container = Container::new();
        let attachment = attach(&fabric, &container, &Policy::default());
        fabric.kept(&attachment).expect("describe");
        let hour = Duration::from_secs(3_600);
        fabric.hear(attachment.address, "a.test", &[PUBLIC], hour);
        fabric.hear(attachment.address, "b.test", &[OTHER], hour);
        let mut talk = Talk::begin(world, &container, PUBLIC);
        fabric.set_policy(&attachment, &list(&[], &["a.test"])).expect("set");
        assert!(talk.goes_on());
        assert!(reaches(&container, PUBLIC) && !reaches(&container, OTHER));
        fabric.close().expect("close");
    });
}

/// A server in a process of its own, which serves `container` under `policy` until it is killed.
fn serve_until_killed(container: &Container, policy: &Policy) -> (Child, Kept) {
    let netns = format!("/proc/{}/fd/{}", std::process::id(), raw(container));
    let mut victim = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "a_container_is_described", "--nocapture"])
        .env("PALISADE_TEST_NETNS", netns)
        .env("PALISADE_TEST_POLICY", serde_json::to_string(policy).expect("write"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the victim");
    let mut said = String::new();
    let stdout = victim.stdout.as_mut().expect("stdout");
    while !said.ends_with("}\n") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).expect("read what the victim says");
        said.push(char::from(byte[0]));
    }
    let json = &said[said.find('{').expect("a description")..];
    (victim, serde_json::from_str(json).expect("read the description"))
}

fn raw(container: &Container) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(&container.netns)
}

/// The victim of the tests below; by itself, a check that a description reads back.
#[test]
fn a_container_is_described() {
    let describe = |netns: std::os::fd::BorrowedFd<'_>, policy: &Policy| {
        let fabric = open(&[]);
        let attachment = fabric.attach(netns, policy).expect("attach");
        if let Outbound::List { domains, .. } = &policy.outbound
            && let Some(name) = domains.first()
        {
            let hour = Duration::from_secs(3_600);
            fabric.admit_named(attachment.address, name, &[OTHER], hour).expect("admit");
        }
        let kept = fabric.kept(&attachment).expect("describe");
        assert_eq!(kept, fabric.kept(&attachment).expect("describe again"));
        let text = serde_json::to_string(&kept).expect("write");
        assert_eq!(serde_json::from_str::<Kept>(&text).expect("read"), kept);
        println!("{text}");
        if std::env::var_os("PALISADE_TEST_NETNS").is_some() {
            // Until killed, or until the other test is gone.
            let _ = std::io::stdin().read(&mut [0]);
        }
        drop(attachment);
        fabric.close().expect("close");
    };
    match std::env::var("PALISADE_TEST_NETNS") {
        Ok(path) => {
            let netns = std::fs::File::open(path).expect("open the namespace");
            let policy = std::env::var("PALISADE_TEST_POLICY").expect("a policy");
            describe(netns.as_fd(), &serde_json::from_str(&policy).expect("read the policy"));
        }
        Err(_) => with_two(|_| {
            let before = snapshot();
            let container = Container::new();
            describe(container.netns.as_fd(), &Policy::blocked());
            assert_unchanged(&before);
        }),
    }
}

fn kill(mut victim: Child) {
    victim.kill().expect("kill");
    victim.wait().expect("wait");
}

#[test]
fn a_kept_container_outlives_its_server_with_its_connections_and_rules() {
    with_two(|world| {
        let before = snapshot();
        let (container, lost) = (Container::new(), Container::new());
        let (victim, kept) =
            serve_until_killed(&container, &list(&["203.0.113.9/32"], &["b.test"]));
        assert_eq!(kept.policy, list(&["203.0.113.9/32"], &["b.test"]));
        let mut by_range = Talk::begin(world, &container, PUBLIC);
        let mut by_name = Talk::begin(world, &container, OTHER);
        kill(victim);
        // Nobody serves: the kernel keeps connections and rules.
        assert!(by_range.goes_on() && by_name.goes_on());
        assert!(
            reaches(&container, PUBLIC) && !reaches(&container, BEYOND[0].parse().expect("ip"))
        );
        // Another server of this host takes another place, and leaves it alone.
        let other = open(&[]);
        let second = attach(&other, &lost, &Policy::default());
        assert_ne!(second.gateway.octets()[2], kept.address.octets()[2]);
        let gone = other.adopt(&kept).expect_err("it is not that server's");
        assert!(matches!(gone, Error::Gone(_)));
        assert!(by_range.goes_on());
        // The time of the name's address ends soon, and not after an hour.
        let time = 3 * soon();
        let soon_over = format!("timeout {}s comment \"b.test\"", time.as_secs());
        let named = ["inet", "palisade", "named2"];
        let element = |verb: &str, more: &str| {
            let text = format!("{{ {OTHER} {more} }}");
            run("nft", &[&[verb, "element"], &named[..], &[&text]].concat());
        };
        element("delete", "");
        element("add", &soon_over);
        let fabric = open(std::slice::from_ref(&kept));
        let attachment = fabric.adopt(&kept).expect("adopt");
        assert_eq!(attachment.address, kept.address);
        assert!(fabric.adopt(&kept).is_err(), "it is adopted twice");
        assert!(by_range.goes_on() && by_name.goes_on());
        let newcomer = Container::new();
        let third = attach(&fabric, &newcomer, &Policy::default());
        assert_ne!(third.address, kept.address);
        assert!(reaches(&newcomer, OTHER));
        let deadline = Instant::now() + time + soon();
        while container.ask(&format!("{OTHER}:{PORT}")).is_ok() {
            assert!(Instant::now() < deadline, "the address's time does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(reaches(&container, PUBLIC) && by_name.goes_on());
        // What the killed server knew of names is known: the connection outlasts its list, too.
        fabric.set_policy(&attachment, &list(&[], &["b.test"])).expect("set");
        by_range.assert_cut();
        assert!(by_name.goes_on() && !reaches(&container, OTHER));
        fabric.set_policy(&attachment, &Policy::blocked()).expect("set");
        by_name.assert_cut();
        drop((attachment, second, third));
        fabric.close().expect("close");
        other.close().expect("close");
        assert_unchanged(&before);
    });
}

#[test]
fn a_container_that_is_left_is_all_that_a_closed_server_leaves() {
    with_two(|world| {
        let before = snapshot();
        let (lasting, passing) = (Container::new(), Container::new());
        let fabric = open(&[]);
        let policy = list(&["203.0.113.9/32"], &[]);
        let attachment = attach(&fabric, &lasting, &policy);
        let other = attach(&fabric, &passing, &list(&["203.0.113.9/32"], &["a.test"]));
        let mut talk = Talk::begin(world, &lasting, PUBLIC);
        let kept = fabric.leave(attachment).expect("leave");
        fabric.close().expect("close");
        assert!(passing.ask(&format!("{PUBLIC}:{PORT}")).is_err());
        drop(other);
        drop(fabric);
        assert!(talk.goes_on() && reaches(&lasting, PUBLIC) && !reaches(&lasting, OTHER));
        let table = run("nft", &["list", "table", "inet", "palisade"]);
        assert!(table.contains("out2") && !table.contains("out3"), "{table}");
        assert!(!run("ip", &["-o", "link"]).contains("pal0n3"));
        // It is taken over, left and taken over again; the last server takes it away.
        let fabric = open(std::slice::from_ref(&kept));
        let attachment = fabric.adopt(&kept).expect("adopt");
        let kept = fabric.leave(attachment).expect("leave again");
        drop(fabric);
        let fabric = open(std::slice::from_ref(&kept));
        let attachment = fabric.adopt(&kept).expect("adopt");
        assert!(talk.goes_on());
        drop(attachment);
        fabric.close().expect("close");
        assert!(!talk.goes_on());
        assert_unchanged(&before);
    });
}

#[test]
fn a_kept_container_that_ended_is_passed_over_and_its_traces_are_removed() {
    with_two(|_| {
        let before = snapshot();
        let container = Container::new();
        let (victim, kept) = serve_until_killed(&container, &list(&[], &["b.test"]));
        kill(victim);
        drop(container);
        await_gone("pal0n2");
        let fabric = open(std::slice::from_ref(&kept));
        assert!(matches!(fabric.adopt(&kept), Err(Error::Gone(_))));
        assert_eq!(run("nft", &["list", "tables"]).lines().count(), 1, "the other's table stays");
        let newcomer = Container::new();
        let attachment = attach(&fabric, &newcomer, &Policy::default());
        assert_eq!(attachment.address, kept.address);
        assert!(reaches(&newcomer, OTHER), "the list of the one that ended counts");
        drop(attachment);
        fabric.close().expect("close");
        assert_unchanged(&before);
    });
}

#[test]
fn a_container_that_was_left_and_then_ended_leaves_nothing() {
    with_two(|_| {
        let before = snapshot();
        let container = Container::new();
        let fabric = open(&[]);
        let attachment = attach(&fabric, &container, &list(&["192.0.2.0/24"], &["b.test"]));
        fabric.leave(attachment).expect("leave");
        drop(container);
        await_gone("pal0n2");
        fabric.close().expect("close");
        assert_unchanged(&before);
    });
}

/// Waits until the kernel has removed an interface with its container's namespace.
fn await_gone(interface: &str) {
    let deadline = Instant::now() + 5 * soon();
    while run("ip", &["-o", "link"]).contains(interface) {
        assert!(Instant::now() < deadline, "{interface} does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}
