//! A place for processes that are no containers, so that they do not end with others.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::group::MEMBERS;
use super::{Error, Layout};

/// Moves this process into the group `group` of v2's tree, relative to its top, which is made if
/// it is missing. Without that tree nothing is done. A service manager that ends all processes of
/// a service's group finds this one no more.
///
/// # Errors
/// The kernel's.
pub fn join(group: &str) -> Result<(), Error> {
    let layout = Layout::detect().map_err(Error::Layout)?;
    let Some((top, _)) = layout.v2 else { return Ok(()) };
    let path = top.join(group);
    fs::create_dir_all(&path).map_err(|source| Error::Make { path: path.clone(), source })?;
    enter(&path, 0)
}

/// Moves the process `pid`, 0 for this one, into the group at `path`.
pub(super) fn enter(path: &Path, pid: u32) -> Result<(), Error> {
    let path = path.join(MEMBERS);
    let members = fs::OpenOptions::new().write(true).open(&path);
    let entered = members.and_then(|mut members| members.write_all(pid.to_string().as_bytes()));
    entered.map_err(|source| Error::Make { path, source })
}
