//! One container's life, from its start to its end, by the process that stays beside it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jail::{Child, Exec, ExecError, ExecIo, Exit, Prepared, Process, Standby, Stdio};
use model::link::End;
use model::sandbox::Probe;
use model::{Millis, TaskId, Time};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tonic::Status;

use super::activity::Activity;
use super::execs::{Execs, pipe};
use super::held::{Bounds, Held};
use super::own::Own;
use super::pump::{self, Stage, watched};
use super::readiness::Readiness;
use super::spool::Spool;
use super::stdin::Stdin;
use super::words::{Assignment, ENDING_FILE, Ending, OnTerminal, STDERR_FILE, STDOUT_FILE};
use crate::limits::{END_PAUSE, SUPERVISOR_STARTS_MAX};
use crate::sandbox::folder::replace;
use crate::task::now;

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Running,
    /// Everything in it is dead.
    Gone,
    /// And nothing of it is left.
    Ended(Ending),
}

/// A container that was built: what is needed to start it.
pub(crate) struct Standing {
    prepared: Prepared,
    assignment: Assignment,
    own: Own,
    pumps: Vec<(Arc<AsyncFd<OwnedFd>>, Arc<Spool>)>,
}

/// A container that runs, or has run.
#[derive(Debug)]
pub(crate) struct Life {
    folder: PathBuf,
    task: TaskId,
    memory_bytes: u64,
    env: Vec<(String, String)>,
    cwd: String,
    pid: i32,
    /// Taken away at its end.
    child: RwLock<Option<Child>>,
    /// Turns to start a program.
    starts: Semaphore,
    own: Own,
    execs: Execs,
    /// What the output of those programs takes on the disk.
    held: Arc<Held>,
    activity: Activity,
    readiness: Readiness,
    phase: watch::Sender<Phase>,
    told: watch::Sender<Option<End>>,
}

fn gone() -> Status {
    Status::not_found("the sandbox has ended: nothing more can be done in it")
}

/// Why a program was not started, for the client.
fn refusal(error: ExecError) -> Status {
    match error {
        ExecError::NotFound(text) | ExecError::NotExecutable(text) | ExecError::NoFolder(text) => {
            Status::invalid_argument(text)
        }
        error @ (ExecError::Refused(_) | ExecError::Large) => {
            Status::invalid_argument(error.to_string())
        }
        ExecError::Gone(_) => gone(),
        error => {
            let text = crate::task::chain(&error);
            tracing::error!(%text, "a program could not be started");
            Status::internal(text)
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err("a thread of the supervisor died".into()))
}

impl Standing {
    /// Builds the container; without a process that stands by, that takes longer.
    pub(crate) async fn build(
        standby: Option<Standby>,
        assignment: Assignment,
    ) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let open = |name| Spool::create(&assignment.folder.join(name));
        let (stdout, stderr) = (open(STDOUT_FILE), open(STDERR_FILE));
        let (stdout, stderr) = (stdout.map_err(|e| text(&e))?, stderr.map_err(|e| text(&e))?);
        let mut own = Own { stdout, stderr, stdin: None };
        let mut pumps = vec![];
        let stdio = match &assignment.plan.process {
            None => {
                if assignment.on_terminal.is_none() {
                    own.stdout.finish();
                }
                own.stderr.finish();
                Stdio::null().map_err(|e| text(&e))?
            }
            Some(_) => {
                let pipes = || -> Result<_, Status> { Ok((pipe()?, pipe()?, pipe()?)) };
                let (stdin, stdout, stderr) = pipes().map_err(|e| text(&e))?;
                for (ours, spool) in [(stdout.0, &own.stdout), (stderr.0, &own.stderr)] {
                    let ours = watched(ours, Interest::READABLE).map_err(|e| text(&e))?;
                    pumps.push((Arc::new(ours), spool.clone()));
                }
                let ours = watched(stdin.1, Interest::WRITABLE).map_err(|e| text(&e))?;
                own.stdin = Some(Stdin::new(Arc::new(ours), false));
                Stdio { stdin: stdin.0, stdout: stdout.1, stderr: stderr.1 }
            }
        };
        let plan = assignment.plan.clone();
        let prepared = blocking(move || {
            let prepared = match standby {
                Some(standby) => standby.prepare(&plan, stdio),
                None => jail::prepare(&plan, stdio),
            };
            prepared.map_err(|error| crate::task::chain(&error))
        });
        Ok(Self { prepared: prepared.await?, assignment, own, pumps })
    }

    /// Its first process.
    pub(crate) fn pid(&self) -> i32 {
        self.prepared.pid()
    }

    /// Runs its program, and stays with it.
    pub(crate) async fn start(self) -> Result<Arc<Life>, String> {
        let Self { prepared, assignment, mut own, mut pumps } = self;
        let held = Held::new(&assignment.folder, Bounds::USUAL).map_err(|e| e.to_string())?;
        let start = move || prepared.start().map_err(|error| crate::task::chain(&error));
        let child = blocking(start).await?;
        let watched = child.pidfd().try_clone_to_owned();
        let watched = watched.and_then(|fd| pump::watched_only(fd, Interest::READABLE));
        let watched = watched.map_err(|error| error.to_string())?;
        let Assignment { task, folder, plan, on_terminal, env, cwd, .. } = assignment;
        let Assignment { deadline, idle_timeout_ms, probe, .. } = assignment;
        let (child, exec) = match on_terminal {
            None => (child, None),
            Some(program) => {
                let (child, exec) = on_a_terminal(child, program).await?;
                let terminal = exec.terminal().ok_or("the terminal is missing")?;
                let both = Interest::READABLE | Interest::WRITABLE;
                let terminal = terminal.try_clone_to_owned().and_then(|fd| self::watched(fd, both));
                let terminal = Arc::new(terminal.map_err(|error| error.to_string())?);
                pumps.push((terminal.clone(), own.stdout.clone()));
                own.stdin = Some(Stdin::new(terminal, true));
                (child, Some(exec))
            }
        };
        let life = Arc::new(Life {
            folder,
            task,
            memory_bytes: plan.limits.memory_bytes,
            env,
            cwd,
            pid: child.pid(),
            child: RwLock::new(Some(child)),
            starts: Semaphore::new(SUPERVISOR_STARTS_MAX),
            own,
            execs: Execs::default(),
            held,
            activity: Activity::new(),
            readiness: Readiness::new(probe.is_some()),
            phase: watch::Sender::new(Phase::Running),
            told: watch::Sender::new(None),
        });
        let limits = Limits { deadline, idle_timeout_ms, probe };
        tokio::spawn(life.clone().run(watched, exec, pumps, limits));
        Ok(life)
    }
}

async fn on_a_terminal(child: Child, program: OnTerminal) -> Result<(Child, Exec), String> {
    blocking(move || {
        let OnTerminal { process, rows, columns } = program;
        let exec = child.exec(&process, ExecIo::Terminal { rows, columns });
        exec.map(|exec| (child, exec)).map_err(|error| error.to_string())
    })
    .await
}

/// What ends it by itself, and what it is asked.
struct Limits {
    deadline: Time,
    idle_timeout_ms: Option<Millis>,
    probe: Option<Probe>,
}

/// Waits until the clock on the wall shows a time, whatever is done to that clock.
async fn until(time: Time) {
    const LOOK_EVERY: Duration = Duration::from_secs(30);
    loop {
        let left = Duration::from_millis(time.0.saturating_sub(now().0));
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_EVERY)).await;
    }
}

/// What made a container end.
enum Cause {
    /// Its program has ended by itself.
    Program,
    /// Somebody or something wants it.
    Wanted(End),
}

impl Life {
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

    /// The streams of its own program.
    pub(crate) fn own(&self) -> &Own {
        &self.own
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

    /// Whether it is ready.
    pub(crate) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Waits until everything in it is dead.
    pub(crate) async fn gone(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase != Phase::Running).await;
    }

    /// Waits until nothing of it is left.
    pub(crate) async fn ended(&self) -> Ending {
        let mut phase = self.phase.subscribe();
        loop {
            if let Phase::Ended(ending) = &*phase.borrow_and_update() {
                return ending.clone();
            }
            let _ = phase.changed().await;
        }
    }

    /// How it ended, if nothing of it is left.
    pub(crate) fn ending(&self) -> Option<Ending> {
        match &*self.phase.borrow() {
            Phase::Ended(ending) => Some(ending.clone()),
            Phase::Running | Phase::Gone => None,
        }
    }

    /// Waits until nobody reads its streams any more.
    pub(crate) async fn unread(&self) {
        for spool in [&self.own.stdout, &self.own.stderr] {
            let _ = spool.watch().wait_for(|marks| marks.readers == 0).await;
        }
        self.execs.unread().await;
    }

    /// Ends it; the first to say so is right.
    pub(crate) fn end(&self, end: End) {
        self.told.send_if_modified(|told| {
            let is_first = told.is_none();
            told.get_or_insert(end);
            is_first
        });
    }

    /// Starts a program in it. Those that wait for a container that stands still leave threads
    /// free to end it, or to let it go on.
    pub(crate) async fn exec(
        self: &Arc<Self>,
        process: Process,
        io: ExecIo,
    ) -> Result<Exec, Status> {
        let _turn = self.starts.acquire().await.map_err(|_| gone())?;
        self.with_child(move |child| child.exec(&process, io).map_err(refusal)).await
    }

    /// Does something with the container that blocks.
    pub(crate) async fn with_child<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Child) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        if self.told.borrow().is_some() {
            return Err(gone());
        }
        let life = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let child = life.child.read().unwrap_or_else(PoisonError::into_inner);
            work(child.as_ref().ok_or_else(gone)?)
        });
        done.await.unwrap_or_else(|_| Err(Status::internal("a thread of the supervisor died")))
    }

    async fn run(
        self: Arc<Self>,
        program: AsyncFd<OwnedFd>,
        exec: Option<Exec>,
        pumps: Vec<(Arc<AsyncFd<OwnedFd>>, Arc<Spool>)>,
        limits: Limits,
    ) {
        let (stage, staged) = watch::channel(Stage::Running);
        let mut pumping = JoinSet::new();
        for (source, spool) in pumps {
            pumping.spawn(pump::run(source, spool, staged.clone()));
        }
        let mut tasks = JoinSet::new();
        if let Some(probe) = limits.probe.clone() {
            tasks.spawn(super::readiness::run(self.clone(), probe));
        }
        let cause = self.cause(&program, exec.as_ref(), &limits).await;
        if let Cause::Wanted(end) = &cause {
            self.end(end.clone());
        }
        drop(tasks);
        let exit = exec.as_ref().and_then(|exec| exec.try_wait().ok().flatten());
        drop(exec);
        let end = self.finish(cause, exit, &program).await;
        stage.send_replace(Stage::Gone);
        self.phase.send_replace(Phase::Gone);
        if let Some(stdin) = &self.own.stdin {
            stdin.end();
        }
        while pumping.join_next().await.is_some() {}
        let (stdout, stderr) = (self.own.stdout.marks(), self.own.stderr.marks());
        let ending =
            Ending { end, at: now(), stdout_start: stdout.start, stderr_start: stderr.start };
        let written = serde_json::to_vec(&ending).map_err(io::Error::from);
        let written = written.and_then(|text| replace(&self.folder.join(ENDING_FILE), &text));
        if let Err(error) = written {
            tracing::error!(%error, "the sandbox's end cannot be written down");
        }
        self.phase.send_replace(Phase::Ended(ending));
    }

    /// Waits until it has to end.
    async fn cause(
        &self,
        program: &AsyncFd<OwnedFd>,
        exec: Option<&Exec>,
        limits: &Limits,
    ) -> Cause {
        let idle = async {
            match limits.idle_timeout_ms {
                Some(time) => self.activity.idle_for(time.duration()).await,
                None => std::future::pending().await,
            }
        };
        let on_terminal = async {
            match exec {
                Some(exec) => super::execs::until_end(exec, None).await,
                None => std::future::pending().await,
            }
        };
        let mut told = self.told.subscribe();
        tokio::select! {
            told = told.wait_for(Option::is_some) => {
                Cause::Wanted(told.ok().and_then(|told| told.clone()).unwrap_or(End::Stopped))
            }
            _ = program.readable() => Cause::Program,
            _ = on_terminal => Cause::Program,
            () = until(limits.deadline) => Cause::Wanted(End::TimedOut),
            () = idle => Cause::Wanted(End::Idle),
        }
    }

    /// Kills everything in it until its first process is gone.
    async fn kill_all(self: &Arc<Self>, program: &AsyncFd<OwnedFd>) {
        loop {
            let life = self.clone();
            let killed = tokio::task::spawn_blocking(move || {
                let child = life.child.read().unwrap_or_else(PoisonError::into_inner);
                child.as_ref().map_or(Ok(()), Child::kill)
            });
            if let Ok(Err(error)) = killed.await {
                tracing::error!(%error, "a sandbox cannot be killed: it is tried again");
            }
            if tokio::time::timeout(END_PAUSE, program.readable()).await.is_ok() {
                return;
            }
            self.break_off().await;
        }
    }

    /// Lets go of killed processes that wait for a file system which does not answer.
    async fn break_off(self: &Arc<Self>) {
        let life = self.clone();
        let broken = tokio::task::spawn_blocking(move || {
            let child = life.child.read().unwrap_or_else(PoisonError::into_inner);
            child.as_ref().map_or(Ok(()), Child::break_off)
        });
        if let Ok(Err(error)) = broken.await {
            tracing::error!(%error, "a killed sandbox waits for a file system");
        }
    }

    /// Kills what is left until nothing is, and says how it ended.
    async fn finish(
        self: &Arc<Self>,
        cause: Cause,
        on_terminal: Option<Exit>,
        program: &AsyncFd<OwnedFd>,
    ) -> End {
        if !matches!(cause, Cause::Program) || on_terminal.is_some() {
            self.kill_all(program).await;
        }
        let life = self.clone();
        let ended = tokio::task::spawn_blocking(move || {
            // Programs that are being started have found that it is dead.
            let child = life.child.write().unwrap_or_else(PoisonError::into_inner).take();
            child.map(Child::end)
        });
        let ended = match ended.await {
            Ok(Some(Ok(ended))) => Some(ended),
            Ok(Some(Err(error))) => {
                tracing::error!(%error, "something of a sandbox is left");
                None
            }
            Ok(None) | Err(_) => None,
        };
        if let Cause::Wanted(end) = cause {
            return end;
        }
        let oom = ended.is_some_and(|ended| ended.oom);
        match on_terminal.or(ended.map(|ended| ended.exit)) {
            _ if oom => End::OutOfMemory { limit_bytes: self.memory_bytes },
            Some(Exit::Code(code)) => End::Exit { code },
            Some(Exit::Signal(signal)) => End::Signal { signal },
            None => End::Lost,
        }
    }
}
