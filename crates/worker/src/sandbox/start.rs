//! From an order to a running sandbox.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use blobs::Digest;
use images::Image;
use model::sandbox::{NetworkRule, SandboxStart};

use super::folder::{Folder, Record};
use super::inside::{Places, assignment, policy};
use super::link::{self, Link};
use super::{Held, Sandbox, spares};
use crate::networks::Attached;
use crate::supervisor::words::{Built, END, PREPARE, START, State};
use crate::{Worker, ids, roots};

/// A sandbox could not be started. The text goes to whoever asked for it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Root(#[from] roots::Error),
    #[error("this machine runs as many containers as it has id ranges for")]
    Ids,
    #[error("its disk space: {0}")]
    Disk(#[from] jail::disk::Error),
    #[error("its network: {0}")]
    Network(#[from] crate::networks::Error),
    #[error("its folder: {0}")]
    Folder(#[source] io::Error),
    #[error("its supervisor: {0}")]
    Spawn(#[source] io::Error),
    #[error(transparent)]
    Link(#[from] link::Error),
    #[error("a thread of the worker died")]
    Thread,
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Thread)?
}

/// What its root stands on.
struct Laid {
    image: Image,
    layers: Vec<Digest>,
    paths: Vec<PathBuf>,
    ids: ids::Taken,
    lease: images::Lease,
}

/// Starts a sandbox. What was made before a step failed is gone again.
pub(super) async fn start(
    worker: &Arc<Worker>,
    start: SandboxStart,
) -> Result<Arc<Sandbox>, Error> {
    let turn = worker.changes.acquire().await.map_err(|_| Error::Thread)?;
    let folder = worker.sandboxes.folder(&start.task);
    let laid = lay_out(worker, &start).await?;
    let spare = spares::take(worker).map_err(Error::Spawn)?;
    let supervisor = spare.name().to_owned();
    let link = spare.assign(worker, &folder).map_err(Error::Folder)?;
    let mut held = None;
    let begun = begin(worker, &folder, &link, start, laid, &supervisor, &mut held).await;
    drop(turn);
    match begun {
        Ok((record, network)) => Ok(Arc::new(Sandbox {
            folder,
            link,
            record: Mutex::new(record),
            network: Mutex::new(network),
            held: Mutex::new(held),
            files: super::Files::default(),
        })),
        Err(error) => {
            // The supervisor does away with the container before it answers, if it does.
            let _: Result<State, _> = link.ask(END, &model::link::End::Stopped).await;
            let ending = worker.clone();
            let removed = tokio::task::spawn_blocking(move || {
                spares::end_groups(&ending, &[folder.name(), &supervisor]);
                drop(held);
                folder.remove()
            });
            if let Ok(Err(error)) = removed.await {
                tracing::error!(%error, "the folder of a sandbox stays behind");
            }
            Err(error)
        }
    }
}

async fn lay_out(worker: &Arc<Worker>, start: &SandboxStart) -> Result<Laid, Error> {
    let (worker, start) = (worker.clone(), start.clone());
    blocking(move || {
        let ids = worker.ids.take().ok_or(Error::Ids)?;
        let image = roots::image(&start.image)?;
        let (layers, lease) = worker.sandbox_root(&start.files, &image)?;
        let paths = worker.layers.diffs(&layers).map_err(roots::Error::from)?;
        Ok(Laid { image, layers, paths, ids, lease })
    })
    .await
}

/// Makes its container and runs it. `held` is what has to be given back once nothing of it lives,
/// also after an error.
async fn begin(
    worker: &Arc<Worker>,
    folder: &Folder,
    link: &Link,
    start: SandboxStart,
    laid: Laid,
    supervisor: &str,
    held: &mut Option<Held>,
) -> Result<(Record, Option<Attached>), Error> {
    let scratch = {
        let (worker, name) = (worker.clone(), folder.name().to_owned());
        let bytes = start.limits.disk_bytes;
        blocking(move || Ok(worker.disk.make(&name, bytes)?)).await?
    };
    let Laid { image, layers, paths, ids, lease } = laid;
    let mounted = HashMap::new();
    let held = held.insert(Held { scratch, ids, layers: lease, mounted });
    let places = Places {
        folder,
        cgroup_parent: worker.sandbox_cgroup_parent(),
        ids: held.ids.range(),
        layers: paths,
        upper: held.scratch.upper.clone(),
        work: held.scratch.work.clone(),
        tools: worker.tools.folder(),
        resolver: worker.networks.gateway(),
    };
    let assignment = assignment(&start, &image, places);
    let mut record = Record {
        start: SandboxStart { env: vec![], files: vec![], ..start },
        supervisor: Some(supervisor.to_owned()),
        first_id: held.ids.range().first,
        layers: layers.iter().map(ToString::to_string).collect(),
        pid: 0,
        network: None,
        mounted: vec![],
        kept: BTreeMap::new(),
    };
    let Built { pid } = link.ask(PREPARE, &assignment).await?;
    let rule = record.start.network.clone();
    let network = {
        let worker = worker.clone();
        blocking(move || attach(&worker, pid, &rule)).await?
    };
    (record.pid, record.network) = match &network {
        Some(network) => (pid, Some(network.kept()?)),
        None => (pid, None),
    };
    folder.write_record(&record).map_err(Error::Folder)?;
    let () = link.ask(START, &()).await?;
    Ok((record, network))
}

/// Gives a container the place in the network that a rule allows; none where it allows nothing.
/// Blocks.
fn attach(worker: &Worker, pid: i32, rule: &NetworkRule) -> Result<Option<Attached>, Error> {
    let Some(policy) = policy(rule) else { return Ok(None) };
    let namespace = File::open(format!("/proc/{pid}/ns/net")).map_err(Error::Spawn)?;
    Ok(Some(worker.networks.attach(OwnedFd::from(namespace), &policy)?))
}

impl Sandbox {
    /// Replaces what it may reach. Open connections that are not allowed any more are cut. Blocks.
    pub(crate) fn set_network(
        &self,
        worker: &Worker,
        rule: NetworkRule,
    ) -> Result<(), super::NetworkError> {
        let mut network = super::lock(&self.network);
        // What it owned is taken under the same lock: nothing may be given to one that is gone,
        // whose process may be somebody else's by now, and its record stays removed.
        if super::lock(&self.held).is_none() {
            return Err(super::NetworkError("the sandbox or the server ends".into()));
        }
        let policy = policy(&rule);
        match (network.as_mut(), policy) {
            (None, None) => {}
            (None, Some(_)) => {
                let pid = self.pid();
                *network = attach(worker, pid, &rule)
                    .map_err(|error| super::NetworkError(crate::task::chain(&error)))?;
            }
            (Some(attached), policy) => {
                let policy = policy.unwrap_or_else(jail::network::Policy::blocked);
                attached.set_policy(&policy)?;
            }
        }
        let kept = network.as_ref().map(Attached::kept).transpose()?;
        let mut record = super::lock(&self.record);
        (record.start.network, record.network) = (rule, kept);
        Ok(self.folder.write_record(&record)?)
    }
}
