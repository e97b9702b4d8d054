//! `cargo xtask fuzz`: runs the fuzz targets one after the other, and says how often each ran.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, need_root};

/// The targets, and seeds beside their own.
const TARGETS: [(&str, Option<&str>); 4] = [
    ("unpack", Some("crates/images/tests/archives")),
    ("manifest", None),
    ("reference", None),
    ("recipe", None),
];

/// Minutes for each target, if nothing is said.
const MINUTES: u64 = 10;

/// What makes a binary that libFuzzer can drive: it sees which branches were taken, and the
/// address sanitizer is in it.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Ccodegen-units=1";

/// Largest input, in bytes; archives have blocks of 512.
const INPUT_BYTES_MAX: u32 = 16_384;

/// Builds and runs.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    need_root("`cargo xtask fuzz`")?;
    let (minutes, wanted) = parse(arguments)?;
    let dir = workspace.target.join("fuzz");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = Command::new("cargo");
    build.args(["+nightly", "build", "--release", "--target", &triple, "--target-dir"]);
    build.arg(dir.join("build")).arg("--manifest-path").arg(workspace.root.join("fuzz/Cargo.toml"));
    // Cargo passes its own toolchain on, which is the workspace's and no nightly, and what it is
    // running, of which build scripts would make a reason to build all again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let is_passed_on = name.starts_with("CARGO") && name != "CARGO_HOME";
        if is_passed_on || name == "RUSTUP_TOOLCHAIN" || name == "RUSTC" {
            build.env_remove(&*name);
        }
    }
    workspace.run(build.env("RUSTFLAGS", FLAGS))?;
    for (target, more) in TARGETS.iter().filter(|(target, _)| wanted.contains(&(*target).into())) {
        let binary = dir.join("build").join(&triple).join("release").join(target);
        let mut seeds = vec![workspace.root.join("fuzz/seeds").join(target)];
        seeds.extend(more.map(|path| workspace.root.join(path)));
        seeds.retain(|folder| folder.is_dir());
        println!("{}", fuzz(&binary, target, &dir, &seeds, minutes)?);
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<(u64, Vec<String>)> {
    let (mut minutes, mut wanted) = (MINUTES, Vec::new());
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--minutes" {
            let value = words.next().and_then(|value| value.parse().ok());
            // libFuzzer takes 0 for no end.
            let value = value.filter(|minutes| *minutes > 0);
            minutes = value.context("--minutes needs a number above 0")?;
        } else if TARGETS.iter().any(|(target, _)| target == word) {
            wanted.push(word.clone());
        } else {
            let names: Vec<&str> = TARGETS.iter().map(|(target, _)| *target).collect();
            bail!("there is no target {word:?}; there are {}", names.join(", "));
        }
    }
    if wanted.is_empty() {
        wanted.extend(TARGETS.iter().map(|(target, _)| (*target).to_owned()));
    }
    Ok((minutes, wanted))
}

fn fuzz(
    binary: &Path,
    target: &str,
    dir: &Path,
    seeds: &[PathBuf],
    minutes: u64,
) -> Result<String> {
    let (corpus, failures) = (dir.join("corpus").join(target), dir.join("failures").join(target));
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&failures)?;
    println!("\n{target}: {minutes} minutes");
    let mut command = Command::new("nice");
    command.arg(binary).arg(&corpus).args(seeds);
    command.arg(format!("-max_total_time={}", minutes * 60));
    command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
    command.arg(format!("-artifact_prefix={}/", failures.display()));
    command.args(["-print_final_stats=1", "-rss_limit_mb=2048", "-timeout=20"]);
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
    let child = child.with_context(|| format!("{} cannot be run", binary.display()))?;
    let made = PathBuf::from(format!("/dev/shm/palisade-fuzz-{}", child.id()));
    let output = child.wait_with_output()?;
    if made.exists() {
        fs::remove_dir_all(&made)?;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let end: Vec<&str> = said.lines().rev().take(40).collect();
        let end: Vec<&str> = end.into_iter().rev().collect();
        bail!("{target} fails; its input lies in {}\n{}", failures.display(), end.join("\n"));
    }
    let stat = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let count = stat("stat::number_of_executed_units:").context("it says no executions")?;
    let rate = stat("stat::average_exec_per_sec:").unwrap_or("?");
    Ok(format!("{target}: {count} executions, {rate} a second, no finding"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_minutes_are_told_apart() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let (minutes, wanted) = parse(&words("--minutes 3 recipe")).unwrap();
        assert_eq!((minutes, wanted), (3, words("recipe")));
        assert_eq!(parse(&[]).unwrap().1.len(), TARGETS.len());
        assert!(parse(&words("--minutes x")).is_err() && parse(&words("--minutes 0")).is_err());
        let error = parse(&words("nothing")).unwrap_err().to_string();
        assert!(error.contains("unpack, manifest"), "{error}");
    }
}
