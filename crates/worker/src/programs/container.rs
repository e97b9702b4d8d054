//! A running container in which clients start programs, for whoever stays with it until its end.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use jail::{Child, ChildError, Ended, Exec, ExecError, ExecIo, Process};
use model::TaskId;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, watch};
use tonic::Status;

use super::activity::Activity;
use super::execs::Execs;
use super::held::Held;
use super::pump::watched_only;
use super::rules::Rules;
use super::spool::Spool;
use crate::limits::{END_PAUSE, EXEC_STARTS_MAX};

/// What is known of a container whose program was started.
pub(crate) struct Parts {
    /// Its id.
    pub(crate) task: TaskId,
    /// The environment of programs that are started in it.
    pub(crate) env: Vec<(String, String)>,
    /// Their folder.
    pub(crate) cwd: String,
    /// Itself.
    pub(crate) child: Child,
    /// How many programs it takes.
    pub(crate) rules: Rules,
    /// Where their output lies.
    pub(crate) folder: PathBuf,
    /// What that takes on the disk.
    pub(crate) held: Arc<Held>,
}

/// How far it has come. Each comes after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// It is being ended: nothing more is started.
    Closing,
    /// Everything in it is dead.
    Gone,
}

/// A container that runs, or has run.
#[derive(Debug)]
pub(crate) struct Container {
    task: TaskId,
    env: Vec<(String, String)>,
    cwd: String,
    pid: i32,
    /// Taken away at its end.
    child: RwLock<Option<Child>>,
    /// Turns to start a program.
    starts: Semaphore,
    execs: Execs,
    folder: PathBuf,
    held: Arc<Held>,
    activity: Activity,
    phase: watch::Sender<Phase>,
}

impl Container {
    /// One that runs.
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts { task, env, cwd, child, rules, folder, held } = parts;
        Arc::new(Self {
            task,
            env,
            cwd,
            pid: child.pid(),
            child: RwLock::new(Some(child)),
            starts: Semaphore::new(EXEC_STARTS_MAX),
            execs: Execs::new(rules),
            folder,
            held,
            activity: Activity::new(),
            phase: watch::Sender::new(Phase::Running),
        })
    }

    /// Its id.
    pub(crate) fn task(&self) -> &TaskId {
        &self.task
    }

    /// Its first process.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// The environment of programs that are started in it.
    pub(crate) fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// Their folder.
    pub(crate) fn cwd(&self) -> &str {
        &self.cwd
    }

    /// The programs that were started in it.
    pub(crate) fn execs(&self) -> &Execs {
        &self.execs
    }

    /// A stream for the output of one of them.
    pub(crate) fn spool(&self) -> io::Result<Arc<Spool>> {
        Spool::nameless(&self.folder, &self.held)
    }

    /// Whether it is idle.
    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// What becomes readable once everything in it is dead.
    pub(crate) fn watch(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let child = self.child.read().unwrap_or_else(PoisonError::into_inner);
        let child = child.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        watched_only(child.pidfd().try_clone_to_owned()?, Interest::READABLE)
    }

    /// Waits until everything in it is dead.
    pub(crate) async fn gone(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::Gone).await;
    }

    /// Starts nothing more in it.
    pub(crate) fn close(&self) {
        self.phase.send_if_modified(|phase| {
            let is_first = *phase == Phase::Running;
            *phase = (*phase).max(Phase::Closing);
            is_first
        });
    }

    fn ended(&self) -> Status {
        let noun = self.execs.rules().noun;
        Status::not_found(format!("the {noun} has ended: nothing more can be done in it"))
    }

    /// Why a program was not started, for the client.
    fn refusal(&self, error: ExecError) -> Status {
        match error {
            ExecError::NotFound(text)
            | ExecError::NotExecutable(text)
            | ExecError::NoFolder(text) => Status::invalid_argument(text),
            error @ (ExecError::Refused(_) | ExecError::Large) => {
                Status::invalid_argument(error.to_string())
            }
            ExecError::Gone(_) => self.ended(),
            error => {
                let text = crate::task::chain(&error);
                tracing::error!(%text, "a program could not be started");
                Status::internal(text)
            }
        }
    }

    /// Starts a program in it. Those that wait for a container that stands still leave threads
    /// free to end it, or to let it go on.
    pub(crate) async fn exec(
        self: &Arc<Self>,
        process: Process,
        io: ExecIo,
    ) -> Result<Exec, Status> {
        let _turn = self.starts.acquire().await.map_err(|_| self.ended())?;
        let container = self.clone();
        let refusal = move |error| container.refusal(error);
        self.with_child(move |child| child.exec(&process, io).map_err(refusal)).await
    }

    /// Does something with the container that blocks.
    pub(crate) async fn with_child<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Child) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        if *self.phase.borrow() != Phase::Running {
            return Err(self.ended());
        }
        let container = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let child = container.child.read().unwrap_or_else(PoisonError::into_inner);
            work(child.as_ref().ok_or_else(|| container.ended())?)
        });
        done.await.unwrap_or_else(|_| Err(Status::internal("a thread died")))
    }

    /// Kills what is left in it and gives back what it owned in the kernel. None if that was done
    /// before, or a thread died. One whose program has not ended by itself is killed before: starts
    /// in progress hold it until they find that it is dead.
    pub(crate) async fn finish(self: &Arc<Self>) -> Option<Result<Ended, ChildError>> {
        self.close();
        let container = self.clone();
        let ended = tokio::task::spawn_blocking(move || {
            let mut child = container.child.write().unwrap_or_else(PoisonError::into_inner);
            child.take().map(Child::end)
        });
        let ended = ended.await.ok().flatten();
        self.phase.send_replace(Phase::Gone);
        ended
    }

    /// Kills everything in it until its first process is gone.
    pub(crate) async fn kill(self: &Arc<Self>) {
        self.close();
        let watched = match self.watch() {
            Ok(watched) => watched,
            Err(error) => {
                tracing::error!(%error, "a container that is killed cannot be watched");
                return;
            }
        };
        loop {
            self.strike(Child::kill, "a container cannot be killed: it is tried again").await;
            if tokio::time::timeout(END_PAUSE, watched.readable()).await.is_ok() {
                return;
            }
            // Killed processes may wait for a file system that does not answer.
            self.strike(Child::break_off, "a killed container waits for a file system").await;
        }
    }

    async fn strike(
        self: &Arc<Self>,
        blow: fn(&Child) -> Result<(), ChildError>,
        complaint: &'static str,
    ) {
        let container = self.clone();
        let struck = tokio::task::spawn_blocking(move || {
            let child = container.child.read().unwrap_or_else(PoisonError::into_inner);
            child.as_ref().map_or(Ok(()), blow)
        });
        if let Ok(Err(error)) = struck.await {
            tracing::error!(%error, "{complaint}");
        }
    }
}
