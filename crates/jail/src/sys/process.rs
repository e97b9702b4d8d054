//! Making processes: clone3 with namespaces, fork, and what must be clean before an exec.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Which side of a clone this is.
#[derive(Debug)]
pub(crate) enum Cloned {
    /// The new process.
    Child,
    /// The process that called; the new one's pid in the caller's pid namespace, and its pidfd.
    Parent { pid: i32, pidfd: OwnedFd },
}

/// Makes a process with its own memory and descriptor table, as fork does, in new namespaces.
///
/// `flags` are CLONE_NEW*; the pidfd, a cleared signal table and CLONE_PARENT (the new process
/// becomes the caller's *sibling*) are added. With `cgroup` (a directory of cgroup v2) it is born
/// in that group.
///
/// # Errors
/// The kernel's, and `Unsupported` when this process has more than one thread: a copy of a
/// process with threads may hold locks that nobody will ever release.
pub(crate) fn clone_sibling(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    // A sibling's parent gets the signal that it gets for this process.
    clone(libc::CLONE_PARENT | flags, 0, cgroup)
}

/// As [`clone_sibling`], but a child of this process, in its namespaces.
///
/// # Errors
/// As [`clone_sibling`].
pub(crate) fn clone_child(cgroup: BorrowedFd<'_>) -> io::Result<Cloned> {
    clone(0, libc::SIGCHLD, Some(cgroup))
}

fn clone(flags: i32, exit_signal: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    one_thread()?;
    let mut pidfd: i32 = -1;
    let wanted = libc::CLONE_PIDFD | flags;
    let mut bits = u64::from(wanted.cast_unsigned()) | CLONE_CLEAR_SIGHAND;
    let exit_signal = u64::from(exit_signal.cast_unsigned());
    let mut args =
        CloneArgs { pidfd: (&raw mut pidfd) as u64, exit_signal, ..CloneArgs::default() };
    if let Some(cgroup) = cgroup {
        bits |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    args.flags = bits;
    // SAFETY: without CLONE_VM the child runs on a copy of this memory and stack, as after fork;
    // the process has one thread, so no lock is held by somebody who does not exist in the child.
    // `args` and `pidfd` live until the call returns.
    let answer =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, std::mem::size_of::<CloneArgs>()) };
    match answer {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel wrote a new descriptor there that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).map_err(io::Error::other)?;
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}

/// `fork`: `None` in the child, the child's pid in the parent.
///
/// # Errors
/// As [`clone_sibling`].
pub(crate) fn fork() -> io::Result<Option<i32>> {
    one_thread()?;
    // SAFETY: the process has one thread, so that the child may go on as usual.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// The kernel's.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the callers are processes at their very start or right before an exec; they own no
    // descriptor value from `first` on that they use afterwards.
    match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Marks every descriptor from `first` on as closed at exec.
///
/// # Errors
/// The kernel's.
pub(crate) fn close_at_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: changes only the close-on-exec flag of descriptors.
    match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Puts every signal back to its default and unblocks all: ignored signals and a mask would
/// otherwise pass through the exec (std ignores SIGPIPE).
pub(crate) fn reset_signals() {
    for number in 1..=64 {
        // SAFETY: setting the default action has no handler that could be called wrongly; numbers
        // that cannot be set answer with an error that does not matter.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    // SAFETY: both sets are valid, and the second is not read.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Gives this process a session keyring of its own, so that no key of the host's is in reach.
///
/// # Errors
/// The kernel's; a kernel without keyrings is no error.
pub(crate) fn join_new_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for a new anonymous keyring; nothing else is passed.
    let answer = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0) };
    let error = io::Error::last_os_error();
    match answer {
        -1 if error.raw_os_error() != Some(libc::ENOSYS) => Err(error),
        _ => Ok(()),
    }
}

// From include/uapi/linux/sched.h and close_range.h; not all C libraries name them.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLOSE_RANGE_CLOEXEC: u32 = 4;

/// struct clone_args of include/uapi/linux/sched.h, up to `cgroup` (88 bytes, since 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn one_thread() -> io::Result<()> {
    match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
        // Inside a container the answer may be hidden; only such processes get there as were
        // made by these functions, and they start no threads.
        Ok(0 | 1) | Err(_) => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "this process has threads")),
    }
}
