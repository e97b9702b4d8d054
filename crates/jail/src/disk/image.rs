//! A btrfs file system of our own, in a sparse file.

use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, Result, at, image_file, mounts, scratch_folder};
use crate::limits::{IMAGE_BYTES_MIN, RESERVE_BYTES_MIN};
use crate::sys::btrfs;

/// Data of containers is worth nothing after a crash of the host, so nothing is written for its
/// sake: no checksums, no copies, no flushes through to the host's disk. `nodatacow` also lets a
/// full container overwrite what it has. Freed blocks are given back to the host at each commit:
/// a deleted scratch is gone from the host's disk within some 6 seconds (measured, 3 GB); with
/// `discard=async` and the usual 30 seconds between commits it takes half a minute.
const OPTIONS: &str = "loop,noatime,nosuid,nodev,nodatacow,nobarrier,discard=sync,commit=5";

/// Below this size metadata shares blocks with data (`--mixed`): in a small file system data can
/// take all blocks, and then even making a subvolume fails although everything was deleted. In a
/// larger one metadata gets its own share for every eight of data, for the same reason.
const MIXED_BYTES_MAX: u64 = 16 << 30;
const APART: &str = "metadata_ratio=8";

/// What statfs(2) says of btrfs.
const BTRFS_MAGIC: i64 = 0x9123_683e;

/// The mounted image.
#[derive(Debug)]
pub(super) struct Image {
    folder: PathBuf,
    file: PathBuf,
    root: Option<File>,
    subvolumes: HashMap<String, u64>,
    /// Groups of deleted subvolumes that the kernel still keeps.
    waning: Vec<u64>,
}

impl Image {
    /// Makes the file, the file system in it, and mounts it.
    pub(super) fn open(dir: &Path, capacity_bytes: Option<u64>) -> Result<Self> {
        let dir = dir.canonicalize().map_err(at("find", dir))?;
        let (folder, file) = (scratch_folder(&dir), image_file(&dir));
        let bytes = capacity(&dir, capacity_bytes)?;
        std::fs::create_dir(&folder).map_err(at("make", &folder))?;
        let mut image =
            Self { folder, file, root: None, subvolumes: HashMap::new(), waning: Vec::new() };
        match image.set_up(bytes) {
            Ok(()) => Ok(image),
            Err(error) => image.close().and(Err(error)),
        }
    }

    /// Goes on with an image that is mounted; every subvolume in it is known then.
    pub(super) fn reopen(dir: &Path) -> Result<Self> {
        let (folder, file) = (scratch_folder(dir), image_file(dir));
        let root = File::open(&folder).map_err(at("open", &folder))?;
        let facts = rustix::fs::fstatfs(&root).map_err(|e| at("look at", &folder)(e.into()))?;
        if facts.f_type != BTRFS_MAGIC {
            return Err(Error::Unsupported("mounted btrfs"));
        }
        let mut subvolumes = HashMap::new();
        for name in super::names(&folder)? {
            let path = folder.join(&name);
            let subvolume = File::open(&path).map_err(at("open", &path))?;
            let id = btrfs::subvolume_id(subvolume.as_fd()).map_err(at("look at", &path))?;
            subvolumes.insert(name, id);
        }
        Ok(Self { folder, file, root: Some(root), subvolumes, waning: Vec::new() })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        self.subvolumes.contains_key(name).then(|| self.folder.join(name))
    }

    fn set_up(&mut self, bytes: u64) -> Result<()> {
        let file = File::create_new(&self.file).map_err(at("make", &self.file))?;
        file.set_len(bytes).map_err(at("size", &self.file))?;
        // The file is new, so there is nothing to discard; metadata once, as it is scratch.
        let mut format = Command::new("mkfs.btrfs");
        format.args(["-q", "-f", "-K", "-m", "single", "-d", "single", "-L", "palisade-scratch"]);
        let mut options = OPTIONS.to_owned();
        if bytes < MIXED_BYTES_MAX {
            format.arg("--mixed");
        } else {
            options = format!("{options},{APART}");
        }
        run(format.arg(&self.file), "mkfs.btrfs")?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "btrfs", "-o", &options]);
        run(mount.arg(&self.file).arg(&self.folder), "mount")?;
        let private = std::fs::set_permissions(&self.folder, Permissions::from_mode(0o700));
        private.map_err(at("close to others", &self.folder))?;
        let root = File::open(&self.folder).map_err(at("open", &self.folder))?;
        btrfs::enable_quota(root.as_fd()).map_err(at("enable quotas on", &self.folder))?;
        self.root = Some(root);
        self.bypass_page_cache();
        Ok(())
    }

    /// Lets the loop device read and write the file without caching it a second time. Where the
    /// file's file system cannot (tmpfs), it works without.
    fn bypass_page_cache(&self) {
        let source = || -> Option<PathBuf> {
            let text = std::fs::read_to_string("/proc/thread-self/mountinfo").ok()?;
            let point = self.folder.to_str()?;
            let line = text.lines().rfind(|line| line.split(' ').nth(4) == Some(point))?;
            let (_, tail) = line.split_once(" - ")?;
            tail.split(' ').nth(1).map(PathBuf::from)
        };
        if let Some(device) = source() {
            let _ = run(Command::new("losetup").arg("--direct-io=on").arg(device), "losetup");
        }
    }

    fn root(&self) -> Result<BorrowedFd<'_>> {
        self.root.as_ref().map(File::as_fd).ok_or(Error::Closed)
    }

    pub(super) fn make(&mut self, name: &str, bytes: u64) -> Result<PathBuf> {
        let free = free_bytes(&self.file)?;
        if free < RESERVE_BYTES_MIN / 2 {
            // The file could not grow any more, and every container would see I/O errors.
            let dir = self.file.parent().unwrap_or(&self.file).to_owned();
            return Err(Error::Full { dir, free });
        }
        self.forget_waned()?;
        let path = self.folder.join(name);
        btrfs::create_subvolume(self.root()?, name).map_err(at("make", &path))?;
        let limited = self.limit(&path, bytes);
        match limited {
            Ok(id) => {
                self.subvolumes.insert(name.to_owned(), id);
                Ok(path)
            }
            Err(error) => {
                let undone = btrfs::destroy_subvolume(self.root()?, name);
                undone.map_err(at("remove", &path)).and(Err(error))
            }
        }
    }

    fn limit(&self, path: &Path, bytes: u64) -> Result<u64> {
        let subvolume = File::open(path).map_err(at("open", path))?;
        let id = btrfs::subvolume_id(subvolume.as_fd()).map_err(at("look at", path))?;
        btrfs::limit(self.root()?, id, bytes).map_err(at("limit", path))?;
        Ok(id)
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<()> {
        let path = self.folder.join(name);
        btrfs::destroy_subvolume(self.root()?, name).map_err(at("remove", &path))?;
        self.waning.extend(self.subvolumes.remove(name));
        self.forget_waned()
    }

    /// Deletes the groups of subvolumes that are gone. Newer kernels do it by themselves; all
    /// refuse until the subvolume's blocks are free.
    fn forget_waned(&mut self) -> Result<()> {
        let waning = std::mem::take(&mut self.waning);
        let root = self.root()?;
        let remain = |id: &u64| match btrfs::destroy_group(root, *id) {
            Ok(()) => false,
            Err(error) => error.raw_os_error() != Some(libc::ENOENT),
        };
        let remaining = waning.into_iter().filter(remain).collect();
        self.waning = remaining;
        Ok(())
    }

    pub(super) fn usage(&self, name: &str) -> Result<u64> {
        let path = self.folder.join(name);
        let id = self.subvolumes.get(name).ok_or(Error::Closed)?;
        let usage = btrfs::usage(self.root()?, *id).map_err(at("look at", &path))?;
        usage.ok_or(Error::Unsupported("quota group"))
    }

    /// Unmounts and deletes. The kernel lets the loop device go with the mount.
    pub(super) fn close(mut self) -> Result<()> {
        let unmounted = match self.root.take() {
            Some(root) => {
                drop(root);
                mounts::unmount_one(&self.folder)
            }
            None => mounts::detach_all(&self.folder),
        };
        let unlinked = match std::fs::remove_file(&self.file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(at("remove", &self.file)(error))
            }
            _ => Ok(()),
        };
        let removed = std::fs::remove_dir(&self.folder).map_err(at("remove", &self.folder));
        unmounted.and(unlinked).and(removed)
    }
}

/// The size of the file: what was asked, or what is free but for a twentieth and at least the
/// reserve.
fn capacity(dir: &Path, wanted: Option<u64>) -> Result<u64> {
    let bytes = match wanted {
        Some(bytes) => bytes,
        None => {
            let free = free_bytes(dir)?;
            free.saturating_sub((free / 20).max(RESERVE_BYTES_MIN))
        }
    };
    let bytes = bytes & !0xf_ffff;
    if bytes < IMAGE_BYTES_MIN {
        return Err(Error::Capacity { dir: dir.to_owned(), bytes, min: IMAGE_BYTES_MIN });
    }
    Ok(bytes)
}

fn free_bytes(path: &Path) -> Result<u64> {
    let facts = rustix::fs::statvfs(path).map_err(|error| at("look at", path)(error.into()))?;
    Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
}

/// Runs a program to its end; what it prints is its error.
fn run(command: &mut Command, program: &'static str) -> Result<()> {
    let fail = |said: String| Err(Error::Program { program, said });
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => fail(error.to_string()),
    }
}
