//! `cargo xtask demo`: untrusted code in a restricted function, and nothing left behind.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::kernel::{self, Kernel};
use crate::limits::{DEMO_MAX, LOOK_EVERY, SETTLE_MAX};
use crate::packages::{self, Use};
use crate::server::Server;
use crate::venv::Venv;
use crate::workspace::{Workspace, need_root};

const EXAMPLE: &str = "examples/restricted.py";
const EXPECTED: &str = "Result: 55";

/// Runs the demo: fails unless the example prints its result and the kernel is as it was before.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    need_root("the demo")?;
    packages::install(workspace, Use::Server)?;
    let venv = Venv::make(workspace)?;
    let binary = workspace.build_server()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .context("signals cannot be waited for")?;
    }
    kernel::adopt_orphans()?;
    let dir = workspace.target.join("demo");
    fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;

    let before = Kernel::look()?;
    println!("\nthe kernel before:\n{}", before.summary());
    let ran = serve_and_run(workspace, &venv, &binary, &dir, &interrupted);
    // Whatever happened: nothing may be left.
    let after = settled(&before)?;
    println!("\nthe kernel after:\n{}", after.summary());
    let difference = before.difference(&after);
    for line in &difference {
        println!("  {line}");
    }
    let output = ran?;
    if !difference.is_empty() {
        bail!(
            "the kernel is not as it was before: see the lines above. If something else on this \
            machine started or ended meanwhile, run the demo again"
        );
    }
    println!("the kernel is as it was before: nothing is left behind");
    let result = output.lines().find(|line| line.trim() == EXPECTED);
    let result = result.with_context(|| format!("the example did not print `{EXPECTED}`"))?;
    println!("\n{result}");
    Ok(())
}

fn serve_and_run(
    workspace: &Workspace,
    venv: &Venv,
    binary: &Path,
    dir: &Path,
    interrupted: &AtomicBool,
) -> Result<String> {
    let data = dir.join("data");
    let server = Server::start(binary, &data, &dir.join("server.log"))?;
    println!("the server is ready at {} (log in {})", server.url, dir.join("server.log").display());
    if !data.join("worker/images/keys").exists() {
        println!("the first run makes the base image, which takes a few minutes; it is kept in");
        println!("{} for the next ones", data.display());
    }
    println!("\n$ modal run {EXAMPLE}");
    let mut client = Command::new(venv.program("modal"));
    client.args(["run", EXAMPLE]).current_dir(&workspace.root).envs(server.environment()?);
    let ran = show(&mut client, interrupted);
    if ran.is_err() {
        println!("the server's last words:\n{}", server.last_words());
    }
    server.stop()?;
    ran
}

/// Runs `command`, shows its output as it comes, and returns it.
fn show(command: &mut Command, interrupted: &AtomicBool) -> Result<String> {
    // PYTHONUNBUFFERED: lines come when they are printed, though not to a terminal.
    let command = command.env("PYTHONUNBUFFERED", "1").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("the client cannot be run")?;
    let stdout = child.stdout.take().context("the client has no standard output")?;
    let reader = std::thread::spawn(move || copy(stdout));
    let ended = wait(&mut child, interrupted);
    let output = reader.join().unwrap_or_else(|_| bail!("reading the output fails"))?;
    ended?;
    Ok(output)
}

fn copy(mut from: impl Read) -> Result<String> {
    let (mut output, mut buffer) = (Vec::new(), [0; 8_192]);
    loop {
        let length = from.read(&mut buffer).context("the client's output cannot be read")?;
        if length == 0 {
            return Ok(String::from_utf8_lossy(&output).into_owned());
        }
        output.extend_from_slice(&buffer[..length]);
        let mut terminal = std::io::stdout().lock();
        terminal.write_all(&buffer[..length])?;
        terminal.flush()?;
    }
}

fn wait(child: &mut Child, interrupted: &AtomicBool) -> Result<()> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            if interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            if !status.success() {
                bail!("`modal run` ends with {status}");
            }
            return Ok(());
        }
        let late = started.elapsed() > DEMO_MAX;
        if late || interrupted.load(Ordering::Relaxed) {
            child.kill().context("the client cannot be ended")?;
            child.wait()?;
            bail!("{}", if late { "`modal run` takes too long" } else { "interrupted" });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The kernel's state when it equals `before`, or else when it had its time to get there.
fn settled(before: &Kernel) -> Result<Kernel> {
    let started = Instant::now();
    loop {
        kernel::reap_orphans();
        let now = Kernel::look()?;
        if now == *before || started.elapsed() > SETTLE_MAX {
            return Ok(now);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
