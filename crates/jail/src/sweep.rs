//! Ending what an earlier caller left behind.

use std::fs;
use std::path::PathBuf;

use crate::cgroup::{self, Error, Layout};

/// What was found and removed.
#[derive(Debug, Default)]
pub struct Swept {
    /// Directories of control groups, in all trees.
    pub groups: Vec<PathBuf>,
}

/// Kills and removes every container below the control group `cgroup_parent`, in every tree:
/// after the caller that prepared them was killed. Mounts and namespaces go with the processes.
/// A group in which this process itself lies, and those above it, are left alone, and so are the
/// containers whose names are in `keep`.
///
/// # Errors
/// When something does not die or cannot be removed; the rest is swept nevertheless.
pub fn sweep(cgroup_parent: &str, keep: &[String]) -> Result<Swept, Error> {
    let layout = Layout::detect().map_err(Error::Layout)?;
    let me = std::process::id().to_string();
    let mine = |path: &PathBuf| {
        let members = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        members.lines().any(|pid| pid == me)
    };
    let kept: Vec<_> = layout
        .tops()
        .flat_map(|top| keep.iter().map(move |name| top.join(cgroup_parent).join(name)))
        .collect();
    let mut found = cgroup::open(&layout, cgroup_parent);
    found.retain(|path| !kept.iter().any(|kept| path.starts_with(kept)));
    let own: Vec<_> = found.iter().filter(|path| mine(path)).cloned().collect();
    let (mut swept, mut failed) = (Swept::default(), None);
    for path in found {
        if own.iter().any(|own| own.starts_with(&path)) {
            continue;
        }
        match cgroup::empty_and_remove(&path) {
            Ok(()) => swept.groups.push(path),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(swept), Err)
}

/// Kills and removes the container `name` below the control group `cgroup_parent`, whose caller is
/// gone; one that is not there is no error. Blocks.
///
/// # Errors
/// When something does not die within [`crate::limits::KILL_MS_MAX`]; it can be tried again.
pub fn end_named(cgroup_parent: &str, name: &str) -> Result<(), Error> {
    let layout = Layout::detect().map_err(Error::Layout)?;
    // v2's tree comes first, where one write kills all.
    layout.tops().try_for_each(|top| {
        let path = top.join(cgroup_parent).join(name);
        if path.is_dir() { cgroup::remove_tree(&path) } else { Ok(()) }
    })
}

/// Removes the control group `cgroup_parent` and those above it that are named in it, in every
/// tree, as far as they are empty: for a caller that ends and has ended its containers.
///
/// # Errors
/// When the trees cannot be found.
pub fn remove_parents(cgroup_parent: &str) -> Result<(), Error> {
    let layout = Layout::detect().map_err(Error::Layout)?;
    for top in layout.tops() {
        let mut path = top.join(cgroup_parent);
        while path != top && path.starts_with(top) {
            match fs::remove_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                // Another server's group may lie in it, or somebody may have put a process there.
                Err(_) => break,
            }
            path.pop();
        }
    }
    Ok(())
}
