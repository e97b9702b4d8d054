//! `cargo xtask test`: every check and every test, the way CI runs them.

use std::process::Command;

use anyhow::Result;

use crate::check;
use crate::packages::{self, Use};
use crate::venv::Venv;
use crate::workspace::{Workspace, cargo, need_root};

/// Where the Python tests lie.
const PYTHON_TESTS: [&str; 3] = ["tests/wire", "tests/client", "tests/isolation"];

/// Runs everything; `arguments` go to pytest.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    need_root("`cargo xtask test`")?;
    packages::install(workspace, Use::Tests)?;
    let venv = Venv::make(workspace)?;
    check::run(workspace)?;
    workspace.run(cargo().args(["test", "--workspace"]))?;
    let binary = workspace.build_server()?;
    let mut pytest = Command::new(venv.program("python"));
    // Built with the other tests: to build it alone, with fewer features, takes minutes more.
    pytest.env("PALISADE_DESCRIPTORS", workspace.target.join("debug/examples/descriptors"));
    // -rfE: failures are named again just before the last line, which counts what passed.
    pytest.args(["-m", "pytest", "-rfE", "--durations=15"]).args(PYTHON_TESTS).args(arguments);
    workspace.run(pytest.env("PALISADE_BIN", &binary))
}
