//! Supervisors made ahead: with one that waits, a sandbox starts in half the time.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::join_all;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::folder::Folder;
use super::link::Link;
use super::lock;
use crate::Worker;
use crate::limits::{FILL_PAUSE, SPARES_MAX, SPARES_MIN};
use crate::supervisor::MARK;
use crate::supervisor::words::STAND_BY;
use crate::task::now;

/// The folder of those that wait, in the worker's.
pub(crate) const FOLDER: &str = "spares";

/// One that waits, or will in a moment. It ends by itself when nobody is connected to it.
#[derive(Debug)]
pub(super) struct Spare {
    folder: Folder,
    link: Link,
}

impl Spare {
    /// Its name, which is also that of its control group.
    pub(super) fn name(&self) -> &str {
        self.folder.name()
    }

    /// Makes it the supervisor of a sandbox: its folder becomes the sandbox's.
    pub(super) fn assign(self, worker: &Arc<Worker>, folder: &Folder) -> io::Result<Arc<Link>> {
        if let Err(error) = fs::rename(self.folder.path(), folder.path()) {
            clear_away(worker, self);
            return Err(error);
        }
        Ok(Arc::new(self.link.moved(folder.clone())))
    }
}

/// Those of a worker.
#[derive(Debug)]
pub(crate) struct Spares {
    all: PathBuf,
    /// Tells those of this run from those of earlier ones.
    run: u64,
    made: AtomicU64,
    waiting: Mutex<Vec<Spare>>,
    taken: Notify,
    is_filling: AtomicBool,
    is_closed: AtomicBool,
}

impl Spares {
    /// None yet; what an earlier run left in the folder is removed.
    pub(crate) fn open(all: PathBuf) -> io::Result<Self> {
        fs::remove_dir_all(&all)?;
        fs::create_dir(&all)?;
        Ok(Self {
            all,
            run: now().0,
            made: AtomicU64::new(0),
            waiting: Mutex::default(),
            taken: Notify::new(),
            is_filling: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        })
    }

    /// Lets go of those that wait; there will be no further ones. They end within a moment.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        lock(&self.waiting).clear();
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Removes their folders.
    pub(crate) fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.all)
    }

    fn pop(&self) -> Option<Spare> {
        lock(&self.waiting).pop()
    }

    fn are_few(&self) -> bool {
        lock(&self.waiting).len() <= SPARES_MIN
    }

    /// Waits until nobody has taken one for a moment, or none is left: to make some keeps the
    /// kernel from making containers meanwhile.
    async fn quiet(&self) {
        while !lock(&self.waiting).is_empty()
            && timeout(FILL_PAUSE, self.taken.notified()).await.is_ok()
        {}
    }

    /// One that will wait in a moment.
    fn make(&self, worker: &Worker) -> io::Result<Spare> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let folder = Folder::named(&self.all, format!("{:x}-{number}", self.run));
        folder.make()?;
        if let Err(error) = Self::execute(&folder, worker) {
            let _ = folder.remove();
            return Err(error);
        }
        Ok(Spare { link: Link::new(folder.clone()), folder })
    }

    /// Executes a supervisor: this binary, once more. Its socket listens before it is there.
    fn execute(folder: &Folder, worker: &Worker) -> io::Result<()> {
        let listener = OwnedFd::from(folder.listen()?);
        let log = File::create(folder.path().join("supervisor.log"))?;
        let errors = log.try_clone()?;
        let mut command = tokio::process::Command::new("/proc/self/exe");
        command
            .arg0(MARK)
            .arg(folder.path())
            .arg(format!("{}/{}", worker.supervisor_cgroup_parent(), folder.name()))
            .arg(worker.sandbox_cgroup_parent())
            .env_clear()
            // One arena for all threads, and little kept free in it: there are many supervisors.
            .env("MALLOC_ARENA_MAX", "1")
            .env("MALLOC_TRIM_THRESHOLD_", "65536")
            .current_dir("/")
            .stdin(Stdio::from(listener))
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(errors));
        let mut supervisor = command.spawn()?;
        // It is not waited for but to be reaped: its socket says what it does.
        tokio::spawn(async move { supervisor.wait().await });
        Ok(())
    }
}

/// Takes one that waits, or makes one, which will wait in a moment.
pub(super) fn take(worker: &Arc<Worker>) -> io::Result<Spare> {
    let spares = &worker.spares;
    let spare = loop {
        match spares.pop() {
            None => break spares.make(worker),
            Some(spare) if spare.link.is_open() => break Ok(spare),
            Some(dead) => {
                let name = dead.name();
                tracing::warn!(name, "a supervisor that waited for a sandbox is gone");
                clear_away(worker, dead);
            }
        }
    };
    spares.taken.notify_one();
    fill(worker);
    spare
}

/// Ends whatever is in control groups of these names, and removes them. Blocks.
pub(super) fn end_groups(worker: &Worker, names: &[&str]) {
    for parent in [worker.supervisor_cgroup_parent(), worker.sandbox_cgroup_parent()] {
        for name in names {
            if let Err(error) = jail::end_named(&parent, name) {
                tracing::error!(%error, "the control group of a supervisor stays behind");
            }
        }
    }
}

/// Ends one that is not used, and removes what is left of it.
fn clear_away(worker: &Arc<Worker>, dead: Spare) {
    let worker = worker.clone();
    tokio::task::spawn_blocking(move || {
        end_groups(&worker, &[dead.name()]);
        if let Err(error) = dead.folder.remove() {
            tracing::error!(%error, "the folder of a supervisor stays behind");
        }
    });
}

/// Makes further ones, if few are left.
pub(crate) fn fill(worker: &Arc<Worker>) {
    let spares = &worker.spares;
    if !spares.are_few() || spares.is_filling.swap(true, Ordering::AcqRel) {
        return;
    }
    let worker = worker.clone();
    tokio::spawn(async move {
        let spares = &worker.spares;
        while spares.are_few() {
            spares.quiet().await;
            if spares.is_closed() {
                break;
            }
            if let Err(error) = fill_once(&worker).await {
                // The next sandbox tries again, and says why it cannot start.
                if !spares.is_closed() {
                    tracing::warn!(error, "no supervisor could be made ahead");
                }
                break;
            }
        }
        spares.is_filling.store(false, Ordering::Release);
    });
}

async fn fill_once(worker: &Arc<Worker>) -> Result<(), String> {
    let spares = &worker.spares;
    let missing = SPARES_MAX - lock(&spares.waiting).len();
    let made = join_all((0..missing).map(|_| ready(worker))).await;
    let mut waiting = lock(&spares.waiting);
    let mut filled = Ok(());
    for made in made {
        match made {
            Ok(spare) if !spares.is_closed() => waiting.push(spare),
            // It ends by itself, now that nobody is connected to it.
            Ok(_) => {}
            Err(error) => filled = Err(error),
        }
    }
    filled
}

/// One that waits.
async fn ready(worker: &Arc<Worker>) -> Result<Spare, String> {
    let spare = worker.spares.make(worker).map_err(|error| error.to_string())?;
    match spare.link.ask(STAND_BY, &()).await {
        Ok(()) => Ok(spare),
        Err(error) => {
            clear_away(worker, spare);
            Err(crate::task::chain(&error))
        }
    }
}
