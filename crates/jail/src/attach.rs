//! Further trees in a running container.
//!
//! A thread enters the container's mount namespace with a tree that was mounted elsewhere and
//! lays it on a path. It keeps the rights of the host's root there, so the path is resolved by
//! the kernel below the container's root, without the links of /proc that could lead out.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::limits::{ATTACH_MS_MAX, LAYERS_MAX};
use crate::overlay::{self, Mapping, Sources};
use crate::plan::{self, Refused};
use crate::root::{self, Kind, Root};
use crate::{MOUNT_SOURCE, caps};

/// Why a tree was not laid into a container, or not taken out of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked is wrong.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The process is gone, or is not the first one of a container.
    #[error("the process {pid} is no container's: {source}")]
    NoContainer { pid: i32, source: io::Error },
    /// The tree itself.
    #[error(transparent)]
    Overlay(#[from] overlay::Error),
    /// The path inside.
    #[error(transparent)]
    Path(#[from] root::Error),
    /// Something else than a folder is there.
    #[error("{0} is no folder")]
    NoFolder(PathBuf),
    /// No tree was laid on the path.
    #[error("nothing is mounted at {0} that could be taken away")]
    NotAttached(PathBuf),
    /// A step failed.
    #[error("{step} {path}: {source}")]
    Step { step: &'static str, path: PathBuf, source: io::Error },
    /// It took too long: the path leads to a file system that does not answer.
    #[error("no answer from the file system at {0} in time")]
    Silent(PathBuf),
}

/// Folders of the host that shall be seen as one tree inside.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Read-only folders, bottom first; at least one.
    pub layers: Vec<PathBuf>,
    /// Where changes go; without it the tree is read-only.
    pub writable: Option<Writable>,
}

/// What takes the changes of a tree, as in [`crate::Plan`].
#[derive(Debug, Clone)]
pub struct Writable {
    /// The folder with the changes; their owners lie on disk with ids from 0.
    pub upper: PathBuf,
    /// An empty folder in the same folder as `upper`, for the kernel's own use.
    pub work: PathBuf,
    /// Nothing written is kept.
    pub volatile: bool,
}

/// Lays `tree` on `target` inside the running container whose first process is `pid`, where it
/// stays until [`detach`] or the container's end; `target` is made if it is missing. Links in it
/// are followed as a program inside would follow them. Gives the number by which [`attached`] tells
/// it from others. Blocks.
///
/// # Errors
/// See [`Error`]; this needs the rights of root.
pub fn attach(pid: i32, target: &Path, tree: &Tree) -> Result<u64, Error> {
    plan::inside("target", target)?;
    tree.check()?;
    let container = Container::open(pid)?;
    let (tree, target) = (tree.clone(), target.to_owned());
    aside(target, move |target| {
        let sources = match &tree.writable {
            Some(to) => Sources::open(&tree.layers, &to.upper, &to.work)?,
            None => Sources::open_layers(&tree.layers)?,
        };
        overlay::stage()?;
        let mapping = Mapping { userns: container.user.as_fd(), first: container.first };
        let volatile = tree.writable.as_ref().is_some_and(|to| to.volatile);
        let mounted = sources.mount(Some(mapping), volatile)?;
        let root = container.enter()?;
        // What is made on the way belongs to the container's root.
        let made = caps::without_resource(true, || {
            Ok(overlay::as_id(container.first, || make_folder(&root, target)))
        });
        made.map_err(|source| step("making the folder", target, source))??;
        let found = find(&root, target)?;
        if is_same(root.folder(), &found)? {
            let reason = format!("leads to the whole root: {}", target.display());
            return Err(Refused { field: "target", reason }.into());
        }
        let both =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&mounted, "", &found, "", both)
            .map_err(|error| step("laying a tree on", target, error.into()))?;
        let facts = statx(&mounted, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
        Ok(facts.map_err(|error| step("looking at", target, error.into()))?.stx_mnt_id)
    })
}

/// A tree that lies in a running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Its number, as long as it lies there.
    pub id: u64,
    /// Where it lies now, without links on the way: folders above it may have been renamed.
    pub path: PathBuf,
}

/// What [`attach`] laid into the container, in that order.
///
/// # Errors
/// [`Error::NoContainer`].
pub fn attached(pid: i32) -> Result<Vec<Attached>, Error> {
    let container = Container::open(pid)?;
    let text = io::read_to_string(&container.table);
    let text = text.map_err(|source| Error::NoContainer { pid, source })?;
    let ours = text.lines().filter(|line| is_ours_in(line));
    Ok(ours.filter_map(place).filter(|attached| attached.path != Path::new("/")).collect())
}

/// The number and the place of a mount by its line (proc_pid_mountinfo(5)).
fn place(line: &str) -> Option<Attached> {
    let mut fields = line.split(' ');
    let (id, path) = (fields.next()?.parse().ok()?, fields.nth(3)?);
    Some(Attached { id, path: PathBuf::from(OsString::from_vec(unescape(path.as_bytes()))) })
}

/// Undoes how the kernel writes spaces, tabs, ends of lines and backslashes: `\` and three octal
/// digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let digits = text.get(at + 1..at + 4).filter(|_| text[at] == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(text[at]);
                at += 1;
            }
        }
    }
    plain
}

/// Takes away what [`attach`] laid on `target`. Programs that still use it keep it until they let
/// go, but nobody finds it any more. Blocks.
///
/// # Errors
/// [`Error::NotAttached`] if something else or nothing is mounted there; see [`Error`].
pub fn detach(pid: i32, target: &Path) -> Result<(), Error> {
    plan::inside("target", target)?;
    let container = Container::open(pid)?;
    aside(target.to_owned(), move |target| {
        own_folder()?;
        let root = container.enter()?;
        let found = find(&root, target)?;
        if !container.is_attached(&root, &found)? {
            return Err(Error::NotAttached(target.to_owned()));
        }
        // By descriptor: the path could lead elsewhere by now.
        let taken = rustix::process::fchdir(&found)
            .and_then(|()| unmount(".", UnmountFlags::DETACH | UnmountFlags::NOFOLLOW));
        taken.map_err(|error| step("taking a tree from", target, error.into()))
    })
}

impl Tree {
    fn check(&self) -> Result<(), Refused> {
        let refused = |reason: &str| Refused { field: "layers", reason: reason.to_owned() };
        if self.layers.is_empty() {
            return Err(refused("is empty"));
        }
        if self.layers.len() > LAYERS_MAX {
            return Err(refused(&format!("has more than {LAYERS_MAX} folders")));
        }
        self.layers.iter().try_for_each(|path| plan::host_path("layers", path))?;
        let Some(Writable { upper, work, .. }) = &self.writable else { return Ok(()) };
        plan::host_path("upper", upper)?;
        plan::host_path("work", work)
    }
}

/// What is needed to enter a container, opened before its namespace hides the host's /proc.
struct Container {
    user: OwnedFd,
    mounts: OwnedFd,
    table: File,
    /// The host's id of its root.
    first: u32,
}

impl Container {
    fn open(pid: i32) -> Result<Self, Error> {
        let folder = Path::new("/proc").join(pid.to_string());
        let failed = |source| Error::NoContainer { pid, source };
        let open = |name: &str| File::open(folder.join(name)).map_err(failed);
        let (user, mounts, table) = (open("ns/user")?, open("ns/mnt")?, open("mountinfo")?);
        // The map tells it from a process of the host, whose mounts must not be changed.
        let map = fs::read_to_string(folder.join("uid_map")).map_err(failed)?;
        let mut numbers = map.split_whitespace().map(str::parse::<u32>);
        let first = match (numbers.next(), numbers.next()) {
            (Some(Ok(0)), Some(Ok(first))) if first > 0 => first,
            _ => return Err(failed(io::Error::other("its root is the host's"))),
        };
        Ok(Self { user: user.into(), mounts: mounts.into(), table, first })
    }

    /// Moves this thread into the mount namespace; its root is the container's then.
    fn enter(&self) -> Result<Root, Error> {
        let kind = Some(LinkNameSpaceType::Mount);
        move_into_link_name_space(self.mounts.as_fd(), kind)
            .map_err(|error| step("entering the mounts of", Path::new("/"), error.into()))?;
        Ok(Root::open_folder(Path::new("/"))?)
    }

    /// Whether `found` is the top of a tree of ours other than the container's root.
    fn is_attached(&self, root: &Root, found: &OwnedFd) -> Result<bool, Error> {
        let facts = |file: BorrowedFd<'_>| {
            statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
                .map_err(|error| step("looking at", Path::new("/"), error.into()))
        };
        let (own, facts) = (facts(root.folder())?, facts(found.as_fd())?);
        let top = facts.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        if !top || facts.stx_mnt_id == own.stx_mnt_id {
            return Ok(false);
        }
        let text = io::read_to_string(&self.table)
            .map_err(|source| step("reading the mounts of", Path::new("/"), source))?;
        Ok(is_ours(&text, facts.stx_mnt_id))
    }
}

/// Whether the mount with this number is an overlay of ours.
fn is_ours(mountinfo: &str, id: u64) -> bool {
    let id = id.to_string();
    let line = mountinfo.lines().find(|line| line.split(' ').next() == Some(&id));
    line.is_some_and(is_ours_in)
}

fn is_ours_in(line: &str) -> bool {
    let kind = line.split_once(" - ").map(|(_, kind)| kind);
    kind.is_some_and(|kind| kind.starts_with(&format!("overlay {MOUNT_SOURCE} ")))
}

fn make_folder(root: &Root, target: &Path) -> Result<(), Error> {
    match root.stat(target) {
        Ok(facts) if facts.kind == Kind::Folder => Ok(()),
        Ok(_) => Err(Error::NoFolder(target.to_owned())),
        Err(error) if error.is_not_found() => Ok(root.mkdir_all(target, 0o755)?),
        Err(error) => Err(error.into()),
    }
}

fn find(root: &Root, target: &Path) -> Result<OwnedFd, Error> {
    Ok(root.below(target)?.into_folder())
}

fn is_same(root: BorrowedFd<'_>, found: &OwnedFd) -> Result<bool, Error> {
    let stat = |file: BorrowedFd<'_>| {
        rustix::fs::fstat(file)
            .map_err(|error| step("looking at", Path::new("/"), error.into()))
            .map(|stat| (stat.st_dev, stat.st_ino))
    };
    Ok(stat(root)? == stat(found.as_fd())?)
}

/// Runs `act` in a thread of its own: what that does to its namespaces, ids and folder ends with
/// it, and a file system that never answers holds up nobody else.
fn aside<T: Send + 'static>(
    target: PathBuf,
    act: impl FnOnce(&Path) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (told, answer) = sync_channel(1);
    let thread = std::thread::Builder::new().name("attach".into());
    let path = target.clone();
    thread
        .spawn(move || drop(told.send(act(&path))))
        .map_err(|source| step("starting a thread for", &target, source))?;
    match answer.recv_timeout(Duration::from_millis(ATTACH_MS_MAX)) {
        Ok(done) => done,
        Err(RecvTimeoutError::Timeout) => Err(Error::Silent(target)),
        Err(RecvTimeoutError::Disconnected) => {
            Err(step("attaching at", &target, io::Error::other("the thread died")))
        }
    }
}

/// Gives this thread a root and a folder of its own, which entering a namespace changes.
fn own_folder() -> Result<(), Error> {
    unshare(CloneFlags::CLONE_FS)
        .map_err(|error| step("leaving the folder", Path::new("/"), error.into()))
}

fn step(step: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Step { step, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_mounts() {
        let mounts = "12 1 0:5 / / rw - overlay palisade rw,lowerdir=0\n\
                      123 12 0:6 / /x rw - overlay overlay rw\n\
                      124 12 0:6 / /y rw,noatime shared:1 - overlay palisade rw\n\
                      125 12 0:7 / /z rw - tmpfs palisade rw\n";
        for (id, ours) in [(12, true), (123, false), (124, true), (125, false), (1, false)] {
            assert_eq!(is_ours(mounts, id), ours, "{id}");
        }
    }

    #[test]
    fn finds_where_a_mount_lies() {
        let line = "31 12 0:6 / /a\\040b\\134 rw,noatime - overlay palisade rw";
        assert_eq!(place(line), Some(Attached { id: 31, path: "/a b\\".into() }));
        assert_eq!(unescape(b"\\04"), b"\\04");
        assert_eq!(unescape(b"\\999"), b"\\999");
    }
}
