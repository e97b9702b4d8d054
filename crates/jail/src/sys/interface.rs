//! The loopback interface.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets `lo` up in the network namespace in which `socket` (any AF_INET socket) was made.
///
/// # Errors
/// The kernel's.
pub(crate) fn set_loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: ifreq is plain data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed();
    }
    let up = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(up).map_err(io::Error::other)?;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives until the call returns.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
