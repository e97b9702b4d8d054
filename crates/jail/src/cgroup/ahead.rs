//! Control groups that are made before it is known for which container.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::group::{Error, Group, empty_and_remove, prepare_parent};
use super::join::enter;
use super::layout::Layout;

/// Groups of v1's trees that already hold the process which will build a container, so that the
/// container is born in them. To move a process there later takes the kernel some 12 ms (6.18), as
/// long as which no other group can be made or moved; v2 has clones that are born in a group.
///
/// Dropping it ends what is in them, and removes them.
#[derive(Debug)]
pub(crate) struct Ahead {
    parent: String,
    paths: Vec<PathBuf>,
}

impl Ahead {
    /// Makes groups `name` below `parent` in those trees of v1 that a container needs, and moves
    /// the process `pid` there. Without such trees there are none.
    ///
    /// # Errors
    /// The kernel's; nothing is left behind.
    pub(crate) fn create(parent: &str, name: &str, pid: u32) -> Result<Self, Error> {
        let layout = Layout::detect().map_err(Error::Layout)?;
        prepare_parent(&layout, parent)?;
        let mut ahead = Self { parent: parent.to_owned(), paths: vec![] };
        for path in Group::v1_places(&layout, &Path::new(parent).join(name))? {
            fs::create_dir(&path).map_err(|source| Error::Make { path: path.clone(), source })?;
            ahead.paths.push(path);
        }
        ahead.paths.iter().try_for_each(|path| enter(path, pid))?;
        Ok(ahead)
    }

    /// Makes them those of the container `name` below `parent`; answers their paths, which are the
    /// caller's now.
    ///
    /// # Errors
    /// [`Error::Exists`] when that container has some already, or the kernel's.
    pub(crate) fn give(mut self, parent: &str, name: &str) -> Result<Vec<PathBuf>, Error> {
        let mut given = vec![];
        while let Some(path) = self.paths.last() {
            let to = path.with_file_name(name);
            let renamed = match parent == self.parent {
                true => fs::rename(path, &to),
                // The kernel renames in one place only.
                false => Err(io::ErrorKind::CrossesDevices.into()),
            };
            if let Err(source) = renamed {
                self.paths.append(&mut given);
                return Err(match source.kind() {
                    io::ErrorKind::AlreadyExists => Error::Exists(to),
                    _ => Error::Make { path: to, source },
                });
            }
            self.paths.pop();
            given.push(to);
        }
        Ok(given)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // What cannot be removed now, `sweep` finds.
        self.paths.iter().for_each(|path| drop(empty_and_remove(path)));
    }
}
