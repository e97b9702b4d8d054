//! Debian 12 in a folder, made with the host's own way to reach Debian's archives.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::Workspace;

/// Makes a root with apt and the packages in `include` (names with commas between) in `tree`.
pub(crate) fn bootstrap(workspace: &Workspace, include: &str, tree: &Path) -> Result<()> {
    let mut make = Command::new("mmdebstrap");
    make.args(["--quiet", "--variant=apt", "--include", include, "--skip=output/dev"]);
    for option in apt_options()? {
        make.arg(format!("--aptopt={option}"));
    }
    // INITRD: the kernels that are installed start without an initial memory disk.
    workspace.run(make.arg("bookworm").arg(tree).env("INITRD", "No"))
}

/// The host's own way to reach Debian's archives, as `Name "value";`.
fn apt_options() -> Result<Vec<String>> {
    let output = Command::new("apt-config").arg("dump").output().context("apt-config")?;
    let names = ["Acquire::Check-Valid-Until", "Acquire::Check-Date", "Acquire::http::Proxy"];
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = |line: &&str| names.iter().any(|name| line.starts_with(&format!("{name} ")));
    Ok(text.lines().filter(wanted).map(str::to_owned).collect())
}
