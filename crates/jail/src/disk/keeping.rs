//! Scratch space that outlives the server that made it.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::image::Image;
use super::project::Project;
use super::tmpfs::Memory;
use super::{Error, Inner, Mechanism, Result, at, image_file, mounts, scratch_folder};

/// The names in a folder of ours, which are plain words.
pub(super) fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).map_err(at("list", folder))?;
    let name = |entry: io::Result<std::fs::DirEntry>| Ok(entry?.file_name());
    let names: io::Result<Vec<_>> = entries.map(name).collect();
    let names = names.map_err(at("list", folder))?.into_iter();
    Ok(names.filter_map(|name| name.into_string().ok()).collect())
}

/// Goes on with what an earlier server made: which mechanism it took is seen by what is there.
pub(super) fn go_on(
    dir: &Path,
    keep: &[String],
) -> std::result::Result<(Mechanism, Inner), (Mechanism, Error)> {
    let mut found = Mechanism::ProjectQuota;
    let mut open = || {
        let dir = dir.canonicalize().map_err(at("find", dir))?;
        let folder = scratch_folder(&dir);
        if image_file(&dir).exists() {
            found = Mechanism::Btrfs;
            return Ok(Inner::Image(Image::reopen(&dir)?));
        }
        if !mounts::below(&folder)?.is_empty() {
            found = Mechanism::Tmpfs;
            return Ok(Inner::Memory(Memory::reopen(&dir)));
        }
        Project::reopen(&dir).map(Inner::Project)
    };
    let mut reopened = || {
        let inner = open()?;
        let left: BTreeSet<_> = keep.iter().cloned().collect();
        // What is not kept was the killed server's.
        inner.clear_but(&left)
    };
    let reopened = reopened();
    reopened.map(|inner| (found, inner)).map_err(|error| (found, error))
}
