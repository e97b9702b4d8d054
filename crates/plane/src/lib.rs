//! The control plane. It decides and remembers; workers do. It touches neither a kernel nor a
//! container's files (A4).

pub mod api;
pub mod awaited;
pub mod backlog;
pub mod blobs;
pub mod builder;
pub mod claims;
pub mod endings;
pub mod expiry;
pub mod fleet;
mod function_build;
pub mod functions;
pub mod handouts;
pub mod identity;
pub mod limits;
pub mod parked;
pub mod printed;
pub mod pythons;
pub mod queue;
pub mod reconcile;
pub mod reports;
mod room;
pub mod sandboxes;
pub mod scheduler;
mod seats;
pub mod snapshots;
pub mod streamed;
pub mod submission;
mod unwritten;
pub mod work;
pub mod world;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use model::Time;
use model::resources::Defaults;
use model::router_token::Key;
use store::Store;
use tokio::sync::watch;

pub use api::service::{Api, Transport};
pub use pythons::{Pythons, Release};
pub use world::{Machine, World};

/// What the operator decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients find the gateway, without a slash at the end: `http://127.0.0.1:50051`.
    pub gateway_url: String,
    /// The port at which a container finds its own blobs, on its own loopback address.
    pub blob_port_inside: u16,
    /// A payload that travels as a blob.
    pub payload_bytes_max: u64,
    /// What containers get where their function says nothing.
    pub defaults: Defaults,
    /// What `add_python` may lay into images.
    pub pythons: Pythons,
    /// Where clients find the command router, without a slash at the end.
    pub router_url: String,
    /// What signs tokens for it.
    pub router_key: Key,
}

/// The control plane: the one value that handlers and loops share.
#[derive(Debug)]
pub struct Plane {
    /// What is remembered.
    pub store: Store,
    /// Bytes of files and payloads.
    pub blobs: ::blobs::Local,
    /// What the operator decided.
    pub config: Config,
    /// The workers.
    pub fleet: fleet::Fleet,
    /// Functions at hand.
    pub functions: functions::Functions,
    /// How many inputs wait.
    pub backlog: backlog::Backlog,
    /// Items of queues that are on their way.
    pub claims: claims::Claims,
    /// Inputs that are to be given up by the containers that hold them.
    pub cancels: endings::Cancels,
    /// Containers that wait for inputs.
    pub parked: parked::Parked,
    /// Callers that wait for outputs.
    pub awaited: awaited::Awaited,
    /// Inputs that did not reach their containers.
    pub handouts: handouts::Handouts,
    /// Containers that are to be gone.
    pub ends: endings::Ends,
    /// What apps have printed lately.
    pub printed: printed::Printed,
    /// What containers have streamed beside their calls.
    pub streamed: streamed::Streamed,
    /// At the last look, inputs waited for a container.
    pub(crate) starved: AtomicBool,
    /// Starts that failed in a row.
    pub failures: scheduler::Failures,
    /// The way to living sandboxes.
    reach: OnceLock<Arc<dyn sandboxes::Reach>>,
    /// Owners of tokens at hand.
    tokens: identity::Tokens,
    /// The time, and chance.
    world: Arc<dyn World>,
    /// Becomes true when the server ends.
    closing: watch::Sender<bool>,
}

impl Plane {
    /// A plane over what is stored.
    pub fn new(store: Store, blobs: ::blobs::Local, config: Config) -> Arc<Self> {
        Self::in_world(store, blobs, config, Arc::new(Machine))
    }

    /// A plane that takes time and chance from elsewhere.
    pub fn in_world(
        store: Store,
        blobs: ::blobs::Local,
        config: Config,
        world: Arc<dyn World>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            blobs,
            config,
            fleet: fleet::Fleet::default(),
            functions: functions::Functions::default(),
            backlog: backlog::Backlog::default(),
            claims: claims::Claims::new(rand::random()),
            cancels: endings::Cancels::default(),
            parked: parked::Parked::default(),
            awaited: awaited::Awaited::default(),
            handouts: handouts::Handouts::default(),
            ends: endings::Ends::default(),
            printed: printed::Printed::default(),
            streamed: streamed::Streamed::default(),
            starved: AtomicBool::new(true),
            failures: scheduler::Failures::default(),
            reach: OnceLock::new(),
            tokens: identity::Tokens::default(),
            world,
            closing: watch::channel(false).0,
        })
    }

    /// The present moment.
    pub fn now(&self) -> Time {
        self.world.now()
    }

    /// 128 random bits, for a new id.
    pub fn bits(&self) -> [u8; 16] {
        self.world.bits()
    }

    /// Takes no work from now on: long polls end, nothing is started.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Whether the server ends.
    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Returns once the server ends.
    pub async fn closed(&self) {
        let mut closing = self.closing.subscribe();
        // The sender lives as long as the plane.
        let _ = closing.wait_for(|closing| *closing).await;
    }
}
