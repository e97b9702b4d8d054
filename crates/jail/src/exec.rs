//! Programs that are started in a running container.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::cgroup::{self, ExecGroup};
use crate::child::{Child, Exit, Life, is_gone};
use crate::limits::{EXEC_MS_MAX, LEFTOVERS_TRIED_MAX, PROCESS_BYTES_MAX};
use crate::message::{self, ExecNews, Failure, Order, Size};
use crate::plan::{Process, Refused};
use crate::stdio::Stdio;

/// Why a program was not started in a container, or does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program as described, or the container's plan, says no.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It has more text than the kernel would take.
    #[error("`process` has more than {} MiB of arguments and environment", PROCESS_BYTES_MAX >> 20)]
    Large,
    /// There is no such program; the text names it.
    #[error("{0}")]
    NotFound(String),
    /// It is there but cannot be executed; the text names it and says why.
    #[error("{0}")]
    NotExecutable(String),
    /// Its working folder cannot be entered; the text names it and says why.
    #[error("{0}")]
    NoFolder(String),
    /// The container has ended.
    #[error("the container {0} has ended: nothing more can be started in it")]
    Gone(String),
    /// The control group of the program.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// Another step failed inside the container.
    #[error("starting a program in the container {name}: {text}")]
    Failed { name: String, text: String },
    /// The container did not answer; it may be frozen.
    #[error("starting a program in the container {name}: {source}")]
    Silent { name: String, source: io::Error },
    /// A signal or a size could not be passed on.
    #[error("{action} a program in a container: {source}")]
    Act { action: &'static str, source: io::Error },
}

/// What a further program reads and writes.
#[derive(Debug)]
pub enum ExecIo {
    /// Three streams, as the main program has.
    Streams(Stdio),
    /// A new terminal of the container with so many characters; it is the program's controlling
    /// terminal, and the caller has its other side.
    Terminal { rows: u16, columns: u16 },
}

/// A program that was started in a running container. Dropping it leaves the program, and what it
/// has started, alive until the container ends.
#[derive(Debug)]
pub struct Exec {
    answer: OwnedFd,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    exit: Mutex<Option<Exit>>,
    group: Option<ExecGroup>,
    leftovers: Arc<Leftovers>,
}

impl Child {
    /// Starts a further program in the container, with the walls and limits that its main program
    /// has; returns when it is executed. Many can be started at once. Blocks for some
    /// milliseconds.
    ///
    /// # Errors
    /// See [`Error`]; nothing of it is left then.
    pub fn exec(&self, process: &Process, io: ExecIo) -> Result<Exec, Error> {
        let life = &self.life;
        if !life.takes_execs {
            let reason = "is false: nothing more can be started in this container".to_owned();
            return Err(Refused { field: "takes_execs", reason }.into());
        }
        process.check(life.ids)?;
        let silent = |source| Error::Silent { name: life.name.clone(), source };
        let text = serde_json::to_vec(process).map_err(|e| silent(e.into()))?;
        if text.len() > PROCESS_BYTES_MAX {
            return Err(Error::Large);
        }
        life.leftovers.remove_some();
        let group = ExecGroup::create(&life.group, life.leftovers.number(), life.ids.first)
            .map_err(|error| gone_or(life, error))?;
        match begin(life, process, &text, io, &group) {
            Ok((answer, pidfd, terminal)) => Ok(Exec {
                answer,
                pidfd,
                terminal,
                exit: Mutex::default(),
                group: Some(group),
                leftovers: Arc::clone(&life.leftovers),
            }),
            Err(error) => {
                // The first error is the one to tell; the group goes with the container at last.
                let _ = group.end();
                Err(error)
            }
        }
    }
}

/// The groups of a container that has ended are gone.
fn gone_or(life: &Life, error: cgroup::Error) -> Error {
    match &error {
        cgroup::Error::Make { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Error::Gone(life.name.clone())
        }
        _ => Error::Cgroup(error),
    }
}

type Begun = (OwnedFd, OwnedFd, Option<OwnedFd>);

fn begin(
    life: &Life,
    process: &Process,
    text: &[u8],
    io: ExecIo,
    group: &ExecGroup,
) -> Result<Begun, Error> {
    let name = || life.name.clone();
    let silent = |source: io::Error| match is_gone(&source) {
        true => Error::Gone(name()),
        false => Error::Silent { name: name(), source },
    };
    let deadline = Instant::now() + Duration::from_millis(EXEC_MS_MAX);
    let (answer, start) = order(life, process, text, io, group, deadline).map_err(silent)?;
    match message::receive_until::<ExecNews>(&start, deadline) {
        Ok((news, _)) => return Err(not_executed(life, news)),
        // Executed, or nobody is there any more.
        Err(error) if is_end(&error) => {}
        Err(source) => return Err(silent(source)),
    }
    match message::receive_until::<ExecNews>(&answer, deadline) {
        Ok((ExecNews::Forked, descriptors)) => {
            let mut descriptors = descriptors.into_iter();
            let lost = || silent(io::Error::other("a message lost its descriptors"));
            Ok((answer, descriptors.next().ok_or_else(lost)?, descriptors.next()))
        }
        Ok((news, _)) => Err(not_executed(life, news)),
        Err(error) if is_end(&error) => Err(Error::Gone(name())),
        Err(source) => Err(silent(source)),
    }
}

/// Tells the first process; answers the two sockets on which there will be news.
fn order(
    life: &Life,
    process: &Process,
    text: &[u8],
    io: ExecIo,
    group: &ExecGroup,
    deadline: Instant,
) -> io::Result<(OwnedFd, OwnedFd)> {
    let (answer, their_answer) = message::pair()?;
    let (start, their_start) = message::pair()?;
    let text = message::in_memory("process", text)?;
    let directory = group.directory().map_err(io::Error::other)?;
    let (streams, terminal) = match io {
        ExecIo::Streams(stdio) => {
            stdio.give(life.ids, Some(process))?;
            (vec![stdio.stdin, stdio.stdout, stdio.stderr], None)
        }
        ExecIo::Terminal { rows, columns } => (vec![], Some(Size { rows, columns })),
    };
    let own = [&their_answer, &their_start, &text, &directory];
    let descriptors: Vec<_> = own.into_iter().chain(&streams).map(AsFd::as_fd).collect();
    let order = Order::Exec { terminal };
    message::send_until(&life.control, &order, &descriptors, deadline)?;
    Ok((answer, start))
}

fn not_executed(life: &Life, news: ExecNews) -> Error {
    let name = || life.name.clone();
    match news {
        ExecNews::NotExecuted { failure: Failure::NotFound, text } => Error::NotFound(text),
        ExecNews::NotExecuted { failure: Failure::NotExecutable, text } => {
            Error::NotExecutable(text)
        }
        ExecNews::NotExecuted { failure: Failure::NoFolder, text } => Error::NoFolder(text),
        ExecNews::NotExecuted { failure: Failure::Other, text } => {
            Error::Failed { name: name(), text }
        }
        other @ (ExecNews::Forked | ExecNews::Ended { .. }) => {
            let source = io::Error::other(format!("unexpected message {other:?}"));
            Error::Silent { name: name(), source }
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof || is_gone(error)
}

impl Exec {
    /// Readable once the program has ended, or the container with it.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.answer.as_fd()
    }

    /// How the program ended, if it has; by SIGKILL if the container ended with it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_wait(&self) -> Result<Option<Exit>, Error> {
        self.look(Duration::ZERO)
    }

    /// Waits until the program has ended. Blocks.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&self) -> Result<Exit, Error> {
        loop {
            if let Some(exit) = self.look(Duration::from_millis(EXEC_MS_MAX))? {
                return Ok(exit);
            }
        }
    }

    fn look(&self, time: Duration) -> Result<Option<Exit>, Error> {
        let failed = |source| Error::Act { action: "waiting for", source };
        if !message::ready(&self.answer, time).map_err(failed)? {
            return Ok(None);
        }
        // One thread at a time: there is one message, and behind it the end.
        let mut exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if exit.is_some() {
            return Ok(*exit);
        }
        let told = match message::receive::<ExecNews>(&self.answer) {
            Ok((ExecNews::Ended { code: Some(code), .. }, _)) => Exit::Code(code),
            Ok((ExecNews::Ended { signal: Some(signal), .. }, _)) => Exit::Signal(signal),
            Ok(_) => Exit::Signal(libc::SIGKILL),
            Err(error) if is_end(&error) => Exit::Signal(libc::SIGKILL),
            Err(source) => return Err(failed(source)),
        };
        *exit = Some(told);
        // From now on it is readable for good.
        let _ = rustix::net::shutdown(&self.answer, rustix::net::Shutdown::Both);
        Ok(*exit)
    }

    /// Kills the program and everything that it has started, whatever that did to hide, and does
    /// not wait for it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&self) -> Result<(), Error> {
        Ok(self.group.as_ref().map_or(Ok(()), ExecGroup::kill)?)
    }

    /// Sends a signal to the program, not to its children. One that has ended is no error.
    ///
    /// # Errors
    /// The kernel's, and for a number that is no signal.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        let failed = |source| Error::Act { action: "sending a signal to", source };
        let unknown = || failed(io::Error::from(io::ErrorKind::InvalidInput));
        let signal = Signal::from_named_raw(signal).ok_or_else(unknown)?;
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// The caller's side of its terminal, if it has one.
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// Sets the size of its terminal in characters; the program gets SIGWINCH.
    ///
    /// # Errors
    /// When it has no terminal.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        let failed = |source| Error::Act { action: "resizing the terminal of", source };
        let none = || failed(io::Error::new(io::ErrorKind::InvalidInput, "it has none"));
        let terminal = self.terminal().ok_or_else(none)?;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(terminal, size).map_err(|error| failed(error.into()))
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            self.leftovers.keep(group);
        }
    }
}

/// Control groups of a container whose programs have ended, but perhaps not what these started.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    inner: Mutex<Groups>,
}

#[derive(Debug, Default)]
struct Groups {
    numbers: u64,
    kept: VecDeque<ExecGroup>,
}

impl Leftovers {
    /// The number of a further group.
    fn number(&self) -> u64 {
        let mut inner = self.lock();
        inner.numbers += 1;
        inner.numbers
    }

    fn keep(&self, group: ExecGroup) {
        if !group.remove_if_empty() {
            self.lock().kept.push_back(group);
        }
    }

    /// Removes those that have become empty, as far as a few are tried.
    fn remove_some(&self) {
        let mut inner = self.lock();
        for _ in 0..LEFTOVERS_TRIED_MAX.min(inner.kept.len()) {
            if let Some(group) = inner.kept.pop_front()
                && !group.remove_if_empty()
            {
                inner.kept.push_back(group);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        // What is kept stays true whoever panicked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
