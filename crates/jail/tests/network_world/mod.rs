//! A small world for network tests: a host, an internet and containers, each a network namespace
//! that ends with the test. The test's own thread is on the host; nothing leaves the namespaces.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use rustix::net::{AddressFamily, SocketType, ipproto};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What a public machine answers at.
pub(crate) const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// What a second public machine answers at, in another range.
pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The port of both.
pub(crate) const PORT: u16 = 80;
/// The host's address towards the internet.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Addresses that exist beyond the host, so that only the rules can keep a container from them.
pub(crate) const BEYOND: [&str; 5] =
    ["10.50.0.5", "172.20.1.1", "192.168.7.7", "169.254.169.254", "100.64.3.3"];

/// Refusals must come within this time.
pub(crate) fn soon() -> Duration {
    Duration::from_secs(1) * slowness()
}

/// How much more patience a machine needs: that of `cargo xtask vm` says it is ten times slower.
pub(crate) fn slowness() -> u32 {
    let said = std::env::var("PALISADE_TEST_SLOWNESS").ok();
    said.map_or(1, |text| text.parse().expect("PALISADE_TEST_SLOWNESS is a number"))
}

pub(crate) struct World {
    pub(crate) internet: OwnedFd,
}

/// Runs `test` on the host of a new world.
pub(crate) fn with_world(default_route: bool, test: impl FnOnce(&World) + Send) {
    let outcome = std::thread::scope(|scope| {
        let world = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            let internet = std::thread::scope(|inner| {
                inner.spawn(new_netns).join().expect("make the internet")
            });
            let world = World { internet };
            world.wire(default_route);
            test(&world);
        });
        world.join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn new_netns() -> OwnedFd {
    unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
    std::fs::File::open("/proc/thread-self/ns/net").expect("open netns").into()
}

impl World {
    fn wire(&self, default_route: bool) {
        ip("link set lo up");
        ip("link add up0 type veth peer name in0");
        let here = format!("/proc/{}/fd/{}", std::process::id(), fd_number(self.internet.as_fd()));
        // `ip` wants a file for the namespace; a descriptor of ours is one.
        run("ip", &["link", "set", "in0", "netns", &here]);
        // No addresses that the kernel makes by itself, and so at a time of its own.
        ip("link set up0 addrgenmode none");
        ip("addr add 198.51.100.2/24 dev up0");
        ip("addr add 2001:db8:1::2/64 dev up0 nodad");
        ip("link set up0 up");
        ip("-6 route add default via 2001:db8:1::1");
        inside(self.internet.as_fd(), || {
            ip("link set lo up");
            ip("addr add 198.51.100.1/24 dev in0");
            ip("link set in0 addrgenmode none");
            ip("addr add 203.0.113.9/32 dev lo");
            ip("addr add 2001:db8::1/128 dev lo");
            ip("addr add 2001:db8:1::1/64 dev in0 nodad");
            BEYOND.iter().for_each(|address| ip(&format!("addr add {address}/32 dev lo")));
            ip("link set in0 up");
        });
        await_up("up0");
        inside(self.internet.as_fd(), || await_up("in0"));
        if default_route {
            ip("route add default via 198.51.100.1");
        } else {
            ip("route add 203.0.113.0/24 via 198.51.100.1");
            ip("route add 10.50.0.0/16 via 198.51.100.1");
        }
    }

    /// A server in the internet that answers every connection on `port` with the peer's address.
    pub(crate) fn serve_public(&self, port: u16) {
        inside(self.internet.as_fd(), || serve(SocketAddr::from(([0, 0, 0, 0], port))));
    }
}

/// Both machines answer TCP with the peer's address, and echo UDP.
pub(crate) fn with_two(test: impl FnOnce(&World) + Send) {
    with_world(true, |world| {
        inside(world.internet.as_fd(), || ip(&format!("addr add {OTHER}/32 dev lo")));
        // The kernel tells a container of few refusals a second; here of every one.
        std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0").expect("switch the limit off");
        world.serve_public(PORT);
        for public in [PUBLIC, OTHER] {
            let socket = inside(world.internet.as_fd(), || UdpSocket::bind((public, PORT)));
            let socket = socket.expect("bind");
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..len], peer);
                }
            });
        }
        test(world);
    });
}

/// Whether `to` answers by TCP, UDP and ping; all three must agree, and be refused at once.
pub(crate) fn reaches(container: &Container, to: Ipv4Addr) -> bool {
    let tcp = container.ask(&format!("{to}:{PORT}")).is_ok();
    if !tcp {
        container.assert_refused(&format!("{to}:{PORT}"));
    }
    let udp = container.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.set_read_timeout(Some(soon())).expect("timeout");
        socket.connect((to, PORT)).expect("connect");
        socket.send(b"x").and_then(|_| socket.recv(&mut [0; 8]))
    });
    let ping = container.run(|| ping(to));
    for error in [udp.as_ref().err(), ping.as_ref().err()].into_iter().flatten() {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{to} is left to time out");
    }
    let (udp, ping) = (udp.is_ok(), ping.is_ok());
    assert_eq!((tcp, udp), (ping, ping), "{to}: tcp {tcp}, udp {udp}, ping {ping}");
    tcp
}

/// Asks for an echo by ICMP (RFC 792), from the calling thread's namespace.
fn ping(to: Ipv4Addr) -> std::io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(soon()))?;
    socket.connect((to, 0))?;
    // Type 8, code 0, the checksum of all, an identifier of its own, sequence 0.
    static LAST: AtomicU16 = AtomicU16::new(0);
    let id = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    let [a, b] = id.to_be_bytes();
    let [c, d] = (!(0x0800 + id)).to_be_bytes();
    socket.send(&[8, 0, c, d, a, b, 0, 0])?;
    let mut buffer = [0; 256];
    loop {
        let len = socket.recv(&mut buffer)?;
        // An IPv4 header of 20 bytes, then type 0 and the identifier.
        if len >= 28 && buffer[20] == 0 && buffer[24..26] == [a, b] {
            return Ok(());
        }
    }
}

/// A network namespace owned by a user namespace of its own, as a container's is.
pub(crate) struct Container {
    holder: Child,
    pub(crate) netns: OwnedFd,
}

impl Container {
    pub(crate) fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run unshare");
        let mut ready = [0; 6];
        let stdout = holder.stdout.as_mut().expect("stdout");
        stdout.read_exact(&mut ready).expect("wait for the namespace");
        let path = format!("/proc/{}/ns/net", holder.id());
        let netns = std::fs::File::open(path).expect("open netns").into();
        Self { holder, netns }
    }

    /// Runs `action` inside.
    pub(crate) fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        inside(self.netns.as_fd(), action)
    }

    /// Connects from inside and returns what the server says.
    pub(crate) fn ask(&self, to: &str) -> std::io::Result<String> {
        let to: SocketAddr = to.parse().expect("address");
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&to, soon())?;
            let mut said = String::new();
            stream.read_to_string(&mut said).map(|_| said)
        })
    }

    /// Asserts that `to` is refused, and soon.
    pub(crate) fn assert_refused(&self, to: &str) {
        let start = Instant::now();
        let error = self.ask(to).expect_err(to);
        let took = start.elapsed();
        assert!(took < soon(), "{to} was refused only after {took:?}: {error}");
        assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{to}");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Answers every connection with the peer's address, from the calling thread's namespace.
pub(crate) fn serve(address: SocketAddr) {
    let listener = TcpListener::bind(address).expect("bind");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let peer = stream.peer_addr().map(|peer| peer.ip().to_string());
            let _ = stream.write_all(peer.unwrap_or_default().as_bytes());
        }
    });
}

/// Runs `action` in a thread that has entered `netns`.
pub(crate) fn inside<T: Send>(netns: BorrowedFd<'_>, action: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).expect("setns");
            action()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// What the host's network looks like: links, routes, rules, forwarding.
pub(crate) fn snapshot() -> String {
    let mut text = run("ip", &["-o", "link"]);
    text += &run("ip", &["-o", "addr"]);
    text += &run("ip", &["route", "show", "table", "all"]);
    text += &run("nft", &["list", "ruleset"]);
    let conf = std::fs::read_dir("/proc/sys/net/ipv4/conf").expect("list");
    let mut names: Vec<_> = conf.map(|entry| entry.expect("entry").path()).collect();
    names.sort();
    for name in names {
        let value = std::fs::read_to_string(name.join("forwarding")).expect("read");
        text += &format!("{}: {value}", name.display());
    }
    text
}

/// Asserts that the host's network looks as it did, and shows only what differs.
pub(crate) fn assert_unchanged(before: &str) {
    let after = snapshot();
    let only = |a: &str, b: &str| -> Vec<String> {
        a.lines().filter(|line| !b.lines().any(|l| l == *line)).map(str::to_owned).collect()
    };
    let (gone, new) = (only(before, &after), only(&after, before));
    assert!(before == after, "gone: {gone:#?}\nnew: {new:#?}");
}

/// Waits until the kernel has noticed that both ends of a veth are up.
pub(crate) fn await_up(name: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !run("ip", &["-o", "link", "show", name]).contains("state UP") {
        assert!(Instant::now() < deadline, "{name} does not come up");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn ip(args: &str) {
    run("ip", &args.split(' ').collect::<Vec<_>>());
}

pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect(program);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn fd_number(fd: BorrowedFd<'_>) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(&fd)
}
