//! A socket in the file system at which the server's owner meets the same routes as clients do.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::limits::{DRAIN_MAX, LOCAL_CONNECTIONS_MAX};
use crate::port::builder;

/// Pause after a connection that was not accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `closed` returns, then lets open connections end for a moment. Whoever may connect
/// is settled by the socket's mode and folder.
pub async fn serve(listener: UnixListener, routes: Router, closed: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(LOCAL_CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let builder = builder();
    tokio::pin!(closed);
    loop {
        let accept = async {
            let slot = slots.clone().acquire_owned().await.ok()?;
            Some((slot, listener.accept().await))
        };
        let (slot, stream) = tokio::select! {
            accepted = accept => match accepted {
                Some((slot, Ok((stream, _)))) => (slot, stream),
                Some((_, Err(error))) => {
                    tracing::warn!(%error, "a local connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
                None => break,
            },
            () = &mut closed => break,
        };
        let service = TowerToHyperService::new(routes.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a local connection ended");
            }
            drop(slot);
        });
    }
    let _ = tokio::time::timeout(DRAIN_MAX, graceful.shutdown()).await;
}
