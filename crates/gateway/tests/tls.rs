//! One port, two languages: TLS and plaintext, HTTP/2 and HTTP/1, and peers that speak neither.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod peers;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use gateway::limits::OPENINGS_MAX;
use gateway::tls::Identity;
use gateway::{Peer, Port, Speech};
use peers::{ask_http1, ask_http2, connect_tls, get, own, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Says how a request came.
async fn echo(request: Request) -> String {
    let peer = request.extensions().get::<Peer>().unwrap();
    format!("{:?} {} {}", request.version(), request.uri().path(), peer.address.ip())
}

/// Serves until the sender is dropped.
async fn serve(speech: Speech) -> (SocketAddr, oneshot::Sender<()>) {
    let port = Port::open(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = port.address();
    let (sender, closed) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let closed = async move {
            let _ = closed.await;
        };
        port.serve(Router::new().fallback(echo), &speech, closed).await;
    });
    (address, sender)
}

#[tokio::test]
async fn one_port_takes_tls_and_plaintext() {
    let (_dir, identity) = own();
    let (address, _closed) = serve(Speech::Both(identity.clone())).await;
    let plain = || TcpStream::connect(address);
    let tls = |protocols| connect_tls(address, &identity, "127.0.0.1", protocols);

    let answer = ask_http1(plain().await.unwrap(), get("/a")).await;
    assert_eq!(text(answer).await, (200, "HTTP/1.1 /a 127.0.0.1".into()));
    let answer = ask_http2(plain().await.unwrap(), get("http://localhost/b")).await;
    assert_eq!(text(answer).await, (200, "HTTP/2.0 /b 127.0.0.1".into()));

    let stream = tls(&["h2"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let answer = ask_http2(stream, get("https://localhost/c")).await;
    assert_eq!(text(answer).await, (200, "HTTP/2.0 /c 127.0.0.1".into()));
    let stream = tls(&["http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let answer = ask_http1(stream, get("/d")).await;
    assert_eq!(text(answer).await, (200, "HTTP/1.1 /d 127.0.0.1".into()));
    // Python's client of a sandbox's router offers nothing on loopback, and speaks HTTP/2.
    let stream = tls(&[]).await.unwrap();
    let answer = ask_http2(stream, get("https://localhost/e")).await;
    assert_eq!(text(answer).await, (200, "HTTP/2.0 /e 127.0.0.1".into()));
}

#[tokio::test]
async fn a_port_for_tls_alone_says_so() {
    let (_dir, identity) = own();
    let (address, _closed) = serve(Speech::Tls(identity.clone())).await;
    let answer = ask_http1(TcpStream::connect(address).await.unwrap(), get("/a")).await;
    let (status, said) = text(answer).await;
    assert_eq!(status, 400);
    assert!(said.contains("https://"), "{said}");
    // A large request without an answer until its end does not hang, and reaches nothing.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[b'x'; 4_096]).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 400 ") && !said.contains("HTTP/1.1 /"), "{said}");

    let stream = connect_tls(address, &identity, "localhost", &["h2"]).await.unwrap();
    assert_eq!(text(ask_http2(stream, get("https://localhost/b")).await).await.0, 200);
}

#[tokio::test]
async fn the_name_is_checked() {
    let (_dir, identity) = own();
    let (address, _closed) = serve(Speech::Both(identity.clone())).await;
    let error = connect_tls(address, &identity, "example.org", &["h2"]).await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
    let (_other_dir, other) = own();
    let error = connect_tls(address, &other, "localhost", &["h2"]).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn garbage_does_no_harm() {
    let (_dir, identity) = own();
    let (address, _closed) = serve(Speech::Both(identity.clone())).await;
    let rows: [&[u8]; 8] = [
        b"\x16\x03\x01\xff\xff\xff\xff\xff garbage in a record of TLS",
        b"\x16",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x00\x00\x00\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage after the preface",
        b"PRI * HTTP/3.0\r\n\r\n\r\n\r\n",
        b"\xff\xfe\xfd",
        b"GET\r\n\r\n",
    ];
    for bytes in rows {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = Vec::new();
        // An answer or a reset: only that it ends counts.
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut said));
        assert!(read.await.is_ok(), "{bytes:?} keeps the connection");
    }
    let stream = connect_tls(address, &identity, "localhost", &["h2"]).await.unwrap();
    assert_eq!(text(ask_http2(stream, get("https://localhost/")).await).await.0, 200);
}

/// The clock jumps whenever everybody waits, so the wait costs no time.
#[tokio::test(start_paused = true)]
async fn silence_is_not_waited_for_long() {
    let (_dir, identity) = own();
    let (address, _closed) = serve(Speech::Both(identity)).await;
    let beginnings: [&[u8]; 4] = [b"", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM", b"P"];
    for bytes in beginnings {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let began = tokio::time::Instant::now();
        let mut said = Vec::new();
        // Bytes that were not read make it a reset.
        let _ = stream.read_to_end(&mut said).await;
        assert!(began.elapsed() < Duration::from_secs(11), "{bytes:?}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn silent_peers_have_a_limit() {
    let (_dir, identity) = own();
    let (address, _closed) = serve(Speech::Both(identity)).await;
    let mut silent = Vec::new();
    for _ in 0..OPENINGS_MAX {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut more = TcpStream::connect(address).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), more.read(&mut [0])).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    // Those who were first are served still, and leave room when they go.
    let first = silent.remove(0);
    assert_eq!(text(ask_http1(first, get("/")).await).await.0, 200);
    drop(silent);
    let served = async {
        loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            let mut said = Vec::new();
            let sent = stream.write_all(request).await;
            if sent.is_ok() && stream.read_to_end(&mut said).await.is_ok() && !said.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), served).await.unwrap();
}

#[tokio::test]
async fn openssl_agrees() {
    let (_dir, identity) = own();
    let (address, _closed) = serve(Speech::Tls(identity.clone())).await;
    let ca = identity.ca().unwrap();
    let child = tokio::process::Command::new("openssl")
        .args(["s_client", "-verify_return_error", "-verify_ip", "127.0.0.1", "-alpn", "h2"])
        .args(["-x509_strict", "-connect", &address.to_string(), "-CAfile"])
        .arg(ca)
        .stdin(Stdio::null())
        .output();
    let said = child.await.expect("the tests need openssl");
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{text}{}", String::from_utf8_lossy(&said.stderr));
    assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
    assert!(text.contains("ALPN protocol: h2"), "{text}");
}

#[test]
fn the_ca_is_made_once() {
    let (dir, identity) = own();
    let ca = fs::read(identity.ca().unwrap()).unwrap();
    let folder = dir.path().join("tls");
    let key = folder.join("ca-key.pem");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let names = ["elsewhere".to_owned()];
    let again = Identity::own(&folder, &names).unwrap();
    assert_eq!(fs::read(again.ca().unwrap()).unwrap(), ca);

    // Signed again after a year, with the same key: what clients hold still verifies.
    let file = fs::File::options().write(true).open(identity.ca().unwrap()).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(400 * 86_400)).unwrap();
    let key_before = fs::read(&key).unwrap();
    let again = Identity::own(&folder, &names).unwrap();
    assert_ne!(fs::read(again.ca().unwrap()).unwrap(), ca);
    assert_eq!(fs::read(&key).unwrap(), key_before);

    // Another key's certificate is not kept.
    let (_other_dir, other) = own();
    let foreign = fs::read(other.ca().unwrap()).unwrap();
    fs::write(identity.ca().unwrap(), &foreign).unwrap();
    let again = Identity::own(&folder, &names).unwrap();
    assert_ne!(fs::read(again.ca().unwrap()).unwrap(), foreign);

    fs::write(&key, "not a key").unwrap();
    let error = Identity::own(&folder, &names).unwrap_err().to_string();
    assert!(error.contains("ca-key.pem") && error.contains("not the key of a CA"), "{error}");
}

#[tokio::test]
async fn an_older_certificate_of_the_ca_still_verifies() {
    let (dir, before) = own();
    let held = dir.path().join("held.pem");
    fs::copy(before.ca().unwrap(), &held).unwrap();
    fs::remove_file(before.ca().unwrap()).unwrap();
    let names = ["localhost".to_owned()];
    let after = Identity::own(&dir.path().join("tls"), &names).unwrap();
    let (address, _closed) = serve(Speech::Tls(after.clone())).await;
    let renewed = fs::read(after.ca().unwrap()).unwrap();
    assert_ne!(renewed, fs::read(&held).unwrap());
    // The client trusts what it was given before.
    fs::copy(&held, after.ca().unwrap()).unwrap();
    connect_tls(address, &after, "localhost", &["h2"]).await.unwrap();
}

/// Writes a certificate for `localhost` that nobody signed, and its key.
fn write_pair(cert: &Path, key: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::write(cert, made.cert.pem()).unwrap();
    fs::write(key, made.signing_key.serialize_pem()).unwrap();
}

/// Whether curl trusts the port by the certificate in a file.
async fn curl_trusts(cert: &Path, address: SocketAddr) -> bool {
    let child = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--cacert"])
        .arg(cert)
        .arg(format!("https://localhost:{}/given", address.port()))
        .output();
    let said = child.await.expect("the tests need curl");
    String::from_utf8_lossy(&said.stdout).ends_with("/given 127.0.0.1")
}

#[tokio::test]
async fn a_given_certificate_is_shown_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    write_pair(&cert, &key);
    let given = Identity::given(&cert, &key).unwrap();
    assert!(given.ca().is_none());
    let (address, _closed) = serve(Speech::Tls(given)).await;
    let held = dir.path().join("held.pem");
    fs::copy(&cert, &held).unwrap();
    assert!(curl_trusts(&held, address).await);

    // Half of a new pair changes nothing; the whole one is shown without a restart.
    let (new_cert, new_key) = (dir.path().join("new.pem"), dir.path().join("new.key"));
    write_pair(&new_cert, &new_key);
    fs::rename(&new_key, &key).unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(curl_trusts(&held, address).await);
    fs::copy(&new_cert, &cert).unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(curl_trusts(&new_cert, address).await);
    assert!(!curl_trusts(&held, address).await);
}

#[test]
fn a_certificate_that_cannot_be_shown_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    write_pair(&cert, &key);
    let other = rcgen::KeyPair::generate().unwrap();
    fs::write(&key, other.serialize_pem()).unwrap();
    let rows = [
        (cert.clone(), key.clone(), "does not go with"),
        (key.clone(), key.clone(), "no certificate"),
        (cert.clone(), cert.clone(), "no private key"),
        (dir.path().join("none.pem"), key.clone(), "none.pem"),
    ];
    for (cert, key, expected) in rows {
        let error = Identity::given(&cert, &key).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
