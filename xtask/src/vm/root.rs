//! The machine's own system: Debian 12 with its kernel, made once and never written to.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::debian;
use crate::limits::VM_ROOT_MIB;
use crate::workspace::Workspace;

/// What the server and its tests need, with the kernel.
const INCLUDED: [&str; 14] = [
    "linux-image-cloud-amd64",
    "busybox-static",
    "btrfs-progs",
    "ca-certificates",
    "debian-archive-keyring",
    "e2fsprogs",
    "iproute2",
    "kmod",
    "mmdebstrap",
    "mount",
    "nftables",
    "procps",
    "python3",
    "util-linux",
];

/// The first process.
const INIT: &str = include_str!("../../vm/init.sh");

/// A disk with the system, and its kernel.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) disk: PathBuf,
    pub(super) kernel: PathBuf,
    /// As `uname -r` says it.
    pub(super) kernel_release: String,
}

/// Makes it, or finds it as it was made.
pub(super) fn make(workspace: &Workspace) -> Result<Root> {
    let dir = workspace.target.join("vm");
    let (tree, disk, stamp) = (dir.join("root"), dir.join("root.ext4"), dir.join("made-of"));
    let made_of = made_of();
    if !fs::read_to_string(&stamp).is_ok_and(|text| text == made_of) {
        println!("the virtual machine's Debian 12 is made in {}", dir.display());
        for old in [&tree, &dir] {
            if old.exists() {
                fs::remove_dir_all(old).with_context(|| format!("{} stays", old.display()))?;
            }
        }
        fs::create_dir_all(&dir)?;
        debian::bootstrap(workspace, &INCLUDED.join(","), &tree).context(
            "without Debian's packages (linux-image-cloud-amd64 among them) there is no machine",
        )?;
        finish(&tree)?;
        format(workspace, &tree, &disk, VM_ROOT_MIB)?;
        fs::write(&stamp, made_of)?;
    }
    let (kernel, kernel_release) = kernel(&tree)?;
    Ok(Root { disk, kernel, kernel_release })
}

/// Changes whenever the system would be another one.
fn made_of() -> String {
    let mut hasher = DefaultHasher::new();
    (INIT, VM_ROOT_MIB).hash(&mut hasher);
    format!("{} {:016x}\n", INCLUDED.join(" "), hasher.finish())
}

fn finish(tree: &Path) -> Result<()> {
    fs::create_dir_all(tree.join("vm"))?;
    let init = tree.join("vm/init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    // A resolver that nobody reaches: the machine has no network, and it must not matter.
    fs::write(tree.join("etc/resolv.conf"), "nameserver 192.0.2.53\n")?;
    Ok(())
}

fn kernel(tree: &Path) -> Result<(PathBuf, String)> {
    let boot = tree.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("no {}", boot.display()))?;
    let mut kernels = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some((entry.path(), name.strip_prefix("vmlinuz-")?.to_owned()))
    });
    kernels.next().with_context(|| format!("no kernel in {}", boot.display()))
}

/// Makes a file with an ext4 file system that holds what `tree` holds, owners and xattrs included.
/// It takes only the space of its contents.
pub(super) fn format(workspace: &Workspace, tree: &Path, disk: &Path, mib: u32) -> Result<()> {
    if disk.exists() {
        fs::remove_file(disk).with_context(|| format!("{} stays", disk.display()))?;
    }
    let mut mke2fs = Command::new("mke2fs");
    // Without a journal: it is thrown away.
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(tree).arg(disk);
    workspace.run(mke2fs.arg(format!("{mib}M")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_found_by_its_name() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("boot")).unwrap();
        assert!(kernel(tree.path()).unwrap_err().to_string().contains("no kernel"));
        fs::write(tree.path().join("boot/System.map-6.1.0-1"), "").unwrap();
        fs::write(tree.path().join("boot/vmlinuz-6.1.0-1"), "").unwrap();
        let (path, release) = kernel(tree.path()).unwrap();
        assert_eq!((path, release.as_str()), (tree.path().join("boot/vmlinuz-6.1.0-1"), "6.1.0-1"));
    }
}
