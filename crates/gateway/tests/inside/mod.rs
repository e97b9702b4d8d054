//! What runs inside a sandbox, for tests: real servers on loopback, found through a `Dial`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use gateway::visits::Dial;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server of HTTP/1.1 and HTTP/2, which says how it was asked.
pub(crate) const WEB: u16 = 8080;

/// A server that sends back what it gets, and says `end.` after the peer's end.
pub(crate) const RAW: u16 = 7000;

/// A server that takes everything, and neither answers nor closes.
pub(crate) const DEAF: u16 = 6000;

/// Nobody listens here.
pub(crate) const EMPTY: u16 = 9;

/// Where the servers really are.
#[derive(Clone, Copy)]
pub(crate) struct Inside {
    web: SocketAddr,
    raw: SocketAddr,
    deaf: SocketAddr,
    empty: SocketAddr,
}

impl Inside {
    pub(crate) async fn start() -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (web, raw, deaf, empty) = tokio::try_join!(bind(), bind(), bind(), bind()).unwrap();
        let address = |listener: &TcpListener| listener.local_addr().unwrap();
        let inside = Self {
            web: address(&web),
            raw: address(&raw),
            deaf: address(&deaf),
            empty: address(&empty),
        };
        drop(empty);
        tokio::spawn(serve_web(web));
        tokio::spawn(serve_raw(raw));
        tokio::spawn(serve_deaf(deaf));
        inside
    }

    pub(crate) fn dial(self) -> Dial {
        Arc::new(move |_task, port| {
            let address = match port {
                WEB => self.web,
                RAW => self.raw,
                DEAF => self.deaf,
                _ => self.empty,
            };
            Box::pin(TcpStream::connect(address))
        })
    }
}

async fn serve_deaf(listener: TcpListener) {
    let mut held = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        held.push(stream);
    }
}

async fn serve_raw(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut from, mut to) = stream.into_split();
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = from.read(&mut buffer).await {
                if to.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
            let _ = to.write_all(b"end.").await;
        });
    }
}

async fn serve_web(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let service = hyper::service::service_fn(answer);
            let builder = Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}

/// Says how it was asked; sends back what comes after an upgrade.
async fn answer(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 1_024];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert("connection", "Upgrade".parse().unwrap());
        headers.insert("upgrade", "websocket".parse().unwrap());
        return Ok(response);
    }
    let uri = request.uri().path_and_query().unwrap();
    let mut response = match uri.path() {
        "/headers" => {
            let mut said = format!("{:?} {uri}\n", request.version());
            for (name, value) in request.headers() {
                said.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
            }
            Response::new(Body::from(said))
        }
        "/body" => Response::new(Body::new(request.into_body())),
        _ => Response::new(Body::from(format!("{:?} {uri}", request.version()))),
    };
    for cookie in ["a=b", "_modal_connect_session_1=forged"] {
        response.headers_mut().append("set-cookie", cookie.parse().unwrap());
    }
    Ok(response)
}
