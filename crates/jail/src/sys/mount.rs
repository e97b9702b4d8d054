//! mount_setattr, which rustix does not have.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// MOUNT_ATTR_* bits, from include/uapi/linux/mount.h.
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
    pub(super) const IDMAP: u64 = 0x0010_0000;
}

/// Sets attributes of the mount (or, with `recursive`, of the tree) behind `mount`; with `userns`
/// ids on disk are mapped through that user namespace (from 5.12, where the file system can).
///
/// # Errors
/// The kernel's; `InvalidInput` where the file system cannot map ids.
pub(crate) fn set_attributes(
    mount: BorrowedFd<'_>,
    set: u64,
    userns: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> io::Result<()> {
    let mut attributes =
        libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    if let Some(userns) = userns {
        attributes.attr_set |= attr::IDMAP;
        attributes.userns_fd = u64::from(userns.as_raw_fd().cast_unsigned());
    }
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, the struct lives until the call returns and its size
    // is given.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw mut attributes,
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    match answer {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
