//! Folders of a layer that is being unpacked, opened without following anything.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::Refusal;
use super::make::Failure;

/// An open folder of the layer.
#[derive(Clone, Debug)]
pub(super) struct Folder(Rc<OwnedFd>);

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The folders of one layer.
#[derive(Debug)]
pub(super) struct Folders {
    root: Folder,
    /// The one that was asked for last: archives list folder by folder.
    last: Option<(Vec<u8>, Folder)>,
    made: u64,
}

impl Folders {
    /// Opens the layer's root.
    pub(super) fn open(root: &Path) -> Result<Self, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::PATH;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        Ok(Self { root: Folder(Rc::new(root)), last: None, made: 0 })
    }

    /// How many folders were made that the archive did not list first.
    pub(super) fn made(&self) -> u64 {
        self.made
    }

    /// The folder at a path below the root; missing ones are made, as root's, mode 0755.
    pub(super) fn folder(&mut self, path: &[u8]) -> Result<Folder, Failure> {
        match self.existing(path) {
            Err(Errno::NOENT) => self.make(path),
            Err(Errno::LOOP) => Err(Refusal::BelowLink.into()),
            Err(Errno::NOTDIR) => Err(Refusal::BelowFile.into()),
            opened => opened.map_err(|errno| Failure::file("opening the folder of", errno)),
        }
    }

    /// The folder at a path below the root, if it is there.
    pub(super) fn existing(&mut self, path: &[u8]) -> Result<Folder, Errno> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(folder.clone());
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let name = OsStr::from_bytes(path);
        let fd = rustix::fs::openat2(&self.root, name, flags, Mode::empty(), resolve)?;
        let folder = Folder(Rc::new(fd));
        self.last = Some((path.to_vec(), folder.clone()));
        Ok(folder)
    }

    fn make(&mut self, path: &[u8]) -> Result<Folder, Failure> {
        let failed = |errno| Failure::file("making the folder of", errno);
        let mut folder = self.root.clone();
        for part in path.split(|byte| *byte == b'/') {
            let name = CString::new(part).map_err(|_| Refusal::Zero("its path"))?;
            match rustix::fs::mkdirat(&folder, &name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    self.made += 1;
                    // Neither the process' umask nor a folder above that gives its group away
                    // may decide what an image holds.
                    let (mode, none) = (Mode::from_raw_mode(0o755), AtFlags::empty());
                    let (root, group) = (Some(Uid::ROOT), Some(Gid::ROOT));
                    rustix::fs::chownat(&folder, &name, root, group, none).map_err(failed)?;
                    rustix::fs::chmodat(&folder, &name, mode, none).map_err(failed)?;
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno)),
            }
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH;
            let fd = match rustix::fs::openat(&folder, &name, flags, Mode::empty()) {
                Err(Errno::LOOP) => return Err(Refusal::BelowLink.into()),
                Err(Errno::NOTDIR) => return Err(Refusal::BelowFile.into()),
                opened => opened.map_err(failed)?,
            };
            folder = Folder(Rc::new(fd));
        }
        self.last = Some((path.to_vec(), folder.clone()));
        Ok(folder)
    }
}
