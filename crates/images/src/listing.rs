//! The name of a directory tree: a sha256 over a canonical listing of what is in it.
//!
//! The listing holds, in the order of the names' bytes, every entry's path, type, mode, owner,
//! extended attributes and content (or link target, or device number). Times are not in it, so
//! building the same twice gives the same name; they are in that of a snapshot, and so is which
//! names are of one file. The walk goes from folder to folder by
//! descriptors and follows no links: a container wrote the tree.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use blobs::Digest;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::limits::{LAYER_DEPTH_MAX, LAYER_ENTRIES_MAX, XATTR_BYTES_MAX};

/// Marks a folder that hides the folders of lower layers (Documentation/filesystems/overlayfs).
const OPAQUE: &CStr = c"trusted.overlay.opaque";

/// What a tree holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// The sha256 of the listing.
    pub(crate) digest: Digest,
    /// Bytes of all files' content, each hard-linked file once.
    pub(crate) bytes: u64,
    /// Files, folders and links, the root not counted.
    pub(crate) entries: u64,
}

/// What to do with what a layer must not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strays {
    /// Remove it: sockets, and attributes that only the writing mount needed.
    Remove,
    /// Count it, so that a layer that was changed afterwards has another digest.
    Count,
}

/// What makes two trees the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Likeness {
    /// What a build decides.
    #[default]
    Build,
    /// Also times, and which names are of one file.
    Exact,
}

/// The content of a file whose writer took its digest on the way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    /// The sha256 of its bytes.
    pub(crate) digest: Digest,
    /// How many they are.
    pub(crate) bytes: u64,
    /// Whether the walk has passed the file, by another of its names.
    pub(crate) is_counted: bool,
}

/// Contents by the files' (device, inode).
pub(crate) type Contents = HashMap<(u64, u64), Content>;

/// Why a tree cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The file system failed.
    #[error("{action} {} fails", path.display())]
    File {
        /// What was done, as a verb.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A device node that is no whiteout.
    #[error("{} is a device; an image cannot hold devices, remove it in the step that made it",
        path.display())]
    Device {
        /// The device.
        path: PathBuf,
    },
    /// More files than one layer may have.
    #[error("{} holds more than {max} files; split the step", path.display(),
        max = LAYER_ENTRIES_MAX)]
    TooMany {
        /// The tree.
        path: PathBuf,
    },
    /// Folders nested deeper than one layer may have them.
    #[error("{} is nested more than {max} folders deep", path.display(), max = LAYER_DEPTH_MAX)]
    TooDeep {
        /// The folder.
        path: PathBuf,
    },
}

/// Lists the tree at `root`.
pub(crate) fn summarize(
    root: &Path,
    strays: Strays,
    likeness: Likeness,
) -> Result<Summary, ListError> {
    summarize_known(root, strays, likeness, Contents::new())
}

/// Lists the tree at `root`, some of whose files need not be read again.
pub(crate) fn summarize_known(
    root: &Path,
    strays: Strays,
    likeness: Likeness,
    contents: Contents,
) -> Result<Summary, ListError> {
    let mut walk = Walk {
        root: root.to_owned(),
        strays,
        likeness,
        hasher: Sha256::new_with_prefix(match likeness {
            Likeness::Build => "palisade layer 1\n",
            Likeness::Exact => "palisade layer 1, exact\n",
        }),
        contents,
        names: HashMap::new(),
        bytes: 0,
        entries: 0,
        path: Vec::new(),
    };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| walk.fail("opening", e))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| walk.fail("reading", e))?;
    walk.record(FileType::Directory, &stat);
    walk.record_xattrs(&fd, c".")?;
    walk.visit_folder(fd, 0)?;
    Ok(Summary {
        digest: Digest::from_bytes(walk.hasher.finalize().into()),
        bytes: walk.bytes,
        entries: walk.entries,
    })
}

struct Walk {
    root: PathBuf,
    strays: Strays,
    likeness: Likeness,
    hasher: Sha256,
    /// The first names of files that have several, by (device, inode).
    names: HashMap<(u64, u64), Vec<u8>>,
    /// What is known of files: hard-linked ones are read once.
    contents: Contents,
    bytes: u64,
    entries: u64,
    /// Where the walk is, below the root, without a leading slash.
    path: Vec<u8>,
}

impl Walk {
    fn visit_folder(&mut self, fd: OwnedFd, depth: usize) -> Result<(), ListError> {
        if depth > LAYER_DEPTH_MAX {
            return Err(ListError::TooDeep { path: self.here() });
        }
        let mut names: Vec<CString> = Vec::new();
        let list = Dir::read_from(&fd).map_err(|e| self.fail("listing", e))?;
        for entry in list {
            let entry = entry.map_err(|e| self.fail("listing", e))?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                self.entries += 1;
                if self.entries > LAYER_ENTRIES_MAX {
                    return Err(ListError::TooMany { path: self.root.clone() });
                }
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        for name in names {
            let len = self.path.len();
            if len > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            self.visit_entry(&fd, &name, depth)?;
            self.path.truncate(len);
        }
        Ok(())
    }

    fn visit_entry(
        &mut self,
        folder: &OwnedFd,
        name: &CStr,
        depth: usize,
    ) -> Result<(), ListError> {
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.fail("reading", e))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Socket && self.strays == Strays::Remove {
            self.entries -= 1;
            return rustix::fs::unlinkat(folder, name, AtFlags::empty())
                .map_err(|e| self.fail("removing", e));
        }
        self.record(kind, &stat);
        self.record_xattrs(folder, name)?;
        match kind {
            FileType::Directory => {
                let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let fd = rustix::fs::openat(folder, name, flags, Mode::empty())
                    .map_err(|e| self.fail("opening", e))?;
                self.visit_folder(fd, depth + 1)?;
            }
            FileType::RegularFile => {
                let content = self.content(folder, name, &stat)?;
                self.hasher.update(content.as_bytes());
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(folder, name, Vec::new())
                    .map_err(|e| self.fail("reading", e))?;
                self.record_bytes(target.to_bytes());
            }
            FileType::CharacterDevice if stat.st_rdev == 0 => {}
            FileType::CharacterDevice | FileType::BlockDevice => {
                return Err(ListError::Device { path: self.here() });
            }
            FileType::Fifo | FileType::Socket | FileType::Unknown => {}
        }
        Ok(())
    }

    fn content(&mut self, folder: &OwnedFd, name: &CStr, stat: &Stat) -> Result<Digest, ListError> {
        let inode = (stat.st_dev, stat.st_ino);
        if let Some(content) = self.contents.get_mut(&inode) {
            if !std::mem::replace(&mut content.is_counted, true) {
                self.bytes += content.bytes;
            }
            return Ok(content.digest);
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(folder, name, flags, Mode::empty())
            .map_err(|e| self.fail("opening", e))?;
        let mut file = File::from(fd);
        let (mut hasher, before) = (Sha256::new(), self.bytes);
        let mut buffer = vec![0; 128 << 10];
        loop {
            let read = file.read(&mut buffer).map_err(|e| self.fail_io("reading", e))?;
            if read == 0 {
                break;
            }
            self.bytes += read as u64;
            hasher.update(&buffer[..read]);
        }
        let digest = Digest::from_bytes(hasher.finalize().into());
        if stat.st_nlink > 1 {
            let content = Content { digest, bytes: self.bytes - before, is_counted: true };
            self.contents.insert(inode, content);
        }
        Ok(digest)
    }

    fn record(&mut self, kind: FileType, stat: &Stat) {
        let kind = match kind {
            FileType::Directory => b'd',
            FileType::RegularFile => b'f',
            FileType::Symlink => b'l',
            FileType::CharacterDevice => b'w',
            FileType::Fifo => b'p',
            FileType::Socket => b's',
            FileType::BlockDevice | FileType::Unknown => b'?',
        };
        // The mode of a link means nothing, and file systems differ in what they say.
        let mode = if kind == b'l' { 0 } else { stat.st_mode & 0o7777 };
        self.hasher.update([kind]);
        let path = std::mem::take(&mut self.path);
        self.record_bytes(&path);
        self.path = path;
        for number in [mode, stat.st_uid, stat.st_gid] {
            self.hasher.update(number.to_le_bytes());
        }
        if self.likeness == Likeness::Exact {
            self.record_exactly(kind, stat);
        }
    }

    fn record_exactly(&mut self, kind: u8, stat: &Stat) {
        self.hasher.update(stat.st_mtime.to_le_bytes());
        self.hasher.update(stat.st_mtime_nsec.to_le_bytes());
        let mut first = self.path.clone();
        // The kernel gives one whiteout many names.
        if stat.st_nlink > 1 && !matches!(kind, b'd' | b'w') {
            let inode = (stat.st_dev, stat.st_ino);
            first = self.names.entry(inode).or_insert(first).clone();
        }
        self.record_bytes(&first);
    }

    fn record_bytes(&mut self, bytes: &[u8]) {
        self.hasher.update((bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    fn record_xattrs(&mut self, folder: &OwnedFd, name: &CStr) -> Result<(), ListError> {
        let path = entry_path(folder.as_fd(), name);
        let mut list = vec![0; XATTR_BYTES_MAX];
        let len = match rustix::fs::llistxattr(&path, &mut list[..]) {
            Err(rustix::io::Errno::NOTSUP) => 0,
            listed => listed.map_err(|e| self.fail("reading attributes of", e))?,
        };
        let mut names: Vec<CString> = list[..len]
            .split_inclusive(|byte| *byte == 0)
            .filter_map(|name| CStr::from_bytes_with_nul(name).ok().map(CStr::to_owned))
            .collect();
        names.sort_unstable();
        for name in names {
            let mut value = vec![0; XATTR_BYTES_MAX];
            let len = rustix::fs::lgetxattr(&path, &name, &mut value[..])
                .map_err(|e| self.fail("reading attributes of", e))?;
            let value = &value[..len];
            if self.strays == Strays::Remove && is_stray(&name, value) {
                rustix::fs::lremovexattr(&path, &name)
                    .map_err(|e| self.fail("removing attributes of", e))?;
                continue;
            }
            self.hasher.update([b'x']);
            self.record_bytes(name.to_bytes());
            self.record_bytes(value);
        }
        Ok(())
    }

    fn here(&self) -> PathBuf {
        self.root.join(std::ffi::OsStr::from_bytes(&self.path))
    }

    fn fail(&self, action: &'static str, error: rustix::io::Errno) -> ListError {
        self.fail_io(action, error.into())
    }

    fn fail_io(&self, action: &'static str, source: io::Error) -> ListError {
        ListError::File { action, path: self.here(), source }
    }
}

/// The overlay's own notes (where a file came from, what was renamed) are only good for the mount
/// that wrote them, and harmful elsewhere. What makes a folder opaque is content.
pub(crate) fn is_stray(name: &CStr, value: &[u8]) -> bool {
    let bytes = name.to_bytes();
    if name == OPAQUE {
        return value != b"y";
    }
    bytes.starts_with(b"trusted.overlay.") || bytes.starts_with(b"user.overlay.")
}

/// A path for the calls that take no descriptor. The folder is named by its descriptor, so the
/// path stays short and nothing on the way can be a link.
pub(crate) fn entry_path(folder: BorrowedFd<'_>, name: &CStr) -> PathBuf {
    let name = std::ffi::OsStr::from_bytes(name.to_bytes());
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::{Likeness, ListError, Strays, summarize};

    fn digest(dir: &Path) -> blobs::Digest {
        summarize(dir, Strays::Remove, Likeness::Build).unwrap().digest
    }

    /// A tree, and what a change to it must do to its digest.
    fn check(change: impl FnOnce(&Path), must_differ: bool) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/file"), "content").unwrap();
        symlink("file", dir.path().join("a/link")).unwrap();
        let before = digest(dir.path());
        change(dir.path());
        assert_eq!(digest(dir.path()) != before, must_differ);
    }

    #[test]
    fn every_property_that_counts_changes_the_digest() {
        check(|dir| fs::write(dir.join("a/file"), "c0ntent").unwrap(), true);
        check(|dir| fs::rename(dir.join("a/file"), dir.join("a/other")).unwrap(), true);
        check(|dir| fs::rename(dir.join("a/file"), dir.join("file")).unwrap(), true);
        check(|dir| fs::create_dir(dir.join("empty")).unwrap(), true);
        check(
            |dir| fs::set_permissions(dir.join("a"), PermissionsExt::from_mode(0o700)).unwrap(),
            true,
        );
        let mode = || PermissionsExt::from_mode(0o4755);
        check(|dir| fs::set_permissions(dir.join("a/file"), mode()).unwrap(), true);
        check(|dir| std::os::unix::fs::lchown(dir.join("a/link"), Some(7), None).unwrap(), true);
        check(|dir| set_xattr(&dir.join("a/file"), "user.note", "x"), true);
        check(|dir| set_xattr(&dir.join("a"), "trusted.overlay.opaque", "y"), true);
    }

    #[test]
    fn times_and_strays_do_not_change_the_digest() {
        let epoch = std::time::SystemTime::UNIX_EPOCH;
        let touch = |dir: &Path| fs::File::open(dir.join("a/file")).unwrap().set_modified(epoch);
        check(|dir| touch(dir).unwrap(), false);
        check(|dir| set_xattr(&dir.join("a"), "trusted.overlay.origin", "z"), false);
        check(|dir| set_xattr(&dir.join("a"), "trusted.overlay.redirect", "/etc"), false);
        check(|dir| set_xattr(&dir.join("a"), "trusted.overlay.opaque", "x"), false);
        check(|dir| set_xattr(&dir.join("a/file"), "user.overlay.whiteout", "y"), false);
        let bind = |dir: &Path| std::os::unix::net::UnixListener::bind(dir.join("a/sock"));
        check(|dir| drop(bind(dir).unwrap()), false);
    }

    #[test]
    fn whiteouts_are_kept_and_devices_refused() {
        let dir = tempfile::tempdir().unwrap();
        let before = digest(dir.path());
        let mknod = |name: &str, device| {
            let kind = rustix::fs::FileType::CharacterDevice;
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, dir.path().join(name), kind, mode, device)
                .unwrap();
        };
        mknod("gone", 0);
        assert_ne!(digest(dir.path()), before);
        mknod("null", rustix::fs::makedev(1, 3));
        let error = summarize(dir.path(), Strays::Remove, Likeness::Build).unwrap_err();
        assert!(matches!(error, ListError::Device { .. }), "{error}");
    }

    #[test]
    fn hard_links_are_read_once_and_listed_twice() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("one"), "12345").unwrap();
        fs::hard_link(dir.path().join("one"), dir.path().join("two")).unwrap();
        let summary = summarize(dir.path(), Strays::Count, Likeness::Build).unwrap();
        assert_eq!((summary.bytes, summary.entries), (5, 2));
    }

    #[test]
    fn a_tree_that_is_too_deep_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let deep = (0..600).fold(dir.path().to_owned(), |path, _| path.join("d"));
        fs::create_dir_all(deep).unwrap();
        let error = summarize(dir.path(), Strays::Count, Likeness::Build).unwrap_err();
        assert!(matches!(error, ListError::TooDeep { .. }), "{error}");
    }

    fn set_xattr(path: &Path, name: &str, value: &str) {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(path, name, value.as_bytes(), flags).unwrap();
    }
}
