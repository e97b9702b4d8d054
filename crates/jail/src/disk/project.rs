//! Project quotas of the data folder's own file system.

use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Error, Result, at, scratch_folder};
use crate::limits::PROJECTS_MAX;
use crate::root::Root;
use crate::sys::quota;

/// Project ids are the administrator's to give, too: ours begin with this, and one with files or
/// a limit is left alone.
const PROJECTS: u32 = 0x7061_0000;

/// The folder with one project per container.
#[derive(Debug)]
pub(super) struct Project {
    folder: PathBuf,
    handle: File,
    /// Where the search for a free id goes on.
    next: u32,
    ids: HashMap<String, u32>,
}

impl Project {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let dir = dir.canonicalize().map_err(at("find", dir))?;
        let handle = File::open(&dir).map_err(at("open", &dir))?;
        if let Err(error) = quota::read(handle.as_fd(), PROJECTS) {
            return Err(match error.raw_os_error() {
                // Not in this kernel, not of this kind of file system, not switched on.
                Some(libc::ENOSYS | libc::ENOTSUP | libc::ESRCH | libc::EINVAL) => {
                    Error::Unsupported("project quota")
                }
                _ => at("ask for project quotas of", &dir)(error),
            });
        }
        let folder = scratch_folder(&dir);
        std::fs::create_dir(&folder).map_err(at("make", &folder))?;
        let private = std::fs::set_permissions(&folder, Permissions::from_mode(0o700));
        private.map_err(at("close to others", &folder))?;
        // Servers on one file system begin at different ids.
        let inode = handle.metadata().map_err(at("look at", &dir))?.ino();
        let next = u32::try_from(inode % u64::from(PROJECTS_MAX)).unwrap_or_default();
        Ok(Self { folder, handle, next, ids: HashMap::new() })
    }

    /// Goes on with the folder of an earlier server; every project in it is known then.
    pub(super) fn reopen(dir: &Path) -> Result<Self> {
        let handle = File::open(dir).map_err(at("open", dir))?;
        let folder = scratch_folder(dir);
        let mut project = Self { folder, handle, next: 0, ids: HashMap::new() };
        for name in super::names(&project.folder)? {
            let path = project.folder.join(&name);
            let opened = File::open(&path).map_err(at("open", &path))?;
            let id = quota::project(opened.as_fd()).map_err(at("look at", &path))?;
            if id & 0xffff_0000 != PROJECTS {
                return Err(Error::Unsupported("project of ours on a scratch folder"));
            }
            project.next = project.next.max(id - PROJECTS);
            project.ids.insert(name, id);
        }
        Ok(project)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        self.ids.contains_key(name).then(|| self.folder.join(name))
    }

    pub(super) fn make(&mut self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let id = self.free_id()?;
        std::fs::create_dir(&path).map_err(at("make", &path))?;
        let limited = self.limit(&path, id, bytes);
        if let Err(error) = limited {
            // The first error is the one to tell.
            let _ = std::fs::remove_dir(&path);
            return Err(error);
        }
        self.ids.insert(name.to_owned(), id);
        Ok(path)
    }

    fn limit(&self, path: &Path, id: u32, bytes: u64) -> Result<()> {
        let folder = File::open(path).map_err(at("open", path))?;
        quota::limit(self.handle.as_fd(), id, bytes).map_err(at("limit", path))?;
        quota::set_project(folder.as_fd(), id).map_err(at("set the project of", path))
    }

    /// An id that no file of the file system has and nobody has limited.
    fn free_id(&mut self) -> Result<u32> {
        for _ in 0..PROJECTS_MAX {
            self.next = (self.next + 1) % PROJECTS_MAX;
            let id = PROJECTS + self.next;
            let state =
                quota::read(self.handle.as_fd(), id).map_err(at("look at", &self.folder))?;
            if state.is_free() {
                return Ok(id);
            }
        }
        Err(Error::Unsupported("free project id"))
    }

    /// Forgets the scratch; what is returned removes it, without us.
    pub(super) fn remove(&mut self, name: &str) -> Result<Removal> {
        let id = self.ids.remove(name).ok_or(Error::Closed)?;
        let handle = self.handle.try_clone().map_err(at("open", &self.folder))?;
        Ok(Removal { folder: self.folder.clone(), name: name.to_owned(), handle, id })
    }

    pub(super) fn usage(&self, name: &str) -> Result<u64> {
        let id = self.ids.get(name).ok_or(Error::Closed)?;
        let state = quota::read(self.handle.as_fd(), *id).map_err(at("look at", &self.folder))?;
        Ok(state.bytes)
    }

    pub(super) fn close(mut self) -> Result<()> {
        let names: Vec<_> = self.ids.keys().cloned().collect();
        let removed = names.iter().try_for_each(|name| self.remove(name)?.finish());
        let folder = std::fs::remove_dir(&self.folder).map_err(at("remove", &self.folder));
        removed.and(folder)
    }
}

/// A scratch that is to be removed, which takes as long as there are files in it.
#[derive(Debug)]
pub(super) struct Removal {
    folder: PathBuf,
    name: String,
    handle: File,
    id: u32,
}

impl Removal {
    pub(super) fn finish(self) -> Result<()> {
        remove_tree(&self.folder, &self.name)?;
        // Until here the limit keeps the id from being taken for a free one.
        quota::limit(self.handle.as_fd(), self.id, 0).map_err(at("free", &self.folder))
    }
}

/// Removes what is in the folder of an earlier server, on which nothing is mounted any more, and
/// lifts the limits that it set; no folder is fine.
pub(super) fn clean(folder: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at("list", folder)(error)),
    };
    for entry in entries {
        let name = entry.map_err(at("list", folder))?.file_name();
        let path = folder.join(&name);
        let opened = File::open(&path).map_err(at("open", &path))?;
        // Where there are no projects there is nothing to lift.
        let project = quota::project(opened.as_fd()).unwrap_or_default();
        remove_tree(folder, &name)?;
        if project & 0xffff_0000 == PROJECTS {
            let parent = File::open(folder).map_err(at("open", folder))?;
            quota::limit(parent.as_fd(), project, 0).map_err(at("lift the limit of", &path))?;
        }
    }
    Ok(())
}

fn remove_tree(folder: &Path, name: impl AsRef<Path>) -> Result<()> {
    let path = folder.join(&name);
    let remove = || Root::open_folder(folder)?.remove_all(name.as_ref());
    remove().map_err(|error| at("remove", &path)(std::io::Error::other(error)))
}
