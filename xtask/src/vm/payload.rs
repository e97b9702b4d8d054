//! The machine's second disk: the test programs, the server, the client and the images, below the
//! paths that they have on the host, because programs were compiled with them.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::root;
use crate::limits::VM_PAYLOAD_MIB;
use crate::workspace::{Workspace, cargo};

/// What runs in the machine; the lines that it depends on come before.
const INSIDE: &str = include_str!("../../vm/inside.sh");

/// What is taken from the repository.
const REPOSITORY: [&str; 4] = ["tests", "examples", "crates/jail/tests", "crates/jail/src"];

/// What is taken from the build directory, beside the test programs.
const TARGET: [&str; 5] =
    ["debug/palisade", "debug/jail-run", "tmp", "venv", "test-data/shared/worker/images"];

/// The disk, and the steps whose results the machine must tell.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) disk: PathBuf,
    pub(super) steps: Vec<String>,
}

/// Makes it of what is built.
pub(super) fn make(workspace: &Workspace) -> Result<Payload> {
    let stage = workspace.target.join("vm/payload");
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("{} stays", stage.display()))?;
    }
    let (repository, target) = (stage.join("repository"), stage.join("target"));
    let tests = test_programs(workspace)?;
    make_jails_root(workspace, &tests)?;
    for path in REPOSITORY {
        take(workspace, &workspace.root.join(path), &repository.join(path))?;
    }
    for path in TARGET {
        take(workspace, &workspace.target.join(path), &target.join(path))?;
    }
    for test in &tests {
        let name = test.file_name().context("a test program has no name")?;
        take(workspace, test, &target.join("debug/deps").join(name))?;
    }
    // Where the build directory lies below the repository, it needs a place to be mounted on.
    if let Ok(below) = workspace.target.strip_prefix(&workspace.root) {
        fs::create_dir_all(repository.join(below))?;
    }
    fs::write(stage.join("run"), script(workspace, &tests)?)?;
    let disk = workspace.target.join("vm/payload.ext4");
    root::format(workspace, &stage, &disk, VM_PAYLOAD_MIB)?;
    fs::remove_dir_all(&stage).with_context(|| format!("{} stays", stage.display()))?;
    let steps = tests.iter().map(|test| step_name(test)).chain(["client".to_owned()]).collect();
    Ok(Payload { disk, steps })
}

/// Builds the jail's tests and returns their programs.
fn test_programs(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let mut build = cargo();
    // With the workspace, as `xtask test` builds them: nothing is compiled a second time.
    build.args(["test", "--workspace", "--no-run", "--quiet", "--message-format=json"]);
    let output = build
        .current_dir(&workspace.root)
        .stderr(Stdio::inherit())
        .output()
        .context("the jail's tests cannot be built")?;
    if !output.status.success() {
        bail!("the jail's tests cannot be built ({})", output.status);
    }
    let programs = programs_in(&String::from_utf8_lossy(&output.stdout));
    if programs.len() < 4 {
        bail!("cargo names only these tests of the jail: {programs:?}");
    }
    Ok(programs)
}

/// The test programs of the jail in cargo's messages: its own and those in `tests`.
fn programs_in(messages: &str) -> Vec<PathBuf> {
    let program = |line: &str| -> Option<PathBuf> {
        let message: Value = serde_json::from_str(line).ok()?;
        let package = message["manifest_path"].as_str()?;
        let kind = message["target"]["kind"][0].as_str()?;
        let wanted = package.ends_with("crates/jail/Cargo.toml")
            && message["profile"]["test"] == true
            && (kind == "lib" || kind == "test");
        wanted.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    };
    let mut programs: Vec<PathBuf> = messages.lines().filter_map(program).collect();
    programs.sort();
    programs
}

/// The name of a test program without cargo's hash.
fn step_name(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once('-').map_or(name.as_ref(), |(name, _)| name).to_owned()
}

/// Lets the tests make the containers' root that they share: it needs a C compiler, which the
/// machine has not.
fn make_jails_root(workspace: &Workspace, tests: &[PathBuf]) -> Result<()> {
    if workspace.target.join("tmp/busybox-root/.ready").exists() {
        return Ok(());
    }
    let containers = tests.iter().find(|test| step_name(test) == "containers");
    let mut one = Command::new(containers.context("there are no tests of containers")?);
    one.args(["--exact", "life::exit_codes_and_signals_are_told", "--quiet"]);
    workspace.run(one.current_dir(&workspace.root))
}

/// Links `from` to `to`: nothing is copied before the disk is made.
fn take(workspace: &Workspace, from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        bail!("{} is missing: run `cargo xtask test` or `cargo xtask vm`", from.display());
    }
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    // -H: the client's environment may be a link to another one.
    let mut copy = Command::new("cp");
    let linked = copy.args(["-alH"]).arg(from).arg(to).stderr(Stdio::null()).status()?;
    if linked.success() {
        return Ok(());
    }
    // Another file system.
    let mut copy = Command::new("cp");
    workspace.run(copy.args(["-aHf"]).arg(from).arg(to))
}

fn script(workspace: &Workspace, tests: &[PathBuf]) -> Result<Vec<u8>> {
    let names: Vec<_> = tests.iter().filter_map(|test| test.file_name()).collect();
    let mut script = Vec::new();
    for (name, value) in [
        ("repository", workspace.root.as_os_str().as_bytes()),
        ("target", workspace.target.as_os_str().as_bytes()),
        ("tests", names.join(" ".as_ref()).as_bytes()),
    ] {
        if value.contains(&b'\'') {
            bail!("the path of the repository has a quote in it");
        }
        script.extend_from_slice(format!("{name}='").as_bytes());
        script.extend_from_slice(value);
        script.extend_from_slice(b"'\n");
    }
    script.extend_from_slice(INSIDE.as_bytes());
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_jails_own_tests_are_taken() {
        let message = |manifest: &str, kind: &str, test: bool, name: &str| {
            serde_json::json!({
                "manifest_path": format!("/r/crates/{manifest}/Cargo.toml"),
                "target": { "kind": [kind] },
                "profile": { "test": test },
                "executable": format!("/t/debug/deps/{name}"),
            })
            .to_string()
        };
        let messages = [
            message("jail", "test", true, "network-1f"),
            message("jail", "lib", true, "jail-2e"),
            message("jail", "bin", true, "jail_run-3d"),
            message("jail", "bin", false, "jail-run"),
            message("plane", "lib", true, "plane-4c"),
            "not JSON".to_owned(),
        ];
        let programs = programs_in(&messages.join("\n"));
        let names: Vec<_> = programs.iter().map(|path| step_name(path)).collect();
        assert_eq!(names, ["jail", "network"]);
    }
}
