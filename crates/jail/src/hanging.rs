//! File systems (FUSE) that a program serves, and that do not answer. A process in the middle of a
//! read of one may be out of reach of any signal, until it is answered or the file system is
//! broken off.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Breaks off the file systems that these processes see and this one does not: nobody else can
/// wait for them. What waits for an answer gets an error.
///
/// # Errors
/// The kernel's.
pub(crate) fn break_off(pids: &[String]) -> io::Result<()> {
    let mut theirs = BTreeSet::new();
    for pid in pids {
        // It may have died.
        theirs.extend(connections(&read(pid).unwrap_or_default()));
    }
    let ours: BTreeSet<_> = connections(&read("self")?).collect();
    let own: Vec<_> = theirs.difference(&ours).collect();
    if own.is_empty() {
        return Ok(());
    }
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let control = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    for connection in own {
        let path = format!("{connection}/abort");
        let file = openat(&control, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        match file {
            Ok(file) => File::from(file).write_all(b"1")?,
            // It has ended meanwhile.
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read(pid: &str) -> io::Result<String> {
    fs::read_to_string(format!("/proc/{pid}/mountinfo"))
}

/// The numbers of connections in a list of mounts (proc_pid_mountinfo(5)): those of the devices,
/// as the kernel has them (fs/fuse/control.c).
fn connections(mountinfo: &str) -> impl Iterator<Item = u32> {
    mountinfo.lines().filter_map(|line| {
        let (place, source) = line.split_once(" - ")?;
        let kind = source.split(' ').next()?;
        let is_fuse = ["fuse", "fuseblk"].contains(&kind) || kind.starts_with("fuse.");
        let device = place.split(' ').nth(2).filter(|_| is_fuse)?;
        let (major, minor) = device.split_once(':')?;
        Some(major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_mounts() {
        let text = "36 35 98:0 / /a rw,noatime master:1 - ext4 /dev/root rw\n\
                    37 35 0:52 / /b rw - fuse hang rw,user_id=0\n\
                    38 35 0:53 / /c\\040d rw shared:7 - fuse.sshfs x:/y rw\n\
                    39 35 0:54 / /e rw - fusectl fusectl rw\n\
                    40 35 8:17 / /f rw - fuseblk /dev/sdb1 rw\n\
                    broken\n";
        assert_eq!(connections(text).collect::<Vec<_>>(), [52, 53, (8 << 20) | 17]);
    }
}
