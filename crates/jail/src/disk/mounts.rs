//! The mounts below our folder.

use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use super::{Result, at};

/// Detaches every mount at or below `folder`, the last made first.
pub(super) fn detach_all(folder: &Path) -> Result<()> {
    for path in below(folder)?.iter().rev() {
        unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|error| at("detach", path)(error.into()))?;
    }
    Ok(())
}

/// Unmounts `path`, now if nobody uses it, else when its last user is gone.
pub(super) fn unmount_one(path: &Path) -> Result<()> {
    let now = unmount(path, UnmountFlags::NOFOLLOW);
    now.or_else(|_| unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW))
        .map_err(|error| at("unmount", path)(error.into()))
}

/// The mount points at or below `folder`, in the order in which they were made.
pub(super) fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string("/proc/thread-self/mountinfo").map_err(at("read", list))?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.map(PathBuf::from).filter(|point| point.starts_with(folder)).collect())
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", r"\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}
