//! Subvolumes and quota groups of btrfs.
//!
//! Facts: linux/btrfs.h and linux/btrfs_tree.h. Every argument is a struct of the given size
//! without pointers, in the machine's byte order; trees are little-endian.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

const MAGIC: u8 = 0x94;
/// `btrfs_ioctl_vol_args`, `…_ino_lookup_args` and `…_search_args` are all a page.
const PAGE: usize = 4_096;
const SUBVOL_CREATE: Opcode = opcode::write::<[u8; PAGE]>(MAGIC, 14);
const SNAP_DESTROY: Opcode = opcode::write::<[u8; PAGE]>(MAGIC, 15);
const TREE_SEARCH: Opcode = opcode::read_write::<[u8; PAGE]>(MAGIC, 17);
const INO_LOOKUP: Opcode = opcode::read_write::<[u8; PAGE]>(MAGIC, 18);
const QUOTA_CTL: Opcode = opcode::read_write::<[u8; 16]>(MAGIC, 40);
const QGROUP_CREATE: Opcode = opcode::write::<[u8; 16]>(MAGIC, 42);
const QGROUP_LIMIT: Opcode = opcode::read::<[u8; 48]>(MAGIC, 43);

/// `BTRFS_QUOTA_CTL_ENABLE` and `…_ENABLE_SIMPLE_QUOTA` (Linux 6.7).
const QUOTA_ENABLE: u64 = 1;
const QUOTA_ENABLE_SIMPLE: u64 = 4;
/// `BTRFS_QGROUP_LIMIT_MAX_RFER`.
const LIMIT_REFERENCED: u64 = 1;
/// `BTRFS_FIRST_FREE_OBJECTID`: the inode of a subvolume's top folder.
const TOP: u64 = 256;
/// `BTRFS_QUOTA_TREE_OBJECTID` and `BTRFS_QGROUP_INFO_KEY`.
const QUOTA_TREE: u64 = 8;
const QGROUP_INFO: u32 = 242;
/// Bytes of `btrfs_ioctl_search_key` and of `btrfs_ioctl_search_header`.
const KEY_BYTES: usize = 104;
const HEADER_BYTES: usize = 32;

/// Performs `OPCODE`, whose argument is a plain struct of `N` bytes.
fn perform<const OPCODE: Opcode, const N: usize>(
    fd: BorrowedFd<'_>,
    argument: &mut [u8; N],
) -> io::Result<()> {
    // SAFETY: all opcodes of this module are made above from the size of their argument, which
    // the kernel copies in and out as bytes, without pointers in it and so without alignment;
    // `argument` is exclusively ours until the call returns. On a file of another kind the
    // number means nothing (0x94 is btrfs's, and what others share with it copies as many bytes).
    unsafe { ioctl(fd, Updater::<OPCODE, [u8; N]>::new(argument)) }?;
    Ok(())
}

/// `btrfs_ioctl_vol_args`: a descriptor that is not used here, then the zero-ended name.
fn named(name: &str) -> io::Result<[u8; PAGE]> {
    let mut argument = [0; PAGE];
    let room = &mut argument[8..PAGE - 1];
    match room.get_mut(..name.len()) {
        Some(room) if !name.contains('\0') => room.copy_from_slice(name.as_bytes()),
        _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
    Ok(argument)
}

/// Makes the subvolume `name` in the folder `parent`.
pub(crate) fn create_subvolume(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    perform::<SUBVOL_CREATE, PAGE>(parent, &mut named(name)?)
}

/// Deletes the subvolume `name` of the folder `parent`; its space comes back in the background.
pub(crate) fn destroy_subvolume(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    perform::<SNAP_DESTROY, PAGE>(parent, &mut named(name)?)
}

/// The id of the subvolume to which the file belongs.
pub(crate) fn subvolume_id(file: BorrowedFd<'_>) -> io::Result<u64> {
    let mut argument = [0; PAGE];
    argument[8..16].copy_from_slice(&TOP.to_ne_bytes());
    perform::<INO_LOOKUP, PAGE>(file, &mut argument)?;
    Ok(read_u64(&argument, 0, u64::from_ne_bytes))
}

/// Switches quota groups on: the simple ones where the kernel has them, which count an extent
/// once, when it is allocated; else the full ones.
pub(crate) fn enable_quota(file: BorrowedFd<'_>) -> io::Result<()> {
    let enable = |command: u64| {
        let mut argument = [0; 16];
        argument[..8].copy_from_slice(&command.to_ne_bytes());
        perform::<QUOTA_CTL, 16>(file, &mut argument)
    };
    enable(QUOTA_ENABLE_SIMPLE).or_else(|_| enable(QUOTA_ENABLE))
}

/// Limits what the subvolume `id` may hold, data and metadata, to `bytes`.
pub(crate) fn limit(file: BorrowedFd<'_>, id: u64, bytes: u64) -> io::Result<()> {
    let mut argument = [0; 48];
    for (at, value) in [(0, id), (8, LIMIT_REFERENCED), (16, bytes)] {
        argument[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
    perform::<QGROUP_LIMIT, 48>(file, &mut argument)
}

/// Deletes the quota group of a subvolume that is gone; the kernel refuses while it is not.
pub(crate) fn destroy_group(file: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    let mut argument = [0; 16];
    argument[8..].copy_from_slice(&id.to_ne_bytes());
    perform::<QGROUP_CREATE, 16>(file, &mut argument)
}

/// The bytes that the subvolume `id` holds as of the last commit; `None` without a group.
pub(crate) fn usage(file: BorrowedFd<'_>, id: u64) -> io::Result<Option<u64>> {
    let mut argument = [0; PAGE];
    // tree, objectid from and to, offset from and to, transaction from and to
    let ranges = [QUOTA_TREE, 0, 0, id, id, 0, u64::MAX];
    for (n, value) in ranges.iter().enumerate() {
        argument[n * 8..n * 8 + 8].copy_from_slice(&value.to_ne_bytes());
    }
    // type from and to, number of items
    for (n, value) in [QGROUP_INFO, QGROUP_INFO, 1].iter().enumerate() {
        argument[56 + n * 4..60 + n * 4].copy_from_slice(&value.to_ne_bytes());
    }
    perform::<TREE_SEARCH, PAGE>(file, &mut argument)?;
    let found = u32::from_ne_bytes([argument[64], argument[65], argument[66], argument[67]]);
    // btrfs_qgroup_info_item: generation, then referenced bytes.
    let item = KEY_BYTES + HEADER_BYTES;
    Ok((found == 1).then(|| read_u64(&argument, item + 8, u64::from_le_bytes)))
}

fn read_u64(bytes: &[u8; PAGE], at: usize, convert: fn([u8; 8]) -> u64) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    convert(value)
}
