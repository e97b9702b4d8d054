//! Who may come into which sandbox, and who is there: connections through tunnels and by connect
//! tokens. A sandbox's inbound rule, its limits and its idle time are kept here, for both.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::future::BoxFuture;
use ipnet::IpNet;
use model::TaskId;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::host_ports::Purpose;
use crate::limits::{DIAL_MAX, VISITS_EACH_MAX, VISITS_MAX};

/// Connects to a port on a container's own loopback address. The worker does it.
pub type Dial = Arc<dyn Fn(TaskId, u16) -> BoxFuture<'static, io::Result<TcpStream>> + Send + Sync>;

/// Why somebody does not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The sandbox has ended, or is not known.
    #[error("the sandbox has ended")]
    Ended,
    /// Its inbound rule does not list the peer.
    #[error("the sandbox's inbound_cidr_allowlist does not list this address")]
    Outside,
    /// There are too many.
    #[error("the sandbox has too many connections")]
    TooMany,
}

/// All sandboxes that can be reached. Cheap to clone.
#[derive(Clone)]
pub struct Visits(Arc<Shared>);

struct Shared {
    dial: Dial,
    slots: Arc<Semaphore>,
    sandboxes: Mutex<HashMap<TaskId, Arc<Sandbox>>>,
}

impl std::fmt::Debug for Visits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visits").finish_non_exhaustive()
    }
}

/// One sandbox that can be reached.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) task: TaskId,
    inbound: Vec<IpNet>,
    slots: Arc<Semaphore>,
    /// Fires when it ends.
    pub(crate) ended: CancellationToken,
    /// Its listeners and connections.
    pub(crate) tasks: TaskTracker,
    /// The ports of the host that it has.
    pub(crate) ports: tokio::sync::Mutex<Vec<(Purpose, u16)>>,
    /// Connections that keep it from being idle.
    uses: watch::Sender<usize>,
    last: Mutex<Option<Instant>>,
}

/// A connection into a sandbox: it takes room as long as it lives, and keeps the sandbox from being
/// idle once it is [used](Visit::use_it).
#[derive(Debug)]
pub(crate) struct Visit {
    visits: Visits,
    sandbox: Arc<Sandbox>,
    is_used: AtomicBool,
    _slots: [OwnedSemaphorePermit; 2],
}

impl Visits {
    /// Nobody can be reached yet.
    pub fn new(dial: Dial) -> Self {
        let slots = Arc::new(Semaphore::new(VISITS_MAX));
        Self(Arc::new(Shared { dial, slots, sandboxes: Mutex::default() }))
    }

    /// A sandbox lives: it can be reached from the ranges `inbound`; none is listed: from anywhere.
    /// Answers with the number of connections that are in use, to watch until the sandbox ends.
    /// Said again of one that lives, it changes nothing, and answers with nothing.
    pub fn begin(&self, task: &TaskId, inbound: &[IpNet]) -> Option<watch::Receiver<usize>> {
        let sandbox = || Sandbox {
            task: task.clone(),
            inbound: inbound.to_vec(),
            slots: Arc::new(Semaphore::new(VISITS_EACH_MAX)),
            ended: CancellationToken::new(),
            tasks: TaskTracker::new(),
            ports: tokio::sync::Mutex::default(),
            uses: watch::Sender::new(0),
            last: Mutex::default(),
        };
        match self.lock().entry(task.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => Some(free.insert(Arc::new(sandbox())).uses.subscribe()),
        }
    }

    /// Closes all listeners and connections: the server ends, and sandboxes go on without it.
    pub async fn close(&self) {
        let tasks: Vec<_> = self.lock().keys().cloned().collect();
        futures::future::join_all(tasks.iter().map(|task| self.end(task))).await;
    }

    /// A sandbox has ended: its listeners and connections are closed when this returns.
    pub async fn end(&self, task: &TaskId) {
        let Some(sandbox) = self.lock().remove(task) else { return };
        sandbox.ended.cancel();
        sandbox.tasks.close();
        sandbox.tasks.wait().await;
    }

    /// Connections into it that are in use: those of tunnels, and those that showed a token.
    pub fn active(&self, task: &TaskId) -> usize {
        self.find(task).map_or(0, |sandbox| *sandbox.uses.borrow())
    }

    /// When a connection into it was last in use: now, if one is. None: there was none.
    pub fn last_active(&self, task: &TaskId) -> Option<Instant> {
        let sandbox = self.find(task)?;
        if *sandbox.uses.borrow() > 0 {
            return Some(Instant::now());
        }
        *sandbox.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, task: &TaskId) -> Option<Arc<Sandbox>> {
        self.lock().get(task).cloned()
    }

    /// Lets a peer in, if it may.
    pub(crate) fn enter(&self, sandbox: &Arc<Sandbox>, peer: IpAddr) -> Result<Visit, Refused> {
        if sandbox.ended.is_cancelled() {
            return Err(Refused::Ended);
        }
        if !sandbox.lets_in(peer) {
            return Err(Refused::Outside);
        }
        let take = |slots: &Arc<Semaphore>| slots.clone().try_acquire_owned();
        let all = take(&self.0.slots).map_err(|_| Refused::TooMany)?;
        let each = take(&sandbox.slots).map_err(|_| Refused::TooMany)?;
        let is_used = AtomicBool::new(false);
        Ok(Visit { visits: self.clone(), sandbox: sandbox.clone(), is_used, _slots: [each, all] })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, Arc<Sandbox>>> {
        self.0.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sandbox {
    /// Whether its inbound rule lists a peer. On a socket for both families an address of IPv4
    /// arrives as one of IPv6.
    pub(crate) fn lets_in(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.inbound.is_empty() || self.inbound.iter().any(|range| range.contains(&peer))
    }
}

impl Visit {
    /// The peer has shown that it means this sandbox: by a handshake, or by a token.
    pub(crate) fn use_it(&self) {
        if !self.is_used.swap(true, Ordering::Relaxed) {
            self.sandbox.uses.send_modify(|count| *count += 1);
        }
    }

    /// Connects to a port inside.
    pub(crate) async fn dial(&self, port: u16) -> io::Result<TcpStream> {
        let dialled = (self.visits.0.dial)(self.sandbox.task.clone(), port);
        let stream = tokio::select! {
            dialled = tokio::time::timeout(DIAL_MAX, dialled) => dialled??,
            () = self.ended() => return Err(io::Error::other(Refused::Ended)),
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// The sandbox.
    pub(crate) fn task(&self) -> &TaskId {
        &self.sandbox.task
    }

    /// Runs something that is over when the sandbox has ended, at the latest.
    pub(crate) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let visit = self.clone();
        self.sandbox.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = visit.ended() => {}
            }
        });
    }

    /// Waits until the sandbox has ended.
    pub(crate) async fn ended(&self) {
        self.sandbox.ended.cancelled().await;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if *self.is_used.get_mut() {
            let mut last = self.sandbox.last.lock().unwrap_or_else(PoisonError::into_inner);
            *last = Some(Instant::now());
            self.sandbox.uses.send_modify(|count| *count -= 1);
        }
    }
}
