//! Builds the file tool with a cargo of its own: statically linked, small, for the same machine.
//!
//! It has a target folder of its own below `OUT_DIR`, so it waits for no lock that the outer cargo
//! holds, and it shares the outer cargo's job slots. It is offline: all it needs is in Cargo.lock,
//! and was fetched for this crate's own dependency on the tool.

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The profile in the root's Cargo.toml.
const PROFILE: &str = "fstools";

const PROGRAM: &str = "modal-sandbox-fs-tools";

/// What decides the program. Folders stand for all that is in them.
const SOURCES: &[&str] =
    &["../fstools", "../../Cargo.toml", "../../Cargo.lock", "../../rust-toolchain.toml"];

/// What the outer build says of itself, clippy's wrapper and the flags of a fuzzer for example. How
/// to reach registries, and which cargo home is used, holds for both.
const OUTER: &[&str] = &[
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_TARGET_DIR",
    "CLIPPY_ARGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
];

fn main() -> Result<(), Box<dyn Error>> {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = variable("TARGET")?;
    let folder = out.join("target");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.args(["build", "--quiet", "--frozen", "--package", "fstools", "--bin", PROGRAM]);
    cargo.args(["--profile", PROFILE]).arg("--target").arg(&target);
    cargo
        .arg("--manifest-path")
        .arg(Path::new(&variable("CARGO_MANIFEST_DIR")?).join("../../Cargo.toml"));
    cargo.arg("--target-dir").arg(&folder);
    for name in OUTER {
        cargo.env_remove(name);
    }
    // These come before the flags of any settings.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    let status = cargo.status().map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !status.success() {
        return Err(format!("the file tool of sandboxes is not built ({status}): see above").into());
    }
    fs::copy(folder.join(target).join(PROFILE).join(PROGRAM), out.join(PROGRAM))?;
    Ok(())
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set"))
}
