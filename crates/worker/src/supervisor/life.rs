//! One container's life, from its start to its end, by the process that stays beside it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jail::{Child, Exec, ExecIo, Exit, Prepared, Standby, Stdio};
use model::link::End;
use model::sandbox::Probe;
use model::{Millis, Time};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;

use super::own::Own;
use super::readiness::Readiness;
use super::words::{Assignment, ENDING_FILE, Ending, OnTerminal, STDERR_FILE, STDOUT_FILE};
use crate::programs::container::{Container, Parts};
use crate::programs::execs::{self, pipe};
use crate::programs::held::{Bounds, Held};
use crate::programs::pump::{self, Stage, watched};
use crate::programs::rules::Rules;
use crate::programs::spool::Spool;
use crate::programs::stdin::Stdin;
use crate::sandbox::folder::replace;
use crate::task::now;

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
    memory_bytes: u64,
    container: Arc<Container>,
    own: Own,
    readiness: Readiness,
    ending: watch::Sender<Option<Ending>>,
    told: watch::Sender<Option<End>>,
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
        let rules = Rules::of_sandbox();
        let parts = Parts { task, env, cwd, child, rules, folder: folder.clone(), held };
        let container = Container::new(parts);
        let watched = container.watch().map_err(|error| error.to_string())?;
        let life = Arc::new(Life {
            folder,
            memory_bytes: plan.limits.memory_bytes,
            container,
            own,
            readiness: Readiness::new(probe.is_some()),
            ending: watch::Sender::new(None),
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
    /// In which programs are started.
    pub(crate) fn container(&self) -> &Arc<Container> {
        &self.container
    }

    /// The streams of its own program.
    pub(crate) fn own(&self) -> &Own {
        &self.own
    }

    /// Whether it is ready.
    pub(crate) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Waits until nothing of it is left.
    pub(crate) async fn ended(&self) -> Ending {
        let mut ending = self.ending.subscribe();
        loop {
            if let Some(ending) = &*ending.borrow_and_update() {
                return ending.clone();
            }
            let _ = ending.changed().await;
        }
    }

    /// How it ended, if nothing of it is left.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.ending.borrow().clone()
    }

    /// Waits until nobody reads its streams any more.
    pub(crate) async fn unread(&self) {
        for spool in [&self.own.stdout, &self.own.stderr] {
            let _ = spool.watch().wait_for(|marks| marks.readers == 0).await;
        }
        self.container.execs().unread().await;
    }

    /// Ends it; the first to say so is right.
    pub(crate) fn end(&self, end: End) {
        self.container.close();
        self.told.send_if_modified(|told| {
            let is_first = told.is_none();
            told.get_or_insert(end);
            is_first
        });
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
        let end = self.finish(cause, exit).await;
        stage.send_replace(Stage::Gone);
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
        self.ending.send_replace(Some(ending));
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
                Some(time) => self.container.activity().idle_for(time.duration()).await,
                None => std::future::pending().await,
            }
        };
        let on_terminal = async {
            match exec {
                Some(exec) => execs::until_end(exec, None).await,
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

    /// Kills what is left until nothing is, and says how it ended.
    async fn finish(&self, cause: Cause, on_terminal: Option<Exit>) -> End {
        if !matches!(cause, Cause::Program) || on_terminal.is_some() {
            self.container.kill().await;
        }
        let ended = match self.container.finish().await {
            Some(Ok(ended)) => Some(ended),
            Some(Err(error)) => {
                tracing::error!(%error, "something of a sandbox is left");
                None
            }
            None => None,
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
