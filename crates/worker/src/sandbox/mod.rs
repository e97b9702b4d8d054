//! Sandboxes on this worker: they live beside it, each with a supervisor, and outlive it.

pub(crate) mod adopt;
pub(crate) mod folder;
mod input;
mod inside;
mod life;
pub(crate) mod link;
mod mounts;
mod output;
mod snapshots;
pub(crate) mod spares;
mod start;
pub(crate) mod tools;
mod visits;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::TaskId;
use model::link::End;
use tokio::sync::watch;

use crate::ids;
use crate::networks::Attached;
use folder::{Folder, Record};
use link::Link;

pub use input::Unreached;
pub(crate) use inside::policy;
pub(crate) use life::run;
pub(crate) use snapshots::{Error as FilesError, Place};

/// The folder of all sandboxes, in the worker's.
pub(crate) const FOLDER: &str = "sandboxes";

/// What is known of a task that a client asks for.
pub(crate) enum Found {
    /// It runs.
    Running(Arc<Sandbox>),
    /// It is being started, or an earlier worker left it and it was not gone on with yet.
    Starting,
    /// It has ended; its output may still be there.
    Ended(Folder),
}

/// What is said of a sandbox that is being started. Clients try again.
pub(crate) const STARTING: &str =
    "the container is being started, or found again after the server's restart";

/// What is said of one that has ended.
pub(crate) const ENDED: &str = "the sandbox has ended: nothing more can be done in it";

/// A sandbox that runs.
#[derive(Debug)]
pub(crate) struct Sandbox {
    folder: Folder,
    /// The way to its supervisor.
    pub(crate) link: Arc<Link>,
    /// What is written down of it; changed with its network.
    record: Mutex<Record>,
    network: Mutex<Option<Attached>>,
    held: Mutex<Option<Held>>,
    files: Files,
}

/// The turn of who copies or mounts its files.
#[derive(Debug, Default)]
struct Files {
    turn: tokio::sync::Mutex<()>,
    /// They will be gone: whoever has the turn gives up.
    is_over: AtomicBool,
}

impl Files {
    /// Waits for the turn; none once they will be gone.
    async fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let turn = self.turn.lock().await;
        (!self.is_over()).then_some(turn)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Has whoever has the turn give up, and waits for that.
    async fn stop(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.is_over.store(true, Ordering::Release);
        self.turn.lock().await
    }
}

/// What a sandbox owns beside its network, given back in this order after its end.
#[derive(Debug)]
struct Held {
    scratch: jail::disk::Scratch,
    ids: ids::Taken,
    layers: images::Lease,
    /// Those of images that were laid into it, by the folders of their changes.
    mounted: HashMap<String, images::Lease>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sandbox {
    /// Takes what it owns; from then on nothing is given to it.
    fn take_owned(&self) -> (Option<Attached>, Option<Held>) {
        let mut network = lock(&self.network);
        let held = lock(&self.held).take();
        (network.take(), held)
    }

    /// Its first process.
    pub(crate) fn pid(&self) -> i32 {
        lock(&self.record).pid
    }
}

/// One that somebody may tell to end.
#[derive(Debug)]
struct Entry {
    tell: watch::Sender<Option<End>>,
    running: Option<Arc<Sandbox>>,
}

/// All sandboxes of a worker.
#[derive(Debug)]
pub(crate) struct Sandboxes {
    all: PathBuf,
    entries: Mutex<HashMap<TaskId, Entry>>,
    closing: watch::Sender<bool>,
    /// Held by who removes what is forgotten.
    forgetting: Mutex<()>,
    /// Somebody will do that in a moment.
    will_forget: AtomicBool,
    /// What an earlier worker left, until it is gone on with.
    left: Mutex<Option<folder::Left>>,
}

impl Sandboxes {
    /// Those of a folder; `left` is what was found there.
    pub(crate) fn new(all: PathBuf, left: folder::Left) -> Self {
        Self {
            all,
            entries: Mutex::default(),
            closing: watch::Sender::new(false),
            forgetting: Mutex::default(),
            will_forget: AtomicBool::new(false),
            left: Mutex::new(Some(left)),
        }
    }

    /// The folder of a task.
    pub(crate) fn folder(&self, task: &TaskId) -> Folder {
        Folder::of(&self.all, task)
    }

    /// Those that live. Blocks.
    pub(crate) fn living(&self) -> folder::Left {
        folder::left(&self.all).unwrap_or_else(|error| {
            tracing::error!(%error, "the folders of sandboxes cannot be read");
            folder::Left::default()
        })
    }

    /// What an earlier worker left; only once.
    pub(crate) fn take_left(&self) -> folder::Left {
        lock(&self.left).take().unwrap_or_default()
    }

    /// Takes note of a task that is to be started; none if there is one of its name.
    pub(crate) fn begin(&self, task: &TaskId) -> Option<watch::Receiver<Option<End>>> {
        let mut entries = lock(&self.entries);
        if entries.contains_key(task) {
            return None;
        }
        let (tell, told) = watch::channel(None);
        entries.insert(task.clone(), Entry { tell, running: None });
        Some(told)
    }

    fn set_running(&self, task: &TaskId, sandbox: &Arc<Sandbox>) {
        if let Some(entry) = lock(&self.entries).get_mut(task) {
            entry.running = Some(sandbox.clone());
        }
    }

    fn remove(&self, task: &TaskId) {
        lock(&self.entries).remove(task);
    }

    /// Tells a sandbox to end; says whether there is one.
    pub(crate) fn tell(&self, task: &TaskId, end: End) -> bool {
        let entries = lock(&self.entries);
        let Some(entry) = entries.get(task) else { return false };
        entry.tell.send_replace(Some(end));
        true
    }

    /// What is known of a task; none: nothing.
    pub(crate) fn find(&self, task: &TaskId) -> Option<Found> {
        if let Some(entry) = lock(&self.entries).get(task) {
            let running = entry.running.clone();
            return Some(running.map_or(Found::Starting, Found::Running));
        }
        let folder = self.folder(task);
        match folder.path().is_dir() {
            true if folder.may_live() => Some(Found::Starting),
            true => Some(Found::Ended(folder)),
            false => None,
        }
    }

    /// Lets go of all: they go on without this worker.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Forgets the output of sandboxes that ended long ago. Blocks, also while another thread does
    /// it: two would remove the same.
    pub(crate) fn forget(&self) {
        let _turn = lock(&self.forgetting);
        if let Err(error) = folder::forget(&self.all) {
            tracing::error!(%error, "the output of sandboxes that ended long ago stays behind");
        }
    }
}

/// Why a sandbox's network was not changed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NetworkError(String);

impl From<crate::networks::Error> for NetworkError {
    fn from(error: crate::networks::Error) -> Self {
        Self(crate::task::chain(&error))
    }
}

impl From<std::io::Error> for NetworkError {
    fn from(error: std::io::Error) -> Self {
        Self(format!("its record cannot be written: {error}"))
    }
}
