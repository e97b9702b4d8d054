//! `cargo xtask bench`: calls of the official client, and beside them, in the same run, what the
//! parts cost by themselves. Prints a table; asserts nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::packages::{self, Use};
use crate::server::Server;
use crate::venv::Venv;
use crate::workspace::{Workspace, cargo, need_root};

/// Figures by name.
pub(crate) type Figures = BTreeMap<String, f64>;

/// Where layers lie in a server's data.
const LAYERS: &str = "worker/images/layers";

/// The table: name, unit, what it is.
const ROWS: [(&str, &str, &str); 20] = [
    ("warm_p50_ms", "ms", "warm `.remote()`, one after the other, p50"),
    ("warm_p99_ms", "ms", "the same, p99"),
    ("warm_sequential_per_s", "/s", "the same, calls a second"),
    ("client_cpu_ms", "ms", "processor time of the client's process for one of them"),
    ("container_cpu_ms", "ms", "processor time of the container's process for one of them"),
    ("warm_parallel_per_s", "/s", "warm `.remote.aio()`, 16 callers at a time, one container"),
    ("map_per_s", "/s", "`.map` of 2,000 inputs, two containers"),
    ("fresh_p50_ms", "ms", "`.remote()` with a fresh container per input, p50"),
    ("fresh_p99_ms", "ms", "the same, p99"),
    ("fresh_map_per_s", "/s", "`.map` of 60 inputs with a fresh container per input"),
    ("echo_p50_ms", "ms", "unary echo of 1 KiB by the client's gRPC library over TCP, p50"),
    ("echo_p99_ms", "ms", "the same, p99"),
    ("stub_echo_p50_ms", "ms", "the same echo by the official client's own stub, p50"),
    ("stub_echo_p99_ms", "ms", "the same, p99"),
    ("crun_p50_ms", "ms", "`crun run` of the same Python with the same imports, p50"),
    ("crun_p99_ms", "ms", "the same, p99"),
    ("subprocess_p50_ms", "ms", "the same imports in a plain subprocess of the host, p50"),
    ("subprocess_p99_ms", "ms", "the same, p99"),
    ("warm_stub_echoes", "x", "warm `.remote()` p50 in echoes by the client's own stub"),
    ("warm_echoes", "x", "warm `.remote()` p50 in echoes (four are the floor of its four rpcs)"),
];

/// Measures and prints.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    need_root("`cargo xtask bench`")?;
    packages::install(workspace, Use::Bench)?;
    let venv = Venv::make(workspace)?;
    workspace.run(cargo().args(["build", "--release", "--package", "palisade"]))?;
    let echo = ["build", "--release", "--package", "gateway", "--example", "echo"];
    workspace.run(cargo().args(echo))?;
    let binary = workspace.target.join("release/palisade");
    let dir = workspace.target.join("bench");
    let data = dir.join("data");
    fs::create_dir_all(&dir)?;
    let server = Server::start(&binary, &data, &dir.join("server.log"))?;
    let mut figures = calls(workspace, &venv, &server)?;
    let mut layers = image_layers(&binary, &data)?;
    layers.push(client_layer(&data)?);
    server.stop()?;
    figures.extend(crun(workspace, &venv, &dir, &layers)?);
    let warm = figures.get("warm_p50_ms").copied();
    for (name, of) in [("warm_echoes", "echo_p50_ms"), ("warm_stub_echoes", "stub_echo_p50_ms")] {
        if let (Some(warm), Some(echo)) = (warm, figures.get(of).copied()) {
            figures.insert(name.into(), warm / echo);
        }
    }
    print(&ROWS, &figures)
}

/// Prints a table of figures: the name, unit and meaning of each.
pub(crate) fn print(rows: &[(&str, &str, &str)], figures: &Figures) -> Result<()> {
    println!("\n{}\n", machine()?);
    println!("| what | figure |\n|---|---|");
    for (name, unit, what) in rows {
        let figure = figures.get(*name).with_context(|| format!("{name} was not measured"))?;
        println!("| {what} | {figure:.2} {unit} |");
    }
    Ok(())
}

/// One line on the machine.
pub(crate) fn machine() -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    let model = model.unwrap_or("unknown processor");
    Ok(format!("{model}, {cores} cores, Linux {}, load {load}", kernel.trim()))
}

fn parse(output: &[u8]) -> Result<Figures> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().rev().find(|line| line.starts_with('{'));
    let value: Value = serde_json::from_str(line.context("the bench printed no figures")?)?;
    let object = value.as_object().context("the figures are no object")?;
    Ok(object.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect())
}

pub(crate) fn figures_of(command: &mut Command) -> Result<Figures> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the bench fails: {}", String::from_utf8_lossy(&output.stdout).trim());
    }
    parse(&output.stdout)
}

fn calls(workspace: &Workspace, venv: &Venv, server: &Server) -> Result<Figures> {
    let mut echo = Command::new(workspace.target.join("release/examples/echo"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("the echo server cannot be run")?;
    let mut port = String::new();
    let stdout = echo.stdout.take().context("the echo server has no output")?;
    BufReader::new(stdout).read_line(&mut port)?;
    println!("\ncalls are timed; the first run builds the default image");
    let mut python = Command::new(venv.program("python"));
    python.arg(workspace.root.join("benches/calls.py")).arg(port.trim());
    let figures = figures_of(python.envs(server.environment()?));
    drop(echo.stdin.take());
    echo.wait()?;
    figures
}

/// The folders of the newest image with Python, bottom first.
pub(crate) fn image_layers(binary: &Path, data: &Path) -> Result<Vec<PathBuf>> {
    let output =
        Command::new(binary).args(["image", "list", "--json", "--data-dir"]).arg(data).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let image = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|image| image["python"].is_string())
        .context("no image with Python was built")?;
    let digests = image["layers"].as_array().context("an image without layers")?;
    let root = data.join(LAYERS);
    Ok(digests.iter().filter_map(|digest| Some(root.join(digest.as_str()?).join("diff"))).collect())
}

/// The folder of the client's packages.
fn client_layer(data: &Path) -> Result<PathBuf> {
    let client = fs::read_dir(data.join(LAYERS))?
        .filter_map(|entry| Some(entry.ok()?.path().join("diff")))
        .find(|diff| diff.join("pkg/modal").is_dir());
    client.context("the client's packages are in no layer")
}

fn crun(workspace: &Workspace, venv: &Venv, dir: &Path, layers: &[PathBuf]) -> Result<Figures> {
    let folder = dir.join("crun");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    println!("`crun run` of the same is timed");
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--propagation", "private"]).arg(venv.program("python"));
    inside.arg(workspace.root.join("benches/crun.py")).arg(&folder).args(layers);
    let figures = figures_of(&mut inside);
    fs::remove_dir_all(&folder)?;
    figures
}
