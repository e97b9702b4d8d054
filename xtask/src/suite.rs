//! `cargo xtask test`: every check and every test, the way CI runs them.

use std::process::Command;

use anyhow::Result;

use crate::check;
use crate::js;
use crate::packages::{self, Use};
use crate::venv::Venv;
use crate::vm;
use crate::workspace::{Workspace, cargo, need_root};

/// Where the Python tests lie.
const PYTHON_TESTS: [&str; 3] = ["tests/wire", "tests/client", "tests/isolation"];

/// Runs everything; `arguments` go to pytest.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    need_root("`cargo xtask test`")?;
    packages::install(workspace, Use::Tests)?;
    let venv = Venv::make(workspace)?;
    Venv::make_older(workspace)?;
    js::install(workspace)?;
    check::run(workspace)?;
    // The wire crate's conformance test imports the client.
    let python = venv.program("python");
    let mut tests = cargo();
    workspace.run(tests.args(["test", "--workspace"]).env("PALISADE_PYTHON", &python))?;
    // With the examples, features are those of the tests: nothing is compiled a second time.
    workspace.run(cargo().args(["build", "--workspace", "--bins", "--examples"]))?;
    let binary = workspace.target.join("debug/palisade");
    let mut pytest = Command::new(&python);
    // -rfE: failures are named again just before the last line, which counts what passed.
    pytest.args(["-m", "pytest", "-rfE", "--durations=15"]).args(PYTHON_TESTS).args(arguments);
    workspace.run(pytest.env("PALISADE_BIN", &binary))?;
    // On this kernel first: they have a server of their own on the same data.
    let mut host = Command::new(&python);
    host.args(["-m", "pytest", "-rfE", "tests/vm"]);
    workspace.run(host.env("PALISADE_BIN", &binary))?;
    vm::boot(workspace)
}
