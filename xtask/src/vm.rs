//! `cargo xtask vm`: the jail's tests and the official client on Debian 12's stock kernel with
//! nothing but version 2 of control groups, in a virtual machine whose processor is emulated.

mod machine;
mod payload;
mod root;

use std::time::Instant;

use anyhow::{Context, Result};

use crate::packages::{self, Use};
use crate::server::Server;
use crate::venv::Venv;
use crate::workspace::{Workspace, cargo, need_root};

/// Builds what is tested, and tests it.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    need_root("`cargo xtask vm`")?;
    packages::install(workspace, Use::Tests)?;
    let venv = Venv::make(workspace)?;
    // As the tests build it: then nothing is compiled a second time for other features.
    workspace.run(cargo().args(["build", "--workspace", "--bins", "--examples"]))?;
    warm(workspace, &venv)?;
    boot(workspace)
}

/// Tests what is built, with the images that the client's tests left in the build directory.
pub(crate) fn boot(workspace: &Workspace) -> Result<()> {
    let began = Instant::now();
    let root = root::make(workspace)?;
    let payload = payload::make(workspace)?;
    let outcome = machine::run(&root, &payload);
    // As large as everything in it, and made anew each time.
    std::fs::remove_file(&payload.disk)
        .with_context(|| format!("{} stays", payload.disk.display()))?;
    outcome?;
    println!("all of it passes on {} ({} s)", root.kernel_release, began.elapsed().as_secs());
    Ok(())
}

/// Makes the base image and the client's files where the tests keep theirs.
fn warm(workspace: &Workspace, venv: &Venv) -> Result<()> {
    let data = workspace.target.join("test-data/shared");
    std::fs::create_dir_all(&data).with_context(|| format!("no {}", data.display()))?;
    let binary = workspace.target.join("debug/palisade");
    let server = Server::start(&binary, &data, &workspace.target.join("test-data/server.log"))?;
    let mut client = std::process::Command::new(venv.program("python"));
    client.args(["-m", "modal", "run", "tests/client/apps/warm_app.py"]);
    let ran = workspace.run(client.envs(server.environment()?));
    server.stop()?;
    ran
}
