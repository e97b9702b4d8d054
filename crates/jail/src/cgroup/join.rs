//! A place for processes that are no containers, so that they do not end with others.

use std::fs;

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
    let path = path.join("cgroup.procs");
    let members = fs::OpenOptions::new().write(true).open(&path);
    let joined = members.and_then(|mut members| std::io::Write::write_all(&mut members, b"0"));
    joined.map_err(|source| Error::Make { path, source })
}
