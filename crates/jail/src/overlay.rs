//! The writable root: an overlay of read-only layers and one folder that takes the changes; and
//! trees without such a folder.
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
    #[error("mounting an overlay of {layers} layers {at}: {source}")]
    Mount { layers: usize, at: String, source: io::Error },
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
    scratch: Option<Scratch>,
}

/// The folder that takes changes: `upper` and `work` are names in it.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
    tree: OwnedFd,
    upper: PathBuf,
    work: PathBuf,
}

impl Sources {
    /// Clones the mounts of all folders.
    pub(crate) fn open(layers: &[PathBuf], upper: &Path, work: &Path) -> Result<Self, Error> {
        let mut sources = Self::open_layers(layers)?;
        sources.scratch = Some(Scratch::open(upper, work)?);
        Ok(sources)
    }

    /// The same for a tree that cannot be written to.
    pub(crate) fn open_layers(layers: &[PathBuf]) -> Result<Self, Error> {
        let open = |path: &PathBuf| Ok((path.clone(), open(path)?));
        let layers: Result<Vec<_>, Error> = layers.iter().map(open).collect();
        Ok(Self { layers: layers?, scratch: None })
    }

    /// Mounts the overlay and detaches it. The current folder must be a [`stage`].
    pub(crate) fn mount(
        &self,
        mapping: Option<Mapping<'_>>,
        volatile: bool,
    ) -> Result<OwnedFd, Error> {
        for (at, (path, tree)) in self.layers.iter().enumerate() {
            attach(path, tree, &at.to_string(), attr::RDONLY, mapping)?;
        }
        if let Some(scratch) = &self.scratch {
            scratch.attach(mapping, volatile)?;
        }
        if self.needs_empty() {
            make_folder(EMPTY)?;
        }
        make_folder("m")?;
        let options = self.options(volatile);
        let at = || match &self.scratch {
            Some(scratch) => format!("on {}", scratch.path.join(&scratch.upper).display()),
            None => "without an upper folder".to_owned(),
        };
        let failed = |source| Error::Mount { layers: self.layers.len(), at: at(), source };
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        caps::without_resource(mapping.is_some(), || {
            as_owner(mapping, || {
                mount(MOUNT_SOURCE, "m", "overlay", flags, Some(options.as_c_str()))
            })
        })
        .map_err(failed)?;
        let tree = clone_mount(Path::new("m")).map_err(failed)?;
        let facts = rustix::fs::fstatvfs(&tree).map_err(|e| failed(e.into()))?;
        match &self.scratch {
            Some(scratch) if facts.f_flag.contains(StatVfsMountFlags::RDONLY) => {
                Err(Error::ReadOnly(scratch.path.join(&scratch.upper)))
            }
            _ => Ok(tree),
        }
    }

    /// The kernel wants a layer below what is written, and two where nothing can be.
    fn needs_empty(&self) -> bool {
        self.scratch.is_none() || self.layers.is_empty()
    }

    /// redirect_dir=nofollow and metacopy=off: what a layer says in xattrs must not lead
    /// elsewhere.
    fn options(&self, volatile: bool) -> std::ffi::CString {
        let mut names: Vec<String> =
            (0..self.layers.len()).rev().map(|at| at.to_string()).collect();
        if self.needs_empty() {
            names.push(EMPTY.to_owned());
        }
        let upper = if self.scratch.is_some() { "upperdir=u,workdir=w," } else { "" };
        let fixed = "redirect_dir=nofollow,metacopy=off,index=off";
        let volatile = if volatile { ",volatile" } else { "" };
        let options = format!("lowerdir={},{upper}{fixed}{volatile}", names.join(":"));
        std::ffi::CString::new(options).unwrap_or_default()
    }
}

impl Scratch {
    fn open(upper: &Path, work: &Path) -> Result<Self, Error> {
        let apart = || Error::Apart(upper.to_owned());
        let path = upper.parent().ok_or_else(apart)?;
        if work.parent() != Some(path) || upper == work {
            return Err(apart());
        }
        let name = |path: &Path| path.file_name().map(PathBuf::from).ok_or_else(apart);
        let (upper, work) = (name(upper)?, name(work)?);
        Ok(Self { path: path.to_owned(), tree: open(path)?, upper, work })
    }

    /// Attaches it as `s`, and its two folders as `u` and `w`: short names, the same for every
    /// container, as the options are readable inside. If its file system cannot map ids and
    /// nothing is kept, the two are given to the container's own root instead.
    fn attach(&self, mapping: Option<Mapping<'_>>, volatile: bool) -> Result<(), Error> {
        self.attach_folder(mapping, volatile)?;
        for (link, name) in [("u", &self.upper), ("w", &self.work)] {
            let to = Path::new("s").join(name);
            rustix::fs::symlink(&to, link).map_err(|e| Error::Stage(e.into()))?;
        }
        Ok(())
    }

    fn attach_folder(&self, mapping: Option<Mapping<'_>>, volatile: bool) -> Result<(), Error> {
        let Self { path, tree, .. } = self;
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
}

/// The layer that stands in where there are too few.
const EMPTY: &str = "e";

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

/// Mounts layers for the host's own use, to be read only, with others on folders of theirs: what a
/// container sees that has such trees. Trees are named by where they lie, in the order in which
/// they were laid there; the first one, at `/`, is the root. Ids are those on disk. The mounts last
/// as long as the descriptor and are reached only through it: give it to [`crate::Root`].
///
/// A folder among the layers may take the changes of another mount, as long as nothing is written
/// there.
///
/// # Errors
/// See [`Error`]; this needs the rights of root.
pub fn view(trees: &[(PathBuf, Vec<PathBuf>)]) -> Result<OwnedFd, Error> {
    let open = |(at, layers): &(PathBuf, Vec<PathBuf>)| {
        Ok::<_, Error>((at.clone(), Sources::open_layers(layers)?))
    };
    let trees: Vec<_> = trees.iter().map(open).collect::<Result<_, _>>()?;
    let act = || {
        stage()?;
        for (number, (at, sources)) in trees.iter().enumerate() {
            let own = format!("t{number}");
            make_folder(&own)?;
            let enter = |path: &str| rustix::process::chdir(path);
            enter(&own).map_err(|e| Error::Stage(e.into()))?;
            let mounted = sources.mount(None, false)?;
            enter("..").map_err(|e| Error::Stage(e.into()))?;
            lay(&mounted, at, number == 0)
                .map_err(|source| Error::Open { path: at.clone(), source })?;
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let all = open_tree(CWD, VIEW, flags | OpenTreeFlags::AT_RECURSIVE);
        all.map_err(|e| Error::Stage(e.into()))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("view".into());
        let thread = thread.spawn_scoped(scope, act).map_err(Error::Stage)?;
        thread.join().map_err(|_| Error::Stage(io::Error::other("the mounting thread died")))?
    })
}

/// Where [`view`] puts the root.
const VIEW: &str = "v";

/// Attaches a tree at a place in the view.
fn lay(mounted: &OwnedFd, at: &Path, is_root: bool) -> io::Result<()> {
    let from = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if is_root {
        rustix::fs::mkdir(VIEW, Mode::from_raw_mode(0o755))?;
        return Ok(move_mount(mounted, "", CWD, VIEW, from)?);
    }
    let root = crate::Root::open_folder(Path::new(VIEW)).map_err(io::Error::other)?;
    let found = root.below(at).map_err(io::Error::other)?;
    Ok(move_mount(mounted, "", found.folder(), "", from | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)?)
}

/// A detached clone of the mount at `path`, without what is mounted below it.
pub(crate) fn clone_mount(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, path, flags)?)
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    clone_mount(path).map_err(|source| Error::Open { path: path.to_owned(), source })
}

fn make_folder(name: &str) -> Result<(), Error> {
    let made = rustix::fs::mkdir(name, Mode::from_raw_mode(0o755));
    made.map_err(|error| Error::Stage(error.into()))
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
    make_folder(name)?;
    let attached = move_mount(tree, "", CWD, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
    attached.map_err(|error| Error::Stage(error.into()))
}

/// Runs `act` with the file-system ids that are 0 on a mapped disk: the kernel creates files in
/// `work` with the ids of who mounts, and root's own are unknown to such a mount. (It then
/// mounts read-only and says so in its log alone.)
fn as_owner(
    mapping: Option<Mapping<'_>>,
    act: impl FnOnce() -> rustix::io::Result<()>,
) -> io::Result<()> {
    let Some(Mapping { first, .. }) = mapping else { return Ok(act()?) };
    Ok(as_id(first, act)?)
}

/// Runs `act` with `first` as the file-system ids of this thread.
pub(crate) fn as_id<T>(first: u32, act: impl FnOnce() -> T) -> T {
    use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
    let gid = setfsgid(Gid::from_raw(first));
    let uid = setfsuid(Uid::from_raw(first));
    let answer = act();
    setfsuid(uid);
    setfsgid(gid);
    answer
}
