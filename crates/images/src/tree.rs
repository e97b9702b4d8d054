//! Files inside a tree that is not ours to trust: paths are resolved below the tree's own root,
//! as a process that had it as `/` would see them, so a link cannot lead out of it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::limits::{REMOVE_DEPTH_MAX, TEXT_BYTES_MAX};

/// A failed access to a file of a tree.
#[derive(Debug, thiserror::Error)]
#[error("{action} {} in {} fails", path.display(), root.display())]
pub struct TreeError {
    action: &'static str,
    path: PathBuf,
    root: PathBuf,
    source: io::Error,
}

/// An opened tree.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    fd: OwnedFd,
}

impl Tree {
    /// Opens the tree at `root`.
    ///
    /// # Errors
    /// When `root` is no folder that can be opened.
    pub(crate) fn open(root: &Path) -> Result<Self, TreeError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
        let fd = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| TreeError {
            action: "opening",
            path: PathBuf::from("/"),
            root: root.to_owned(),
            source: e.into(),
        })?;
        Ok(Self { root: root.to_owned(), fd })
    }

    /// Opens a regular file. `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be opened or is no regular file.
    pub(crate) fn file(&self, path: &str) -> Result<Option<File>, TreeError> {
        let file = match self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            Err(e) if is_missing(&e) => return Ok(None),
            opened => File::from(opened.map_err(|e| self.fail("opening", path, e))?),
        };
        let is_file = file.metadata().map_err(|e| self.fail("reading", path, e))?.is_file();
        if !is_file {
            return Err(self.fail("reading", path, io::Error::other("it is no regular file")));
        }
        Ok(Some(file))
    }

    /// Reads a small file whole. `None` when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or is larger than a text may be.
    pub(crate) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, TreeError> {
        let Some(file) = self.file(path)? else { return Ok(None) };
        read_text(file).map(Some).map_err(|e| self.fail("reading", path, e))
    }

    /// Writes a file whole, in place of one that is there. Its folder must be there.
    ///
    /// # Errors
    /// When the file cannot be made or written.
    pub(crate) fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<(), TreeError> {
        self.remove(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = self
            .resolve(path, flags, Mode::from_raw_mode(mode))
            .map_err(|e| self.fail("making", path, e))?;
        // The process' umask must not decide what an image holds.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
            .map_err(|e| self.fail("making", path, e.into()))?;
        File::from(file).write_all(bytes).map_err(|e| self.fail("writing", path, e))
    }

    /// Makes a link. Its folder must be there, the link not.
    ///
    /// # Errors
    /// When the link cannot be made.
    pub(crate) fn link(&self, path: &str, target: &str) -> Result<(), TreeError> {
        let (folder, name) = self.folder_of(path)?;
        rustix::fs::symlinkat(target, folder, name).map_err(|e| self.fail("making", path, e.into()))
    }

    /// Removes a file or link, if it is there.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub(crate) fn remove(&self, path: &str) -> Result<(), TreeError> {
        let (folder, name) = match self.folder_of(path) {
            Err(e) if is_missing(&e.source) => return Ok(()),
            found => found?,
        };
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.fail("removing", path, e.into())),
        }
    }

    fn folder_of<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str), TreeError> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = if folder.is_empty() { "." } else { folder };
        let fd = self
            .resolve(folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            .map_err(|e| self.fail("opening the folder of", path, e))?;
        Ok((fd, name))
    }

    fn resolve(&self, path: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, resolve)?)
    }

    fn fail(&self, action: &'static str, path: &str, source: io::Error) -> TreeError {
        TreeError { action, path: PathBuf::from(path), root: self.root.clone(), source }
    }
}

/// Reads a file whole, unless it is larger than a text may be.
pub(crate) fn read_text(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > TEXT_BYTES_MAX {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

/// Removes a folder with all that is in it; a missing one is fine.
///
/// A container can nest folders so deep that no recursion and no number of descriptors is enough
/// to follow. What lies below a certain depth is therefore moved to the top first.
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return std::fs::remove_file(path),
        opened => opened?,
    };
    let mut moved = 0;
    loop {
        let before = moved;
        clear(&root, &root, 0, &mut moved)?;
        if moved == before {
            return std::fs::remove_dir(path);
        }
    }
}

/// Removes what is in `folder`, and counts what it moves from there into `root` instead.
fn clear(root: &OwnedFd, folder: &OwnedFd, depth: usize, moved: &mut u64) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    for name in names {
        match rustix::fs::unlinkat(folder, &name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            unlinked => {
                unlinked?;
                continue;
            }
        }
        if depth >= REMOVE_DEPTH_MAX {
            *moved += 1;
            let place = format!("palisade-moved-{moved}-{:x}", rand::random::<u64>());
            rustix::fs::renameat(folder, &name, root, place)?;
            continue;
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let below = rustix::fs::openat(folder, &name, flags, Mode::empty())?;
        clear(root, &below, depth + 1, moved)?;
        drop(below);
        rustix::fs::unlinkat(folder, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Writes what a rename changed in `dir` to the disk.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let fd = rustix::fs::openat(CWD, dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::fsync(fd)?)
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::{Tree, remove_all};

    #[test]
    fn links_do_not_lead_out_of_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("etc/link")).unwrap();
        std::os::unix::fs::symlink("../../../..", dir.path().join("up")).unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        assert_eq!(tree.read("/etc/link").unwrap(), None);
        tree.write("/etc/hostname", b"inside", 0o640).unwrap();
        assert_eq!(tree.read("/etc/link").unwrap().unwrap(), b"inside");
        assert_eq!(tree.read("up/etc/hostname").unwrap().unwrap(), b"inside");
        assert_eq!(std::fs::read(dir.path().join("etc/hostname")).unwrap(), b"inside");
    }

    #[test]
    fn writing_replaces_a_link_and_not_what_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("file")).unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        tree.write("file", b"new", 0o644).unwrap();
        assert_eq!(std::fs::read(outside.path()).unwrap(), b"");
        assert_eq!(tree.read("/file").unwrap().unwrap(), b"new");
        tree.remove("/file").unwrap();
        tree.remove("/nowhere/file").unwrap();
        assert_eq!(tree.read("/file").unwrap(), None);
    }

    #[test]
    fn folders_of_any_depth_are_removed() {
        // In memory: tens of thousands of folders on a disk take a minute.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "stays").unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir(&top).unwrap();
        std::os::unix::fs::symlink(&outside, top.join("link")).unwrap();
        // Deeper than a path can say and than there are descriptors.
        let mut folder = std::fs::File::open(&top).unwrap();
        for depth in 0..30_000 {
            let mode = rustix::fs::Mode::RWXU;
            rustix::fs::mkdirat(&folder, "d", mode).unwrap();
            let flags = rustix::fs::OFlags::DIRECTORY;
            if depth % 1000 == 0 {
                rustix::fs::symlinkat("..", &folder, "up").unwrap();
            }
            folder = rustix::fs::openat(&folder, "d", flags, mode).unwrap().into();
        }
        drop(folder);
        remove_all(&top).unwrap();
        remove_all(&top).unwrap();
        assert!(!top.exists());
        assert_eq!(std::fs::read(&outside).unwrap(), b"stays");
        remove_all(&outside).unwrap();
        assert!(!outside.exists());
    }
}
