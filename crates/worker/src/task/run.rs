//! From an order to a container, and from its end to a report.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use images::{Lease, StepDirs};
use jail::network::Policy;
use jail::{Child, Ended, Exit, Prepared, Stdio};
use model::link::{End, Report, Stream};
use model::spec::{Network, TaskSpec};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;
use tracing::Instrument;

use super::inside::{Places, plan};
use super::keep::Keeping;
use super::{output, plain_name};
use crate::door::Door;
use crate::limits::{KILL_MAX, LAST_OUTPUT_MAX};
use crate::programs::container::Container;
use crate::{Worker, ids, roots};

/// A container could not be started. The text goes to whoever called.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Root(#[from] roots::Error),
    #[error("the layer for its files: {0}")]
    Layer(#[from] images::LayerError),
    #[error("this machine runs as many containers as it has id ranges for")]
    Ids,
    #[error("its disk space: {0}")]
    Disk(#[from] jail::disk::Error),
    #[error("its socket: {0}")]
    Door(#[from] crate::door::Error),
    #[error("its walls: {0}")]
    Jail(#[from] jail::Error),
    #[error("a socket inside it: {0}")]
    Listen(#[from] jail::ListenError),
    #[error("its network: {0}")]
    Network(#[from] crate::networks::Error),
    #[error("its streams: {0}")]
    Streams(#[from] io::Error),
    #[error("a thread of the worker died")]
    Thread,
}

/// What a living container owns. Fields are dropped in this order, after the container's end.
struct Held {
    door: Door,
    network: Option<crate::networks::Attached>,
    files: Files,
    ids: ids::Taken,
    layers: Lease,
}

/// Where a container's changes of files go.
enum Files {
    /// Away with it.
    Scratch(jail::disk::Scratch),
    /// Into a layer over its image, once it has ended well.
    Kept(Box<Keeping>),
}

impl Files {
    fn dirs(&self) -> StepDirs {
        match self {
            Self::Scratch(scratch) => {
                StepDirs { upper: scratch.upper.clone(), work: scratch.work.clone() }
            }
            Self::Kept(keeping) => keeping.dirs(),
        }
    }
}

/// Runs a task until its end, which it returns. `stop` says how long the container may take to
/// end by itself, once it is to end.
pub(crate) async fn run(
    worker: Arc<Worker>,
    spec: TaskSpec,
    stop: watch::Receiver<Option<Duration>>,
) -> End {
    let span = tracing::info_span!("task", task = %spec.task, app = %spec.app);
    let (task, limit_bytes) = (spec.task.clone(), spec.limits.memory_bytes);
    async move {
        worker.containers.begin(&spec);
        let lived = live(&worker, spec, stop).await;
        worker.containers.ended(&task);
        match lived {
            Ok((_, true)) => End::Stopped,
            Ok((Ended { oom: true, .. }, false)) => End::OutOfMemory { limit_bytes },
            Ok((Ended { exit: Exit::Code(code), .. }, false)) => End::Exit { code },
            Ok((Ended { exit: Exit::Signal(signal), .. }, false)) => End::Signal { signal },
            Err(error) => {
                let reason = chain(&error);
                tracing::warn!(%reason, "a container could not be started");
                End::NotStarted { reason }
            }
        }
    }
    .instrument(span)
    .await
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

/// The container's end, and whether it was told to end.
async fn live(
    worker: &Arc<Worker>,
    spec: TaskSpec,
    mut stop: watch::Receiver<Option<Duration>>,
) -> Result<(Ended, bool), Error> {
    let task = spec.task.clone();
    let (container, mut held, streams) = start(worker, spec).await?;
    worker.report(Report::Started { task: task.clone() }).await;
    let mut following = JoinSet::new();
    for (stream, pipe) in streams {
        following.spawn(output::follow(worker.clone(), task.clone(), stream, pipe));
    }
    let stopped = until_end(&container, &mut stop).await;
    if stopped && tokio::time::timeout(KILL_MAX, container.kill()).await.is_err() {
        tracing::warn!("a container takes long to die");
    }
    let ended = container.finish().await.ok_or(Error::Thread)?;
    let ended = ended.map_err(|error| io::Error::other(chain(&error)))?;
    // Nothing holds the pipes any more, so their ends come at once.
    let rest = async { while following.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_OUTPUT_MAX, rest).await.is_err() {
        tracing::warn!("a container's output did not end with it");
    }
    let is_well = !stopped && !ended.oom && matches!(ended.exit, Exit::Code(0));
    if let Files::Kept(keeping) = &mut held.files
        && is_well
    {
        let result = keeping.commit(worker).await;
        worker.report(Report::Kept { task, result }).await;
    }
    release(worker, held).await;
    Ok((ended, stopped))
}

/// Gives back what the container owned.
async fn release(worker: &Arc<Worker>, held: Held) {
    let Held { door, network, files, ids, layers } = held;
    drop(door);
    let _turn = worker.changes.acquire().await;
    let removed = tokio::task::spawn_blocking(move || {
        drop(network);
        let removed = match files {
            Files::Scratch(scratch) => scratch.remove(),
            Files::Kept(_) => Ok(()),
        };
        drop((ids, layers));
        removed
    });
    match removed.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "a container's disk space stays behind"),
        Err(_) => tracing::error!("a container's disk space may stay behind"),
    }
}

/// Waits until the container's program has ended by itself, or the time it was given to do so is
/// over. Says whether it was told to end.
async fn until_end(
    container: &Arc<Container>,
    stop: &mut watch::Receiver<Option<Duration>>,
) -> bool {
    let watched = match container.watch() {
        Ok(watched) => watched,
        Err(error) => {
            tracing::error!(%error, "a container cannot be watched: it is ended");
            return false;
        }
    };
    let grace = tokio::select! {
        _ = watched.readable() => return false,
        told = stop.wait_for(Option::is_some) => match told {
            Ok(grace) => grace.unwrap_or_default(),
            // Nobody could tell it to end any more.
            Err(_) => Duration::ZERO,
        },
    };
    if grace.is_zero() {
        return true;
    }
    // The client's program ends well on SIGINT: it runs what its classes do at exit.
    let interrupt = |child: &Child| {
        child.signal(libc::SIGINT).map_err(|error| Status::unavailable(error.to_string()))
    };
    if let Err(error) = container.with_child(interrupt).await {
        tracing::debug!(%error, "a container did not take the signal to end");
    }
    let gone_or_late = async {
        tokio::select! {
            _ = watched.readable() => {}
            () = tokio::time::sleep(grace) => {}
            // Told again, to end at once.
            _ = stop.wait_for(|told| told.is_some_and(|grace| grace.is_zero())) => {}
        }
    };
    gone_or_late.await;
    true
}

type Streams = Vec<(Stream, OwnedFd)>;

async fn start(
    worker: &Arc<Worker>,
    spec: TaskSpec,
) -> Result<(Arc<Container>, Held, Streams), Error> {
    let turn = worker.changes.acquire().await.map_err(|_| Error::Thread)?;
    let name = plain_name(&spec.task);
    let ids = worker.ids.take().ok_or(Error::Ids)?;
    let range = ids.range();
    let (spec, image, (layers, lease), files) = {
        let (worker, name) = (worker.clone(), name.clone());
        let work = move || {
            let image = roots::image(&spec.image)?;
            let layers = worker.root(&spec, &image)?;
            let files = match spec.keeps_files {
                true => Files::Kept(Box::new(Keeping::begin(&worker, &image)?)),
                false => Files::Scratch(worker.disk.make(&name, spec.limits.disk_bytes)?),
            };
            Ok::<_, Error>((spec, image, layers, files))
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| Error::Thread)??
    };
    let door = worker.doors.make(&spec.task, &name, range.first).await?;
    let mut held = Held { door, network: None, files, ids, layers: lease };
    let (stdio, streams) = streams()?;
    let resolver = match spec.network {
        Network::Blocked => None,
        Network::Open => worker.networks.gateway(),
    };
    let places = Places {
        name,
        cgroup_parent: worker.cgroup_parent(),
        ids: range,
        layers,
        dirs: held.files.dirs(),
        door: held.door.folder(),
        resolver,
        takes_execs: worker.containers.takes_execs(&spec),
    };
    let (plan, process) = plan(&spec, &image, places);
    if let Files::Kept(keeping) = &mut held.files {
        keeping.note_mount_points(&plan);
    }
    let prepared = tokio::task::spawn_blocking(move || jail::prepare(&plan, stdio))
        .await
        .map_err(|_| Error::Thread)??;
    let child = open_up(worker, &spec, prepared, &mut held).await?;
    drop(turn);
    Ok((worker.containers.started(&spec.task, process, child), held, streams))
}

/// Gives a prepared container the network that it may have, then lets its program run.
async fn open_up(
    worker: &Arc<Worker>,
    spec: &TaskSpec,
    prepared: Prepared,
    held: &mut Held,
) -> Result<Child, Error> {
    let blobs = SocketAddr::from((Ipv4Addr::LOCALHOST, worker.config.blob_port));
    let listener = jail::listen_inside(prepared.network_namespace(), blobs)?;
    held.door.serve_tcp(listener)?;
    let namespace = prepared.network_namespace().as_fd().try_clone_to_owned()?;
    if spec.network == Network::Open {
        let networks = worker.networks.clone();
        let attach = move || networks.attach(namespace, &Policy::default());
        let attached = tokio::task::spawn_blocking(attach).await.map_err(|_| Error::Thread)??;
        held.network = Some(attached);
    }
    let started = tokio::task::spawn_blocking(move || prepared.start());
    Ok(started.await.map_err(|_| Error::Thread)??)
}

/// The container's streams: nothing to read, two pipes to write.
fn streams() -> Result<(Stdio, Streams), Error> {
    let (stdout, our_stdout) = output::pipe()?;
    let (stderr, our_stderr) = output::pipe()?;
    let stdin = std::fs::File::open("/dev/null")?.into();
    let ours = vec![(Stream::Stdout, our_stdout), (Stream::Stderr, our_stderr)];
    Ok((Stdio { stdin, stdout, stderr }, ours))
}
