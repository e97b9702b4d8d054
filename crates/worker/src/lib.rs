//! The node agent: takes orders, runs containers in jails, reports what it saw. It never reaches
//! the store (A3): what it may know arrives in an order.

pub mod agent;
pub mod door;
pub mod net;
pub mod networks;
pub mod router;

mod build;
mod ids;
mod limits;
mod mount_points;
mod programs;
mod roots;
mod sandbox;
mod steps;
pub mod supervisor;
mod task;
mod tree_copy;
mod users;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use jail::disk::{Disk, DiskConfig};
use model::link::{LogLine, Report, Stream};
use model::resources::Capacity;
use model::{TaskId, WorkerId};
use std::sync::atomic::AtomicU64;
use tokio::sync::{Semaphore, mpsc};

pub use door::Doors;
pub use networks::Networks;
pub use sandbox::Unreached;
pub use sandbox::adopt::{layers_to_keep, networks_to_keep};

/// The control group below which every container has its own.
pub const CGROUP_PARENT: &str = "palisade";

/// What the operator decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this worker is.
    pub id: WorkerId,
    /// A folder of its own.
    pub dir: PathBuf,
    /// Where trees lie that the operator imported, each as `<name>/tree`.
    pub pythons: PathBuf,
    /// What it has for containers.
    pub capacity: Capacity,
    /// The port at which a container finds its own blobs, on its own loopback address.
    pub blob_port: u16,
    /// Where base images are looked for.
    pub sources: images::Sources,
    /// What signs the tokens of the command router.
    pub router_key: model::router_token::Key,
}

/// An image as the `images` crate has it.
///
/// # Errors
/// What cannot be read of its description.
pub fn image_of(content: &model::spec::ImageContent) -> Result<images::Image, String> {
    roots::image(content).map_err(|error| error.to_string())
}

/// Why a worker cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder of its own cannot be made.
    #[error("cannot make {path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What an earlier run left behind cannot be removed.
    #[error("cannot end the containers that an earlier run left behind: {0}")]
    Sweep(#[source] jail::CgroupError),
    /// The disk limit cannot be enforced.
    #[error("cannot prepare the disk space of containers: {0}")]
    Disk(#[source] jail::disk::Error),
    /// The layers cannot be read.
    #[error("cannot open the image layers: {0}")]
    Layers(#[source] images::LayerError),
    /// The folder of doors cannot be made.
    #[error("cannot make the folder of the containers' sockets: {0}")]
    Doors(#[source] door::Error),
    /// The file tool of sandboxes cannot be laid out.
    #[error("cannot lay out the file tool of sandboxes: {0}")]
    Tools(#[source] std::io::Error),
}

/// A worker: what all its tasks share.
#[derive(Debug)]
pub struct Worker {
    pub(crate) config: Config,
    pub(crate) layers: Arc<images::LayerStore>,
    pub(crate) builder: images::Builder,
    pub(crate) files: blobs::Local,
    pub(crate) disk: Disk,
    pub(crate) ids: ids::Pool,
    pub(crate) doors: Doors,
    pub(crate) tools: sandbox::tools::Tools,
    pub(crate) sandboxes: sandbox::Sandboxes,
    pub(crate) spares: sandbox::spares::Spares,
    pub(crate) containers: Arc<task::Containers>,
    pub(crate) networks: Arc<Networks>,
    pub(crate) host: images::package_settings::Host,
    pub(crate) reports: mpsc::Sender<Report>,
    /// Turns to build or remove a container.
    pub(crate) changes: Semaphore,
    /// Turns to build an image.
    pub(crate) builds: Semaphore,
    pub(crate) steps_begun: AtomicU64,
}

impl Worker {
    /// Removes what an earlier run left behind, then makes what containers need. Blocks.
    pub fn open(
        config: Config,
        files: blobs::Local,
        routes: door::Routes,
        networks: Arc<Networks>,
        reports: mpsc::Sender<Report>,
    ) -> Result<Arc<Self>, Error> {
        let folder = |name: &str| {
            let path = config.dir.join(name);
            match std::fs::create_dir_all(&path) {
                Ok(()) => Ok(path),
                Err(source) => Err(Error::Folder { path, source }),
            }
        };
        let all = folder(sandbox::FOLDER)?;
        let left = sandbox::folder::left(&all);
        let left = left.map_err(|source| Error::Folder { path: all.clone(), source })?;
        let living = left.names();
        // Supervisors first: those that waited for a sandbox would be missing a process.
        jail::sweep(&supervisor_cgroup_parent(&config), &left.supervisors())
            .map_err(Error::Sweep)?;
        jail::sweep(&sandbox_cgroup_parent(&config), &living).map_err(Error::Sweep)?;
        jail::sweep(&cgroup_parent(&config), &[]).map_err(Error::Sweep)?;
        let spares = folder(sandbox::spares::FOLDER)?;
        let spares = sandbox::spares::Spares::open(spares.clone())
            .map_err(|source| Error::Folder { path: spares, source })?;
        let disk = DiskConfig { dir: folder("disk")?, capacity_bytes: None, only: None };
        let disk = Disk::open_keeping(&disk, &living).map_err(Error::Disk)?;
        let tools = sandbox::tools::Tools::open(folder("tools")?).map_err(Error::Tools)?;
        let layers = images::LayerStore::open(folder("images")?).map_err(Error::Layers)?;
        let layers = Arc::new(layers);
        let doors = Doors::open(folder("doors")?, routes).map_err(Error::Doors)?;
        let execs = folder("execs")?;
        let containers = task::Containers::open(execs.clone())
            .map_err(|source| Error::Folder { path: execs, source })?;
        jail::host::raise_open_files();
        let builder = images::Builder::with_sources(layers.clone(), config.sources.clone());
        Ok(Arc::new(Self {
            config,
            layers,
            builder,
            files,
            disk,
            ids: ids::Pool::default(),
            doors,
            tools,
            sandboxes: sandbox::Sandboxes::new(all, left),
            spares,
            containers,
            networks,
            host: images::package_settings::Host::this(),
            reports,
            changes: Semaphore::new(limits::CHANGES_MAX),
            builds: Semaphore::new(limits::BUILDS_MAX),
            steps_begun: AtomicU64::new(0),
        }))
    }

    /// How the disk limit is enforced.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// What builds images here.
    pub fn builder(&self) -> &images::Builder {
        &self.builder
    }

    /// The image layers.
    pub fn layers(&self) -> &images::LayerStore {
        &self.layers
    }

    /// A folder with nothing in it, for an overlay that wants one below.
    pub(crate) fn empty_layer(&self) -> std::io::Result<PathBuf> {
        let path = self.config.dir.join("empty");
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// The control group below which this worker's containers have theirs.
    pub(crate) fn cgroup_parent(&self) -> String {
        cgroup_parent(&self.config)
    }

    /// Tells the plane; returns when it is taken. Nobody listens any more once the plane is gone.
    pub(crate) async fn report(&self, report: Report) {
        let _ = self.reports.send(report).await;
    }

    /// Puts a line of the worker's own among a task's output. Blocks.
    pub(crate) fn tell(&self, task: &TaskId, line: &[u8]) {
        let data = Bytes::copy_from_slice(line);
        let line = LogLine { task: task.clone(), stream: Stream::Info, at: task::now(), data };
        let _ = self.reports.blocking_send(Report::Log(line));
    }

    /// Gives back what the worker owned in the kernel, once its tasks have ended. Blocks.
    pub fn close(&self) {
        if let Err(error) = self.doors.close() {
            tracing::error!(%error, "the folder of the containers' sockets could not be removed");
        }
        // Those that did not end in time stand on what is given back next.
        if let Err(error) = jail::sweep(&self.cgroup_parent(), &[]) {
            tracing::error!(%error, "a container's control group could not be removed");
        }
        if let Err(error) = self.disk.close() {
            tracing::error!(%error, "the disk space of containers could not be given back");
        }
        if let Err(error) = self.tools.close() {
            tracing::error!(%error, "the file tool of sandboxes could not be taken away");
        }
        // Nobody reads any more from supervisors of sandboxes that have ended, and those that wait
        // for one are not needed; neither is what would have built their containers.
        self.spares.close();
        let (supervisors, sandboxes) =
            (self.supervisor_cgroup_parent(), self.sandbox_cgroup_parent());
        let living = self.sandboxes.living();
        for (parent, keep) in [(&supervisors, living.supervisors()), (&sandboxes, living.names())] {
            if let Err(error) = jail::sweep(parent, &keep) {
                tracing::error!(%error, "a supervisor's control group could not be removed");
            }
        }
        if let Err(error) = self.spares.remove() {
            tracing::error!(%error, "the folder of supervisors that waited stays behind");
        }
        for group in [sandboxes, supervisors, self.cgroup_parent()] {
            if let Err(error) = jail::remove_parents(&group) {
                tracing::error!(%error, "the worker's control groups could not be removed");
            }
        }
    }

    /// The control group below which sandboxes have theirs: another than that of functions, which
    /// end with the server.
    pub(crate) fn sandbox_cgroup_parent(&self) -> String {
        sandbox_cgroup_parent(&self.config)
    }

    /// The control group below which supervisors have theirs.
    pub(crate) fn supervisor_cgroup_parent(&self) -> String {
        supervisor_cgroup_parent(&self.config)
    }
}

fn supervisor_cgroup_parent(config: &Config) -> String {
    format!("{}-v", cgroup_parent(config))
}

fn sandbox_cgroup_parent(config: &Config) -> String {
    format!("{}-s", cgroup_parent(config))
}

/// One group for each data folder, so that two servers do not end each other's containers.
fn cgroup_parent(config: &Config) -> String {
    use sha2::{Digest, Sha256};
    let dir = std::fs::canonicalize(&config.dir).unwrap_or_else(|_| config.dir.clone());
    let hash = Sha256::digest(dir.as_os_str().as_encoded_bytes());
    format!("{CGROUP_PARENT}/{}", hex::encode(&hash[..6]))
}
