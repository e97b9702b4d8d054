//! Programs of the system that Palisade and its tests need, and how Debian calls them.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// A Debian package, a program by which other systems can tell that they have it, and its use.
struct Package {
    name: &'static str,
    program: &'static str,
    use_for: &'static str,
}

const fn package(name: &'static str, program: &'static str, use_for: &'static str) -> Package {
    Package { name, program, use_for }
}

/// What the server needs, and the client that drives it.
const SERVER: &[Package] = &[
    package("gcc", "cc", "links Rust programs"),
    package("libc6-dev", "", "links Rust programs"),
    package("ca-certificates", "", "trusted certificates for package indexes"),
    package("python3", "python3", "runs the client"),
    package("python3-venv", "", "makes the client's environment"),
    package("nftables", "nft", "closes the network of containers"),
    package("iproute2", "ip", "lists interfaces"),
    package("mmdebstrap", "mmdebstrap", "makes the base image"),
    package("btrfs-progs", "mkfs.btrfs", "limits the disk of containers"),
    package("mount", "losetup", "mounts file systems"),
    package("util-linux", "setpriv", "starts helpers with fewer rights"),
];

/// What only the tests need.
const TESTS: &[Package] = &[
    package("busybox-static", "busybox", "a container's root of one file"),
    package("procps", "ps", "lists processes"),
    package("e2fsprogs", "mkfs.ext4", "a file system with quotas of projects"),
    package("qemu-system-x86", "qemu-system-x86_64", "a machine with another kernel"),
    package("docker-registry", "docker-registry", "a registry to pull images from"),
    package("skopeo", "skopeo", "writes the image archives that are imported"),
    package("nodejs", "node", "runs the JavaScript client"),
    package("npm", "npm", "installs the JavaScript client"),
    package("curl", "curl", "a client of TLS that is not ours"),
    package("openssl", "openssl", "another one, and certificates"),
];

/// What only the benchmarks need.
const BENCH: &[Package] = &[package("crun", "crun", "the container runtime that is timed beside")];

/// What only the benchmark of pulls needs.
const PULL: &[Package] = &[
    package("docker-registry", "docker-registry", "the registry that is pulled from"),
    package("skopeo", "skopeo", "timed beside"),
    package("umoci", "umoci", "timed beside"),
    package("podman", "podman", "timed beside"),
];

/// What only the benchmark of sandboxes needs.
const ENGINES: &[Package] = &[
    package("crun", "crun", "timed beside"),
    package("podman", "podman", "timed beside"),
    package("runsc", "runsc", "timed beside"),
];

/// What packages are wanted for. The server's are always among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// The server alone.
    Server,
    /// The tests.
    Tests,
    /// The benchmarks.
    Bench,
    /// The benchmark of pulls.
    Pull,
    /// The benchmark of sandboxes.
    Engines,
}

/// Installs what is missing, on Debian; elsewhere says what is.
pub(crate) fn install(workspace: &Workspace, use_for: Use) -> Result<()> {
    let more = match use_for {
        Use::Server => &[],
        Use::Tests => TESTS,
        Use::Bench => BENCH,
        Use::Pull => PULL,
        Use::Engines => ENGINES,
    };
    let wanted: Vec<&Package> = SERVER.iter().chain(more).collect();
    if !Path::new("/usr/bin/dpkg-query").exists() || !Path::new("/usr/bin/apt-get").exists() {
        return look_for_programs(&wanted);
    }
    let installed = installed(&wanted)?;
    let missing: Vec<&&Package> =
        wanted.iter().filter(|package| !is_there(package, &installed)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("Debian packages that are missing, and are installed now:");
    for package in &missing {
        println!("  {:<16} {}", package.name, package.use_for);
    }
    let mut update = Command::new("apt-get");
    workspace.run(update.args(["update", "-q"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-q", "-y", "--no-install-recommends"]);
    install.args(missing.iter().map(|package| package.name));
    workspace.run(install.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Whether dpkg has a package, or its program came another way: a nodejs that is not Debian's has
/// an npm of its own, and Debian's conflicts with it.
fn is_there(package: &Package, installed: &[String]) -> bool {
    installed.iter().any(|name| name == package.name)
        || !package.program.is_empty() && is_in_path(package.program)
}

/// Whether a program can be run by its name.
fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|place| place.join(program).is_file())
}

/// The names among `wanted` that dpkg has installed.
fn installed(wanted: &[&Package]) -> Result<Vec<String>> {
    let output = Command::new("/usr/bin/dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\\n"])
        .args(wanted.iter().map(|package| package.name))
        .output()?;
    // It fails if one is unknown, and still lists the others.
    Ok(names_installed(&String::from_utf8_lossy(&output.stdout)))
}

fn names_installed(listing: &str) -> Vec<String> {
    let lines = listing.lines().filter_map(|line| line.strip_suffix(" installed"));
    lines.map(str::to_owned).collect()
}

fn look_for_programs(wanted: &[&Package]) -> Result<()> {
    let missing: Vec<String> = wanted
        .iter()
        .filter(|package| !package.program.is_empty() && !is_in_path(package.program))
        .map(|package| format!("\n  {} ({})", package.program, package.use_for))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this is no Debian system; install these programs, then try again:{}", missing.concat());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count() {
        let listing =
            "gcc installed\nnftables not-installed\nmount config-files\npython3 installed\n";
        assert_eq!(names_installed(listing), ["gcc", "python3"]);
    }

    #[test]
    fn a_program_that_came_another_way_is_there() {
        let present = package("no-such-package", "sh", "is everywhere");
        assert!(is_there(&present, &[]));
        let absent = package("no-such-package", "no-such-program-anywhere", "is nowhere");
        assert!(!is_there(&absent, &[]));
        assert!(is_there(&absent, &["no-such-package".to_owned()]));
        assert!(!is_there(&package("no-such-package", "", "has no program"), &[]));
    }

    #[test]
    fn missing_programs_are_named_with_their_use() {
        let absent = package("x", "no-such-program-anywhere", "tests this");
        let present = package("sh", "sh", "is everywhere");
        let error = look_for_programs(&[&absent, &present]).unwrap_err().to_string();
        assert!(error.contains("no-such-program-anywhere (tests this)"), "{error}");
        assert!(!error.contains("is everywhere"), "{error}");
    }
}
