//! A running container.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::cgroup::{self, Group, Usage};
use crate::exec::Leftovers;
use crate::hanging;
use crate::limits::{EXEC_MS_MAX, KILL_MS_MAX, STUCK_MS_MAX};
use crate::message::{self, News, Order};
use crate::plan::{IdRange, Plan};

/// Why a running container did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Waiting failed.
    #[error("waiting for the container {name}: {source}")]
    Wait { name: String, source: io::Error },
    /// A file system that does not answer could not be broken off.
    #[error("breaking off the file systems of the container {name}: {source}")]
    BreakOff { name: String, source: io::Error },
    /// The signal could not be passed on.
    #[error("sending signal {signal} to the program of the container {name}: {source}")]
    Signal { name: String, signal: i32, source: io::Error },
    /// A killed process does not die: it is in the middle of a call of the kernel that waits for
    /// something else, such as a file system that does not answer. It runs no more of its
    /// program, but what it holds stays until that call returns.
    #[error("the container {name} was killed, but {process} has not died after {waited_ms} ms")]
    Lingers { name: String, process: String, waited_ms: u128 },
    /// Its processes could not be killed.
    #[error("killing the container {name}: {source}")]
    Kill { name: String, source: io::Error },
    /// The control group.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What is to be said about a container that is gone.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// How its program ended; [`Exit::Signal`] with SIGKILL if it was still running.
    pub exit: Exit,
    /// Its program was killed because the memory limit was reached.
    pub oom: bool,
    /// What it used until then.
    pub usage: Usage,
}

/// A container whose program was started. Dropping it ends everything in it.
#[derive(Debug)]
pub struct Child {
    pub(crate) life: Life,
}

impl Child {
    pub(crate) fn new(life: Life) -> Self {
        Self { life }
    }

    /// Pid of the container's first process, in this process' pid namespace; the program is
    /// that one's child.
    pub fn pid(&self) -> i32 {
        self.life.pid
    }

    /// Becomes readable when the program has ended and everything else in the container is dead.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.life.pidfd.as_fd()
    }

    /// How the program ended, if it has.
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_wait(&mut self) -> Result<Option<Exit>, Error> {
        self.life.wait(WaitIdOptions::NOHANG)
    }

    /// Waits until the program has ended. Blocks.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&mut self) -> Result<Exit, Error> {
        let exit = self.life.wait(WaitIdOptions::empty())?;
        Ok(exit.unwrap_or(Exit::Signal(libc::SIGKILL)))
    }

    /// Sends a signal to the program, not to its children. One that has ended already is no error.
    ///
    /// # Errors
    /// When the container's first process is too busy to take it.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_millis(EXEC_MS_MAX);
        match message::send_until(&self.life.control, &Order::Signal(signal), &[], deadline) {
            Err(error) if is_gone(&error) => Ok(()),
            sent => sent.map_err(|source| Error::Signal {
                name: self.life.name.clone(),
                signal,
                source,
            }),
        }
    }

    /// Kills every process of the container, and does not wait for it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&self) -> Result<(), Error> {
        self.life.kill()
    }

    /// Breaks off file systems (FUSE) that the container sees and the caller does not: processes
    /// that wait for an answer of one get an error, and die if they were killed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn break_off(&self) -> Result<(), Error> {
        self.life.break_off()
    }

    /// Stops every process of the container until [`Self::thaw`], without their noticing; returns
    /// when all stand still. Nothing can be started in it meanwhile, but it can be ended. Blocks.
    ///
    /// # Errors
    /// When some process is in the middle of a call that does not end within
    /// [`crate::limits::FREEZE_MS_MAX`]: then all go on.
    pub fn freeze(&self) -> Result<(), Error> {
        Ok(self.life.group.freeze()?)
    }

    /// Lets a frozen container go on. Blocks until it does.
    ///
    /// # Errors
    /// The kernel's.
    pub fn thaw(&self) -> Result<(), Error> {
        Ok(self.life.group.thaw()?)
    }

    /// What it uses now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn usage(&self) -> Result<Usage, Error> {
        Ok(self.life.group.usage()?)
    }

    /// Kills whatever still runs, waits for it and removes the control group; mounts and
    /// namespaces go with the processes. Blocks.
    ///
    /// # Errors
    /// When something does not die within [`KILL_MS_MAX`].
    pub fn end(mut self) -> Result<Ended, Error> {
        self.end_within(Duration::from_millis(KILL_MS_MAX))
    }

    /// As [`Self::end`], but waits no longer than `limit`, and can be called again.
    ///
    /// # Errors
    /// [`Error::Lingers`] when something does not die in time: nothing of the user's runs any
    /// more, but the control group, mounts and namespaces are still there.
    pub fn end_within(&mut self, limit: Duration) -> Result<Ended, Error> {
        self.life.finish(limit)
    }

    /// Leaves the container running and forgets it: one with `end_with_caller` ends by that.
    /// [`crate::sweep`] ends the others.
    pub fn leave(mut self) {
        self.life.done = true;
    }
}

/// What [`Child`] and `Prepared` have in common: a first process and a control group, which are
/// removed with it unless it is `done`.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) name: String,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) control: OwnedFd,
    pub(crate) group: Group,
    pub(crate) ids: IdRange,
    pub(crate) takes_execs: bool,
    /// Control groups of further programs.
    pub(crate) leftovers: Arc<Leftovers>,
    exit: Option<Exit>,
    /// How it had ended before it was killed, once that was tried.
    before: Option<Option<Exit>>,
    done: bool,
}

impl Life {
    pub(crate) fn new(
        plan: &Plan,
        pid: i32,
        pidfd: OwnedFd,
        control: OwnedFd,
        group: Group,
    ) -> Self {
        let leftovers = Arc::default();
        let Plan { name, ids, takes_execs, .. } = plan;
        let (name, ids, takes_execs) = (name.clone(), *ids, *takes_execs);
        Self {
            name,
            pid,
            pidfd,
            control,
            group,
            ids,
            takes_execs,
            leftovers,
            exit: None,
            before: None,
            done: false,
        }
    }

    fn wait(&mut self, options: WaitIdOptions) -> Result<Option<Exit>, Error> {
        if self.exit.is_some() {
            return Ok(self.exit);
        }
        let options = WaitIdOptions::EXITED | options;
        let status =
            rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), options))
                .map_err(|e| Error::Wait { name: self.name.clone(), source: e.into() })?;
        let Some(status) = status else { return Ok(None) };
        let first = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or(libc::SIGKILL)),
        };
        self.exit = Some(self.told().unwrap_or(first));
        Ok(self.exit)
    }

    /// What the first process said about the program before it ended.
    fn told(&self) -> Option<Exit> {
        while message::ready(&self.control, Duration::ZERO).ok()? {
            if let News::Ended { code, signal } = message::receive(&self.control).ok()?.0 {
                return code.map(Exit::Code).or(signal.map(Exit::Signal));
            }
        }
        None
    }

    fn kill(&self) -> Result<(), Error> {
        // With the first process of a pid namespace the kernel kills all others; the group's
        // kill is for a process that was made while this one already dies.
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => return Err(Error::Kill { name: self.name.clone(), source: e.into() }),
        }
        Ok(self.group.kill()?)
    }

    fn break_off(&self) -> Result<(), Error> {
        hanging::break_off(&self.group.members())
            .map_err(|source| Error::BreakOff { name: self.name.clone(), source })
    }

    fn finish(&mut self, limit: Duration) -> Result<Ended, Error> {
        let exited = match self.before {
            Some(before) => before,
            None => self.wait(WaitIdOptions::NOHANG)?,
        };
        self.before = Some(exited);
        if exited.is_none() {
            self.kill()?;
            let soon = limit.min(Duration::from_millis(STUCK_MS_MAX));
            let mut is_dead = message::ready(&self.pidfd, soon).unwrap_or(false);
            if !is_dead {
                self.break_off()?;
                is_dead = message::ready(&self.pidfd, limit - soon).unwrap_or(false);
            }
            if !is_dead {
                let process = self.group.stuck().unwrap_or_else(|| "a process".to_owned());
                let (name, waited_ms) = (self.name.clone(), limit.as_millis());
                return Err(Error::Lingers { name, process, waited_ms });
            }
        }
        let exit = self.wait(WaitIdOptions::NOHANG)?.unwrap_or(Exit::Signal(libc::SIGKILL));
        let usage = self.group.usage()?;
        let killed = exited == Some(Exit::Signal(libc::SIGKILL));
        let oom = killed && self.group.oom_kills()? > 0;
        self.group.remove()?;
        self.done = true;
        Ok(Ended { exit, oom, usage })
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if !self.done {
            // Nobody is there to be told; `sweep` finds what could not be removed. What has
            // outlived one try is not waited for again.
            let tried = self.before == Some(None);
            let limit = if tried { Duration::ZERO } else { Duration::from_millis(KILL_MS_MAX) };
            let _ = self.finish(limit);
        }
    }
}

pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
