//! Items of an archive are made in their folder, and nothing is followed or replaced.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use blobs::Digest;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tar::Entry;

use super::folders::{Folder, Folders};
use super::item::{Item, Kind};
use super::{Refusal, show};
use crate::listing::{Content, Contents, entry_path};
use crate::stack::{name_of, parent_of};

/// What is made in one folder.
pub(super) struct Maker {
    folders: Folders,
    contents: Contents,
    buffer: Vec<u8>,
}

impl Maker {
    /// Begins in an empty folder.
    pub(super) fn new(folder: &Path) -> Result<Self, Errno> {
        let folders = Folders::open(folder)?;
        Ok(Self { folders, contents: HashMap::new(), buffer: vec![0; 256 << 10] })
    }

    /// How many folders were made that the archive did not list first.
    pub(super) fn folders(&self) -> u64 {
        self.folders.made()
    }

    /// The digests of the files that were written.
    pub(super) fn into_contents(self) -> Contents {
        self.contents
    }

    /// Makes an item; a file's content comes from its entry.
    pub(super) fn make(
        &mut self,
        item: &Item,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), Failure> {
        if let Kind::Opaque = item.kind {
            let folder = self.folders.folder(&item.path)?;
            return set_attribute(&folder, c".", c"trusted.overlay.opaque", b"y");
        }
        let folder = self.folders.folder(parent_of(&item.path))?;
        let name = CString::new(name_of(&item.path))
            .map_err(|_| Failure::Refused(Refusal::Zero("its path")))?;
        match &item.kind {
            Kind::Opaque => Ok(()),
            Kind::Folder => make_folder(&folder, &name, item),
            Kind::Whiteout(name) => {
                let name = CString::new(name.clone()).map_err(|_| Refusal::Zero("its path"))?;
                let made = mknod(folder.as_fd(), &name, FileType::CharacterDevice, Mode::empty());
                made.map_err(|errno| match in_the_way(&folder, &name, errno) {
                    Failure::Refused(Refusal::RemovedAndThere) => Refusal::Twice.into(),
                    Failure::Refused(_) => Refusal::RemovedAndThere.into(),
                    failure => failure,
                })
            }
            Kind::Fifo => {
                let made = mknod(folder.as_fd(), &name, FileType::Fifo, Mode::from_raw_mode(0o600));
                made.map_err(|errno| in_the_way(&folder, &name, errno))?;
                finish(&folder, &name, item)?;
                let chmod = rustix::fs::chmodat(&folder, &name, item.mode, AtFlags::empty());
                chmod.map_err(|errno| Failure::file("setting the mode of", errno))
            }
            Kind::Link(target) => {
                let made = rustix::fs::symlinkat(target, &folder, &name);
                made.map_err(|errno| in_the_way(&folder, &name, errno))?;
                finish(&folder, &name, item)
            }
            Kind::HardLink(target) => self.link(&folder, &name, target),
            Kind::File(size) => self.write(&folder, &name, *size, item, entry),
        }
    }

    fn write(
        &mut self,
        folder: &Folder,
        name: &CStr,
        size: u64,
        item: &Item,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), Failure> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let private = Mode::from_raw_mode(0o600);
        let file = rustix::fs::openat(folder, name, flags | OFlags::CLOEXEC, private)
            .map_err(|errno| in_the_way(folder, name, errno))?;
        let mut file = std::fs::File::from(file);
        let (mut hasher, mut rest) = (Sha256::new(), size);
        while rest > 0 {
            let read = entry.read(&mut self.buffer).map_err(Failure::Archive)?;
            if read == 0 {
                return Err(Failure::Archive(io::ErrorKind::UnexpectedEof.into()));
            }
            let bytes = &self.buffer[..read];
            hasher.update(bytes);
            file.write_all(bytes).map_err(|source| Failure::File("writing", source))?;
            rest = rest.saturating_sub(read as u64);
        }
        // The owner first: the kernel takes setuid bits and capabilities away when it changes.
        let (uid, gid) = item.owner;
        rustix::fs::fchown(&file, Some(uid), Some(gid))
            .map_err(|errno| Failure::file("giving away", errno))?;
        rustix::fs::fchmod(&file, item.mode)
            .map_err(|errno| Failure::file("setting the mode of", errno))?;
        for (attribute, value) in &item.attributes {
            rustix::fs::fsetxattr(&file, attribute, value, XattrFlags::empty())
                .map_err(|errno| Failure::file("setting an attribute of", errno))?;
        }
        rustix::fs::futimens(&file, &item.times)
            .map_err(|errno| Failure::file("setting the time of", errno))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| Failure::file("looking at", errno))?;
        let digest = Digest::from_bytes(hasher.finalize().into());
        let content = Content { digest, bytes: size, is_counted: false };
        self.contents.insert((stat.st_dev, stat.st_ino), content);
        Ok(())
    }

    fn link(&mut self, folder: &Folder, name: &CStr, target: &[u8]) -> Result<(), Failure> {
        let missing = || Failure::Refused(Refusal::LinkTarget(show(target)));
        let parent = self.folders.existing(parent_of(target)).map_err(|_| missing())?;
        let file = CString::new(name_of(target)).map_err(|_| missing())?;
        let stat =
            rustix::fs::statat(&parent, &file, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| missing())?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::Symlink) {
            return Err(missing());
        }
        rustix::fs::linkat(&parent, &file, folder, name, AtFlags::empty())
            .map_err(|errno| in_the_way(folder, name, errno))
    }
}

fn make_folder(folder: &Folder, name: &CStr, item: &Item) -> Result<(), Failure> {
    // The layer's own root has no name, and is there.
    let name = if name.is_empty() { c"." } else { name };
    match rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(Failure::file("making", errno)),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(in_the_way(folder, name, Errno::EXIST)),
        opened => opened.map_err(|errno| Failure::file("opening", errno))?,
    };
    let (uid, gid) = item.owner;
    rustix::fs::fchown(&made, Some(uid), Some(gid))
        .map_err(|errno| Failure::file("giving away", errno))?;
    rustix::fs::fchmod(&made, item.mode)
        .map_err(|errno| Failure::file("setting the mode of", errno))?;
    for (attribute, value) in &item.attributes {
        rustix::fs::fsetxattr(&made, attribute, value, XattrFlags::empty())
            .map_err(|errno| Failure::file("setting an attribute of", errno))?;
    }
    Ok(())
}

/// Owner, attributes and time of something that is not opened.
fn finish(folder: &Folder, name: &CStr, item: &Item) -> Result<(), Failure> {
    let (uid, gid) = item.owner;
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| Failure::file("giving away", errno))?;
    for (attribute, value) in &item.attributes {
        set_attribute(folder, name, attribute, value)?;
    }
    rustix::fs::utimensat(folder, name, &item.times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| Failure::file("setting the time of", errno))
}

fn mknod(folder: BorrowedFd<'_>, name: &CStr, kind: FileType, mode: Mode) -> Result<(), Errno> {
    rustix::fs::mknodat(folder, name, kind, mode, 0)
}

fn set_attribute(
    folder: &Folder,
    name: &CStr,
    attribute: &CStr,
    value: &[u8],
) -> Result<(), Failure> {
    let path = entry_path(folder.as_fd(), name);
    rustix::fs::lsetxattr(&path, attribute, value, XattrFlags::empty())
        .map_err(|errno| Failure::file("setting an attribute of", errno))
}

/// Says what stands where something was to be made.
fn in_the_way(folder: &Folder, name: &CStr, errno: Errno) -> Failure {
    if errno != Errno::EXIST {
        return Failure::file("making", errno);
    }
    let there = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    Failure::Refused(match there.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::CharacterDevice) => Refusal::RemovedAndThere,
        Ok(FileType::Directory) => Refusal::FolderAndNot,
        _ => Refusal::Twice,
    })
}

/// Why an entry was not made.
pub(super) enum Failure {
    Refused(Refusal),
    Archive(io::Error),
    File(&'static str, io::Error),
}

impl Failure {
    pub(super) fn file(action: &'static str, errno: Errno) -> Self {
        Self::File(action, errno.into())
    }
}

impl From<Refusal> for Failure {
    fn from(why: Refusal) -> Self {
        Self::Refused(why)
    }
}
