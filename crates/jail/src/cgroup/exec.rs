//! The control group of one further program: it keeps together whatever that program starts.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::group::{Error, Group, empty_and_remove, give_members, kill_all};

/// A directory in v2's tree below that of the container. No controller is switched on in it: the
/// container's limits hold for all its programs together.
#[derive(Debug)]
pub(crate) struct ExecGroup {
    path: PathBuf,
}

impl ExecGroup {
    /// Makes the group; `owner` is the host's id of the container's root.
    ///
    /// # Errors
    /// The kernel's; nothing is left behind.
    pub(crate) fn create(container: &Group, number: u64, owner: u32) -> Result<Self, Error> {
        let path = container.v2_path("`takes_execs`")?.join(format!("exec-{number}"));
        fs::create_dir(&path).map_err(|source| Error::Make { path: path.clone(), source })?;
        let group = Self { path };
        if let Err(error) = give_members(&group.path, owner) {
            let _ = group.remove_if_empty();
            return Err(error);
        }
        Ok(group)
    }

    /// The directory, for a clone into it.
    pub(crate) fn directory(&self) -> Result<OwnedFd, Error> {
        let opened = File::open(&self.path).map(OwnedFd::from);
        opened.map_err(|source| Error::Read { path: self.path.clone(), source })
    }

    /// Kills every process in it; one that is gone has none.
    pub(crate) fn kill(&self) -> Result<(), Error> {
        match kill_all(&self.path) {
            // ENODEV: the directory was removed while the file was open.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::ENODEV) =>
            {
                Ok(())
            }
            killed => killed.map_err(|source| Error::Kill { path: self.path.clone(), source }),
        }
    }

    /// Kills what is in it and removes it.
    pub(crate) fn end(&self) -> Result<(), Error> {
        empty_and_remove(&self.path)
    }

    /// Whether it is gone now.
    pub(crate) fn remove_if_empty(&self) -> bool {
        match fs::remove_dir(&self.path) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}
