//! Runs one container from a plan in JSON: `jail-run PLAN`. Prints how its program ended.

use std::os::fd::AsFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    if jail::is_child() {
        jail::child_main();
    }
    match run() {
        Ok(code) => code,
        Err(error) => {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("jail-run: {error}\n").as_bytes(),
            );
            ExitCode::from(125)
        }
    }
}

fn run() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: jail-run PLAN")?;
    let plan: jail::Plan = serde_json::from_slice(&std::fs::read(path)?)?;
    let stdio = jail::Stdio {
        stdin: std::io::stdin().as_fd().try_clone_to_owned()?,
        stdout: std::io::stdout().as_fd().try_clone_to_owned()?,
        stderr: std::io::stderr().as_fd().try_clone_to_owned()?,
    };
    let mut child = jail::prepare(&plan, stdio)?.start()?;
    child.wait()?;
    let code = match child.end()?.exit {
        jail::Exit::Code(code) => code,
        jail::Exit::Signal(signal) => 128 + signal,
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
