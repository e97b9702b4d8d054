//! The client's Python environments: `target/venv`, made of `tests/requirements.txt`, and those of
//! its older releases.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::Workspace;

/// A Python environment.
#[derive(Debug)]
pub(crate) struct Venv {
    dir: PathBuf,
}

impl Venv {
    /// Makes the environment, or finds it as it was made.
    pub(crate) fn make(workspace: &Workspace) -> Result<Self> {
        let list = workspace.root.join("tests/requirements.txt");
        let list = fs::read_to_string(&list).with_context(|| format!("no {}", list.display()))?;
        Self::make_in(workspace, workspace.target.join("venv"), &list)
    }

    /// The same for each of the older releases of the client that `tests/older/versions.txt`
    /// names, in `target/older-clients`.
    pub(crate) fn make_older(workspace: &Workspace) -> Result<()> {
        let list = workspace.root.join("tests/older/versions.txt");
        let list = fs::read_to_string(&list).with_context(|| format!("no {}", list.display()))?;
        for version in list.split_whitespace() {
            let dir = workspace.target.join("older-clients").join(version);
            Self::make_in(workspace, dir, &format!("modal=={version}\n"))?;
        }
        Ok(())
    }

    /// The system's own interpreter is taken: containers get the same minor version as their
    /// caller, and Debian has base images for its own.
    fn make_in(workspace: &Workspace, dir: PathBuf, requirements: &str) -> Result<Self> {
        let venv = Self { dir };
        let python = system_python();
        let wanted = format!("# {}\n{requirements}", version(&python)?);
        let stamp = venv.dir.join("requirements.txt");
        if fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
            return Ok(venv);
        }
        println!("a Python environment of the client is made: {}", venv.dir.display());
        workspace.run(Command::new(&python).args(["-m", "venv", "--clear"]).arg(&venv.dir))?;
        let list = venv.dir.join("wanted.txt");
        fs::write(&list, wanted)?;
        let mut pip = Command::new(venv.program("python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]);
        workspace.run(pip.arg(&list))?;
        // Only what is whole has this name.
        fs::rename(&list, &stamp)?;
        Ok(venv)
    }

    /// A program of the environment, like `python` or `modal`.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }
}

fn system_python() -> PathBuf {
    let debian = Path::new("/usr/bin/python3");
    if debian.exists() { debian.into() } else { "python3".into() }
}

fn version(python: &Path) -> Result<String> {
    let output = Command::new(python)
        .arg("--version")
        .output()
        .with_context(|| format!("{} cannot be run", python.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
