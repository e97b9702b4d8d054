//! `Watch`: a line of JSON for each change at a path, until the timeout passes, the client closes
//! stdin or reads no more, or what is watched is gone.
//!
//! A folder reports what happens to its entries, and with `recursive` to those of all folders
//! below, also of new ones. A file is watched through its folder, so that one that is replaced, as
//! editors and `WriteFile` do it, stays watched.

mod tree;

use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use crate::failure::{Failure, Kind};
use crate::limits::{EVENT_BYTES_MAX, EVENTS_MAX, RENAME_MAX};
use crate::names::quoted;
use tree::{Seen, Tree};

/// The kinds of events. Clients show the three of renames as `Modify`, and ask for them with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub(crate) enum EventType {
    /// Events were lost: what is watched has to be looked at anew.
    Unknown,
    /// A file was opened or closed.
    Access,
    Create,
    /// The content or the attributes changed.
    Modify,
    Remove,
    /// Both names were seen: the old one and the new one.
    Rename,
    RenameFrom,
    RenameTo,
}

impl EventType {
    fn name(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Access => "Access",
            Self::Create => "Create",
            Self::Modify => "Modify",
            Self::Remove => "Remove",
            Self::Rename => "Rename",
            Self::RenameFrom => "RenameFrom",
            Self::RenameTo => "RenameTo",
        }
    }
}

/// What a client wants to see.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Folders below, too.
    pub(crate) recursive: bool,
    /// `None` is everything.
    pub(crate) filter: Option<&'a [EventType]>,
}

impl Wanted<'_> {
    fn has(self, event_type: EventType) -> bool {
        self.filter.is_none_or(|filter| filter.contains(&event_type))
    }
}

/// An event as clients see it.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    event_type: EventType,
    paths: Vec<PathBuf>,
}

impl Event {
    fn to_json(&self) -> String {
        let paths: Vec<String> =
            self.paths.iter().map(|path| quoted(path.as_os_str().as_bytes())).collect();
        format!(r#"{{"event_type":"{}","paths":[{}]}}"#, self.event_type.name(), paths.join(","))
    }
}

/// Watches a path; returns when the watch is over.
pub(crate) fn run(path: &Path, wanted: Wanted<'_>, timeout: Option<f64>) -> Result<(), Failure> {
    let deadline = timeout.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
    let inotify = inotify::init(flags).map_err(|error| match error {
        Errno::MFILE => {
            let what = "too many watches are open: the kernel allows no more (max_user_instances)";
            Failure::new(Kind::Io, what)
        }
        error => Failure::of(error),
    })?;
    let root = fs::canonicalize(path).map_err(Failure::of)?;
    let mut tree = Tree::watch(inotify.as_fd(), root, wanted)?;
    let mut out = BufWriter::new(io::stdout());
    let mut buffer = vec![MaybeUninit::uninit(); EVENT_BYTES_MAX];
    let mut reader = inotify::Reader::new(&inotify, &mut buffer);
    loop {
        let drained = read_some(&mut reader, &mut tree)?;
        let mut written = Ok(());
        for event in tree.take() {
            if wanted.has(event.event_type) {
                written = written.and_then(|()| writeln!(out, "{}", event.to_json()));
            }
        }
        if written.and_then(|()| out.flush()).is_err() || tree.is_gone() {
            return Ok(());
        }
        let wait = if drained { tree.waits_for_rename().then_some(RENAME_MAX) } else { None };
        let wait = if drained { wait } else { Some(Duration::ZERO) };
        match sleep(inotify.as_fd(), wait, deadline)? {
            Woken::Over => return Ok(()),
            Woken::Events => {}
            Woken::Nothing => tree.end_rename(),
        }
    }
}

/// Takes events until there are none, or as many as may be taken at once; `true` if none is left.
fn read_some<Fd: AsFd>(
    reader: &mut inotify::Reader<'_, Fd>,
    tree: &mut Tree<'_>,
) -> Result<bool, Failure> {
    let mut taken = 0;
    loop {
        // What is in the buffer is always taken: poll does not know of it.
        if taken >= EVENTS_MAX && reader.is_buffer_empty() {
            return Ok(false);
        }
        match reader.next() {
            Ok(event) => tree.see(&Seen::from(&event)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                tree.forget_told();
                return Ok(true);
            }
            Err(error) => return Err(Failure::of(error)),
        }
        taken += 1;
    }
}

enum Woken {
    Events,
    Nothing,
    Over,
}

/// Waits for events, at most for `wait` and until `deadline`; sees when the client has gone.
fn sleep(
    inotify: impl AsFd,
    wait: Option<Duration>,
    deadline: Option<Instant>,
) -> Result<Woken, Failure> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    if left == Some(Duration::ZERO) {
        return Ok(Woken::Over);
    }
    let wait = left.into_iter().chain(wait).min();
    let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
    let mut polled = [
        PollFd::new(&inotify, PollFlags::IN),
        PollFd::new(&stdin, PollFlags::IN),
        PollFd::new(&stdout, PollFlags::empty()),
    ];
    match poll(&mut polled, wait.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(Failure::of(error)),
    }
    let [events, input, output] = polled.map(|one| one.revents());
    if output.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
        return Ok(Woken::Over);
    }
    if !input.is_empty() {
        // What is said is of no interest; that nothing more will be said is.
        let mut said = [0; 4096];
        match rustix::io::read(&stdin, &mut said) {
            Ok(0) | Err(_) => return Ok(Woken::Over),
            Ok(_) => {}
        }
    }
    Ok(if events.is_empty() { Woken::Nothing } else { Woken::Events })
}
