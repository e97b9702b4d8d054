//! Loading a syscall filter.

use std::io;

/// One instruction of classic BPF: struct sock_filter of include/uapi/linux/filter.h.
pub(crate) type Instruction = libc::sock_filter;

/// Loads `program` for this thread and all that it makes. no_new_privs must be set before.
///
/// # Errors
/// The kernel's; `InvalidInput` for a program that its checker refuses or that is too long.
pub(crate) fn load(program: &mut [Instruction]) -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_uint = 1;
    let len = u16::try_from(program.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the filter is too long"))?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: `program` points to `len` instructions that live until the call returns; the kernel
    // copies and checks them.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0, &raw const program) };
    match answer {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
