//! Everything that is mounted in the container: its root, /proc, /sys, /dev, small files, bound
//! folders. Paths are resolved only after the root was entered, so that none can lead outside.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use super::Error;
use super::builder::{DEVICES, ROOT_POINT};
use crate::MOUNT_SOURCE;
use crate::limits::{DEVICE_BYTES_MAX, DEVICE_INODES_MAX};
use crate::plan::Plan;
use crate::sys::mount::{attr, set_attributes};

/// Detached mounts that came from the building process.
pub(super) struct Trees {
    root: OwnedFd,
    binds: Vec<OwnedFd>,
    devices: Vec<OwnedFd>,
}

impl Trees {
    /// Takes the descriptors apart again.
    pub(super) fn new(plan: &Plan, descriptors: Vec<OwnedFd>) -> Result<Self, Error> {
        let short = || Error::Plan(io::Error::from(io::ErrorKind::InvalidData));
        let mut all = descriptors.into_iter();
        let root = all.next().ok_or_else(short)?;
        let binds: Vec<_> = all.by_ref().take(plan.binds.len()).collect();
        let devices: Vec<_> = all.collect();
        let whole = binds.len() == plan.binds.len() && devices.len() == DEVICES.len();
        if whole { Ok(Self { root, binds, devices }) } else { Err(short()) }
    }
}

/// Enters the root and mounts everything else in it.
pub(super) fn set_up(plan: &Plan, trees: Trees) -> Result<(), Error> {
    // The kernel gives these two only while the host's are visible in full.
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let proc = new("proc", &[], quiet)?;
    let sys = new("sysfs", &[], quiet | MountAttrFlags::MOUNT_ATTR_RDONLY).ok();
    enter(&trees.root)?;
    let own = own_memory(plan)?;
    for name in ["proc", "sys", "dev"] {
        own_folder(&Path::new("/").join(name))?;
    }
    put(&proc, Path::new("/proc"))?;
    refuse_user_namespaces()?;
    put(&own, Path::new("/dev"))?;
    fill(plan)?;
    match &sys {
        Some(sys) => put(sys, Path::new("/sys"))?,
        None => put(&clone("/dev/empty", false)?, Path::new("/sys"))?,
    }
    MASKED.iter().try_for_each(|path| mask(Path::new(path)))?;
    READ_ONLY.iter().try_for_each(|path| make_read_only(Path::new(path)))?;
    // Taken before the memory behind them is out of sight.
    let files: Result<Vec<_>, Error> =
        (0..plan.files.len()).map(|at| small_file(plan, at)).collect();
    let (files, dev) = (files?, clone("/dev/dev", false)?);
    unmount("/dev", UnmountFlags::DETACH).map_err(Error::step("hiding the container's memory"))?;
    put(&dev, Path::new("/dev"))?;
    for (name, tree) in DEVICES.iter().zip(&trees.devices) {
        put(tree, &Path::new("/dev").join(name))?;
    }
    mount_devices(plan)?;
    for tmpfs in &plan.tmpfs {
        let size = [("size", tmpfs.bytes.to_string()), ("mode", format!("{:o}", tmpfs.mode))];
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let tree = new("tmpfs", &size, flags)?;
        make_target(&tmpfs.target, true)?;
        put(&tree, &tmpfs.target)?;
    }
    let binds = plan.binds.iter().map(|bind| &bind.target).zip(&trees.binds);
    let files = plan.files.iter().map(|file| &file.target).zip(&files);
    for (target, tree) in binds.chain(files) {
        let kind = fstat(tree).map_err(Error::step("looking at a bound file"))?.st_mode;
        make_target(target, FileType::from_raw_mode(kind) == FileType::Directory)?;
        put(tree, target)?;
    }
    Ok(())
}

/// Mounts the container's own view of v2's control groups, read-only, where programs look for
/// their limits. Only a convenience, hence no error without it.
pub(super) fn show_cgroup() {
    let top = Path::new("/sys/fs/cgroup");
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_RDONLY;
    if let Ok(tree) = new("cgroup2", &[], flags) {
        let _ = put(&tree, top);
    }
}

/// Makes the overlay the root of everything and lets go of the host's.
fn enter(root: &OwnedFd) -> Result<(), Error> {
    let step = Error::step::<rustix::io::Errno>;
    move_mount(root, "", CWD, ROOT_POINT, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(step("attaching the root"))?;
    rustix::process::chdir(ROOT_POINT).map_err(step("entering the root"))?;
    // The old root then lies on top of the new one at the same place, and is taken off.
    rustix::process::pivot_root(".", ".").map_err(step("changing the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(step("letting go of the host's root"))?;
    rustix::process::chdir("/").map_err(step("entering the root"))
}

/// One memory file system for /dev, small files and what hides other things: each file system
/// costs the kernel memory in every control group.
fn own_memory(plan: &Plan) -> Result<OwnedFd, Error> {
    let files: usize = plan.files.iter().map(|file| file.content.len() + 4096).sum();
    let options = [
        ("size", (DEVICE_BYTES_MAX + files).to_string()),
        ("nr_inodes", (DEVICE_INODES_MAX + plan.files.len()).to_string()),
        ("mode", "755".to_owned()),
    ];
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    new("tmpfs", &options, flags)
}

/// Fills that memory while it is mounted on /dev: `dev`, `empty`, `nothing`, `files`.
fn fill(plan: &Plan) -> Result<(), Error> {
    let step = Error::step("filling the container's memory");
    let act = || -> io::Result<()> {
        for folder in ["dev", "dev/pts", "dev/shm", "dev/mqueue", "empty", "files"] {
            DirBuilder::new().mode(0o755).create(Path::new("/dev").join(folder))?;
        }
        for name in DEVICES {
            create(&Path::new("/dev/dev").join(name), &[], 0o666)?;
        }
        create(Path::new("/dev/nothing"), &[], 0o444)?;
        for (to, link) in LINKS {
            rustix::fs::symlink(to, Path::new("/dev/dev").join(link))?;
        }
        for (at, file) in plan.files.iter().enumerate() {
            create(&Path::new("/dev/files").join(at.to_string()), &file.content, file.mode)?;
        }
        Ok(())
    };
    act().map_err(step)
}

fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    io::Write::write_all(&mut file, content)?;
    file.set_permissions(fs::Permissions::from_mode(mode & 0o777))
}

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

fn small_file(plan: &Plan, at: usize) -> Result<OwnedFd, Error> {
    let tree = clone(&format!("/dev/files/{at}"), false)?;
    if plan.files[at].read_only {
        set_attributes(tree.as_fd(), attr::RDONLY, None, false)
            .map_err(Error::step("making a file read-only (`files`)"))?;
    }
    Ok(tree)
}

fn mount_devices(plan: &Plan) -> Result<(), Error> {
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    // Group 5 is tty in every distribution.
    let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let pts: Vec<_> =
        pts.iter().filter(|one| one.0 != "gid" || plan.ids.count > 5).map(own).collect();
    put(&new("devpts", &pts, quiet)?, Path::new("/dev/pts"))?;
    let shm = [("size", plan.shm_bytes.to_string()), ("mode", "1777".to_owned())];
    let quiet = quiet | MountAttrFlags::MOUNT_ATTR_NODEV;
    put(&new("tmpfs", &shm, quiet)?, Path::new("/dev/shm"))?;
    put(&new("mqueue", &[], quiet)?, Path::new("/dev/mqueue"))
}

fn own(pair: &(&'static str, &str)) -> (&'static str, String) {
    (pair.0, pair.1.to_owned())
}

/// No user namespace can be made inside: in one, a program would have all capabilities and most
/// of the kernel's surface before it.
fn refuse_user_namespaces() -> Result<(), Error> {
    fs::write("/proc/sys/user/max_user_namespaces", "0")
        .map_err(Error::step("refusing nested user namespaces"))
}

/// Hides a file behind an empty one, a folder behind an empty one; what does not exist is fine.
fn mask(path: &Path) -> Result<(), Error> {
    let cover = match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(facts) if facts.is_dir() => "/dev/empty",
        Ok(_) => "/dev/nothing",
    };
    let tree = clone(cover, false)?;
    set_attributes(tree.as_fd(), attr::RDONLY, None, false)
        .map_err(|source| Error::Mount { what: path.display().to_string(), source })?;
    put(&tree, path)
}

fn make_read_only(path: &Path) -> Result<(), Error> {
    if !path.exists() {
        return Ok(());
    }
    let tree = clone(&path.to_string_lossy(), true)?;
    set_attributes(tree.as_fd(), attr::RDONLY, None, true)
        .map_err(|source| Error::Mount { what: path.display().to_string(), source })?;
    put(&tree, path)
}

/// A detached clone of what is mounted at `path`.
fn clone(path: &str, recursive: bool) -> Result<OwnedFd, Error> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags)
        .map_err(|e| Error::Mount { what: path.to_owned(), source: e.into() })
}

/// A new, detached file system; an option without a value is a flag.
fn new(kind: &str, options: &[(&str, String)], flags: MountAttrFlags) -> Result<OwnedFd, Error> {
    let make = || {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", MOUNT_SOURCE)?;
        for (key, value) in options {
            if value.is_empty() {
                rustix::mount::fsconfig_set_flag(&context, *key)?;
            } else {
                fsconfig_set_string(&context, *key, value.as_str())?;
            }
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
    };
    make().map_err(|e: rustix::io::Errno| Error::Mount { what: kind.to_owned(), source: e.into() })
}

/// Mounts `tree` on `target`, following symbolic links as any program inside would.
fn put(tree: &OwnedFd, target: &Path) -> Result<(), Error> {
    let act = || {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let target = rustix::fs::open(target, flags, Mode::empty())?;
        let both =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(tree, "", &target, "", both)
    };
    act().map_err(|e| Error::Mount { what: target.display().to_string(), source: e.into() })
}

/// A folder at the top of the root that really is one: were /proc a link, what is mounted and
/// hidden there would not be where programs look.
fn own_folder(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => Ok(()),
        Ok(_) => Err(Error::NoFolder(path.to_owned())),
        Err(_) => make_target(path, true),
    }
}

/// Makes sure that there is something to mount on. A link to nowhere gives way to a file.
fn make_target(path: &Path, folder: bool) -> Result<(), Error> {
    let failed = |source| Error::Target { path: path.to_owned(), source };
    if fs::metadata(path).is_ok() {
        return Ok(());
    }
    let dangling = fs::symlink_metadata(path).is_ok_and(|facts| facts.is_symlink());
    if dangling {
        fs::remove_file(path).map_err(failed)?;
    }
    let parent: PathBuf = if folder { path.into() } else { path.parent().unwrap_or(path).into() };
    DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
    if folder {
        return Ok(());
    }
    create(path, &[], 0o644).map_err(failed)
}

/// What tells about the host or acts on it.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/bootconfig",
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/driver",
    "/proc/dynamic_debug",
    "/proc/execdomains",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/mdstat",
    "/proc/modules",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/swaps",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/tty",
    "/proc/vmallocinfo",
    "/sys/dev/block",
    "/sys/devices/virtual/block",
    "/sys/devices/virtual/dmi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/ext4",
    "/sys/fs/btrfs",
    "/sys/fs/xfs",
    "/sys/hypervisor",
    "/sys/kernel/btf",
    "/sys/kernel/config",
    "/sys/kernel/debug",
    "/sys/kernel/notes",
    "/sys/kernel/security",
    "/sys/kernel/slab",
    "/sys/kernel/tracing",
    "/sys/kernel/vmcoreinfo",
];

/// What may be read but not changed: settings that are not the container's own.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/mtrr"];
