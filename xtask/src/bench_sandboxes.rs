//! `cargo xtask bench sandboxes`: sandboxes of the official client, and beside them, in the same
//! run, three engines that run the same command over the same layers. Prints a table; asserts
//! nothing.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::bench::{figures_of, image_layers, print};
use crate::packages::{self, Use};
use crate::server::Server;
use crate::venv::Venv;
use crate::workspace::{Workspace, cargo, need_root};

/// The table: name, unit, what it is.
const ROWS: [(&str, &str, &str); 19] = [
    ("create_p50_ms", "ms", "`Sandbox.create`, p50"),
    ("create_p99_ms", "ms", "the same, p99"),
    ("first_p50_ms", "ms", "from `create` to the first exec's output, p50"),
    ("first_p99_ms", "ms", "the same, p99"),
    ("entrypoint_p50_ms", "ms", "from `create(\"echo\", …)` to its output, p50"),
    ("entrypoint_p99_ms", "ms", "the same, p99"),
    ("exec_p50_ms", "ms", "`exec` in a running sandbox until its end, p50"),
    ("exec_p99_ms", "ms", "the same, p99"),
    ("creates_1_per_s", "/s", "sandboxes made, one at a time"),
    ("creates_8_per_s", "/s", "the same, 8 at a time"),
    ("creates_32_per_s", "/s", "the same, 32 at a time"),
    ("crun_p50_ms", "ms", "`crun run` of the same command over the same layers, p50"),
    ("crun_p99_ms", "ms", "the same, p99"),
    ("podman_p50_ms", "ms", "`podman run`, p50"),
    ("podman_p99_ms", "ms", "the same, p99"),
    ("runsc_p50_ms", "ms", "`runsc run` (Debian's, ptrace), p50"),
    ("runsc_p99_ms", "ms", "the same, p99"),
    ("first_cruns", "x", "create to first output p50, in `crun run` (goal: 2 at most)"),
    ("podman_firsts", "x", "`podman run` p50, in create to first output (goal: 5 at least)"),
];

/// Measures and prints.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    need_root("`cargo xtask bench sandboxes`")?;
    packages::install(workspace, Use::Engines)?;
    let venv = Venv::make(workspace)?;
    workspace.run(cargo().args(["build", "--release", "--package", "palisade"]))?;
    let binary = workspace.target.join("release/palisade");
    let dir = workspace.target.join("bench");
    let data = dir.join("data");
    fs::create_dir_all(&dir)?;
    let server = Server::start(&binary, &data, &dir.join("server.log"))?;
    println!("\nsandboxes are timed; the first run builds the default image");
    let mut python = Command::new(venv.program("python"));
    python.arg(workspace.root.join("benches/sandboxes.py")).env("MODAL_LOGLEVEL", "ERROR");
    let mut figures = figures_of(python.envs(server.environment()?))?;
    let layers = image_layers(&binary, &data)?;
    server.stop()?;
    let folder = dir.join("engines");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    println!("the engines are timed");
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--propagation", "private"]).arg(venv.program("python"));
    inside.arg(workspace.root.join("benches/engines.py")).arg(&folder).args(&layers);
    figures.extend(figures_of(&mut inside)?);
    fs::remove_dir_all(&folder)?;
    let figure = |name: &str| figures.get(name).copied();
    if let (Some(first), Some(crun), Some(podman)) =
        (figure("first_p50_ms"), figure("crun_p50_ms"), figure("podman_p50_ms"))
    {
        figures.insert("first_cruns".into(), first / crun);
        figures.insert("podman_firsts".into(), podman / first);
    }
    print(&ROWS, &figures)
}
