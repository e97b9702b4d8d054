//! Ways into sandboxes: the gateway's ports of the host, joined with the plane that asks for them
//! and the worker that connects.

use std::io;
use std::sync::{Arc, Weak};

use futures::FutureExt;
use futures::future::BoxFuture;
use gateway::connect::{Connects, Grant};
use gateway::host_ports::HostPorts;
use gateway::tunnel::{TunnelSpec, Tunnels};
use gateway::visits::{Dial, Visits};
use gateway::{Speech, tls::Identity};
use model::TaskId;
use plane::Plane;
use plane::sandboxes::{Opening, Piece, Reach, Taken, Unreached};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt;
use worker::Worker;

use crate::shelf::{Shelf, secrets};

/// All ways into sandboxes. The plane holds it, so it holds neither plane nor worker: both end
/// before it does.
#[derive(Debug, Clone)]
pub(crate) struct Ways {
    visits: Visits,
    tunnels: Tunnels,
    connects: Connects,
    plane: Weak<Plane>,
    worker: Weak<Worker>,
}

impl Ways {
    /// None is open yet.
    pub(crate) fn new(
        plane: &Arc<Plane>,
        worker: &Arc<Worker>,
        ports: HostPorts,
        identity: &Identity,
        speech: Speech,
    ) -> Self {
        let worker = Arc::downgrade(worker);
        let visits = Visits::new(dial(worker.clone()));
        let tunnels = Tunnels::new(visits.clone(), ports, identity);
        let plane = Arc::downgrade(plane);
        let of_tokens = plane.clone();
        let resolve = Arc::new(move |token: String| {
            let plane = of_tokens.clone();
            async move {
                let plane = plane.upgrade()?;
                find(&plane, &token).await
            }
            .boxed()
        });
        let connects = Connects::new(visits.clone(), ports, speech, resolve);
        Self { visits, tunnels, connects, plane, worker }
    }

    /// Closes all of them.
    pub(crate) async fn close(&self) {
        self.visits.close().await;
    }
}

/// How the worker connects.
fn dial(worker: Weak<Worker>) -> Dial {
    Arc::new(move |task, port| {
        let worker = worker.upgrade();
        async move {
            let worker = worker.ok_or_else(|| io::Error::other("the server ends"))?;
            worker.dial(&task, port).await
        }
        .boxed()
    })
}

/// What a connect token gives.
async fn find(plane: &Plane, token: &str) -> Option<Grant> {
    let opened = match plane.resolve_connect_token(token).await {
        Ok(opened) => opened?,
        Err(error) => {
            tracing::error!(%error, "a connect token could not be looked up");
            return None;
        }
    };
    let user_metadata = Some(opened.user_metadata).filter(|text| !text.is_empty());
    Some(Grant { task: opened.task, port: opened.port, user_metadata })
}

/// Tells a sandbox how many connections into it are in use, until it has ended.
async fn tell(worker: Weak<Worker>, task: TaskId, mut counts: watch::Receiver<usize>) {
    loop {
        // At first, too: an earlier server may have told of connections that are gone.
        let count = *counts.borrow_and_update();
        let Some(worker) = worker.upgrade() else { return };
        if let Err(error) = worker.tell_visits(&task, count).await {
            tracing::debug!(%task, %error, "a sandbox was not told of its connections");
        }
        drop(worker);
        if counts.changed().await.is_err() {
            return;
        }
    }
}

/// What is said once the worker is gone.
const ENDING: &str = "the server ends";

fn ending() -> Unreached {
    Unreached::Later(ENDING.into())
}

/// Why the worker did not reach a stream.
fn unreached(why: worker::Unreached) -> Unreached {
    match why {
        worker::Unreached::Closed(text) => Unreached::Closed(text),
        worker::Unreached::Later(text) => Unreached::Later(text),
    }
}

impl Reach for Ways {
    fn open(&self, wanted: Opening) -> BoxFuture<'_, io::Result<u16>> {
        let Opening { task, port, inbound, host_port } = wanted;
        if let Some(counts) = self.visits.begin(&task, &inbound) {
            tokio::spawn(tell(self.worker.clone(), task.clone(), counts));
        }
        async move {
            let opened = match port {
                None => self.connects.open(&task, host_port).await,
                Some(port) => {
                    let spec = TunnelSpec { container_port: port.port, kind: port.kind, host_port };
                    self.tunnels.open(&task, &spec).await
                }
            };
            opened.map_err(io::Error::other)
        }
        .boxed()
    }

    fn close(&self, task: &TaskId) {
        let (visits, task) = (self.visits.clone(), task.clone());
        tokio::spawn(async move { visits.end(&task).await });
    }

    fn write(&self, piece: Piece) -> BoxFuture<'_, Result<(), Unreached>> {
        let Piece { task, exec, index, data, eof } = piece;
        async move {
            let worker = self.worker.upgrade().ok_or_else(ending)?;
            worker.write_stdin(&task, exec, index, data, eof).await.map_err(unreached)
        }
        .boxed()
    }

    fn ask(&self, request: http::Request<Body>) -> BoxFuture<'_, http::Response<Body>> {
        let (Some(plane), Some(worker)) = (self.plane.upgrade(), self.worker.upgrade()) else {
            return async { Status::unavailable(ENDING).into_http() }.boxed();
        };
        let router = worker::router::service(&worker, secrets(&plane), Arc::new(Shelf(plane)));
        async move {
            let answered = router.oneshot(request.map(axum::body::Body::new)).await;
            answered.unwrap_or_else(|never| match never {}).map(Body::new)
        }
        .boxed()
    }

    fn taken(&self, task: TaskId, exec: String) -> BoxFuture<'_, Result<Taken, Unreached>> {
        async move {
            let worker = self.worker.upgrade().ok_or_else(ending)?;
            let taken = worker.stdout_taken(&task, &exec).await;
            let (bytes, readers) = taken.map_err(unreached)?;
            Ok(Taken { bytes, readers })
        }
        .boxed()
    }
}
