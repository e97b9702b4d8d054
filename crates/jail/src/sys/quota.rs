//! Project ids and their quotas, on ext4 and xfs alike.
//!
//! Facts: linux/fs.h (`fsxattr`), linux/quota.h (`if_dqblk`), quotactl(2).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// `fsxattr`: flags, extent size, extents, project id, and what is not used here.
const ATTRIBUTE_BYTES: usize = 28;
const GET_ATTRIBUTES: Opcode = opcode::read::<[u8; ATTRIBUTE_BYTES]>(b'X', 31);
const SET_ATTRIBUTES: Opcode = opcode::write::<[u8; ATTRIBUTE_BYTES]>(b'X', 32);
/// `FS_XFLAG_PROJINHERIT`: what is made in the folder belongs to its project.
const INHERIT: u32 = 0x200;

/// `Q_GETQUOTA`, `Q_SETQUOTA` and `PRJQUOTA`, joined as QCMD does.
const GET_QUOTA: libc::c_uint = (0x80_0007 << 8) | 2;
const SET_QUOTA: libc::c_uint = (0x80_0008 << 8) | 2;
/// `if_dqblk`: hard limit in units of 1,024 bytes, soft limit, bytes in use, the same of inodes,
/// two times; then 32 bits that say which of them are meant.
const QUOTA_WORDS: usize = 9;
/// `QIF_BLIMITS`.
const BLOCK_LIMITS: u32 = 1;

/// What the file system knows of a project.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State {
    /// Bytes in use.
    pub(crate) bytes: u64,
    inodes: u64,
    hard_limit: u64,
}

impl State {
    /// Whether nothing belongs to the project, and nobody limited it.
    pub(crate) fn is_free(self) -> bool {
        self.bytes == 0 && self.inodes == 0 && self.hard_limit == 0
    }
}

/// The project of an open file or folder.
pub(crate) fn project(file: BorrowedFd<'_>) -> io::Result<u32> {
    let attributes = attributes(file)?;
    Ok(word(&attributes, 12))
}

/// Puts the open folder, and what will be made in it, into the project `id`.
pub(crate) fn set_project(folder: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    let mut attributes = attributes(folder)?;
    let flags = word(&attributes, 0) | INHERIT;
    attributes[..4].copy_from_slice(&flags.to_ne_bytes());
    attributes[12..16].copy_from_slice(&id.to_ne_bytes());
    // SAFETY: the opcode is made above from the size of its argument, which the kernel copies in
    // as bytes and keeps no pointer to.
    unsafe { ioctl(folder, Updater::<SET_ATTRIBUTES, _>::new(&mut attributes)) }?;
    Ok(())
}

fn attributes(file: BorrowedFd<'_>) -> io::Result<[u8; ATTRIBUTE_BYTES]> {
    let mut attributes = [0; ATTRIBUTE_BYTES];
    // SAFETY: as above; the kernel copies as many bytes out.
    unsafe { ioctl(file, Updater::<GET_ATTRIBUTES, _>::new(&mut attributes)) }?;
    Ok(attributes)
}

fn word(bytes: &[u8; ATTRIBUTE_BYTES], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// What the file system of `file` knows of project `id`.
///
/// # Errors
/// ENOSYS or ESRCH where it keeps no project quotas.
pub(crate) fn read(file: BorrowedFd<'_>, id: u32) -> io::Result<State> {
    let mut quota = [0; QUOTA_WORDS];
    control(file, GET_QUOTA, id, &mut quota)?;
    Ok(State { hard_limit: quota[0], bytes: quota[2], inodes: quota[5] })
}

/// Limits project `id` to `bytes`, rounded down to 1,024; 0 is no limit.
pub(crate) fn limit(file: BorrowedFd<'_>, id: u32, bytes: u64) -> io::Result<()> {
    let mut quota = [0; QUOTA_WORDS];
    quota[0] = bytes / 1_024;
    quota[1] = quota[0];
    let valid = [BLOCK_LIMITS, 0];
    quota[8] = u64::from_ne_bytes(join(valid));
    control(file, SET_QUOTA, id, &mut quota)
}

/// Two 32-bit fields as they lie in memory.
fn join([first, second]: [u32; 2]) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    bytes
}

/// quotactl_fd, from Linux 5.14.
fn control(
    file: BorrowedFd<'_>,
    command: libc::c_uint,
    id: u32,
    quota: &mut [u64; QUOTA_WORDS],
) -> io::Result<()> {
    // SAFETY: for these two commands the kernel reads or writes one if_dqblk, 72 bytes, which
    // `quota` is; it lives until the call returns.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_raw_fd(),
            command,
            id,
            quota.as_mut_ptr().cast::<libc::c_void>(),
        )
    };
    match answer {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
