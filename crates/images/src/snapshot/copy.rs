//! The walk that copies: from folder to folder by descriptors, following no links, because a
//! container wrote the tree.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use blobs::Digest;
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps,
    UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::bytes::{self, Failure};
use super::known::Known;
use super::{Error, failed};
use crate::limits::{LAYER_DEPTH_MAX, LAYER_ENTRIES_MAX, SNAPSHOT_BYTES_MAX, XATTR_BYTES_MAX};
use crate::listing::{Content, Contents, entry_path, is_stray};

/// What came of a walk.
pub(super) struct Done {
    /// The digests of the files that were written or shared.
    pub(super) contents: Contents,
    /// The same by path, for the next snapshot.
    pub(super) known: Known,
}

/// An entry: its folder, and its name there.
type Place<'p> = (BorrowedFd<'p>, &'p CStr);

/// The layer that files are shared with.
struct Earlier {
    known: Known,
    root: OwnedFd,
    /// Inodes that were shared already: two files must not become one.
    shared: HashSet<u64>,
}

/// A folder that is being copied.
struct Folder {
    from: OwnedFd,
    to: OwnedFd,
    stat: Stat,
    /// What is still to be copied.
    names: Vec<CString>,
    /// How long its own path is.
    path_len: usize,
}

pub(super) struct Copier<'t> {
    tree: BorrowedFd<'t>,
    root: OwnedFd,
    earlier: Option<Earlier>,
    go_on: &'t dyn Fn() -> bool,
    done: Done,
    /// Files of the copy can share blocks with others.
    clones: bool,
    /// Where a file with several names was first met, by (device, inode).
    names: HashMap<(u64, u64), Vec<u8>>,
    entries: u64,
    bytes: u64,
    /// Where the walk is, below the root, without a leading slash.
    path: Vec<u8>,
}

impl<'t> Copier<'t> {
    /// From `tree` into the empty folder `to`.
    pub(super) fn new(
        tree: BorrowedFd<'t>,
        to: &Path,
        earlier: Option<(Known, PathBuf)>,
        go_on: &'t dyn Fn() -> bool,
    ) -> Result<Self, Error> {
        let open = |path: &Path| {
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let opened = rustix::fs::open(path, flags, Mode::empty());
            opened.map_err(failed("opening", path))
        };
        let earlier = match earlier {
            Some((known, path)) => {
                Some(Earlier { known, root: open(&path)?, shared: HashSet::new() })
            }
            None => None,
        };
        let done = Done { contents: Contents::new(), known: Known::default() };
        let root = open(to)?;
        let clones = clones(&root)?;
        let names = HashMap::new();
        let (entries, bytes, path) = (0, 0, Vec::new());
        Ok(Self { tree, root, earlier, go_on, done, clones, names, entries, bytes, path })
    }

    /// Copies all.
    pub(super) fn run(mut self) -> Result<Done, Error> {
        // No recursion: folders can be nested deeper than a thread's stack is good for.
        let mut open = vec![self.enter(self.tree, &self.root, c".")?];
        while let Some(folder) = open.last_mut() {
            self.path.truncate(folder.path_len);
            if !(self.go_on)() {
                return Err(Error::Late);
            }
            match folder.names.pop() {
                Some(name) => {
                    if folder.path_len > 0 {
                        self.path.push(b'/');
                    }
                    self.path.extend_from_slice(name.to_bytes());
                    let below = self.copy_entry(&folder.from, &folder.to, &name)?;
                    if below.is_some() && open.len() > LAYER_DEPTH_MAX {
                        return Err(Error::TooDeep(self.here()));
                    }
                    open.extend(below);
                }
                None => {
                    let (from, to) = (folder.from.as_fd(), folder.to.as_fd());
                    // Now that all is in it: what is made in a folder changes its time.
                    self.finish((from, c"."), (to, c"."), &folder.stat)?;
                    open.pop();
                }
            }
        }
        Ok(self.done)
    }

    /// Opens a folder and its copy, and lists it.
    fn enter(&self, from: impl AsFd, to: impl AsFd, name: &CStr) -> Result<Folder, Error> {
        let open = |folder: BorrowedFd<'_>| {
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let opened = rustix::fs::openat(folder, name, flags, Mode::empty());
            opened.map_err(|e| self.fail("opening", e))
        };
        let (from, to) = (open(from.as_fd())?, open(to.as_fd())?);
        let stat = rustix::fs::fstat(&from).map_err(|e| self.fail("reading", e))?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&from).map_err(|e| self.fail("listing", e))? {
            let entry = entry.map_err(|e| self.fail("listing", e))?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        Ok(Folder { from, to, stat, names, path_len: self.path.len() })
    }

    /// Copies what is no folder; opens a folder and its new copy.
    fn copy_entry(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &CStr,
    ) -> Result<Option<Folder>, Error> {
        self.entries += 1;
        if self.entries > LAYER_ENTRIES_MAX {
            return Err(Error::TooMany);
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.fail("reading", e))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if stat.st_nlink > 1 && self.link(to, name, &stat)? {
            return Ok(None);
        }
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::RWXU).map_err(|e| self.fail("making", e))?;
                return self.enter(from, to, name).map(Some);
            }
            FileType::RegularFile => {
                self.copy_file(from, to, name, &stat)?;
                return Ok(None);
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())
                    .map_err(|e| self.fail("reading", e))?;
                rustix::fs::symlinkat(&target, to, name).map_err(|e| self.fail("making", e))?;
            }
            FileType::CharacterDevice if stat.st_rdev == 0 => self.make(to, name, kind)?,
            FileType::Fifo => self.make(to, name, kind)?,
            FileType::Socket => return Ok(None),
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {
                return Err(Error::Device(self.here()));
            }
        }
        self.finish((from.as_fd(), name), (to.as_fd(), name), &stat)?;
        Ok(None)
    }

    /// Makes a further name of what was copied by another.
    fn link(&mut self, to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<bool, Error> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Symlink | FileType::Fifo => {}
            // The kernel gives one whiteout many names: each is made anew.
            FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Directory
            | FileType::Socket
            | FileType::Unknown => return Ok(false),
        }
        let inode = (stat.st_dev, stat.st_ino);
        let Some(first) = self.names.get(&inode) else {
            self.names.insert(inode, self.path.clone());
            return Ok(false);
        };
        if let Some(digest) = self.done.known.get(first) {
            self.done.known.note(&self.path, digest);
        }
        rustix::fs::linkat(&self.root, OsStr::from_bytes(first), to, name, AtFlags::empty())
            .map_err(|e| self.fail("linking", e))?;
        Ok(true)
    }

    fn make(&self, to: &OwnedFd, name: &CStr, kind: FileType) -> Result<(), Error> {
        rustix::fs::mknodat(to, name, kind, Mode::empty(), 0).map_err(|e| self.fail("making", e))
    }

    fn copy_file(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &CStr,
        stat: &Stat,
    ) -> Result<(), Error> {
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > SNAPSHOT_BYTES_MAX {
            return Err(Error::TooLarge);
        }
        // Not blocking: it was a file a moment ago, and nothing changes, but that is not for sure.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let source = rustix::fs::openat(from, name, flags, Mode::empty());
        let mut source = File::from(source.map_err(|e| self.fail("opening", e))?);
        let place = (to.as_fd(), name);
        if let Some(digest) = self.share(place, stat, &mut source)? {
            return self.note(place, size, digest);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR);
        let mut target = File::from(target.map_err(|e| self.fail("making", e))?);
        if self.clones && rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
            // On the store's own file system: its blocks are shared with everything before.
            return self.finish((from.as_fd(), name), place, stat);
        }
        let read = bytes::read(&mut source, Some(&mut target), size, self.go_on);
        let digest = read.map_err(|failure| self.tell(failure))?;
        self.finish((from.as_fd(), name), place, stat)?;
        self.note(place, size, digest)
    }

    /// Makes a file by sharing it with the earlier layer, if that has the same under the same
    /// name. Gives the digest of its content.
    fn share(
        &mut self,
        place: Place<'_>,
        stat: &Stat,
        source: &mut File,
    ) -> Result<Option<Digest>, Error> {
        let Some(Earlier { known, root, shared: taken }) = &self.earlier else { return Ok(None) };
        let Some(digest) = known.get(&self.path) else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let path = OsStr::from_bytes(&self.path);
        let opened = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve);
        let Ok(shared) = opened else { return Ok(None) };
        let there = rustix::fs::fstat(&shared).map_err(|e| self.fail("reading", e))?;
        // Names of one file have one owner, one mode, one time and the same attributes.
        let facts = |stat: &Stat| {
            let times = (stat.st_mtime, stat.st_mtime_nsec);
            (stat.st_size, stat.st_mode, stat.st_uid, stat.st_gid, times)
        };
        if taken.contains(&there.st_ino)
            || facts(&there) != facts(stat)
            || self.attributes_of(&shared)? != self.attributes_of(&*source)?
        {
            return Ok(None);
        }
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let found = bytes::read(source, None, size, self.go_on);
        if found.map_err(|failure| self.tell(failure))? != digest {
            return Ok(None);
        }
        match rustix::fs::linkat(&shared, c"", place.0, place.1, AtFlags::EMPTY_PATH) {
            Ok(()) => {
                self.earlier.as_mut().map(|earlier| earlier.shared.insert(there.st_ino));
                Ok(Some(digest))
            }
            Err(Errno::MLINK) => Ok(None),
            Err(errno) => Err(self.fail("sharing", errno)),
        }
    }

    /// Keeps in mind what a file holds, so that it need not be read again.
    fn note(&mut self, place: Place<'_>, size: u64, digest: Digest) -> Result<(), Error> {
        let stat = rustix::fs::statat(place.0, place.1, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.fail("reading", e))?;
        let content = Content { digest, bytes: size, is_counted: false };
        self.done.contents.insert((stat.st_dev, stat.st_ino), content);
        if size > 0 {
            self.done.known.note(&self.path, digest);
        }
        Ok(())
    }

    /// Gives what was made the owner, attributes, mode and time of what it is a copy of.
    fn finish(&self, from: Place<'_>, to: Place<'_>, stat: &Stat) -> Result<(), Error> {
        let (folder, name) = to;
        // The owner first: a change of it takes set-id bits and capabilities away.
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.fail("giving away", e))?;
        let (source, path) = (entry_path(from.0, from.1), entry_path(folder, name));
        let list = |buffer: &mut [u8]| rustix::fs::llistxattr(&source, buffer);
        let get = |name: &CStr, buffer: &mut [u8]| rustix::fs::lgetxattr(&source, name, buffer);
        for (attribute, value) in self.attributes(list, get)? {
            rustix::fs::lsetxattr(&path, &attribute, &value, XattrFlags::empty())
                .map_err(|e| self.fail("setting an attribute of", e))?;
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::chmodat(folder, name, mode, AtFlags::empty())
                .map_err(|e| self.fail("setting the mode of", e))?;
        }
        let modified = Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        };
        let untouched = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: untouched, last_modification: modified };
        rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.fail("setting the time of", e))
    }

    fn attributes_of(&self, file: impl AsFd) -> Result<Vec<(CString, Vec<u8>)>, Error> {
        let file = file.as_fd();
        let list = |buffer: &mut [u8]| rustix::fs::flistxattr(file, buffer);
        let get = |name: &CStr, buffer: &mut [u8]| rustix::fs::fgetxattr(file, name, buffer);
        self.attributes(list, get)
    }

    /// The attributes that belong to a layer, in the order of their names.
    fn attributes(
        &self,
        list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
        get: impl Fn(&CStr, &mut [u8]) -> Result<usize, Errno>,
    ) -> Result<Vec<(CString, Vec<u8>)>, Error> {
        let failed = |errno| self.fail("reading attributes of", errno);
        // Most files have none, or few.
        let mut names = vec![0; 256];
        let len = match list(&mut names) {
            Err(Errno::NOTSUP) => 0,
            Err(Errno::RANGE) => {
                names.resize(XATTR_BYTES_MAX, 0);
                list(&mut names).map_err(failed)?
            }
            listed => listed.map_err(failed)?,
        };
        let mut attributes = Vec::new();
        for name in names[..len].split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            let mut value = vec![0; XATTR_BYTES_MAX];
            let len = get(name, &mut value).map_err(failed)?;
            value.truncate(len);
            if !is_stray(name, &value) {
                attributes.push((name.to_owned(), value));
            }
        }
        attributes.sort_unstable();
        Ok(attributes)
    }

    fn here(&self) -> PathBuf {
        Path::new("/").join(OsStr::from_bytes(&self.path))
    }

    fn fail(&self, action: &'static str, errno: Errno) -> Error {
        failed(action, &self.here())(errno)
    }

    fn tell(&self, failure: Failure) -> Error {
        match failure {
            Failure::Late => Error::Late,
            Failure::File(action, source) => Error::File { action, path: self.here(), source },
        }
    }
}

/// Whether files of a folder can share their blocks.
fn clones(folder: &OwnedFd) -> Result<bool, Error> {
    let make = || {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        rustix::fs::openat(folder, c".", flags, Mode::RUSR | Mode::WUSR)
    };
    let (Ok(one), Ok(other)) = (make(), make()) else { return Ok(false) };
    rustix::io::write(&one, &[1; 4096]).map_err(failed("writing", Path::new("")))?;
    Ok(rustix::fs::ioctl_ficlone(other, one).is_ok())
}
