//! Trials: what a server does for each container, done once and undone. None touches what a
//! running server owns, and none leaves anything behind.

use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use jail::IdRange;
use jail::disk::{Disk, DiskConfig};
use jail::network::{Fabric, FabricConfig, Survey, survey};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{FlockOperation, flock};

use super::facts::DiskFacts;

/// The name of the folder for trials. It is always the same, so that a trial that was killed is
/// found and undone by the next.
const FOLDER: &str = "palisade-doctor";

/// The last of the ranges from which a worker gives containers their ids; a worker begins with
/// the first. Nothing is executed with these ids.
const IDS: IdRange = IdRange { first: 2_147_418_112, count: 65_536 };

/// The port that the trial's firewall table leads questions to; nobody listens there.
const DNS_PORT: u16 = 53;

/// A folder for trials, held by one doctor at a time. Dropping it removes the folder.
#[derive(Debug)]
pub(super) struct Bench {
    folder: PathBuf,
    cgroup_parent: String,
    _lock: File,
}

impl Bench {
    /// Makes the folder below `place`, and undoes what a killed trial left there.
    pub(super) fn set_up(place: &Path) -> Result<Self> {
        let folder = place.join(FOLDER);
        let refused = || format!("a folder for trials: {}", folder.display());
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(refused),
        }
        // In a folder where all may write, somebody else could have put something there.
        let facts = fs::symlink_metadata(&folder).with_context(refused)?;
        if !facts.is_dir() || facts.uid() != 0 || facts.mode() & 0o077 != 0 {
            bail!("{} is not root's own closed folder: remove it", folder.display());
        }
        let lock = File::open(&folder).with_context(refused)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another doctor is at work in {}: try again", folder.display());
        }
        let mut hasher = DefaultHasher::new();
        folder.hash(&mut hasher);
        let cgroup_parent = format!("{}/doctor-{:016x}", worker::CGROUP_PARENT, hasher.finish());
        let bench = Self { folder, cgroup_parent, _lock: lock };
        bench.sweep()?;
        Ok(bench)
    }

    fn sweep(&self) -> Result<()> {
        jail::sweep(&self.cgroup_parent, &[])?;
        jail::remove_parents(&self.cgroup_parent)?;
        Ok(())
    }

    fn make(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("cannot make {}", path.display()))
            }
            Ok(()) | Err(_) => Ok(path),
        }
    }

    /// Chooses the mechanism as a server would; it is taken only if it was seen to refuse a
    /// write beyond its limit.
    pub(super) fn disk(&self) -> Result<DiskFacts> {
        let config = DiskConfig { dir: self.make("disk")?, capacity_bytes: None, only: None };
        let disk = Disk::open(&config)?;
        let facts =
            DiskFacts { mechanism: disk.mechanism(), passed_over: disk.passed_over().to_vec() };
        disk.close().context("undoing the trial")?;
        Ok(facts)
    }

    /// Builds a container and removes it; answers how long building took.
    pub(super) fn container(&self) -> Result<Duration> {
        let folder = self.make("container")?;
        let exe = Path::new("/proc/self/exe");
        let tried = jail::host::try_container(exe, &folder, &self.cgroup_parent, IDS);
        let swept = self.sweep();
        let took = tried?;
        swept.context("undoing the trial")?;
        Ok(took)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // What stays behind is closed to others, and the next doctor takes it up.
        if let Ok(root) = jail::Root::open_folder(&self.folder) {
            for name in ["disk", "container"] {
                let _ = root.remove_all(name.as_ref());
            }
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Looks at the host's routes and firewall; then makes a table, a gateway and its interfaces in a
/// network namespace of their own, which takes them along when it ends.
pub(super) fn network() -> Result<Survey> {
    let config = FabricConfig {
        table: "palisade".into(),
        interface_prefix: "pal".into(),
        subnet: None,
        dns_port: DNS_PORT,
    };
    let found = survey(&config)?;
    let trial = || {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
        let fabric = Fabric::open(&config, &[])?;
        fabric.close().context("undoing the trial")
    };
    let tried = std::thread::scope(|scope| scope.spawn(trial).join());
    tried.map_err(|_| anyhow!("the trial's thread died"))??;
    Ok(found)
}
