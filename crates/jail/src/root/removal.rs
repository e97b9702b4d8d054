//! Removing a tree that may be hostile: deep, changing, full of links.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, Result};

use crate::limits::REMOVAL_DEPTH_MAX;

/// Removes `name` in `parent` with all that is in it. Every folder is entered by its own
/// descriptor and never through a link, so that nothing outside can be hit, whatever is exchanged
/// meanwhile.
pub(super) fn remove(parent: &OwnedFd, name: &OsStr) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        removed => return removed,
    }
    let mut stack = vec![(enter(parent.as_fd(), name)?, name.to_owned())];
    let mut moved = 0;
    while let Some((folder, _)) = stack.last() {
        match empty(folder)? {
            Some(deeper) if stack.len() < REMOVAL_DEPTH_MAX => {
                stack.push((enter(folder.as_fd(), &deeper)?, deeper));
            }
            // Each level costs a descriptor, and trees can be made deeper than any limit on
            // those: what lies too deep is moved up, where it is found again.
            Some(deeper) => move_up(folder, &deeper, &stack[0].0, &mut moved)?,
            None => {
                let Some((_, name)) = stack.pop() else { break };
                let above = stack.last().map_or(parent, |(above, _)| above);
                rustix::fs::unlinkat(above, &name, AtFlags::REMOVEDIR)?;
            }
        }
    }
    Ok(())
}

/// Opens the folder `name` in `parent`, and nothing else that may be there.
pub(super) fn enter(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Removes what can be removed at once from `folder`; answers the first folder that is not empty.
fn empty(folder: &OwnedFd) -> Result<Option<OsString>> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(error),
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name.to_owned())),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn move_up(folder: &OwnedFd, name: &OsStr, top: &OwnedFd, moved: &mut u64) -> Result<()> {
    loop {
        *moved += 1;
        let free = format!("deep-{moved}");
        match rustix::fs::renameat_with(folder, name, top, &free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            renamed => return renamed,
        }
    }
}
