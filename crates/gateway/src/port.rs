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

use crate::limits::{
    CONNECTION_WINDOW_BYTES, CONNECTIONS_MAX, DRAIN_MAX, OPENINGS_MAX, STREAM_WINDOW_BYTES,
};
use crate::opening::{Opened, Opener, Speech, Version};
use crate::visits::{Sandbox, Visit, Visits};

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
    admission: Admission,
}

/// Who may connect.
#[derive(Debug)]
enum Admission {
    /// Anyone; when there are too many, the next ones wait.
    Slots(Arc<Semaphore>),
    /// Who may come into a sandbox; others are closed.
    Visits(Visits, Arc<Sandbox>),
}

/// What a connection holds as long as it lives.
enum Held {
    Slot(#[expect(dead_code, reason = "its life is what counts")] OwnedSemaphorePermit),
    Visit(Arc<Visit>),
}

/// Who sent a request: an extension of each that came through a port.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// It speaks TLS.
    pub is_tls: bool,
}

impl Port {
    /// Listens on an address; port 0 takes a free one.
    pub async fn open(address: SocketAddr) -> Result<Self, Error> {
        let listener =
            TcpListener::bind(address).await.map_err(|source| Error { address, source })?;
        let address = listener.local_addr().map_err(|source| Error { address, source })?;
        let admission = Admission::Slots(Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        Ok(Self { listener, address, admission })
    }

    /// A port of one sandbox. Its requests carry their `Arc<Visit>` as an extension.
    pub(crate) fn of_sandbox(
        listener: TcpListener,
        visits: Visits,
        sandbox: Arc<Sandbox>,
    ) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        Ok(Self { listener, address, admission: Admission::Visits(visits, sandbox) })
    }

    /// The address in use.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `closed` returns, then lets open connections end for a moment.
    pub async fn serve(self, routes: Router, speech: &Speech, closed: impl Future<Output = ()>) {
        let openings = Arc::new(Semaphore::new(OPENINGS_MAX));
        let graceful = GracefulShutdown::new();
        let connections = Connections { routes, opener: Opener::new(speech), builder: builder() };
        tokio::pin!(closed);
        loop {
            let (held, stream, peer) = tokio::select! {
                accepted = self.accept() => match accepted {
                    Some(accepted) => accepted,
                    None => continue,
                },
                () = &mut closed => break,
            };
            let Ok(opening) = openings.clone().try_acquire_owned() else {
                tracing::debug!(%peer, "too many connections say nothing: one more is closed");
                continue;
            };
            let (connections, watcher) = (connections.clone(), graceful.watcher());
            tokio::spawn(async move {
                connections.serve(stream, peer, &held, opening, watcher).await;
                drop(held);
            });
        }
        let _ = tokio::time::timeout(DRAIN_MAX, graceful.shutdown()).await;
    }

    /// The next connection that may come in. None: this one may not.
    async fn accept(&self) -> Option<(Held, TcpStream, SocketAddr)> {
        let slot = match &self.admission {
            Admission::Slots(slots) => Some(slots.clone().acquire_owned().await.ok()?),
            Admission::Visits(..) => None,
        };
        let (stream, peer) = match self.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                return None;
            }
        };
        let held = match (&self.admission, slot) {
            (Admission::Visits(visits, sandbox), _) => match visits.enter(sandbox, peer.ip()) {
                Ok(visit) => Held::Visit(Arc::new(visit)),
                Err(refused) => {
                    tracing::debug!(%peer, %refused, "a peer is refused");
                    return None;
                }
            },
            (Admission::Slots(_), slot) => Held::Slot(slot?),
        };
        Some((held, stream, peer))
    }
}

pub(crate) fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // The client pings every 30 s, also with no call open, and advertises windows of 64 MiB.
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
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
        address: SocketAddr,
        held: &Held,
        opening: OwnedSemaphorePermit,
        watcher: hyper_util::server::graceful::Watcher,
    ) {
        let opened = self.opener.open(stream).await;
        drop(opening);
        let Opened { stream, version, is_tls } = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(peer = %address, %error, "a connection did not open");
                return;
            }
        };
        let visit = match held {
            Held::Visit(visit) => Some(visit.clone()),
            Held::Slot(_) => None,
        };
        let routes = self.routes.map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer { address, is_tls });
            if let Some(visit) = &visit {
                request.extensions_mut().insert(visit.clone());
            }
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
