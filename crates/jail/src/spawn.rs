//! The caller's side of building a container.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cgroup::{self, Ahead, Group, Layout};
use crate::child::{Child, Life};
use crate::limits::{PLAN_BYTES_MAX, PREPARE_MS_MAX};
use crate::message::{self, News, Order};
use crate::plan::{Plan, Refused};
use crate::setup::MARK;
use crate::stdio::Stdio;

/// Why there is no container. Whatever was made is gone again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan itself is wrong.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The plan is too large to hand over.
    #[error("the plan has more than {} MiB", PLAN_BYTES_MAX >> 20)]
    Large,
    /// The control group.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// The building process could not be started.
    #[error("executing {exe} to build the container {name}: {source}")]
    Execute { name: String, exe: PathBuf, source: io::Error },
    /// The building process or the container's first process did not answer.
    #[error("building the container {name}: {source}")]
    Silent { name: String, source: io::Error },
    /// A step of building it failed.
    #[error("building the container {name}: {text}")]
    Build { name: String, text: String },
    /// The container is there, but its program cannot be executed in it.
    #[error("{text}")]
    Program { name: String, text: String },
}

/// A container whose walls are up and in which nothing of the user's has run. Dropping it removes
/// everything.
#[derive(Debug)]
pub struct Prepared {
    life: Life,
    network: OwnedFd,
}

/// Builds a container with this binary itself as the building process; see [`crate::is_child`].
///
/// Blocks for some milliseconds. Needs the rights of root.
///
/// # Errors
/// See [`Error`].
pub fn prepare(plan: &Plan, stdio: Stdio) -> Result<Prepared, Error> {
    prepare_with(Path::new(SELF), plan, stdio)
}

/// As [`prepare`], with another binary that calls [`crate::child_main`].
///
/// # Errors
/// See [`Error`].
pub fn prepare_with(exe: &Path, plan: &Plan, stdio: Stdio) -> Result<Prepared, Error> {
    let text = text_of(plan)?;
    Standby::execute(exe, &plan.name)?.build(plan, &text, stdio)
}

/// A building process that waits for its plan: with it a container is built in less time. Dropping
/// it ends it.
#[derive(Debug)]
pub struct Standby {
    builder: Builder,
    control: OwnedFd,
    /// Last, so that nothing is in them when they are removed.
    groups: Option<Ahead>,
}

impl Standby {
    /// Executes this binary once more, as [`prepare`] does, and moves that process into control
    /// groups `name` below `cgroup_parent`, which become the container's and get its name.
    ///
    /// Blocks, where control groups are of version 1 for some 20 milliseconds.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(cgroup_parent: &str, name: &str) -> Result<Self, Error> {
        Self::with(Path::new(SELF), cgroup_parent, name)
    }

    /// As [`Standby::new`], with another binary that calls [`crate::child_main`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn with(exe: &Path, cgroup_parent: &str, name: &str) -> Result<Self, Error> {
        let mut standby = Self::execute(exe, name)?;
        standby.groups = Some(Ahead::create(cgroup_parent, name, standby.builder.0.id())?);
        Ok(standby)
    }

    fn execute(exe: &Path, name: &str) -> Result<Self, Error> {
        let name = || name.to_owned();
        let silent = |source| Error::Silent { name: name(), source };
        let (control, theirs) = message::pair().map_err(silent)?;
        let failed = |source| Error::Execute { name: name(), exe: exe.to_owned(), source };
        let builder = Builder::execute(exe, theirs).map_err(failed)?;
        Ok(Self { builder, control, groups: None })
    }

    /// Builds a container; its plan must name the same `cgroup_parent`. Blocks for some
    /// milliseconds.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn prepare(self, plan: &Plan, stdio: Stdio) -> Result<Prepared, Error> {
        let text = text_of(plan)?;
        self.build(plan, &text, stdio)
    }

    fn build(self, plan: &Plan, text: &[u8], stdio: Stdio) -> Result<Prepared, Error> {
        let Self { builder, control, groups } = self;
        let layout = Layout::detect().map_err(cgroup::Error::Layout)?;
        let joins_v1 = groups.is_none();
        let group = Group::create(&layout, &plan.cgroup_parent, &plan.name, &plan.limits, groups)?;
        let made = group.give_execs(plan).map_err(Error::from);
        let made = made.and_then(|()| {
            let members = if joins_v1 { group.v1_members()? } else { vec![] };
            let made = build(builder, &control, plan, text, &stdio, &group, members)?;
            group.set_cpu(&plan.limits).inspect_err(|_| abandon(Some(made.1.as_fd())))?;
            Ok(made)
        });
        match made {
            Ok((pid, pidfd, network)) => {
                let life = Life::new(plan, pid, pidfd, control, group);
                Ok(Prepared { life, network })
            }
            Err(error) => {
                // The first error is the one to tell; what cannot be removed now, `sweep` finds.
                let _ = group.kill();
                let _ = group.remove();
                Err(error)
            }
        }
    }
}

/// This process' own binary, whatever is at its path by now.
const SELF: &str = "/proc/self/exe";

/// The plan as it travels to the building process.
fn text_of(plan: &Plan) -> Result<Vec<u8>, Error> {
    plan.check()?;
    let text = serde_json::to_vec(plan);
    let text = text.map_err(|e| Error::Silent { name: plan.name.clone(), source: e.into() })?;
    if text.len() > PLAN_BYTES_MAX { Err(Error::Large) } else { Ok(text) }
}

type Built = (i32, OwnedFd, OwnedFd);

fn build(
    mut builder: Builder,
    control: &OwnedFd,
    plan: &Plan,
    text: &[u8],
    stdio: &Stdio,
    group: &Group,
    members: Vec<OwnedFd>,
) -> Result<Built, Error> {
    let silent = |source| Error::Silent { name: plan.name.clone(), source };
    let deadline = Instant::now() + Duration::from_millis(PREPARE_MS_MAX);
    stdio.give(plan.ids, plan.process.as_ref()).map_err(|source| Error::Build {
        name: plan.name.clone(),
        text: format!("giving the standard streams to the program's user: {source}"),
    })?;
    order(control, text, stdio, group, members).map_err(silent)?;
    let mut first: Option<(i32, OwnedFd, OwnedFd)> = None;
    loop {
        let news = message::receive_until::<News>(control, deadline);
        match news {
            Ok((News::Made { pid }, descriptors)) => {
                let descriptors: Result<[OwnedFd; 2], _> = descriptors.try_into();
                let lost = |_| silent(io::Error::other("a message lost its descriptors"));
                let [pidfd, network] = descriptors.map_err(lost)?;
                first = Some((pid, pidfd, network));
            }
            Ok((News::Ready, _)) => break,
            Ok((News::Failed { text }, _)) => {
                abandon(first.as_ref().map(|(_, pidfd, _)| pidfd.as_fd()));
                return Err(Error::Build { name: plan.name.clone(), text });
            }
            Ok(_) => {}
            Err(source) => {
                abandon(first.as_ref().map(|(_, pidfd, _)| pidfd.as_fd()));
                return Err(silent(source));
            }
        }
    }
    builder.wait();
    first.ok_or_else(|| silent(io::Error::other("the first process was not announced")))
}

fn order(
    control: &OwnedFd,
    text: &[u8],
    stdio: &Stdio,
    group: &Group,
    members: Vec<OwnedFd>,
) -> io::Result<()> {
    let plan = message::in_memory("plan", text)?;
    let v2 = group.v2_directory().map_err(io::Error::other)?;
    let mut descriptors =
        vec![plan.as_fd(), stdio.stdin.as_fd(), stdio.stdout.as_fd(), stdio.stderr.as_fd()];
    descriptors.extend(v2.iter().chain(&members).map(AsFd::as_fd));
    message::send(control, &Order::Build { v2: v2.is_some() }, &descriptors)
}

/// Kills and reaps a first process that will not be used.
fn abandon(pidfd: Option<BorrowedFd<'_>>) {
    if let Some(pidfd) = pidfd {
        let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
        let exited = rustix::process::WaitIdOptions::EXITED;
        let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd), exited);
    }
}

/// The building process, which is never left behind.
#[derive(Debug)]
struct Builder(std::process::Child);

impl Builder {
    fn execute(exe: &Path, control: OwnedFd) -> io::Result<Self> {
        // The socket travels as stdin, the one descriptor that passes an exec without a race
        // against other threads that execute something.
        let child = Command::new(exe)
            .arg0(MARK)
            .env_clear()
            .current_dir("/")
            .stdin(control)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    fn wait(&mut self) {
        let _ = self.0.wait();
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        self.wait();
    }
}

impl Prepared {
    /// Pid of the container's first process in this process' pid namespace.
    pub fn pid(&self) -> i32 {
        self.life.pid
    }

    /// The container's network namespace: only `lo`, up, unless the caller adds to it.
    pub fn network_namespace(&self) -> BorrowedFd<'_> {
        self.network.as_fd()
    }

    /// Runs the program, if the plan has one.
    ///
    /// # Errors
    /// [`Error::Program`] when it cannot be executed, [`Error::Silent`] when the container is
    /// gone; everything is removed.
    pub fn start(self) -> Result<Child, Error> {
        let name = || self.life.name.clone();
        let silent = |source| Error::Silent { name: name(), source };
        let control = &self.life.control;
        let deadline = Instant::now() + Duration::from_millis(PREPARE_MS_MAX);
        message::send(control, &Order::Start, &[]).map_err(silent)?;
        match message::receive_until::<News>(control, deadline).map_err(silent)?.0 {
            News::Started => Ok(Child::new(self.life)),
            News::NotExecuted { text } => Err(Error::Program { name: name(), text }),
            other => Err(silent(io::Error::other(format!("unexpected message {other:?}")))),
        }
    }
}
