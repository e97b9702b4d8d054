//! Programs that the container's first process starts beside the main one.
//!
//! Each is born in a control group of its own, so that its whole tree can be killed, and has two
//! sockets to the caller: this process tells on the one that it was forked and how it ended; the
//! program to be tells on the other why it could not be executed, and closes it by being
//! executed. So nothing here waits for a program, and many can start at once.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::WaitStatus;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::program::{self, Streams};
use super::{end, init};
use crate::host::raise_open_files;
use crate::message::{self, ExecNews, Failure, Size};
use crate::plan::{Plan, Process};
use crate::sys::process::{Cloned, clone_child};

/// The programs that run now.
pub(super) struct Execs<'a> {
    plan: &'a Plan,
    /// The folder of terminals, opened before anything else ran here.
    terminals: Option<OwnedFd>,
    /// Where to tell how a program ended, by its pid.
    running: HashMap<i32, OwnedFd>,
}

/// What comes with an order to start one.
struct Kit {
    answer: OwnedFd,
    start: OwnedFd,
    process: OwnedFd,
    group: OwnedFd,
    streams: Vec<OwnedFd>,
}

impl<'a> Execs<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(CWD, "/dev/pts", flags, Mode::empty()).ok();
        let terminals = plan.takes_execs.then(open).flatten();
        if plan.takes_execs {
            // One for each program that runs.
            raise_open_files();
        }
        Self { plan, terminals, running: HashMap::new() }
    }

    /// Starts one. The caller sees closed sockets if not even an error can be told.
    pub(super) fn start(&mut self, terminal: Option<Size>, descriptors: Vec<OwnedFd>) {
        let Some(kit) = Kit::new(descriptors) else { return };
        let Kit { answer, start, process, group, streams } = kit;
        let fail = |source: io::Error, step: &str| {
            let (failure, text) = (Failure::Other, format!("{step}: {source}"));
            let _ = message::send(&answer, &ExecNews::NotExecuted { failure, text }, &[]);
        };
        let (master, streams) = match self.streams(terminal, streams) {
            Ok(both) => both,
            Err(error) => return fail(error, "making a terminal"),
        };
        let (pid, pidfd) = match clone_child(group.as_fd()) {
            Ok(Cloned::Child) => become_program(self.plan, &process, &start, streams),
            Ok(Cloned::Parent { pid, pidfd }) => (pid, pidfd),
            Err(error) => return fail(error, "making a process (`limits.pids`)"),
        };
        let descriptors: Vec<_> = [&pidfd].into_iter().chain(&master).map(AsFd::as_fd).collect();
        // A caller that is gone does not want to know; the program runs nevertheless.
        let _ = message::send(&answer, &ExecNews::Forked, &descriptors);
        self.running.insert(pid, answer);
    }

    /// Tells how a program ended, if the process was one of them.
    pub(super) fn reaped(&mut self, pid: i32, status: WaitStatus) {
        let Some(answer) = self.running.remove(&pid) else { return };
        let (code, signal) = init::parts(status);
        let _ = message::send(&answer, &ExecNews::Ended { code, signal }, &[]);
    }

    /// The master's side of a new terminal, if one is wanted, and what the program gets.
    fn streams(
        &self,
        terminal: Option<Size>,
        given: Vec<OwnedFd>,
    ) -> io::Result<(Option<OwnedFd>, Streams)> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let Some(Size { rows, columns }) = terminal else {
            let three = given.try_into().map_err(|_| invalid())?;
            return Ok((None, Streams::Three(three)));
        };
        let folder = self.terminals.as_ref().ok_or_else(invalid)?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master = rustix::fs::openat(folder, "ptmx", flags, Mode::empty())?;
        unlockpt(&master)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&slave, size)?;
        Ok((Some(master), Streams::Terminal(slave)))
    }
}

impl Kit {
    fn new(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut all = descriptors.into_iter();
        let (answer, start, process) = (all.next()?, all.next()?, all.next()?);
        Some(Self { answer, start, process, group: all.next()?, streams: all.collect() })
    }
}

/// The new process' own part.
fn become_program(plan: &Plan, process: &OwnedFd, start: &OwnedFd, streams: Streams) -> ! {
    let error = match message::read_memory::<Process>(process) {
        Ok(process) => program::execute(plan, &process, streams),
        Err(error) => program::Error::other("reading what to run")(error),
    };
    let (failure, text) = (error.failure(), error.to_string());
    let _ = message::send(start, &ExecNews::NotExecuted { failure, text }, &[]);
    end(1)
}
