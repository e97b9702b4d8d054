//! What is known of this machine: read where somebody says it, tried where nobody does.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jail::disk::{Mechanism, PassedOver};
use jail::host::Host;
use jail::network::Survey;

use super::trials::{self, Bench};
use crate::data::Data;

/// What base images are made with, where `images` looks for it, and Debian's package of it.
/// The keyring is what other distributions lack.
const BASE_IMAGE_PARTS: [(&str, &str); 3] = [
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/bin/setpriv", "util-linux"),
    ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
];

/// Bytes of `/etc/resolv.conf` that are read.
const RESOLV_CONF_BYTES_MAX: usize = 64 << 10;

/// What came of trying something.
#[derive(Debug, Clone)]
pub(super) enum Trial<T> {
    /// It was not tried, because root is needed for it.
    NeedsRoot,
    /// It does not work, and why.
    Failed(String),
    /// It works.
    Worked(T),
}

/// How the disk limit of containers would be enforced.
#[derive(Debug, Clone)]
pub(super) struct DiskFacts {
    /// How.
    pub(super) mechanism: Mechanism,
    /// The better ways, and why each is not taken.
    pub(super) passed_over: Vec<PassedOver>,
}

/// All that the judgement depends on.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// What the kernel says of itself.
    pub(super) host: Host,
    /// The data folder that is asked about; it need not exist.
    pub(super) data_dir: PathBuf,
    /// Whether a server uses the data folder.
    pub(super) server_runs: bool,
    /// Bytes that root may still write on the data folder's file system.
    pub(super) free_bytes: Option<u64>,
    /// Packages of which a part that makes base images is missing.
    pub(super) base_images_lack: Vec<&'static str>,
    /// Whether `mkfs.btrfs` is in the search path.
    pub(super) has_btrfs_tools: bool,
    /// Whether `nft` is in the search path.
    pub(super) has_nft: bool,
    /// The host's first resolver; containers' questions go to it.
    pub(super) resolver: Option<IpAddr>,
    /// Scratch space with a limit, made and removed.
    pub(super) disk: Trial<DiskFacts>,
    /// A container, built and removed, and how long building took.
    pub(super) container: Trial<Duration>,
    /// Whether memory file systems map ids.
    pub(super) memory_ids: Trial<bool>,
    /// A firewall table, a gateway and its interfaces, made in a network namespace of their own;
    /// and what of the host's own network would matter.
    pub(super) network: Trial<Survey>,
}

impl Facts {
    /// Gathers them. Once `stop` is set nothing further is tried.
    pub(super) fn gather(data_dir: &Path, stop: &AtomicBool) -> Self {
        let host = jail::host::read();
        let root = host.root;
        let place = existing(data_dir);
        let mut facts = Self {
            data_dir: data_dir.to_owned(),
            server_runs: Data::of(data_dir).is_locked(),
            free_bytes: free_bytes(&place),
            base_images_lack: base_images_lack(Path::new("/")),
            has_btrfs_tools: in_search_path("mkfs.btrfs"),
            has_nft: in_search_path("nft"),
            resolver: resolver(&resolv_conf()),
            disk: Trial::NeedsRoot,
            container: Trial::NeedsRoot,
            memory_ids: Trial::NeedsRoot,
            network: Trial::NeedsRoot,
            host,
        };
        if !root {
            return facts;
        }
        match Bench::set_up(&place) {
            Ok(bench) => {
                facts.disk = tried(bench.disk());
                if !stop.load(Ordering::Relaxed) {
                    facts.container = tried(bench.container());
                }
            }
            Err(error) => {
                facts.disk = Trial::Failed(format!("{error:#}"));
                facts.container = Trial::Failed(format!("{error:#}"));
            }
        }
        facts.memory_ids = tried(jail::host::try_memory_ids().map_err(anyhow::Error::from));
        if !stop.load(Ordering::Relaxed) {
            facts.network = tried(trials::network());
        }
        facts
    }
}

fn tried<T>(result: anyhow::Result<T>) -> Trial<T> {
    match result {
        Ok(found) => Trial::Worked(found),
        Err(error) => Trial::Failed(format!("{error:#}")),
    }
}

/// The folder, or the nearest above it that exists: it lies on the same file system.
fn existing(dir: &Path) -> PathBuf {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn free_bytes(place: &Path) -> Option<u64> {
    let facts = rustix::fs::statvfs(place).ok()?;
    Some(facts.f_bavail.saturating_mul(facts.f_frsize))
}

fn base_images_lack(top: &Path) -> Vec<&'static str> {
    let lacking = |(path, _): &&(&str, &str)| !top.join(path.trim_start_matches('/')).exists();
    BASE_IMAGE_PARTS.iter().filter(lacking).map(|&(_, package)| package).collect()
}

/// Whether a program is where `execvp` would find it.
fn in_search_path(program: &str) -> bool {
    let runs = |path: PathBuf| {
        let mode = fs::metadata(path).map(|facts| facts.permissions().mode());
        mode.is_ok_and(|mode| mode & 0o111 != 0)
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| runs(folder.join(program)))
}

fn resolv_conf() -> String {
    use std::io::Read;
    let mut text = Vec::new();
    if let Ok(file) = fs::File::open("/etc/resolv.conf") {
        // What cannot be read names no resolver.
        let _ = file.take(RESOLV_CONF_BYTES_MAX as u64).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The first name server of a resolv.conf(5).
fn resolver(text: &str) -> Option<IpAddr> {
    let server = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse().ok();
    text.lines().find_map(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_existing_folder_is_found() {
        assert_eq!(existing(Path::new("/proc/self/none/of/these")), Path::new("/proc/self"));
        assert_eq!(existing(Path::new("/no/such/folder")), Path::new("/"));
    }

    #[test]
    fn resolvers_are_read() {
        let text = "# by hand\nsearch example.org\nnameserver\t10.0.0.1\nnameserver 10.0.0.2\n";
        assert_eq!(resolver(text), "10.0.0.1".parse().ok());
        assert_eq!(resolver("nameserver fe80::1\n"), "fe80::1".parse().ok());
        assert_eq!(resolver("options edns0\n"), None);
    }

    #[test]
    fn programs_are_found_where_they_are() {
        assert!(in_search_path("sh"));
        assert!(!in_search_path("no-such-program-anywhere"));
        let all: Vec<_> = BASE_IMAGE_PARTS.iter().map(|&(_, package)| package).collect();
        assert_eq!(base_images_lack(Path::new("/proc/self")), all);
    }
}
