//! The folders that are watched, and what the kernel's events mean in them.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::{Event, EventType, Wanted};
use crate::failure::{Failure, Kind};
use crate::files::STAGED;
use crate::limits::FOLDERS_MAX;

/// One event of the kernel.
#[derive(Debug)]
pub(super) struct Seen {
    folder: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Option<OsString>,
}

impl From<&inotify::Event<'_>> for Seen {
    fn from(event: &inotify::Event<'_>) -> Self {
        let name = event.file_name().map(|name| OsString::from_vec(name.to_bytes().to_vec()));
        Self { folder: event.wd(), flags: event.events(), cookie: event.cookie(), name }
    }
}

/// The first half of a rename.
#[derive(Debug)]
struct Leaving {
    cookie: u32,
    path: PathBuf,
    is_folder: bool,
}

/// Folders that are watched.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    inotify: BorrowedFd<'a>,
    wanted: WatchFlags,
    recursive: bool,
    /// The path that the client named.
    root: PathBuf,
    /// The folder of `root`, if that is a file.
    above: Option<PathBuf>,
    folders: HashMap<i32, PathBuf>,
    leaving: Option<Leaving>,
    /// Entries of new folders that were found before the kernel reported them, if it does.
    told: HashSet<PathBuf>,
    events: Vec<Event>,
    gone: bool,
}

impl<'a> Tree<'a> {
    /// Begins to watch `root`, a path without links.
    pub(super) fn watch(
        inotify: BorrowedFd<'a>,
        root: PathBuf,
        wanted: Wanted<'_>,
    ) -> Result<Self, Failure> {
        let meta = fs::symlink_metadata(&root).map_err(Failure::of)?;
        let above = (!meta.is_dir()).then(|| root.parent().unwrap_or(Path::new("/")).to_owned());
        let mut tree = Self {
            inotify,
            wanted: kernel_flags(wanted),
            recursive: wanted.recursive && above.is_none(),
            folders: HashMap::new(),
            leaving: None,
            told: HashSet::new(),
            events: Vec::new(),
            gone: false,
            root,
            above,
        };
        let folder = tree.above.as_ref().unwrap_or(&tree.root).clone();
        tree.add(&folder).map_err(failure)?;
        if tree.recursive {
            let failed = tree.add_below(folder, false);
            if let Some((path, error)) = failed.into_iter().next() {
                return Err(failure(error).before(&path.display().to_string()));
            }
        }
        Ok(tree)
    }

    /// The events since this was last asked.
    pub(super) fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Whether the root is gone, and with it all that could be reported.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    pub(super) fn waits_for_rename(&self) -> bool {
        self.leaving.is_some()
    }

    /// The kernel has reported all that happened before new folders were watched.
    pub(super) fn forget_told(&mut self) {
        self.told.clear();
    }

    /// Takes in what the kernel says.
    pub(super) fn see(&mut self, seen: &Seen) {
        let has = |flags| seen.flags.intersects(flags);
        if has(ReadFlags::QUEUE_OVERFLOW) {
            return self.begin_anew();
        }
        if has(ReadFlags::IGNORED) {
            self.folders.remove(&seen.folder);
            return;
        }
        let Some(folder) = self.folders.get(&seen.folder) else { return };
        let Some(name) = &seen.name else {
            let is_top = folder == self.above.as_ref().unwrap_or(&self.root);
            if is_top && has(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT) {
                let moved = has(ReadFlags::MOVE_SELF);
                self.end_rename();
                let kind = if moved { EventType::RenameFrom } else { EventType::Remove };
                self.tell(kind, self.root.clone());
                self.gone = true;
            }
            return;
        };
        let path = folder.join(name);
        let other = self.above.is_some() && path != self.root;
        if other || is_staged(name) {
            // Half of a rename may be the other's.
            return self.end_rename();
        }
        self.see_entry(path, seen);
    }

    fn see_entry(&mut self, path: PathBuf, seen: &Seen) {
        let has = |flags| seen.flags.intersects(flags);
        let is_folder = has(ReadFlags::ISDIR);
        if has(ReadFlags::MOVED_TO) {
            return self.arrive(path, seen.cookie, is_folder);
        }
        self.end_rename();
        if has(ReadFlags::MOVED_FROM) {
            self.leaving = Some(Leaving { cookie: seen.cookie, path, is_folder });
        } else if has(ReadFlags::CREATE) {
            if !self.told.remove(&path) {
                self.tell(EventType::Create, path.clone());
            }
            if is_folder && self.recursive {
                self.add_new(path, true);
            }
        } else if has(ReadFlags::DELETE) {
            self.tell(EventType::Remove, path);
        } else if is_nameless(&path) {
            // Nobody else can reach it, under this name or another.
        } else if has(ReadFlags::MODIFY | ReadFlags::ATTRIB) {
            self.tell(EventType::Modify, path);
        } else if !is_folder {
            // Listing a folder is what this program does itself.
            self.tell(EventType::Access, path);
        }
    }

    /// The second half of a rename.
    fn arrive(&mut self, path: PathBuf, cookie: u32, is_folder: bool) {
        match self.leaving.take_if(|leaving| leaving.cookie == cookie) {
            Some(leaving) => {
                if is_folder {
                    self.forget(&path);
                    self.rename(&leaving.path, &path);
                }
                let paths = vec![leaving.path, path];
                self.events.push(Event { event_type: EventType::Rename, paths });
            }
            None => {
                self.end_rename();
                self.tell(EventType::RenameTo, path.clone());
                if is_folder && self.recursive {
                    self.add_new(path, false);
                }
            }
        }
    }

    /// No second half comes: the entry has left what is watched.
    pub(super) fn end_rename(&mut self) {
        if let Some(leaving) = self.leaving.take() {
            if leaving.is_folder {
                self.forget(&leaving.path);
            }
            self.tell(EventType::RenameFrom, leaving.path);
        }
    }

    fn tell(&mut self, event_type: EventType, path: PathBuf) {
        self.events.push(Event { event_type, paths: vec![path] });
    }

    /// Events were lost: new folders may be among what was not told.
    fn begin_anew(&mut self) {
        self.end_rename();
        self.tell(EventType::Unknown, self.root.clone());
        if self.recursive {
            self.add_new(self.root.clone(), false);
        }
    }

    /// Watches a folder that has come; with `report` its entries are new, too. What cannot be
    /// watched is told as a place of which nothing is known.
    fn add_new(&mut self, folder: PathBuf, report: bool) {
        match self.add(&folder) {
            Ok(()) => {
                for (path, _) in self.add_below(folder, report) {
                    self.tell(EventType::Unknown, path);
                }
            }
            // Gone again.
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(_) => self.tell(EventType::Unknown, folder),
        }
    }

    fn add(&mut self, folder: &Path) -> Result<(), Errno> {
        if self.folders.len() >= FOLDERS_MAX {
            return Err(Errno::NOSPC);
        }
        let watch = inotify::add_watch(self.inotify, folder, self.wanted)?;
        self.folders.insert(watch, folder.to_owned());
        Ok(())
    }

    /// Watches all folders below one that is watched already; returns those that cannot be.
    fn add_below(&mut self, folder: PathBuf, report: bool) -> Vec<(PathBuf, Errno)> {
        let mut failed = Vec::new();
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                if report && !is_staged(&entry.file_name()) && self.told.insert(path.clone()) {
                    self.tell(EventType::Create, path.clone());
                }
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                match self.add(&path) {
                    Ok(()) => folders.push(path),
                    Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(error) => {
                        failed.push((path, error));
                        if error == Errno::NOSPC {
                            return failed;
                        }
                    }
                }
            }
        }
        failed
    }

    /// A folder has another name now, and with it those below.
    fn rename(&mut self, old: &Path, new: &Path) {
        for path in self.folders.values_mut() {
            if let Ok(rest) = path.strip_prefix(old) {
                *path = if rest.as_os_str().is_empty() { new.into() } else { new.join(rest) };
            }
        }
    }

    /// A folder has left, and with it those below.
    fn forget(&mut self, gone: &Path) {
        let inotify = self.inotify;
        self.folders.retain(|watch, path| {
            let keep = !path.starts_with(gone);
            if !keep {
                // It fails if the kernel has forgotten it already.
                let _ = inotify::remove_watch(inotify, *watch);
            }
            keep
        });
    }
}

/// The files through which `WriteFile` writes are nobody's business.
fn is_staged(name: &OsStr) -> bool {
    name.as_bytes().starts_with(STAGED.as_bytes())
}

/// Whether this is a file that was opened without a name (O_TMPFILE). The kernel reports it as `#`
/// and its inode's number, which is no entry of the folder (seen on 6.18).
fn is_nameless(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let numbered = name.strip_prefix(b"#").is_some_and(|rest| rest.iter().all(u8::is_ascii_digit));
    numbered && fs::symlink_metadata(path).is_err()
}

/// What the kernel has to report so that all that is wanted is seen, and the tree stays right.
fn kernel_flags(wanted: Wanted<'_>) -> WatchFlags {
    let mut flags = WatchFlags::ONLYDIR
        | WatchFlags::DONT_FOLLOW
        | WatchFlags::CREATE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF;
    for (kind, reported) in [
        (EventType::Access, WatchFlags::OPEN | WatchFlags::CLOSE),
        (EventType::Modify, WatchFlags::MODIFY | WatchFlags::ATTRIB),
        (EventType::Remove, WatchFlags::DELETE),
    ] {
        if wanted.has(kind) {
            flags |= reported;
        }
    }
    flags
}

fn failure(error: Errno) -> Failure {
    match error {
        Errno::NOSPC => {
            let what = format!(
                "too many folders to watch: at most {FOLDERS_MAX}, and as many as the kernel \
                 allows (max_user_watches)"
            );
            Failure::new(Kind::Io, what)
        }
        error => Failure::of(error),
    }
}
