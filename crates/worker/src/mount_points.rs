//! Files and folders that a jail makes in a step's layer to mount something on them. They are no
//! part of the image, so they are removed after the step.

use std::path::{Path, PathBuf};

use jail::{Plan, Root};

/// What a plan's mounts need that its layers do not have.
#[derive(Debug)]
pub(crate) struct MountPoints(Vec<PathBuf>);

/// Where the jail mounts something in every container.
const ALWAYS: [&str; 3] = ["/dev", "/proc", "/sys"];

fn exists(layers: &[Root], path: &Path) -> bool {
    layers.iter().any(|layer| layer.stat_link(path).is_ok())
}

impl MountPoints {
    /// Looks before the jail is made; `layers` are those that stay with the image.
    pub(crate) fn before(plan: &Plan, layers: &[PathBuf]) -> Self {
        let targets = plan.files.iter().map(|file| &*file.target);
        let targets = targets.chain(plan.binds.iter().map(|bind| &*bind.target));
        Self::of(targets.chain(plan.tmpfs.iter().map(|tmpfs| &*tmpfs.target)), layers)
    }

    /// Those of mounts on `targets`, beside what is mounted in every container.
    pub(crate) fn of<'t>(targets: impl Iterator<Item = &'t Path>, layers: &[PathBuf]) -> Self {
        let layers: Vec<_> =
            layers.iter().filter_map(|path| Root::open_folder(path).ok()).collect();
        let targets = targets.chain(ALWAYS.iter().map(Path::new));
        let mut missing = Vec::new();
        for target in targets {
            for path in target.ancestors().filter(|path| path.parent().is_some()) {
                if !exists(&layers, path) && !missing.contains(&path.to_owned()) {
                    missing.push(path.to_owned());
                }
            }
        }
        // Children before their parents.
        missing.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        Self(missing)
    }

    /// Removes those that are still what the jail made: empty files and empty folders.
    pub(crate) fn remove(&self, upper: &Path) {
        let Ok(root) = Root::open_folder(upper) else { return };
        for path in &self.0 {
            let Ok(facts) = root.stat_link(path) else { continue };
            let empty_file = facts.kind == jail::Kind::File && facts.size_bytes == 0;
            let empty_folder = facts.kind == jail::Kind::Folder
                && root.read_dir(path).is_ok_and(|entries| entries.is_empty());
            if (empty_file || empty_folder)
                && let Err(error) = root.remove(path)
            {
                tracing::warn!(%error, path = %path.display(), "a mount point stays in a layer");
            }
        }
    }
}
