//! The writable root: an overlay of read-only layers and one folder that takes the changes.
//!
//! Layers are first cloned as mounts of their own, which can map ids, and attached under short
//! names to a small tmpfs in a private mount namespace; the overlay's options name them from
//! there. This works on all kernels from 6.1 on, keeps any number of layers below the limit of an
//! option string, and the options, which a container can read in its mountinfo, show no path of
//! the host. The finished overlay is a detached mount: a descriptor, bound to no namespace.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, StatVfsMountFlags, Uid, chownat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change,
    move_mount, open_tree,
};

use crate::sys::mount::{attr, set_attributes};
use crate::{MOUNT_SOURCE, caps};

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer, or the folder above `upper` and `work`, cannot be opened.
    #[error("opening the folder {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    /// `upper` and `work` are no two folders in one folder.
    #[error("`upper` and `work` must be two folders in one folder: {0}")]
    Apart(PathBuf),
    /// A file system cannot map ids.
    #[error("the file system of {path} cannot map ids, or a mount flag was refused: {source}")]
    Map { path: PathBuf, source: io::Error },
    /// The private place for the layers could not be made.
    #[error("making a place for the layers: {0}")]
    Stage(#[source] io::Error),
    /// The kernel refused the overlay.
    #[error("mounting an overlay of {layers} layers on {upper}: {source}")]
    Mount { layers: usize, upper: PathBuf, source: io::Error },
    /// The kernel made it read-only, which it says only in its log.
    #[error("the overlay on {0} is read-only: its file system lacks what an upper folder needs")]
    ReadOnly(PathBuf),
}

/// How an overlay maps ids: through `userns`, whose id 0 is the host's `first`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mapping<'a> {
    pub(crate) userns: BorrowedFd<'a>,
    pub(crate) first: u32,
}

/// Opened layers, not yet attached anywhere.
#[derive(Debug)]
pub(crate) struct Sources {
    layers: Vec<(PathBuf, OwnedFd)>,
    scratch: (PathBuf, OwnedFd),
    upper: PathBuf,
    work: PathBuf,
}

impl Sources {
    /// Clones the mounts of all folders.
    pub(crate) fn open(layers: &[PathBuf], upper: &Path, work: &Path) -> Result<Self, Error> {
        let apart = || Error::Apart(upper.to_owned());
        let scratch = upper.parent().ok_or_else(apart)?;
        if work.parent() != Some(scratch) || upper == work {
            return Err(apart());
        }
        let name = |path: &Path| path.file_name().map(PathBuf::from).ok_or_else(apart);
        let clone = |path: &Path| {
            let tree = clone_mount(path);
            let opened = tree.map(|tree| (path.to_owned(), tree));
            opened.map_err(|source| Error::Open { path: path.to_owned(), source })
        };
        let opened: Result<Vec<_>, _> = layers.iter().map(|path| clone(path)).collect();
        let (layers, scratch) = (opened?, clone(scratch)?);
        Ok(Self { layers, scratch, upper: name(upper)?, work: name(work)? })
    }

    /// Mounts the overlay and detaches it. The current folder must be a [`stage`].
    pub(crate) fn mount(
        &self,
        mapping: Option<Mapping<'_>>,
        volatile: bool,
    ) -> Result<OwnedFd, Error> {
        let stage = Error::Stage;
        for (at, (path, tree)) in self.layers.iter().enumerate() {
            attach(path, tree, &at.to_string(), attr::RDONLY, mapping)?;
        }
        self.attach_scratch(mapping, volatile)?;
        // Short names, the same for every container: the options are readable inside.
        for (link, name) in [("u", &self.upper), ("w", &self.work)] {
            let to = Path::new("s").join(name);
            rustix::fs::symlink(&to, link).map_err(|e| stage(e.into()))?;
        }
        rustix::fs::mkdir("m", Mode::from_raw_mode(0o755)).map_err(|e| stage(e.into()))?;
        let options = self.options(volatile);
        let upper = || self.scratch.0.join(&self.upper);
        let failed = |source| Error::Mount { layers: self.layers.len(), upper: upper(), source };
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        caps::without_resource(mapping.is_some(), || {
            as_owner(mapping, || {
                mount(MOUNT_SOURCE, "m", "overlay", flags, Some(options.as_c_str()))
            })
        })
        .map_err(failed)?;
        let tree = clone_mount(Path::new("m")).map_err(failed)?;
        let facts = rustix::fs::fstatvfs(&tree).map_err(|e| failed(e.into()))?;
        if facts.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(Error::ReadOnly(upper()));
        }
        Ok(tree)
    }

    /// Attaches the folder of `upper` and `work`. If its file system cannot map ids and nothing is
    /// kept, the two are given to the container's own root instead.
    fn attach_scratch(&self, mapping: Option<Mapping<'_>>, volatile: bool) -> Result<(), Error> {
        let (path, tree) = &self.scratch;
        let attached = attach(path, tree, "s", 0, mapping);
        let (Err(Error::Map { source, .. }), Some(Mapping { first, .. }), true) =
            (&attached, mapping, volatile)
        else {
            return attached;
        };
        if source.kind() != io::ErrorKind::InvalidInput {
            return attached;
        }
        attach(path, tree, "s", 0, None)?;
        let (uid, gid) = (Uid::from_raw(first), Gid::from_raw(first));
        for name in [&self.upper, &self.work] {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            chownat(CWD, Path::new("s").join(name), Some(uid), Some(gid), flags)
                .map_err(|error| Error::Stage(error.into()))?;
        }
        Ok(())
    }

    /// redirect_dir=nofollow and metacopy=off: what a layer says in xattrs must not lead
    /// elsewhere.
    fn options(&self, volatile: bool) -> std::ffi::CString {
        let names: Vec<String> = (0..self.layers.len()).rev().map(|at| at.to_string()).collect();
        let fixed = "upperdir=u,workdir=w,redirect_dir=nofollow,metacopy=off,index=off";
        let volatile = if volatile { ",volatile" } else { "" };
        let options = format!("lowerdir={},{fixed}{volatile}", names.join(":"));
        std::ffi::CString::new(options).unwrap_or_default()
    }
}

/// Makes a private mount namespace for this *thread* with an empty tmpfs as current folder.
/// All folders that are needed must be open before: the tmpfs covers /tmp.
pub(crate) fn stage() -> Result<(), Error> {
    let stage = |e: rustix::io::Errno| Error::Stage(e.into());
    let new = nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS;
    nix::sched::unshare(new).map_err(|e| Error::Stage(e.into()))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(stage)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(MOUNT_SOURCE, "/tmp", "tmpfs", flags, Some(c"mode=755,size=1m")).map_err(stage)?;
    rustix::process::chdir("/tmp").map_err(stage)
}

/// Mounts an overlay for the host's own use, e.g. to copy files into a layer as its container
/// would see them; ids are those on disk. The mount lasts as long as the descriptor and is
/// reached only through it: give it to [`crate::Root`].
///
/// # Errors
/// See [`Error`]; this needs the rights of root.
pub fn overlay(layers: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd, Error> {
    let sources = Sources::open(layers, upper, work)?;
    // A thread of its own: what it does to its namespace and folder ends with it.
    let made = std::thread::scope(|scope| {
        let act = || {
            stage()?;
            sources.mount(None, false)
        };
        let thread = std::thread::Builder::new().name("overlay".into());
        let thread = thread.spawn_scoped(scope, act).map_err(Error::Stage)?;
        let died = |_| Error::Stage(io::Error::other("the mounting thread died"));
        thread.join().map_err(died)?
    })?;
    Ok(made)
}

/// A detached clone of the mount at `path`, without what is mounted below it.
pub(crate) fn clone_mount(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, path, flags)?)
}

fn attach(
    path: &Path,
    tree: &OwnedFd,
    name: &str,
    flags: u64,
    mapping: Option<Mapping<'_>>,
) -> Result<(), Error> {
    let flags = flags | attr::NOSUID | attr::NODEV;
    set_attributes(tree.as_fd(), flags, mapping.map(|m| m.userns), false)
        .map_err(|source| Error::Map { path: path.to_owned(), source })?;
    let attach = || {
        rustix::fs::mkdir(name, Mode::from_raw_mode(0o755))?;
        move_mount(tree, "", CWD, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    };
    attach().map_err(|e| Error::Stage(e.into()))
}

/// Runs `act` with the file-system ids that are 0 on a mapped disk: the kernel creates files in
/// `work` with the ids of who mounts, and root's own are unknown to such a mount. (It then
/// mounts read-only and says so in its log alone.)
fn as_owner(
    mapping: Option<Mapping<'_>>,
    act: impl FnOnce() -> rustix::io::Result<()>,
) -> io::Result<()> {
    use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
    let Some(Mapping { first, .. }) = mapping else { return Ok(act()?) };
    let gid = setfsgid(Gid::from_raw(first));
    let uid = setfsuid(Uid::from_raw(first));
    let answer = act();
    setfsuid(uid);
    setfsgid(gid);
    Ok(answer?)
}
