//! A tmpfs per container: always there, but in memory.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};

use super::{Result, at, mounts, scratch_folder};
use crate::MOUNT_SOURCE;
use crate::limits::SCRATCH_INODES_MAX;

/// The folder with one mount per container.
#[derive(Debug)]
pub(super) struct Memory {
    folder: PathBuf,
}

impl Memory {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let dir = dir.canonicalize().map_err(at("find", dir))?;
        let folder = scratch_folder(&dir);
        std::fs::create_dir(&folder).map_err(at("make", &folder))?;
        Ok(Self { folder })
    }

    /// Goes on with the mounts of an earlier server.
    pub(super) fn reopen(dir: &Path) -> Self {
        Self { folder: scratch_folder(dir) }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        let path = self.folder.join(name);
        mounts::below(&path).is_ok_and(|mounts| mounts.contains(&path)).then_some(path)
    }

    pub(super) fn make(&mut self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::create_dir(&path).map_err(at("make", &path))?;
        // An empty file costs memory too, about a kilobyte that the size does not count.
        let inodes = (bytes / 1_024).min(SCRATCH_INODES_MAX);
        let options = format!("mode=755,size={bytes},nr_inodes={inodes}");
        let options = std::ffi::CString::new(options).unwrap_or_default();
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
        match mount(MOUNT_SOURCE, &path, "tmpfs", flags, options.as_c_str()) {
            Ok(()) => Ok(path),
            Err(error) => {
                // The first error is the one to tell.
                let _ = std::fs::remove_dir(&path);
                Err(at("mount a tmpfs on", &path)(error.into()))
            }
        }
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<()> {
        let path = self.folder.join(name);
        mounts::unmount_one(&path)?;
        std::fs::remove_dir(&path).map_err(at("remove", &path))
    }

    pub(super) fn usage(&self, name: &str) -> Result<u64> {
        let path = self.folder.join(name);
        let facts =
            rustix::fs::statvfs(&path).map_err(|error| at("look at", &path)(error.into()))?;
        Ok((facts.f_blocks - facts.f_bfree).saturating_mul(facts.f_frsize))
    }

    pub(super) fn close(self) -> Result<()> {
        mounts::detach_all(&self.folder)?;
        super::project::clean(&self.folder)?;
        std::fs::remove_dir(&self.folder).map_err(at("remove", &self.folder))
    }
}
