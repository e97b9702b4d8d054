//! Connect tokens: requests into a sandbox, whose place a real server on loopback takes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod inside;
mod peers;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use gateway::Speech;
use gateway::connect::{Connects, Grant, Resolve};
use gateway::host_ports::HostPorts;
use gateway::tls::Identity;
use gateway::visits::Visits;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use inside::{EMPTY, Inside, RAW, WEB};
use model::TaskId;
use peers::{ask_http1, ask_http2, connect_tls, own, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A sandbox with a port for tokens, and the tokens.
struct World {
    _dir: tempfile::TempDir,
    identity: Identity,
    visits: Visits,
    connects: Connects,
    task: TaskId,
    address: SocketAddr,
    tokens: Arc<Mutex<HashMap<String, Grant>>>,
}

impl World {
    async fn new(inbound: &[&str]) -> Self {
        let (dir, identity) = own();
        let visits = Visits::new(Inside::start().await.dial());
        let tokens = Arc::new(Mutex::new(HashMap::<String, Grant>::new()));
        let known = tokens.clone();
        let resolve: Resolve = Arc::new(move |token| {
            let grant = known.lock().unwrap().get(&token).cloned();
            Box::pin(async move { grant })
        });
        let ports = HostPorts { address: LOOPBACK, range: None };
        let speech = Speech::Both(identity.clone());
        let connects = Connects::new(visits.clone(), ports, speech, resolve);
        let task = TaskId::new([7; 16]);
        let inbound: Vec<_> = inbound.iter().map(|range| range.parse().unwrap()).collect();
        let _ = visits.begin(&task, &inbound);
        let port = connects.open(&task, None).await.unwrap();
        let address = SocketAddr::new(LOOPBACK, port);
        let world = Self { _dir: dir, identity, visits, connects, task, address, tokens };
        world.grant("good", world.task.clone(), WEB, Some("{\"user\": \"ann\"}"));
        world.grant("bare", world.task.clone(), WEB, None);
        world.grant("silent", world.task.clone(), EMPTY, None);
        world.grant("raw", world.task.clone(), RAW, None);
        world.grant("other", TaskId::new([8; 16]), WEB, None);
        world
    }

    fn grant(&self, token: &str, task: TaskId, port: u16, metadata: Option<&str>) {
        let grant = Grant { task, port, user_metadata: metadata.map(str::to_owned) };
        self.tokens.lock().unwrap().insert(token.to_owned(), grant);
    }

    /// Asks in plaintext, from an address of loopback.
    async fn ask_from(
        &self,
        from: &str,
        uri: &str,
        headers: &[(&str, &str)],
    ) -> Response<Incoming> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        let stream = socket.connect(self.address).await.unwrap();
        ask_http1(stream, request(uri, headers)).await
    }

    async fn ask(&self, uri: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
        self.ask_from("127.0.0.1", uri, headers).await
    }

    #[track_caller]
    fn has_line(said: &str, line: &str) {
        assert!(said.lines().any(|one| one == line), "no {line:?} in {said}");
    }
}

fn request(uri: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::get(uri).header("host", "palisade.test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

fn cookies(response: &Response<Incoming>) -> Vec<String> {
    let values = response.headers().get_all("set-cookie").iter();
    values.map(|value| value.to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn without_a_token_nothing_is_reached() {
    let world = World::new(&[]).await;
    let rows: [(&str, &[(&str, &str)]); 8] = [
        ("/", &[]),
        ("/", &[("authorization", "Bearer wrong")]),
        ("/", &[("authorization", "Basic good")]),
        ("/?_modal_connect_token=wrong", &[("authorization", "Bearer good")]),
        ("/?_modal_connect_token=other", &[]),
        ("/", &[("authorization", "Bearer other")]),
        ("/", &[("cookie", "_modal_connect_token=other")]),
        ("/", &[("x-verified-user-data", "{\"user\": \"ann\"}")]),
    ];
    for (uri, headers) in rows {
        let answer = world.ask(uri, headers).await;
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        let (status, said) = text(answer).await;
        assert_eq!(status, 401, "{uri} {headers:?}");
        assert!(said.contains("show a connect token"), "{said}");
    }
    assert_eq!(world.visits.last_active(&world.task), None, "it was idle all the time");
    // One that is taken back gives nothing any more.
    let headers = [("authorization", "Bearer good")];
    assert_eq!(world.ask("/", &headers).await.status(), 200);
    assert!(world.visits.last_active(&world.task).is_some());
    world.tokens.lock().unwrap().remove("good");
    assert_eq!(world.ask("/", &headers).await.status(), 401);
}

#[tokio::test]
async fn the_program_is_told_who_asks_and_sees_no_token() {
    let world = World::new(&[]).await;
    let forged = [
        ("authorization", "Bearer good"),
        ("x-verified-user-data", "forged"),
        ("X-Verified-User-Data", "forged again"),
        ("x_verified_user_data", "forged by an underscore"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("connection", "x-secret, close"),
        ("x-secret", "of this connection"),
        ("x-kept", "kept"),
    ];
    let (status, said) = text(world.ask("/headers?a=b", &forged).await).await;
    assert_eq!(status, 200);
    for line in [
        "HTTP/1.1 /headers?a=b",
        "host: palisade.test",
        "x-verified-user-data: {\"user\": \"ann\"}",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-kept: kept",
    ] {
        World::has_line(&said, line);
    }
    for word in ["forged", "10.0.0.1", "good", "x-secret"] {
        assert!(!said.contains(word), "{word}: {said}");
    }
    // Without metadata, nothing is said.
    let headers = [("authorization", "Bearer bare"), ("x-verified-user-data", "forged")];
    let said = text(world.ask("/headers", &headers).await).await.1;
    assert!(!said.contains("verified"), "{said}");
}

#[tokio::test]
async fn every_version_of_http_comes_in() {
    let world = World::new(&[]).await;
    let tls = |protocol| connect_tls(world.address, &world.identity, "localhost", protocol);
    let headers = [("authorization", "Bearer good"), ("cookie", "a=b"), ("cookie", "c=d")];
    let stream = tls(&["h2"]).await.unwrap();
    let mut asked = request("https://localhost/headers", &headers);
    asked.headers_mut().remove("host");
    let said = text(ask_http2(stream, asked).await).await.1;
    for line in ["host: localhost", "cookie: a=b; c=d", "x-forwarded-proto: https"] {
        World::has_line(&said, line);
    }
    let stream = tls(&["http/1.1"]).await.unwrap();
    let said = text(ask_http1(stream, request("/headers", &headers)).await).await.1;
    World::has_line(&said, "x-forwarded-proto: https");

    let body: Vec<u8> = (0..8 << 20_u32).map(|n: u32| (n ^ (n >> 8)) as u8).collect();
    for is_http2 in [false, true] {
        let asked = Request::post("https://localhost/body").header("authorization", "Bearer good");
        let asked = asked.body(Full::from(body.clone())).unwrap();
        let stream = tls(if is_http2 { &["h2"] } else { &["http/1.1"] }).await.unwrap();
        let answer = match is_http2 {
            true => ask_http2(stream, asked).await,
            false => ask_http1(stream, asked).await,
        };
        let back = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        assert!(back == body, "{} of {} bytes", back.len(), body.len());
    }
}

#[tokio::test]
async fn a_link_becomes_a_cookie() {
    let world = World::new(&[]).await;
    let answer = world.ask("/headers?_modal_connect_token=good&a=b", &[]).await;
    let set = cookies(&answer);
    let said = text(answer).await.1;
    World::has_line(&said, "HTTP/1.1 /headers?a=b");
    assert!(!said.contains("good"), "{said}");
    // The program's own cookie passes, but not one that looks like ours.
    assert_eq!(set.len(), 2, "{set:?}");
    assert_eq!(set[0], "a=b");
    assert!(set[1].contains("HttpOnly") && !set[1].contains("good"), "{set:?}");
    let cookie = set[1].split(';').next().unwrap();

    // The program's own token passes beside it.
    let both = format!("x=y; {cookie}");
    let headers = [("cookie", both.as_str()), ("authorization", "Bearer of-the-program")];
    let said = text(world.ask("/headers", &headers).await).await.1;
    for line in ["cookie: x=y", "authorization: Bearer of-the-program"] {
        World::has_line(&said, line);
    }
    World::has_line(&said, "x-verified-user-data: {\"user\": \"ann\"}");
    // Somebody else who got hold of the cookie has nothing.
    let stolen = world.ask_from("127.0.0.2", "/headers", &[("cookie", cookie)]).await;
    assert_eq!(stolen.status(), 401);
    // Nor is it good for longer than its token.
    world.tokens.lock().unwrap().remove("good");
    assert_eq!(world.ask("/headers", &[("cookie", cookie)]).await.status(), 401);
    let answer = world.ask("/headers", &[("cookie", "_modal_connect_token=bare")]).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn what_does_not_answer_is_told() {
    let world = World::new(&[]).await;
    let ask = |token| world.ask(token, &[]);
    let (status, said) = text(ask("/?_modal_connect_token=silent").await).await;
    assert_eq!(status, 502);
    assert!(said.contains("nobody listens on port 9"), "{said}");
    let (status, said) = text(ask("/?_modal_connect_token=raw").await).await;
    assert_eq!(status, 502);
    assert!(said.contains("port 7000 of the sandbox gave no answer"), "{said}");
    world.grant("lines", world.task.clone(), WEB, Some("two\nlines"));
    let (status, said) = text(ask("/?_modal_connect_token=lines").await).await;
    assert_eq!(status, 400);
    assert!(said.contains("user_metadata"), "{said}");
}

#[tokio::test]
async fn upgrades_pass_until_the_end() {
    let world = World::new(&[]).await;
    let headers =
        [("authorization", "Bearer good"), ("connection", "Upgrade"), ("upgrade", "websocket")];
    let stream = connect_tls(world.address, &world.identity, "localhost", &["http/1.1"]).await;
    let answer = ask_http1(stream.unwrap(), request("/socket", &headers)).await;
    assert_eq!(answer.status(), 101);
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let mut back = [0; 5];
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
    assert_eq!(world.visits.active(&world.task), 1);

    tokio::time::timeout(Duration::from_secs(5), world.visits.end(&world.task)).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut back)).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    assert!(TcpStream::connect(world.address).await.is_err());
}

#[tokio::test]
async fn others_are_not_let_in() {
    let world = World::new(&["127.0.0.2/32"]).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    // Closed before anything is read: a reset if the request came first.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nauthorization: Bearer good\r\n\r\n").await;
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    assert_eq!(said, b"");
    let headers = [("authorization", "Bearer good")];
    assert_eq!(world.ask_from("127.0.0.2", "/", &headers).await.status(), 200);
}

#[tokio::test]
async fn the_port_is_kept() {
    let world = World::new(&[]).await;
    let again = world.connects.open(&world.task, None).await.unwrap();
    assert_eq!(again, world.address.port());
    let other = World::new(&[]).await;
    let _ = other.visits.begin(&TaskId::new([9; 16]), &[]);
    let taken = other.connects.open(&TaskId::new([9; 16]), Some(again)).await.unwrap_err();
    let text = taken.to_string();
    assert!(text.contains("connect tokens") && text.contains(&again.to_string()), "{text}");
    world.visits.end(&world.task).await;
    other.connects.open(&TaskId::new([9; 16]), Some(again)).await.unwrap();
    assert!(world.connects.open(&world.task, None).await.is_err());
}
