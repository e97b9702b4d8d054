//! The containers of functions, for clients that run programs in them: the worker itself stays
//! with these programs, which end with their container.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jail::{Child, Process};
use model::TaskId;
use model::spec::TaskSpec;
use tokio::sync::Semaphore;

use crate::limits::{FUNCTIONS_EXECS_MAX, LINGER_MAX, LINGER_MIN};
use crate::programs::container::{Container, Parts};
use crate::programs::held::{Bounds, Held};
use crate::programs::rules::Rules;

/// What is known of a function's container.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    /// It is being started.
    Starting,
    /// It runs, or has ended a moment ago.
    Running(Arc<Container>),
    /// It takes no programs, and why.
    Closed(&'static str),
}

const KEPT: &str = "this container makes a layer of an image, which holds what its function leaves \
    and nothing else: run commands in a sandbox of the image";

const NO_V2: &str = "commands in a container need control groups of version 2, which this host \
    does not have: mount them, e.g. with `mount -t cgroup2 none /sys/fs/cgroup/unified`, and start \
    the server again";

/// All of a worker.
#[derive(Debug)]
pub(crate) struct Containers {
    entries: Mutex<HashMap<TaskId, Found>>,
    folder: PathBuf,
    held: Arc<Held>,
    /// For programs that run or are remembered.
    places: Arc<Semaphore>,
    is_able: bool,
}

impl Containers {
    /// None yet. What their programs print is kept in nameless files of `folder`.
    ///
    /// # Errors
    /// If the folder cannot be opened.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Arc<Self>> {
        // Where files cannot be nameless, those of a killed server are left.
        std::fs::remove_dir_all(&folder)?;
        std::fs::create_dir(&folder)?;
        Ok(Arc::new(Self {
            entries: Mutex::default(),
            held: Held::new(&folder, Bounds::USUAL)?,
            folder,
            places: Arc::new(Semaphore::new(FUNCTIONS_EXECS_MAX)),
            is_able: jail::host::takes_execs(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Found>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether programs may be started in the container of a task.
    pub(crate) fn takes_execs(&self, spec: &TaskSpec) -> bool {
        self.is_able && !spec.keeps_files
    }

    /// Takes note of a task that is to be started.
    pub(crate) fn begin(&self, spec: &TaskSpec) {
        let found = match (self.is_able, spec.keeps_files) {
            (_, true) => Found::Closed(KEPT),
            (false, _) => Found::Closed(NO_V2),
            (true, false) => Found::Starting,
        };
        self.lock().insert(spec.task.clone(), found);
    }

    /// Takes note of its container, whose own program is `process`: those of clients have the same
    /// variables and folder.
    pub(crate) fn started(&self, task: &TaskId, process: Process, child: Child) -> Arc<Container> {
        let container = Container::new(Parts {
            task: task.clone(),
            env: process.env,
            cwd: process.cwd.to_string_lossy().into_owned(),
            child,
            rules: Rules::of_function(self.places.clone()),
            folder: self.folder.clone(),
            held: self.held.clone(),
        });
        if let Some(found @ Found::Starting) = self.lock().get_mut(task) {
            *found = Found::Running(container.clone());
        }
        container
    }

    /// Forgets a task that has ended: where programs were started in it, once nobody reads of them
    /// any more.
    pub(crate) fn ended(self: &Arc<Self>, task: &TaskId) {
        let mut entries = self.lock();
        let asked = match entries.get(task) {
            Some(Found::Running(container)) if !container.execs().is_empty() => container.clone(),
            _ => {
                entries.remove(task);
                return;
            }
        };
        let all = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LINGER_MIN).await;
            let _ = tokio::time::timeout(LINGER_MAX, asked.execs().unread()).await;
            all.lock().remove(asked.task());
        });
    }

    /// What is known of a task; none: nothing.
    pub(crate) fn find(&self, task: &TaskId) -> Option<Found> {
        self.lock().get(task).cloned()
    }
}
