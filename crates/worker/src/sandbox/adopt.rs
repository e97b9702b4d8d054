//! Sandboxes that an earlier worker left: those that live are gone on with, the others cleared
//! away.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use jail::network::Kept;
use model::TaskId;
use model::link::End;
use tokio::task::JoinSet;

use super::folder::{self, Folder, Record};
use super::link::Link;
use super::{FOLDER, Held, Sandbox, life};
use crate::Worker;
use crate::supervisor::words::{END, STATE, State};
use crate::task::chain;

/// The places in the network of the sandboxes that live, for [`crate::NetworksConfig::keep`]; `dir`
/// is the worker's folder.
///
/// # Errors
/// When the folder cannot be read.
pub fn networks_to_keep(dir: &Path) -> std::io::Result<Vec<Kept>> {
    let all = dir.join(FOLDER);
    if !all.is_dir() {
        return Ok(vec![]);
    }
    let left = folder::left(&all)?;
    Ok(left.living.into_iter().filter_map(|(_, record)| record.network).collect())
}

/// The layers that must stay, because a sandbox stands on them that lives on without a server;
/// `dir` is the worker's folder.
///
/// # Errors
/// When the folder cannot be read.
pub fn layers_to_keep(dir: &Path) -> std::io::Result<Vec<String>> {
    let all = dir.join(FOLDER);
    if all.is_dir() { folder::layers(&all) } else { Ok(vec![]) }
}

/// Why a sandbox that lives cannot be gone on with.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("its range of ids {0} is in use")]
    Ids(u32),
    #[error("its layers: {0}")]
    Digest(String),
    #[error("its layers: {0}")]
    Layers(#[from] images::LayerError),
    #[error("its disk space: {0}")]
    Disk(#[from] jail::disk::Error),
    #[error("its network: {0}")]
    Network(#[from] crate::networks::Error),
}

/// Goes on with what was left; answers what lives, or has ended and its end is still to be
/// reported, and does in `work` what takes longer.
pub(crate) async fn adopt_all(worker: &Arc<Worker>, work: &mut JoinSet<()>) -> Vec<TaskId> {
    let left = worker.sandboxes.take_left();
    let mut known = vec![];
    for (folder, record) in left.living {
        let task = record.start.task.clone();
        let link = Arc::new(Link::new(folder.clone()));
        let state = link.ask::<State>(STATE, &()).await;
        let sandbox = {
            let (worker, folder, record) = (worker.clone(), folder.clone(), record.clone());
            let adopt = move || adopt(&worker, folder, link, record);
            tokio::task::spawn_blocking(adopt).await
        };
        let Some(told) = worker.sandboxes.begin(&task) else { continue };
        if folder.ending().is_some() || matches!(state, Ok(State::Running { .. })) {
            known.push(task.clone());
        }
        match (state, sandbox) {
            (Ok(State::Running { .. } | State::Ended(_)), Ok(Ok(sandbox))) => {
                worker.sandboxes.set_running(&task, &sandbox);
                work.spawn(life::go_on(worker.clone(), sandbox, told));
            }
            (state, sandbox) => {
                let sandbox = sandbox.ok().map(|sandbox| sandbox.map_err(|error| chain(&error)));
                if let Some(Err(error)) = &sandbox {
                    tracing::error!(%task, error, "a sandbox cannot be gone on with: it is ended");
                } else if let Err(error) = state {
                    tracing::error!(%task, %error, "a sandbox's supervisor is ended");
                }
                let sandbox = sandbox.and_then(Result::ok);
                give_up(worker, work, folder, record, sandbox);
            }
        }
    }
    for (folder, record) in left.dead {
        if worker.sandboxes.begin(&record.start.task).is_some() {
            known.extend(folder.ending().map(|_| record.start.task.clone()));
            give_up(worker, work, folder, record, None);
        }
    }
    let forgetting = worker.clone();
    let _ = tokio::task::spawn_blocking(move || forgetting.sandboxes.forget()).await;
    known
}

/// Takes over what a sandbox owns. Blocks.
fn adopt(
    worker: &Worker,
    folder: Folder,
    link: Arc<Link>,
    record: Record,
) -> Result<Arc<Sandbox>, Error> {
    let ids = worker.ids.take_first(record.first_id).ok_or(Error::Ids(record.first_id))?;
    let lease = |layers: &[String]| {
        let digests: Result<Vec<_>, _> = layers.iter().map(|layer| layer.parse()).collect();
        let digests = digests.map_err(|_| Error::Digest("their names cannot be read".into()))?;
        Ok::<_, Error>(worker.layers.lease(&digests)?)
    };
    let layers = lease(&record.layers)?;
    let mut mounted = HashMap::new();
    for image in &record.mounted {
        mounted.insert(image.folder.clone(), lease(&image.layers)?);
    }
    let scratch = worker.disk.adopt(folder.name())?;
    let network = record.network.as_ref().map(|kept| worker.networks.adopt(kept)).transpose()?;
    Ok(Arc::new(Sandbox {
        folder,
        link,
        record: Mutex::new(record),
        network: Mutex::new(network),
        held: Mutex::new(Some(Held { scratch, ids, layers, mounted })),
        files: super::Files::default(),
    }))
}

/// Ends in `work` what is left of a sandbox, and clears it away. Until that is done nobody else
/// gets its ids.
fn give_up(
    worker: &Arc<Worker>,
    work: &mut JoinSet<()>,
    folder: Folder,
    record: Record,
    sandbox: Option<Arc<Sandbox>>,
) {
    let ids = worker.ids.take_first(record.first_id);
    let worker = worker.clone();
    work.spawn(async move {
        let link = Arc::new(Link::new(folder.clone()));
        if let Err(error) = link.ask::<State>(END, &End::Lost).await {
            tracing::debug!(%error, "a supervisor is gone");
        }
        let ending = life::lost(&worker, &folder).await;
        let task = record.start.task.clone();
        let nothing_held = || {
            Arc::new(Sandbox {
                folder,
                link,
                record: Mutex::new(record),
                network: Mutex::new(None),
                held: Mutex::new(None),
                files: super::Files::default(),
            })
        };
        let sandbox = sandbox.unwrap_or_else(nothing_held);
        life::finish(&worker, &sandbox, &task, ending.end).await;
        drop(ids);
    });
}
