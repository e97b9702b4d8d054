//! The client's Python environment: `target/venv`, made of `tests/requirements.txt`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::Workspace;

/// A Python environment that holds what `tests/requirements.txt` names.
#[derive(Debug)]
pub(crate) struct Venv {
    dir: PathBuf,
}

impl Venv {
    /// Makes the environment, or finds it as it was made.
    ///
    /// The system's own interpreter is taken: containers get the same minor version as their
    /// caller, and Debian has base images for its own.
    pub(crate) fn make(workspace: &Workspace) -> Result<Self> {
        let venv = Self { dir: workspace.target.join("venv") };
        let python = system_python();
        let list = workspace.root.join("tests/requirements.txt");
        let wanted = fs::read_to_string(&list).with_context(|| format!("no {}", list.display()))?;
        let wanted = format!("# {}\n{wanted}", version(&python)?);
        let stamp = venv.dir.join("requirements.txt");
        if fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
            return Ok(venv);
        }
        println!("the client's Python environment is made: {}", venv.dir.display());
        workspace.run(Command::new(&python).args(["-m", "venv", "--clear"]).arg(&venv.dir))?;
        let mut pip = Command::new(venv.program("python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]);
        workspace.run(pip.arg(&list))?;
        fs::write(&stamp, wanted)?;
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
