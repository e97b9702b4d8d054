//! The server's port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use crate::limits::{CONNECTIONS_MAX, DRAIN_MAX, OPENINGS_MAX};
use crate::opening::{Opened, Opener, Speech, Version};

/// The port could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct Error {
    address: SocketAddr,
    source: std::io::Error,
}

/// A listening port.
#[derive(Debug)]
pub struct Port {
    listener: TcpListener,
    address: SocketAddr,
}

/// Who sent a request: an extension of each that came through a port.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

impl Port {
    /// Listens on an address; port 0 takes a free one.
    pub async fn open(address: SocketAddr) -> Result<Self, Error> {
        let listener =
            TcpListener::bind(address).await.map_err(|source| Error { address, source })?;
        let address = listener.local_addr().map_err(|source| Error { address, source })?;
        Ok(Self { listener, address })
    }

    /// The address in use.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `closed` returns, then lets open connections end for a moment.
    pub async fn serve(self, routes: Router, speech: &Speech, closed: impl Future<Output = ()>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let openings = Arc::new(Semaphore::new(OPENINGS_MAX));
        let graceful = GracefulShutdown::new();
        let connections = Connections { routes, opener: Opener::new(speech), builder: builder() };
        tokio::pin!(closed);
        loop {
            let next = async {
                let slot = slots.clone().acquire_owned().await.ok()?;
                Some((slot, self.listener.accept().await))
            };
            let next = tokio::select! {
                next = next => next,
                () = &mut closed => break,
            };
            let Some((slot, accepted)) = next else { break };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(opening) = openings.clone().try_acquire_owned() else {
                tracing::debug!(%peer, "too many connections say nothing: one more is closed");
                continue;
            };
            let (connections, watcher) = (connections.clone(), graceful.watcher());
            tokio::spawn(async move {
                connections.serve(stream, Peer(peer), opening, watcher).await;
                drop(slot);
            });
        }
        let _ = tokio::time::timeout(DRAIN_MAX, graceful.shutdown()).await;
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // The client pings every 30 s, also with no call open, and advertises windows of 64 MiB.
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(4_096)
        .keep_alive_interval(Some(Duration::from_secs(60)))
        .keep_alive_timeout(Duration::from_secs(60));
    builder.http1().timer(TokioTimer::new());
    builder
}

/// What every connection of a port shares.
#[derive(Clone)]
struct Connections {
    routes: Router,
    opener: Opener,
    builder: Builder<TokioExecutor>,
}

impl Connections {
    async fn serve(
        self,
        stream: TcpStream,
        peer: Peer,
        opening: OwnedSemaphorePermit,
        watcher: hyper_util::server::graceful::Watcher,
    ) {
        // Small messages must not wait for larger ones.
        let _ = stream.set_nodelay(true);
        let opened = self.opener.open(stream).await;
        drop(opening);
        let Opened { stream, version } = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(peer = %peer.0, %error, "a connection did not open");
                return;
            }
        };
        let routes = self.routes.map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request
        });
        let builder = match version {
            Version::Http1 => self.builder.http1_only(),
            Version::Http2 => self.builder.http2_only(),
        };
        let service = TowerToHyperService::new(routes);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(connection.into_owned()).await {
            tracing::debug!(%error, "a connection ended");
        }
    }
}
