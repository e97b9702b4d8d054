//! The control group of one container.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::ahead::Ahead;
use super::layout::Layout;
use crate::limits::KILL_MS_MAX;
use crate::plan::{Limits, Plan};

/// Why a control group could not be made, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This process' mounts cannot be read.
    #[error("reading where control groups are mounted: {0}")]
    Layout(#[source] io::Error),
    /// No tree holds what a limit needs.
    #[error(
        "`limits.{field}` cannot be enforced: this host has no control group controller \
         `{controller}`"
    )]
    Controller { field: &'static str, controller: &'static str },
    /// A directory could not be made.
    #[error("making the control group {path}: {source}")]
    Make { path: PathBuf, source: io::Error },
    /// A group of this name exists already.
    #[error("the control group {0} exists already: two containers with one name, or one left over")]
    Exists(PathBuf),
    /// A controller could not be switched on for the groups below.
    #[error(
        "switching on controllers below the control group {path}: {source} (a group with \
         processes of its own can have no limits for its children: move them into a leaf)"
    )]
    Delegate { path: PathBuf, source: io::Error },
    /// A limit was not taken.
    #[error("`limits.{field}` is not enforced: writing {value} to {path}: {source}")]
    Limit { field: &'static str, path: PathBuf, value: String, source: io::Error },
    /// A file could not be read.
    #[error("reading {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    /// What only v2's tree can do.
    #[error(
        "{0} needs control groups of version 2, which this host does not have: mount them, e.g. \
         with `mount -t cgroup2 none /sys/fs/cgroup/unified`"
    )]
    NoV2(&'static str),
    /// The container's root could not be let into a group of its own container.
    #[error("giving the control group {path} to the container: {source}")]
    Give { path: PathBuf, source: io::Error },
    /// It did not freeze or thaw.
    #[error("{action} the processes of the control group {path}: {source}")]
    Freeze { action: &'static str, path: PathBuf, source: io::Error },
    /// The processes could not be ended.
    #[error("ending the processes of the control group {path}: {source}")]
    Kill { path: PathBuf, source: io::Error },
    /// The directory could not be removed.
    #[error("removing the control group {path}: {source}")]
    Remove { path: PathBuf, source: io::Error },
}

/// What a container uses or used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory now, with page cache.
    pub memory_bytes: u64,
    /// Largest number of bytes so far; 0 where the kernel does not say (v2 before 5.19).
    pub memory_peak_bytes: u64,
    /// Processor time so far, in microseconds.
    pub cpu_us: u64,
    /// Processes and threads now, the container's own first process included.
    pub pids: u64,
    /// How often a new process or thread was refused because of the limit.
    pub pids_refused: u64,
}

/// Which of the two file formats a controller speaks, and where.
#[derive(Debug, Clone)]
enum Place {
    V1(PathBuf),
    V2(PathBuf),
}

/// A container's directories.
#[derive(Debug)]
pub(crate) struct Group {
    v2: Option<PathBuf>,
    v1: Vec<PathBuf>,
    memory: Place,
    cpu: Place,
    /// v1 counts time in another controller than it limits it; `None` where that is missing.
    time: Option<Place>,
    pids: Place,
}

impl Group {
    /// Makes the group `parent`/`name` with its limits but for that of time. What was made `ahead`
    /// becomes part of it.
    ///
    /// # Errors
    /// When a controller is missing, or a limit is not taken; nothing is left behind, and what was
    /// made ahead is ended.
    pub(crate) fn create(
        layout: &Layout,
        parent: &str,
        name: &str,
        limits: &Limits,
        ahead: Option<Ahead>,
    ) -> Result<Self, Error> {
        prepare_parent(layout, parent)?;
        let group = Self::place(layout, &Path::new(parent).join(name))?;
        let given = ahead.map_or(Ok(vec![]), |ahead| ahead.give(parent, name))?;
        let made = group.make_directories(&given).and_then(|()| group.set_limits(limits));
        if let Err(error) = made {
            given.iter().for_each(|path| drop(empty_and_remove(path)));
            // A group that existed before belongs to somebody else.
            if !matches!(error, Error::Exists(_)) {
                group.directories().for_each(|path| drop(fs::remove_dir(path)));
            }
            return Err(error);
        }
        Ok(group)
    }

    fn place(layout: &Layout, below: &Path) -> Result<Self, Error> {
        let find = |controller: &str| {
            let v2 = layout.v2_of(controller).map(|top| Place::V2(top.join(below)));
            v2.or_else(|| layout.v1_of(controller).map(|top| Place::V1(top.join(below))))
        };
        let need =
            |field, controller| find(controller).ok_or(Error::Controller { field, controller });
        let memory = need("memory_bytes", "memory")?;
        let cpu = need("cpu_weight", "cpu")?;
        let pids = need("pids", "pids")?;
        let time = match &cpu {
            Place::V2(path) => Some(Place::V2(path.clone())),
            Place::V1(_) => find("cpuacct"),
        };
        let mut v1 = vec![];
        for place in [Some(&memory), Some(&cpu), Some(&pids), time.as_ref()].into_iter().flatten() {
            if let Place::V1(path) = place
                && !v1.contains(path)
            {
                v1.push(path.clone());
            }
        }
        let v2 = layout.v2.as_ref().map(|(top, _)| top.join(below));
        Ok(Self { v2, v1, memory, cpu, time, pids })
    }

    /// Its directories in v1's trees.
    pub(super) fn v1_places(layout: &Layout, below: &Path) -> Result<Vec<PathBuf>, Error> {
        Ok(Self::place(layout, below)?.v1)
    }

    /// Makes those that were not `given`.
    fn make_directories(&self, given: &[PathBuf]) -> Result<(), Error> {
        for path in self.directories().filter(|path| !given.iter().any(|given| given == path)) {
            fs::create_dir(path).map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
                _ => Error::Make { path: path.to_owned(), source },
            })?;
        }
        Ok(())
    }

    fn set_limits(&self, limits: &Limits) -> Result<(), Error> {
        let memory = limits.memory_bytes.to_string();
        match &self.memory {
            Place::V2(path) => {
                set(path, "memory.max", "memory_bytes", &memory)?;
                // Missing where the kernel has no swap at all.
                set_if_there(path, "memory.swap.max", "memory_bytes", "0")?;
            }
            Place::V1(path) => {
                set(path, "memory.limit_in_bytes", "memory_bytes", &memory)?;
                set_if_there(path, "memory.memsw.limit_in_bytes", "memory_bytes", &memory)?;
                set_if_there(path, "memory.swappiness", "memory_bytes", "0")?;
            }
        }
        // The container's first process is ours, not the program's.
        let pids = limits.pids.saturating_add(1).to_string();
        set(self.pids.path(), "pids.max", "pids", &pids)
    }

    /// Sets its limit of processor time: what builds the container is not held up by it.
    ///
    /// # Errors
    /// When it is not taken.
    pub(crate) fn set_cpu(&self, limits: &Limits) -> Result<(), Error> {
        let (weight, cap) = (u64::from(limits.cpu_weight), limits.cpu_max_millis.map(u64::from));
        match &self.cpu {
            Place::V2(path) => {
                set(path, "cpu.weight", "cpu_weight", &weight.to_string())?;
                if let Some(millis) = cap {
                    let value = format!("{} {CPU_PERIOD_US}", millis * CPU_PERIOD_US / 1000);
                    set(path, "cpu.max", "cpu_max_millis", &value)?;
                }
            }
            Place::V1(path) => {
                // 1024 shares of v1 are what weight 100 is in v2; 2 is the kernel's least.
                let shares = (weight * 1024 / 100).max(2).to_string();
                set(path, "cpu.shares", "cpu_weight", &shares)?;
                if let Some(millis) = cap {
                    let (period, quota) = (CPU_PERIOD_US, millis * CPU_PERIOD_US / 1000);
                    set(path, "cpu.cfs_period_us", "cpu_max_millis", &period.to_string())?;
                    set(path, "cpu.cfs_quota_us", "cpu_max_millis", &quota.to_string())?;
                }
            }
        }
        Ok(())
    }

    fn directories(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().chain(&self.v2).map(PathBuf::as_path)
    }

    /// The directory in v2's tree, for a clone into it.
    pub(crate) fn v2_directory(&self) -> Result<Option<OwnedFd>, Error> {
        let Some(path) = &self.v2 else { return Ok(None) };
        let file = File::open(path).map_err(|source| Error::Read { path: path.clone(), source })?;
        Ok(Some(file.into()))
    }

    /// Lets the container's first process put programs into groups below this one, if the plan
    /// says that it takes some: the kernel asks for the right to write to the members of the
    /// group above both. Nothing inside can use it in another way, as the tree is mounted
    /// read-only there.
    ///
    /// # Errors
    /// [`Error::NoV2`] without v2's tree.
    pub(crate) fn give_execs(&self, plan: &Plan) -> Result<(), Error> {
        if !plan.takes_execs {
            return Ok(());
        }
        give_members(self.v2_path("`takes_execs`")?, plan.ids.first)
    }

    /// The directory in v2's tree, which `what` needs.
    pub(super) fn v2_path(&self, what: &'static str) -> Result<&Path, Error> {
        self.v2.as_deref().ok_or(Error::NoV2(what))
    }

    /// The files of v1's trees to which the pid of a new member is written.
    pub(crate) fn v1_members(&self) -> Result<Vec<OwnedFd>, Error> {
        let open = |path: &PathBuf| {
            let path = path.join(MEMBERS);
            let file = fs::OpenOptions::new().write(true).open(&path);
            file.map(OwnedFd::from).map_err(|source| Error::Read { path, source })
        };
        self.v1.iter().map(open).collect()
    }

    /// How many processes the kernel killed for lack of memory.
    pub(crate) fn oom_kills(&self) -> Result<u64, Error> {
        match &self.memory {
            Place::V2(path) => keyed(path, "memory.events", "oom_kill"),
            Place::V1(path) => keyed(path, "memory.oom_control", "oom_kill"),
        }
    }

    /// What is used now.
    pub(crate) fn usage(&self) -> Result<Usage, Error> {
        let (memory_bytes, memory_peak_bytes) = match &self.memory {
            Place::V2(path) => {
                (number(path, "memory.current")?, number(path, "memory.peak").unwrap_or(0))
            }
            Place::V1(path) => {
                let peak = number(path, "memory.max_usage_in_bytes")?;
                (number(path, "memory.usage_in_bytes")?, peak)
            }
        };
        let cpu_us = match &self.time {
            Some(Place::V2(path)) => keyed(path, "cpu.stat", "usage_usec")?,
            Some(Place::V1(path)) => number(path, "cpuacct.usage")? / 1000,
            None => 0,
        };
        let pids = number(self.pids.path(), "pids.current")?;
        let pids_refused = keyed(self.pids.path(), "pids.events", "max")?;
        Ok(Usage { memory_bytes, memory_peak_bytes, cpu_us, pids, pids_refused })
    }

    /// Kills every process at once where v2 is there, else one after the other.
    pub(crate) fn kill(&self) -> Result<(), Error> {
        if let Some(path) = &self.v2
            && kill_all(path).is_ok()
        {
            return Ok(());
        }
        self.directories().try_for_each(|path| {
            kill_each(path).map_err(|source| Error::Kill { path: path.to_owned(), source })
        })
    }

    /// The processes in it and below.
    pub(crate) fn members(&self) -> Vec<String> {
        let Some(top) = self.v2.as_ref().or_else(|| self.v1.first()) else { return vec![] };
        let mut groups = vec![top.clone()];
        collect(top, &mut groups);
        let members = groups.iter().filter_map(|path| fs::read_to_string(path.join(MEMBERS)).ok());
        members.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// The name of a process in it that is in the middle of a call that cannot be broken off, and
    /// where in the kernel it waits.
    pub(crate) fn stuck(&self) -> Option<String> {
        let mut stuck = self.members().into_iter().filter_map(|pid| {
            let process = Path::new("/proc").join(&pid);
            let status = fs::read_to_string(process.join("status")).ok()?;
            let waits = status.lines().any(|line| line.starts_with("State:\tD"));
            let name = status.lines().find_map(|line| line.strip_prefix("Name:\t"))?;
            let place = fs::read_to_string(process.join("wchan")).unwrap_or_default();
            // Programs choose their names: no control characters for who reads this.
            waits.then(|| format!("process {pid} ({}), in {place},", name.escape_default()))
        });
        // The first process of a container waits for all others, and is found last.
        let first = stuck.next();
        stuck.next().or(first)
    }

    /// Kills what is left and removes the directories.
    ///
    /// # Errors
    /// When they do not become empty within [`KILL_MS_MAX`].
    pub(crate) fn remove(&self) -> Result<(), Error> {
        self.directories().try_for_each(remove_tree)
    }
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::V1(path) | Self::V2(path) => path,
        }
    }
}

/// Makes `owner` the owner of the list of members of the group at `path`.
pub(super) fn give_members(path: &Path, owner: u32) -> Result<(), Error> {
    let path = path.join(MEMBERS);
    std::os::unix::fs::chown(&path, Some(owner), None)
        .map_err(|source| Error::Give { path, source })
}

/// Makes `parent` in every tree, with v2's controllers switched on for what is below.
pub(super) fn prepare_parent(layout: &Layout, parent: &str) -> Result<(), Error> {
    let tops = layout.v1.iter().map(|(top, _)| top);
    for top in tops.chain(layout.v2.iter().map(|(top, _)| top)) {
        let path = top.join(parent);
        if !path.is_dir() {
            fs::create_dir_all(&path).map_err(|source| Error::Make { path, source })?;
        }
    }
    let Some((top, controllers)) = &layout.v2 else { return Ok(()) };
    let wanted = |name: &&String| matches!(name.as_str(), "memory" | "cpu" | "pids");
    let mut path = top.clone();
    for part in std::iter::once("").chain(parent.split('/')) {
        if !part.is_empty() {
            path.push(part);
        }
        let on = fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
        let off = |name: &&String| !on.split_whitespace().any(|one| one == name.as_str());
        for name in controllers.iter().filter(wanted).filter(off) {
            fs::write(path.join("cgroup.subtree_control"), format!("+{name}"))
                .map_err(|source| Error::Delegate { path: path.clone(), source })?;
        }
    }
    Ok(())
}

/// The groups below `parent`, by tree, deepest first; none where the parent does not exist.
pub(crate) fn open(layout: &Layout, parent: &str) -> Vec<PathBuf> {
    let tops = layout.v2.iter().chain(&layout.v1).map(|(top, _)| top.join(parent));
    let mut found = vec![];
    for top in tops {
        collect(&top, &mut found);
    }
    found
}

fn collect(top: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
            found.push(entry.path());
        }
    }
}

/// Kills what is in the group at `path` and those below it and removes all of them.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    // All at once where that is possible: else something could go on while it is looked for.
    let _ = kill_all(path);
    let mut below = vec![];
    collect(path, &mut below);
    below.iter().map(PathBuf::as_path).chain([path]).try_for_each(empty_and_remove)
}

/// Kills what is in the group at `path` and removes its directory, in whichever tree it lies.
pub(crate) fn empty_and_remove(path: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_millis(KILL_MS_MAX);
    let mut pause_us = 50;
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) if Instant::now() > deadline => {
                return Err(Error::Remove { path: path.to_owned(), source });
            }
            Err(_) if kill_all(path).is_ok() => {}
            Err(_) => {
                kill_each(path).map_err(|source| Error::Kill { path: path.to_owned(), source })?
            }
        }
        std::thread::sleep(Duration::from_micros(pause_us));
        pause_us = (pause_us * 2).min(5_000);
    }
}

/// cgroup.kill, since 5.14, in v2's tree only.
pub(super) fn kill_all(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).open(path.join("cgroup.kill"))?;
    io::Write::write_all(&mut file, b"1")
}

fn kill_each(path: &Path) -> io::Result<()> {
    let members = match fs::read_to_string(path.join(MEMBERS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        members => members?,
    };
    for pid in members.lines().filter_map(|line| line.parse().ok()) {
        // 0 stands for a process of another pid namespace.
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn set(group: &Path, file: &str, field: &'static str, value: &str) -> Result<(), Error> {
    let path = group.join(file);
    let write = || {
        // Not fs::write, which would create and truncate.
        let mut file = fs::OpenOptions::new().write(true).open(&path)?;
        io::Write::write_all(&mut file, value.as_bytes())
    };
    write().map_err(|source| Error::Limit { field, path, value: value.to_owned(), source })
}

fn set_if_there(group: &Path, file: &str, field: &'static str, value: &str) -> Result<(), Error> {
    if group.join(file).exists() { set(group, file, field, value) } else { Ok(()) }
}

fn text(group: &Path, file: &str) -> Result<String, Error> {
    let path = group.join(file);
    fs::read_to_string(&path).map_err(|source| Error::Read { path, source })
}

fn number(group: &Path, file: &str) -> Result<u64, Error> {
    let value = text(group, file)?;
    let parse = value.trim().parse().map_err(io::Error::other);
    parse.map_err(|source| Error::Read { path: group.join(file), source })
}

/// The value behind `key` in a file of lines `key value`; 0 if it is not there.
fn keyed(group: &Path, file: &str, key: &str) -> Result<u64, Error> {
    let value = text(group, file)?;
    let mut pairs = value.lines().filter_map(|line| line.split_once(' '));
    let found = pairs.find(|(name, _)| *name == key).and_then(|(_, value)| value.parse().ok());
    Ok(found.unwrap_or(0))
}

/// The file with the processes of a group.
pub(super) const MEMBERS: &str = "cgroup.procs";

/// The kernel's default period of a hard limit.
const CPU_PERIOD_US: u64 = 100_000;
