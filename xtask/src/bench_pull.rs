//! `cargo xtask bench pull`: pulls an image of 1 GiB in 20 layers from a registry on loopback,
//! beside skopeo with umoci and beside podman. Prints a table; asserts nothing.

use std::process::Command;

use anyhow::{Context, Result};

use crate::bench::{figures_of, machine};
use crate::packages::{self, Use};
use crate::workspace::{Workspace, cargo, need_root};

/// How each way is named in the figures, and in the table.
const WAYS: [(&str, &str); 3] = [
    ("palisade", "`Builder::base`, as a server's build calls it"),
    ("skopeo_umoci", "`skopeo copy`, then `umoci unpack`"),
    ("podman", "`podman pull`, overlay driver"),
];

/// Measures and prints.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    need_root("`cargo xtask bench pull`")?;
    packages::install(workspace, Use::Pull)?;
    let build = ["build", "--release", "--package", "images", "--example", "pull"];
    workspace.run(cargo().args(build))?;
    println!("an image is made, pushed and pulled; this takes some minutes and 5 GiB");
    let mut python = Command::new("python3");
    python.arg(workspace.root.join("benches/pull.py")).arg(workspace.target.join("bench-pull"));
    let figures = figures_of(python.arg(workspace.target.join("release/examples/pull")))?;
    let figure =
        |name: &str| figures.get(name).copied().with_context(|| format!("{name} was not measured"));
    let (unpacked, packed) = (figure("unpacked_mib")?, figure("packed_mib")?);
    println!("\n{}\n", machine()?);
    println!(
        "{unpacked:.0} MiB of files in 20 layers, {packed:.0} MiB as sent, to the disk (sync)\n"
    );
    println!("| by | seconds | of the processors |\n|---|---|---|");
    for (way, shown) in WAYS {
        let (wall, cpu) = (figure(&format!("{way}_s"))?, figure(&format!("{way}_cpu_s"))?);
        println!("| {shown} | {wall:.1} | {cpu:.1} |");
    }
    Ok(())
}
