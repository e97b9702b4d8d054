//! Tunnels into a sandbox, whose place a real server on loopback takes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod inside;
mod peers;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use gateway::host_ports::{Error, HostPorts, PortRange};
use gateway::limits::VISITS_EACH_MAX;
use gateway::tls::Identity;
use gateway::tunnel::{TunnelSpec, Tunnels};
use gateway::visits::Visits;
use http::Request;
use http_body_util::Full;
use inside::{DEAF, EMPTY, Inside, RAW, WEB};
use ipnet::IpNet;
use model::TaskId;
use model::sandbox::TunnelKind::{self, Encrypted, Http2, Plain};
use peers::{ask_http1, ask_http2, connect_tls, get, own, text};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A sandbox that can be reached.
struct World {
    _dir: tempfile::TempDir,
    identity: Identity,
    visits: Visits,
    tunnels: Tunnels,
    task: TaskId,
}

impl World {
    async fn new(inbound: &[&str], range: Option<PortRange>) -> Self {
        let (dir, identity) = own();
        let visits = Visits::new(Inside::start().await.dial());
        let ports = HostPorts { address: LOOPBACK, range };
        let tunnels = Tunnels::new(visits.clone(), ports, &identity);
        let task = TaskId::new([7; 16]);
        let inbound: Vec<IpNet> = inbound.iter().map(|range| range.parse().unwrap()).collect();
        let _ = visits.begin(&task, &inbound);
        Self { _dir: dir, identity, visits, tunnels, task }
    }

    async fn try_open(
        &self,
        container_port: u16,
        kind: TunnelKind,
        host_port: Option<u16>,
    ) -> Result<SocketAddr, Error> {
        let spec = TunnelSpec { container_port, kind, host_port };
        let port = self.tunnels.open(&self.task, &spec).await?;
        Ok(SocketAddr::new(LOOPBACK, port))
    }

    async fn open(&self, container_port: u16, kind: TunnelKind) -> SocketAddr {
        self.try_open(container_port, kind, None).await.unwrap()
    }

    async fn until_active(&self, count: usize) {
        let settled = async {
            while self.visits.active(&self.task) != count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), settled).await.unwrap();
    }

    async fn tls(
        &self,
        address: SocketAddr,
        protocols: &[&str],
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        connect_tls(address, &self.identity, "127.0.0.1", protocols).await.unwrap()
    }
}

/// Waits until a connection ends, and returns what came before.
async fn rest(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes));
    // A reset is an end, too.
    let _ = read.await.expect("the connection stays open");
    bytes
}

#[tokio::test]
async fn http_passes() {
    let world = World::new(&[], None).await;
    let address = world.open(WEB, Encrypted).await;
    let stream = world.tls(address, &["http/1.1"]).await;
    let (status, said) = text(ask_http1(stream, get("/one?a=b")).await).await;
    assert_eq!((status, said.as_str()), (200, "HTTP/1.1 /one?a=b"));
    // A client that offers both gets HTTP/1.1.
    let stream = world.tls(address, &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));

    let address = world.open(WEB, Http2).await;
    let stream = world.tls(address, &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (status, said) = text(ask_http2(stream, get("https://localhost/two")).await).await;
    assert_eq!((status, said.as_str()), (200, "HTTP/2.0 /two"));

    let address = world.open(WEB, Plain).await;
    let stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(text(ask_http1(stream, get("/three")).await).await.1, "HTTP/1.1 /three");
    let stream = TcpStream::connect(address).await.unwrap();
    let said = text(ask_http2(stream, get("http://localhost/four")).await).await.1;
    assert_eq!(said, "HTTP/2.0 /four");
}

#[tokio::test]
async fn curl_agrees() {
    let world = World::new(&[], None).await;
    for (kind, flag, version) in
        [(Encrypted, "--http1.1", "HTTP/1.1"), (Http2, "--http2", "HTTP/2.0")]
    {
        let port = world.open(WEB, kind).await.port();
        let child = tokio::process::Command::new("curl")
            .args(["--silent", "--show-error", flag, "--cacert"])
            .arg(world.identity.ca().unwrap())
            .arg(format!("https://localhost:{port}/curl"))
            .output();
        let done = child.await.expect("the tests need curl");
        let said = String::from_utf8_lossy(&done.stdout);
        let why = String::from_utf8_lossy(&done.stderr);
        assert_eq!(said, format!("{version} /curl"), "{why}");
    }
}

#[tokio::test]
async fn upgrades_pass() {
    let world = World::new(&[], None).await;
    let address = world.open(WEB, Encrypted).await;
    let request = Request::get("/socket")
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .body(Full::default())
        .unwrap();
    let answer = ask_http1(world.tls(address, &["http/1.1"]).await, request).await;
    assert_eq!(answer.status(), 101);
    let upgraded = hyper::upgrade::on(answer).await.unwrap();
    let mut stream = hyper_util::rt::TokioIo::new(upgraded);
    for word in [&b"hello"[..], b"again"] {
        stream.write_all(word).await.unwrap();
        let mut back = vec![0; word.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, word);
    }
}

/// Sends 8 MiB, says that this was all, and gets them back after that.
async fn there_and_back(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let (mut from, mut to) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..8 << 20_u32).map(|n: u32| (n ^ (n >> 8)) as u8).collect();
    let write = async {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let read = async { from.read_to_end(&mut back).await.unwrap() };
    tokio::join!(write, read);
    let end = back.split_off(back.len() - 4);
    assert_eq!(end, b"end.", "the last word came after the end of the other direction");
    assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
}

#[tokio::test]
async fn bytes_and_ends_pass() {
    let world = World::new(&[], None).await;
    let address = world.open(RAW, Plain).await;
    there_and_back(TcpStream::connect(address).await.unwrap()).await;
    let address = world.open(RAW, Encrypted).await;
    there_and_back(world.tls(address, &[]).await).await;
}

#[tokio::test]
async fn where_nobody_listens_the_peer_is_told() {
    let world = World::new(&[], None).await;
    let address = world.open(EMPTY, Encrypted).await;
    let stream = world.tls(address, &["http/1.1"]).await;
    let (status, said) = text(ask_http1(stream, get("/")).await).await;
    assert_eq!(status, 502);
    assert!(said.contains("nobody listens"), "{said}");
    // Who did not say HTTP gets no HTTP.
    assert_eq!(rest(world.tls(address, &[]).await).await, b"");
    let address = world.open(EMPTY, Http2).await;
    assert_eq!(rest(world.tls(address, &["h2"]).await).await, b"");
    let address = world.open(EMPTY, Plain).await;
    assert_eq!(rest(TcpStream::connect(address).await.unwrap()).await, b"");
}

#[tokio::test]
async fn garbage_before_tls_does_no_harm() {
    let world = World::new(&[], None).await;
    let address = world.open(WEB, Encrypted).await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xffgarbage", b"\x00"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let said = rest(stream).await;
        assert!(!said.starts_with(b"HTTP"), "{said:?}");
    }
    let stream = world.tls(address, &["http/1.1"]).await;
    assert_eq!(text(ask_http1(stream, get("/")).await).await.0, 200);
}

#[tokio::test]
async fn others_are_not_let_in() {
    let world = World::new(&["127.0.0.2/32", "10.0.0.0/8"], None).await;
    for kind in [Encrypted, Plain] {
        let address = world.open(WEB, kind).await;
        // Closed before TLS: nothing is said.
        assert_eq!(rest(TcpStream::connect(address).await.unwrap()).await, b"");
    }
    let address = world.open(RAW, Plain).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    there_and_back(socket.connect(address).await.unwrap()).await;
}

#[tokio::test]
async fn connections_have_a_limit() {
    let world = World::new(&[], None).await;
    let address = world.open(RAW, Plain).await;
    let mut open = Vec::new();
    for _ in 0..VISITS_EACH_MAX {
        open.push(TcpStream::connect(address).await.unwrap());
    }
    let more = TcpStream::connect(address).await.unwrap();
    assert_eq!(rest(more).await, b"");
    world.until_active(VISITS_EACH_MAX).await;
    drop(open);
    world.until_active(0).await;
    there_and_back(TcpStream::connect(address).await.unwrap()).await;
}

#[tokio::test]
async fn the_end_closes_everything() {
    let world = World::new(&[], None).await;
    let address = world.open(RAW, Plain).await;
    assert_eq!(world.visits.last_active(&world.task), None);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"held").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    assert_eq!(world.visits.active(&world.task), 1);
    assert!(world.visits.last_active(&world.task).unwrap().elapsed() < Duration::from_secs(1));
    // A peer that does not finish its handshake does not keep a sandbox from being idle.
    let silent = TcpStream::connect(world.open(WEB, Encrypted).await).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.visits.active(&world.task), 1);

    tokio::time::timeout(Duration::from_secs(5), world.visits.end(&world.task)).await.unwrap();
    assert_eq!(rest(stream).await, b"");
    assert_eq!(rest(silent).await, b"");
    assert!(TcpStream::connect(address).await.is_err());
    let error = world.try_open(RAW, Plain, None).await.unwrap_err();
    assert!(matches!(error, Error::Ended(_)), "{error}");
}

#[tokio::test]
async fn ports_are_kept() {
    let world = World::new(&[], None).await;
    let address = world.open(RAW, Plain).await;
    assert_eq!(world.open(RAW, Plain).await, address, "asked again, it is the same");
    assert_ne!(world.open(RAW, Encrypted).await, address);
    // Another sandbox may not have it, and is told which it is.
    let other = World::new(&[], None).await;
    let error = other.try_open(RAW, Plain, Some(address.port())).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("port 7000"), "{error}");
    // After the end it can be had again at once, though connections were open.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"held").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    world.visits.end(&world.task).await;
    assert_eq!(other.try_open(RAW, Plain, Some(address.port())).await.unwrap(), address);
    there_and_back(TcpStream::connect(address).await.unwrap()).await;
}

#[tokio::test]
async fn a_range_is_kept_to() {
    let free = World::new(&[], None).await;
    let low = free.open(RAW, Plain).await.port();
    free.visits.end(&free.task).await;
    let world = World::new(&[], Some(format!("{low}-{low}").parse().unwrap())).await;
    assert_eq!(world.open(RAW, Plain).await.port(), low);
    let error = world.try_open(WEB, Plain, None).await.unwrap_err().to_string();
    assert!(error.contains(&format!("--tunnel-ports {low}-{low}")), "{error}");
}

/// The clock jumps whenever everybody waits, so the hour costs no time.
#[tokio::test(start_paused = true)]
async fn silence_ends_a_connection() {
    let world = World::new(&[], None).await;
    let address = world.open(RAW, Plain).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"word").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    let began = tokio::time::Instant::now();
    let _ = stream.read(&mut [0]).await;
    let lasted = began.elapsed();
    let hour = Duration::from_secs(3_600);
    assert!(lasted > hour - Duration::from_secs(1) && lasted < hour * 2, "{lasted:?}");
}

/// A peer that is gone looks like one that only listens: it does not keep a sandbox awake for long.
#[tokio::test(start_paused = true)]
async fn a_half_closed_connection_ends_sooner() {
    let world = World::new(&[], None).await;
    let address = world.open(DEAF, Plain).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"word").await.unwrap();
    stream.shutdown().await.unwrap();
    let began = tokio::time::Instant::now();
    let _ = stream.read(&mut [0]).await;
    let lasted = began.elapsed().as_secs();
    assert!((59..=61).contains(&lasted), "{lasted} s");
}
