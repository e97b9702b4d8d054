//! The only way to touch files below a folder that came from a container, an image or a client.
//!
//! Such a tree may hold anything, and change while it is looked at: links to /etc of the host,
//! devices, pipes that never answer. Every path is resolved by the kernel in one step, with the
//! folder as its root (openat2 with RESOLVE_IN_ROOT): `/` and `..` end there, links are followed
//! as a process inside would follow them, and the links of /proc that lead anywhere are refused.

mod removal;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
};

use crate::limits::LOOKUPS_MAX;

/// Why a path below a root could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The root itself.
    #[error("opening the folder {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    /// A path that names nothing below the root, such as `/` or one that ends in `..`.
    #[error("{0} names no file or folder below the root")]
    Name(PathBuf),
    /// What is there is not a file or a folder: a device, a pipe or a socket.
    #[error("{path} is neither a file nor a folder")]
    Special { path: PathBuf },
    /// The kernel's answer.
    #[error("{action} {path}: {source}")]
    Path { action: &'static str, path: PathBuf, source: io::Error },
}

impl Error {
    /// Whether nothing is at the path.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Path { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// A folder that is the root of all paths given to it.
#[derive(Debug)]
pub struct Root {
    folder: OwnedFd,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, a pipe or a socket.
    Special,
}

/// What is known about a path.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// What it is.
    pub kind: Kind,
    /// Bytes.
    pub size_bytes: u64,
    /// Permission bits, set-id and sticky bits.
    pub mode: u32,
    /// Owner, as the root's mount shows it.
    pub uid: u32,
    /// Group, as the root's mount shows it.
    pub gid: u32,
    /// Time of the last change of content, in seconds since 1970.
    pub modified_s: i64,
    /// The number of the file within its file system.
    pub inode: u64,
}

/// One entry of a folder.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name, without a slash.
    pub name: OsString,
    /// What it is; a link is not followed.
    pub kind: Kind,
}

impl Root {
    /// The folder at `path`, which is the host's own path.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_folder(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty());
        let failed = |e: rustix::io::Errno| Error::Open { path: path.to_owned(), source: e.into() };
        Ok(Self { folder: folder.map_err(failed)? })
    }

    /// An open folder, e.g. a detached mount.
    pub fn of(folder: OwnedFd) -> Self {
        Self { folder }
    }

    /// The folder's descriptor.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Gives the folder's descriptor away.
    pub(crate) fn into_folder(self) -> OwnedFd {
        self.folder
    }

    /// The folder at `path` as a root of its own.
    ///
    /// # Errors
    /// When there is none.
    pub fn below(&self, path: &Path) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        Ok(Self { folder: self.find("opening the folder", path, flags)? })
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// When there is no regular file: devices and pipes are never opened.
    pub fn open(&self, path: &Path) -> Result<File, Error> {
        self.reopen("opening", path, OFlags::RDONLY)
    }

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_to_change(&self, path: &Path) -> Result<File, Error> {
        self.reopen("opening", path, OFlags::RDWR)
    }

    /// Makes a file, or empties the one that is there (through a link too), and opens it for
    /// reading and writing. `mode` is given to a new file only.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn create(&self, path: &Path, mode: u32) -> Result<File, Error> {
        let action = "creating";
        for _ in 0..LOOKUPS_MAX {
            match self.reopen(action, path, OFlags::RDWR | OFlags::TRUNC) {
                Err(error) if error.is_not_found() => {}
                opened => return opened,
            }
            match self.create_new(path, mode) {
                // Another one made it meanwhile, or it is a link to nowhere.
                Err(Error::Path { source, .. })
                    if source.kind() == io::ErrorKind::AlreadyExists =>
                {
                    let link = self.stat_link(path)?.kind == Kind::Link;
                    if link {
                        let source = io::Error::from(io::ErrorKind::NotFound);
                        return Err(failed(action, path, source));
                    }
                }
                made => return made,
            }
        }
        Err(failed(action, path, io::Error::from(io::ErrorKind::ResourceBusy)))
    }

    /// Makes a file that is not there yet and opens it for reading and writing; a link at its
    /// place counts as being there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn create_new(&self, path: &Path, mode: u32) -> Result<File, Error> {
        let (parent, name) = self.parent("creating", path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags | OFlags::NOFOLLOW, bits(mode));
        let file = file.map_err(|e| failed("creating", path, e.into()))?;
        // Whatever this process' umask says.
        rustix::fs::fchmod(&file, bits(mode)).map_err(|e| failed("creating", path, e.into()))?;
        Ok(File::from(file))
    }

    /// Reads a whole file of at most `max` bytes.
    ///
    /// # Errors
    /// As [`Self::open`], and for one that is larger.
    pub fn read(&self, path: &Path, max: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![];
        let mut file = self.open(path)?.take(max as u64 + 1);
        let read = file.read_to_end(&mut bytes);
        read.map_err(|source| failed("reading", path, source))?;
        if bytes.len() > max {
            let source = io::Error::from(io::ErrorKind::FileTooLarge);
            return Err(failed("reading", path, source));
        }
        Ok(bytes)
    }

    /// Makes a folder in one that exists.
    ///
    /// # Errors
    /// The kernel's, also when something is there.
    pub fn mkdir(&self, path: &Path, mode: u32) -> Result<(), Error> {
        self.at_parent("making the folder", path, |parent, name| {
            rustix::fs::mkdirat(parent, name, bits(mode))?;
            // By descriptor: somebody could have put a link there meanwhile.
            rustix::fs::fchmod(removal::enter(parent, name)?, bits(mode))
        })
    }

    /// Makes a folder and those above it, where they are missing.
    ///
    /// # Errors
    /// The kernel's, and `NotADirectory` where something else is in the way.
    pub fn mkdir_all(&self, path: &Path, mode: u32) -> Result<(), Error> {
        let mut part = PathBuf::new();
        for component in path.components() {
            part.push(component);
            match self.stat(&part) {
                Ok(facts) if facts.kind == Kind::Folder => continue,
                Ok(_) => {
                    let source = io::Error::from(io::ErrorKind::NotADirectory);
                    return Err(failed("making the folder", &part, source));
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
            match self.mkdir(&part, mode) {
                Err(Error::Path { source, .. })
                    if source.kind() == io::ErrorKind::AlreadyExists
                        && self.below(&part).is_ok() => {}
                made => made?,
            }
        }
        Ok(())
    }

    /// Makes a symbolic link at `path` with the text `to`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn symlink(&self, to: &OsStr, path: &Path) -> Result<(), Error> {
        self.at_parent("making the link", path, |parent, name| {
            rustix::fs::symlinkat(to, parent, name)
        })
    }

    /// Makes `path` a further name of the file at `existing`; a link there is not followed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn link(&self, existing: &Path, path: &Path) -> Result<(), Error> {
        let (from, from_name) = self.parent("linking", existing)?;
        self.at_parent("linking", path, |parent, name| {
            rustix::fs::linkat(&from, from_name, parent, name, AtFlags::empty())
        })
    }

    /// Renames; replaces what is there as rename(2) does.
    ///
    /// # Errors
    /// The kernel's.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let (parent, name) = self.parent("renaming", from)?;
        self.at_parent("renaming to", to, |to_parent, to_name| {
            rustix::fs::renameat(&parent, name, to_parent, to_name)
        })
    }

    /// The text of the link at `path`.
    ///
    /// # Errors
    /// The kernel's, `InvalidInput` when it is no link.
    pub fn read_link(&self, path: &Path) -> Result<OsString, Error> {
        let link = self.find("reading the link", path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let text = rustix::fs::readlinkat(&link, "", Vec::new());
        let text = text.map_err(|e| failed("reading the link", path, e.into()))?;
        Ok(OsString::from_vec(text.into_bytes()))
    }

    /// What is at `path`, at the end of links.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stat(&self, path: &Path) -> Result<Facts, Error> {
        self.facts(path, OFlags::PATH)
    }

    /// What is at `path` itself, be it a link.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stat_link(&self, path: &Path) -> Result<Facts, Error> {
        self.facts(path, OFlags::PATH | OFlags::NOFOLLOW)
    }

    /// The entries of a folder in the order of their names.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read_dir(&self, path: &Path) -> Result<Vec<Entry>, Error> {
        let action = "reading the folder";
        let folder = self.find(action, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let list = || -> rustix::io::Result<Vec<Entry>> {
            let mut entries = vec![];
            for entry in Dir::read_from(&folder)? {
                let entry = entry?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name == "." || name == ".." {
                    continue;
                }
                let kind = match entry.file_type() {
                    FileType::Unknown => {
                        match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                            Ok(stat) => kind(&stat),
                            // It is gone already.
                            Err(rustix::io::Errno::NOENT) => continue,
                            Err(error) => return Err(error),
                        }
                    }
                    known => kind_of(known),
                };
                entries.push(Entry { name: name.to_owned(), kind });
            }
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        };
        list().map_err(|e| failed(action, path, e.into()))
    }

    /// Sets the mode; follows links.
    ///
    /// # Errors
    /// The kernel's.
    pub fn chmod(&self, path: &Path, mode: u32) -> Result<(), Error> {
        let found = self.find("changing the mode of", path, OFlags::PATH)?;
        // A descriptor that only names a file takes no fchmod; its own entry in /proc does.
        let changed = rustix::fs::chmodat(CWD, itself(&found), bits(mode), AtFlags::empty());
        changed.map_err(|e| failed("changing the mode of", path, e.into()))
    }

    /// Sets owner and group of what is at `path` itself, be it a link.
    ///
    /// # Errors
    /// The kernel's.
    pub fn chown(&self, path: &Path, uid: u32, gid: u32) -> Result<(), Error> {
        let found = self.find("changing the owner of", path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let changed = rustix::fs::chownat(&found, "", uid, gid, AtFlags::EMPTY_PATH);
        changed.map_err(|e| failed("changing the owner of", path, e.into()))
    }

    /// Sets the time of the last change, in seconds since 1970, of what is at `path` itself.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_modified(&self, path: &Path, modified_s: i64) -> Result<(), Error> {
        self.at_parent("changing the time of", path, |parent, name| {
            let time = Timespec { tv_sec: modified_s, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Removes a file, a link or an empty folder.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, path: &Path) -> Result<(), Error> {
        self.at_parent("removing", path, |parent, name| {
            match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
                Err(rustix::io::Errno::ISDIR) => {
                    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
                }
                removed => removed,
            }
        })
    }

    /// Removes whatever is at `path`, with all that is in it; links are removed, not followed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_all(&self, path: &Path) -> Result<(), Error> {
        let (parent, name) = self.parent("removing", path)?;
        removal::remove(&parent, name).map_err(|e| failed("removing", path, e.into()))
    }

    /// Opens what is at `path`, which must be a regular file or a folder. A pipe would block, and
    /// a device act, at the mere opening: so it is found first, looked at, and opened then
    /// through its own descriptor, which nobody can exchange.
    fn reopen(&self, action: &'static str, path: &Path, flags: OFlags) -> Result<File, Error> {
        let found = self.find(action, path, OFlags::PATH)?;
        let stat = rustix::fs::fstat(&found).map_err(|e| failed(action, path, e.into()))?;
        match kind(&stat) {
            Kind::File => {}
            Kind::Folder => {
                let source = io::Error::from(io::ErrorKind::IsADirectory);
                return Err(failed(action, path, source));
            }
            Kind::Link | Kind::Special => return Err(Error::Special { path: path.to_owned() }),
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        let opened = rustix::fs::open(itself(&found), flags, Mode::empty());
        Ok(File::from(opened.map_err(|e| failed(action, path, e.into()))?))
    }

    fn facts(&self, path: &Path, flags: OFlags) -> Result<Facts, Error> {
        let found = self.find("looking at", path, flags)?;
        let stat = rustix::fs::fstat(&found).map_err(|e| failed("looking at", path, e.into()))?;
        Ok(Facts {
            kind: kind(&stat),
            size_bytes: stat.st_size.unsigned_abs(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified_s: stat.st_mtime,
            inode: stat.st_ino,
        })
    }

    fn at_parent(
        &self,
        action: &'static str,
        path: &Path,
        act: impl FnOnce(BorrowedFd<'_>, &OsStr) -> rustix::io::Result<()>,
    ) -> Result<(), Error> {
        let (parent, name) = self.parent(action, path)?;
        act(parent.as_fd(), name).map_err(|e| failed(action, path, e.into()))
    }

    /// The folder above `path` and the last name in it.
    fn parent<'a>(
        &self,
        action: &'static str,
        path: &'a Path,
    ) -> Result<(OwnedFd, &'a OsStr), Error> {
        let name = path.file_name().ok_or_else(|| Error::Name(path.to_owned()))?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        let above = above.unwrap_or(Path::new("/"));
        Ok((self.find(action, above, OFlags::PATH | OFlags::DIRECTORY)?, name))
    }

    fn find(&self, action: &'static str, path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        // An empty path is the root too, as it is for Path::join.
        let asked = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        for _ in 0..LOOKUPS_MAX {
            match rustix::fs::openat2(&self.folder, asked, flags, Mode::empty(), resolve) {
                // Something was renamed while `..` was resolved: openat2(2) asks to try again.
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                found => return found.map_err(|e| failed(action, path, e.into())),
            }
        }
        Err(failed(action, path, io::Error::from(io::ErrorKind::ResourceBusy)))
    }
}

/// The name of an open descriptor, which leads to the same file and nowhere else.
fn itself(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(descriptor))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Path { action, path: path.to_owned(), source }
}

fn bits(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

fn kind(stat: &Stat) -> Kind {
    kind_of(FileType::from_raw_mode(stat.st_mode))
}

fn kind_of(kind: FileType) -> Kind {
    match kind {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Link,
        _ => Kind::Special,
    }
}
