//! The file tool that every sandbox finds inside: on a small file system of its own, so that a
//! sandbox's list of mounts shows no path of the host.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// The folder with the tool.
#[derive(Debug)]
pub(crate) struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Lays it out anew. Sandboxes that live keep what they have.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        let tools = Self { folder };
        tools.close()?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("palisade", &tools.folder, "tmpfs", flags, Some(c"size=8m,mode=0755"))?;
        let name = Path::new(fstools_embedded::PATH).file_name().unwrap_or_default();
        let path = tools.folder.join(name);
        fs::write(&path, fstools_embedded::FS_TOOLS)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(tools)
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Takes it away.
    pub(crate) fn close(&self) -> io::Result<()> {
        loop {
            match unmount(&self.folder, UnmountFlags::DETACH) {
                Ok(()) => {}
                // EINVAL: it is no mount point (any more).
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
