//! Where the repository lies, where builds go, and how programs are run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The repository and its build directory.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The directory of the repository.
    pub(crate) root: PathBuf,
    /// Where cargo builds: `target`, unless the settings say otherwise.
    pub(crate) target: PathBuf,
    /// What `cargo metadata` says of the workspace's own packages.
    pub(crate) metadata: Value,
}

impl Workspace {
    /// The workspace that this program was built from.
    pub(crate) fn find() -> Result<Self> {
        // Set by `cargo run`; the other is for a binary that is started by hand.
        let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
            .unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&xtask).parent().context("xtask lies in no directory")?.to_owned();
        let output = cargo()
            .args(["metadata", "--format-version", "1", "--no-deps"])
            .current_dir(&root)
            .output()
            .context("cargo metadata cannot be run")?;
        if !output.status.success() {
            bail!("cargo metadata fails: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let metadata: Value =
            serde_json::from_slice(&output.stdout).context("cargo metadata is no JSON")?;
        let target = metadata["target_directory"].as_str().context("no target_directory")?.into();
        Ok(Self { root, target, metadata })
    }

    /// Runs `command` in the repository, with its output shown; fails if it fails.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        let shown = shown(command);
        println!("\n$ {shown}");
        let status = command
            .current_dir(&self.root)
            .status()
            .with_context(|| format!("{shown} cannot be run"))?;
        if !status.success() {
            bail!("{shown} fails ({status})");
        }
        Ok(())
    }

    /// Builds the server and returns its path. `release` costs minutes more once.
    pub(crate) fn build_server(&self) -> Result<PathBuf> {
        self.run(cargo().args(["build", "--package", "palisade"]))?;
        Ok(self.target.join("debug/palisade"))
    }
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words: Vec<&OsStr> = std::iter::once(name).chain(command.get_args()).collect();
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Fails unless this runs as root, which `what` needs.
pub(crate) fn need_root(what: &str) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("{what} needs root: containers need namespaces, mounts and control groups");
    }
    Ok(())
}
