//! `cargo xtask fresh`: the two commands of the README on a machine that has nothing: a Debian 12
//! root made for this, in mount and pid namespaces of its own, with a clean clone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::debian;
use crate::packages::{self, Use};
use crate::workspace::{Workspace, need_root};

/// The verb of this program's second half, which runs inside the namespaces.
pub(crate) const INSIDE: &str = "fresh-inside";

/// What must be there before cargo can run at all: a linker, and certificates to fetch crates.
const INCLUDED: &str = "ca-certificates,gcc,libc6-dev,git";

/// Where the toolchain is bound, read-only.
const TOOLCHAIN: &str = "opt/rust";

/// Where the clone is.
const CLONE: &str = "src";

/// Certificates that this machine trusts.
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

/// Settings of package clients that hold inside, too: how to reach the indexes is the machine's.
const SETTINGS: [&str; 12] = [
    "PIP_CERT",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_DEFAULT_TIMEOUT",
    "npm_config_registry",
    "NODE_EXTRA_CA_CERTS",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// Makes the root and runs `verbs` of a clean clone in it; `demo` and `test` if there are none.
pub(crate) fn run(workspace: &Workspace, verbs: &[String]) -> Result<()> {
    need_root("`cargo xtask fresh`")?;
    packages::install(workspace, Use::Server)?;
    let root = workspace.target.join("fresh/root");
    if root.exists() {
        // Mounts inside are gone with the namespaces of an earlier run.
        fs::remove_dir_all(&root).with_context(|| format!("{} stays", root.display()))?;
    }
    fs::create_dir_all(&root)?;
    println!("a Debian 12 root is made in {}", root.display());
    debian::bootstrap(workspace, INCLUDED, &root)?;
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf"))?;
    let clone = root.join(CLONE);
    workspace
        .run(Command::new("git").args(["clone", "--quiet"]).arg(&workspace.root).arg(&clone))?;
    let verbs = if verbs.is_empty() { vec!["demo".into(), "test".into()] } else { verbs.to_vec() };
    for verb in verbs {
        let program = std::env::current_exe().context("this program has no path")?;
        let mut inside = Command::new("unshare");
        inside.args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]);
        workspace.run(inside.arg(program).arg(INSIDE).arg(&root).arg(verb))?;
    }
    Ok(())
}

fn toolchain() -> Result<PathBuf> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().context("rustc")?;
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn mount(arguments: &[&str], source: &Path, target: &Path) -> Result<()> {
    let status = Command::new("mount").args(arguments).arg(source).arg(target).status()?;
    if !status.success() {
        bail!("{} cannot be mounted on {}", source.display(), target.display());
    }
    Ok(())
}

/// Makes `root` the root of this mount namespace. A chroot would not do: in one, the kernel makes
/// no user namespaces.
fn enter(root: &Path) -> Result<()> {
    std::env::set_current_dir(root)?;
    // With the same folder twice, the old root comes to lie over the new one.
    rustix::process::pivot_root(".", ".").context("the fresh root cannot be entered")?;
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH)
        .context("the host's root stays mounted")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// The second half: pid 1 of the namespaces. Mounts, then runs one verb in the root.
pub(crate) fn run_inside(root: &Path, verb: &str) -> Result<()> {
    let folder = |name: &str| -> Result<PathBuf> {
        let path = root.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    };
    mount(&["--bind"], root, root)?;
    mount(&["-t", "proc"], Path::new("proc"), &folder("proc")?)?;
    mount(&["--rbind"], Path::new("/sys"), &folder("sys")?)?;
    mount(&["--rbind"], Path::new("/dev"), &folder("dev")?)?;
    mount(&["--bind", "-o", "ro"], &toolchain()?, &folder(TOOLCHAIN)?)?;
    mount(&["--bind", "-o", "ro"], &Path::new("/").join(CERTIFICATES), &root.join(CERTIFICATES))?;
    enter(root)?;
    println!("\nin the fresh root: cargo xtask {verb}");
    let mut command = Command::new("/usr/bin/env");
    command.args(["--chdir", &format!("/{CLONE}"), "cargo", "xtask", verb]).env_clear();
    for name in SETTINGS {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let path =
        format!("/{TOOLCHAIN}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("PATH", path).env("HOME", "/root").env("LANG", "C.UTF-8");
    command.env("CARGO_TERM_COLOR", "never");
    let status = command.status().context("/usr/bin/env cannot be run")?;
    if !status.success() {
        bail!("cargo xtask {verb} fails in the fresh root ({status})");
    }
    Ok(())
}
