//! The server's port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at the same time; further ones wait.
const CONNECTIONS_MAX: usize = 4_096;

/// How long open connections may take to end when the server does.
const DRAIN_MAX: Duration = Duration::from_secs(3);

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
    pub async fn serve(self, routes: Router, closed: impl Future<Output = ()>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let graceful = GracefulShutdown::new();
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
        tokio::pin!(closed);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = &mut closed => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // Small messages must not wait for larger ones.
            let _ = stream.set_nodelay(true);
            let Ok(slot) = slots.clone().acquire_owned().await else { break };
            let service = TowerToHyperService::new(routes.clone());
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection ended");
                }
                drop(slot);
            });
        }
        let _ = tokio::time::timeout(DRAIN_MAX, graceful.shutdown()).await;
    }
}
