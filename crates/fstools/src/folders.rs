//! `MakeDirectory` and `Remove`.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::failure::{Failure, Kind};

/// Makes a folder. With `parents` those above it, too, and one that is there already is fine.
pub(crate) fn make(path: &Path, parents: bool) -> Result<(), Failure> {
    if parents {
        return make_all(path);
    }
    fs::create_dir(path).map_err(Failure::of)
}

/// Makes a folder and those above it.
pub(crate) fn make_all(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|error| match error.raw_os_error() {
        // Something that is no folder: at the path itself, or (a link to nowhere) above it.
        Some(code) if Errno::from_raw_os_error(code) == Errno::EXIST => {
            let here = fs::symlink_metadata(path).is_ok();
            Failure::of(if here { Errno::EXIST } else { Errno::NOTDIR })
        }
        _ => Failure::of(error),
    })
}

/// Removes a file, a link (never what it leads to) or a folder.
pub(crate) fn remove(path: &Path, recursive: bool) -> Result<(), Failure> {
    let meta = fs::symlink_metadata(path).map_err(Failure::of)?;
    if !meta.is_dir() {
        return fs::remove_file(path).map_err(Failure::of);
    }
    if fs::canonicalize(path).is_ok_and(|path| path == Path::new("/")) {
        return Err(Failure::new(Kind::InvalidPath, "the sandbox's root cannot be removed"));
    }
    if recursive {
        empty(path)?;
    }
    fs::remove_dir(path).map_err(Failure::of)
}

/// A folder that is being emptied: its name in the one above, and that one's identity.
struct Level {
    name: CString,
    above: (u64, u64),
}

/// Removes everything in a folder. One descriptor is open at a time and nothing recurses, so that
/// no depth is too deep; on the way up, the folder above must be the one that was left.
fn empty(path: &Path) -> Result<(), Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let open = |at: &OwnedFd, name: &CStr| rustix::fs::openat(at, name, flags, Mode::empty());
    let mut folder = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(Failure::of)?;
    let mut levels: Vec<Level> = Vec::new();
    loop {
        if let Some(name) = remove_entries(&folder).map_err(Failure::of)? {
            let above = identity(&rustix::fs::fstat(&folder).map_err(Failure::of)?);
            match open(&folder, &name) {
                Ok(below) => folder = below,
                // Gone, or no folder any more: look again.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(Failure::of(error)),
            }
            levels.push(Level { name, above });
            continue;
        }
        let Some(level) = levels.pop() else { return Ok(()) };
        folder = open(&folder, c"..").map_err(Failure::of)?;
        if identity(&rustix::fs::fstat(&folder).map_err(Failure::of)?) != level.above {
            let what = "a folder was moved while it was being removed; try again";
            return Err(Failure::new(Kind::Io, what));
        }
        match rustix::fs::unlinkat(&folder, &level.name, AtFlags::REMOVEDIR) {
            // Something new is in it: it is found again.
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(Failure::of(error)),
        }
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Removes the files and empty folders in a folder until it finds one that is not empty.
fn remove_entries(folder: impl AsFd) -> Result<Option<CString>, Errno> {
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(error),
        }
        match rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name.to_owned())),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
