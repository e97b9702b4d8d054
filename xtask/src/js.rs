//! The JavaScript client: `target/js`, made of `tests/js/package-lock.json`.
//!
//! The lock file has versions and hashes, and none of the fields `resolved` and `funding`, which
//! name hosts: npm asks whatever registry the machine's settings name.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::Workspace;

/// Installs the client as the lock file says, or finds it as it was installed. Which registry is
/// asked is the machine's setting; scripts of packages are not run.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    let source = workspace.root.join("tests/js");
    let target = workspace.target.join("js");
    let lock = source.join("package-lock.json");
    let wanted = fs::read(&lock).with_context(|| format!("no {}", lock.display()))?;
    let stamp = target.join("installed.json");
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    println!("the JavaScript client is installed: {}", target.display());
    fs::create_dir_all(&target)?;
    for name in ["package.json", "package-lock.json"] {
        fs::copy(source.join(name), target.join(name))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]).arg(&target);
    workspace.run(&mut npm)?;
    fs::write(&stamp, wanted)?;
    Ok(())
}
