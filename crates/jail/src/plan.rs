//! What a container is, as plain data, and which plans are refused before anything is made.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::limits;

/// One container: its root, its walls, its limits and its program.
///
/// Every path that is not said to be inside the container is the host's, absolute, and the
/// caller's responsibility; paths inside are absolute too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the control group, `[a-z0-9-]{1,64}`, unique below `cgroup_parent`.
    pub name: String,
    /// Control group below which the container's own is made, relative to the top of each
    /// hierarchy, e.g. `palisade`. Made if it is missing. It belongs to this crate alone:
    /// [`crate::sweep`] ends whatever lies below it.
    pub cgroup_parent: String,
    /// Host name seen inside, `[A-Za-z0-9-.]{1,64}`.
    pub hostname: String,
    /// Host ids that ids 0.. of the container are.
    pub ids: IdRange,
    /// Read-only folders of which the root consists, bottom first; none for an empty root.
    pub layers: Vec<PathBuf>,
    /// Folder that takes what the container writes. Its files lie on disk with ids from 0, so
    /// that it can become a layer: set-user-id files of the container's root are then real ones
    /// on the host, hence a folder above must be closed to others (mode 0700).
    pub upper: PathBuf,
    /// Empty folder for the kernel's own use, in the same folder as `upper`.
    pub work: PathBuf,
    /// Nothing written is kept: fsync is not passed on, and the kernel refuses to use the same
    /// `work` folder a second time. Where the file system of `upper` cannot map ids (a tmpfs
    /// before Linux 6.3), files lie there with the container's own ids instead of those from 0;
    /// without this, such a file system is an error.
    pub volatile: bool,
    /// Folders and files of the host that are visible inside.
    pub binds: Vec<Bind>,
    /// Small files such as /etc/resolv.conf, kept in the container's own memory.
    pub files: Vec<InlineFile>,
    /// Further memory file systems.
    pub tmpfs: Vec<Tmpfs>,
    /// Bytes of /dev/shm.
    pub shm_bytes: u64,
    /// What the whole container may use.
    pub limits: Limits,
    /// The program. Without one nothing is run, and the container lives until it is ended from
    /// outside: nothing in it can end it.
    pub process: Option<Process>,
    /// Whether [`crate::Child::exec`] may start further programs in it. Its first process then
    /// keeps what it needs for that: the container's capabilities, and a call to make processes
    /// that programs do not have.
    pub takes_execs: bool,
    /// End the container when the process that prepared it is gone, however it went.
    pub end_with_caller: bool,
}

/// A range of user and group ids of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The host's id that is 0 inside. Never 0.
    pub first: u32,
    /// How many ids; 65,536 for everything that a distribution expects.
    pub count: u32,
}

/// A folder or file of the host, visible inside, without what is mounted below it; never
/// set-user-id, never devices.
///
/// The container's /proc/self/mountinfo shows where `source` lies *below the top of its file
/// system*: to keep the host's paths unknown, sources are tops of file systems or lie on a small
/// tmpfs with neutral names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bind {
    /// The host's path; symbolic links in it are followed.
    pub source: PathBuf,
    /// Path inside; made if it is missing.
    pub target: PathBuf,
    /// Nothing can be written through it.
    pub read_only: bool,
    /// How owners are shown.
    pub ids: BindIds,
}

/// How the owners of a bound folder's files are shown inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BindIds {
    /// Owner 0 on disk is 0 inside where the file system can map ids; elsewhere as `AsIs`.
    #[default]
    MappedIfPossible,
    /// Owner 0 on disk is 0 inside; an error where the file system cannot map ids.
    Mapped,
    /// The host's ids; those outside the container's range are nobody.
    AsIs,
}

/// A small file, given by its content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InlineFile {
    /// Path inside; made if it is missing.
    pub target: PathBuf,
    /// The bytes.
    pub content: Vec<u8>,
    /// Permission bits, e.g. 0o644; the owner is the container's root.
    pub mode: u32,
    /// Nothing can be written to it.
    pub read_only: bool,
}

/// A memory file system, counted as the container's memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Path inside; made if it is missing.
    pub target: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// Permission bits of its top folder, e.g. 0o1777.
    pub mode: u32,
}

/// What the processes of a container may use together, unless said otherwise.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes, with page cache and memory file systems; there is no swap beside it.
    pub memory_bytes: u64,
    /// Share of the processor under contention, 1 to 10,000; 100 is usual.
    pub cpu_weight: u32,
    /// Hard limit in thousandths of a processor.
    pub cpu_max_millis: Option<u32>,
    /// Processes and threads; the container's own first process is not counted.
    pub pids: u64,
    /// Open files of each process. The host's hard limit wins if it is lower.
    pub open_files: u64,
    /// Bytes of any one file that a process writes.
    pub file_size_bytes: Option<u64>,
}

/// A program that runs in a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments. A name without a slash is looked up in the PATH of `env`.
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Folder inside.
    pub cwd: PathBuf,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Further group ids inside.
    pub groups: Vec<u32>,
}

/// Why a plan is refused. `field` is the name in [`Plan`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("plan field `{field}` {reason}")]
pub struct Refused {
    /// The field's name.
    pub field: &'static str,
    /// What is wrong, as the rest of a sentence.
    pub reason: String,
}

impl Plan {
    /// Checks what can be known without touching the kernel.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), Refused> {
        name("name", &self.name, b"-", 64)?;
        self.cgroup_parent.split('/').try_for_each(|part| {
            name("cgroup_parent", part, b"-_.ABCDEFGHIJKLMNOPQRSTUVWXYZ@", 64)
        })?;
        name("hostname", &self.hostname, b"-.ABCDEFGHIJKLMNOPQRSTUVWXYZ", 64)?;
        self.check_ids()?;
        self.check_root()?;
        self.check_mounts()?;
        self.limits.check()?;
        self.process.iter().try_for_each(|process| process.check(self.ids))
    }

    fn check_ids(&self) -> Result<(), Refused> {
        let IdRange { first, count } = self.ids;
        ensure(first > 0, "ids", "starts at the host's root")?;
        ensure(count > 0, "ids", "is empty")?;
        // The last id of all, 2^32 - 1, means "none" to the kernel.
        ensure(first.checked_add(count).is_some(), "ids", "is beyond the largest id")
    }

    fn check_root(&self) -> Result<(), Refused> {
        let many = format!("has more than {} folders", limits::LAYERS_MAX);
        ensure(self.layers.len() <= limits::LAYERS_MAX, "layers", many)?;
        self.layers.iter().try_for_each(|path| host_path("layers", path))?;
        host_path("upper", &self.upper)?;
        host_path("work", &self.work)?;
        let siblings = self.upper.parent() == self.work.parent() && self.upper != self.work;
        ensure(siblings, "work", "must lie in the same folder as `upper`, and be another one")
    }

    fn check_mounts(&self) -> Result<(), Refused> {
        let many = |max: usize| format!("has more than {max} entries");
        ensure(self.binds.len() <= limits::BINDS_MAX, "binds", many(limits::BINDS_MAX))?;
        ensure(self.files.len() <= limits::FILES_MAX, "files", many(limits::FILES_MAX))?;
        ensure(self.tmpfs.len() <= limits::FILES_MAX, "tmpfs", many(limits::FILES_MAX))?;
        for bind in &self.binds {
            host_path("binds", &bind.source)?;
            inside("binds", &bind.target)?;
        }
        for file in &self.files {
            inside("files", &file.target)?;
            let large = format!("holds {} of more than 1 MiB", file.target.display());
            ensure(file.content.len() <= limits::FILE_BYTES_MAX, "files", large)?;
        }
        for tmpfs in &self.tmpfs {
            inside("tmpfs", &tmpfs.target)?;
            ensure(tmpfs.bytes > 0, "tmpfs", "has an entry of no size")?;
        }
        ensure(self.shm_bytes > 0, "shm_bytes", "is 0, which would mean no limit")
    }
}

impl Limits {
    fn check(&self) -> Result<(), Refused> {
        ensure(self.memory_bytes >= 1 << 20, "limits.memory_bytes", "is less than 1 MiB")?;
        let weight = (1..=10_000).contains(&self.cpu_weight);
        ensure(weight, "limits.cpu_weight", "is not in 1..=10000")?;
        // The kernel's smallest slice is 1 ms of a period of 100 ms.
        let cap = self.cpu_max_millis.is_none_or(|millis| millis >= 10);
        ensure(cap, "limits.cpu_max_millis", "is less than 10")?;
        ensure(self.pids > 0, "limits.pids", "is 0")?;
        ensure(self.open_files >= 16, "limits.open_files", "is less than 16")
    }
}

impl Process {
    /// Checks what can be known without touching the kernel.
    pub(crate) fn check(&self, ids: IdRange) -> Result<(), Refused> {
        ensure(
            self.argv.first().is_some_and(|program| !program.is_empty()),
            "process.argv",
            "names no program",
        )?;
        let nul = "holds a NUL byte";
        ensure(!self.argv.iter().any(|arg| arg.contains('\0')), "process.argv", nul)?;
        for (key, value) in &self.env {
            let usable = !key.is_empty() && !key.contains(['=', '\0']);
            ensure(usable, "process.env", format!("has the unusable name {key:?}"))?;
            ensure(!value.contains('\0'), "process.env", format!("{key} {nul}"))?;
        }
        inside_or_top("process.cwd", &self.cwd)?;
        let known = |id: u32| id < ids.count;
        ensure(known(self.uid), "process.uid", "is outside the container's ids")?;
        ensure(known(self.gid), "process.gid", "is outside the container's ids")?;
        let groups = self.groups.iter().all(|&id| known(id));
        ensure(groups, "process.groups", "has one outside the container's ids")
    }
}

fn ensure(holds: bool, field: &'static str, reason: impl Into<String>) -> Result<(), Refused> {
    if holds { Ok(()) } else { Err(Refused { field, reason: reason.into() }) }
}

fn name(field: &'static str, text: &str, also: &[u8], max: usize) -> Result<(), Refused> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || also.contains(&b);
    let good = (1..=max).contains(&text.len()) && text.bytes().all(allowed);
    let good = good && text != "." && text != "..";
    ensure(good, field, format!("is not usable as a name: {text:?}"))
}

pub(crate) fn host_path(field: &'static str, path: &Path) -> Result<(), Refused> {
    let good = path.is_absolute() && path.to_str().is_some_and(|text| !text.contains('\0'));
    ensure(good, field, format!("is no absolute path of UTF-8 text: {}", path.display()))
}

pub(crate) fn inside(field: &'static str, path: &Path) -> Result<(), Refused> {
    ensure(path != Path::new("/"), field, "has the whole root as target")?;
    inside_or_top(field, path)
}

fn inside_or_top(field: &'static str, path: &Path) -> Result<(), Refused> {
    host_path(field, path)?;
    let plain = path.components().all(|part| part != Component::ParentDir);
    ensure(plain, field, format!("has a path with `..`: {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            name: "a-1".into(),
            cgroup_parent: "palisade/x".into(),
            hostname: "Box".into(),
            ids: IdRange { first: 100_000, count: 65_536 },
            layers: vec!["/l".into()],
            upper: "/s/upper".into(),
            work: "/s/work".into(),
            volatile: true,
            binds: vec![],
            files: vec![],
            tmpfs: vec![],
            shm_bytes: 1,
            limits: Limits {
                memory_bytes: 1 << 26,
                cpu_weight: 100,
                cpu_max_millis: None,
                pids: 10,
                open_files: 100,
                file_size_bytes: None,
            },
            process: Some(Process {
                argv: vec!["true".into()],
                env: vec![],
                cwd: "/".into(),
                uid: 0,
                gid: 0,
                groups: vec![],
            }),
            takes_execs: false,
            end_with_caller: true,
        }
    }

    #[test]
    fn refuses_by_field() {
        let check = |change: fn(&mut Plan), field: &str| {
            let mut plan = plan();
            change(&mut plan);
            let refused = plan.check().expect_err(field);
            assert_eq!(refused.field, field);
        };
        assert_eq!(plan().check(), Ok(()));
        check(|p| p.name = "../x".into(), "name");
        check(|p| p.cgroup_parent = "a/../b".into(), "cgroup_parent");
        check(|p| p.cgroup_parent = "/a".into(), "cgroup_parent");
        check(|p| p.ids.first = 0, "ids");
        check(|p| p.ids.first = u32::MAX - 5, "ids");
        check(|p| p.work = "/elsewhere/work".into(), "work");
        check(|p| p.work = p.upper.clone(), "work");
        check(|p| p.limits.memory_bytes = 0, "limits.memory_bytes");
        let check_process = |change: fn(&mut Process), field: &str| {
            let mut process = plan().process.expect("a program");
            change(&mut process);
            assert_eq!(process.check(plan().ids).expect_err(field).field, field);
        };
        check_process(|p| p.argv.clear(), "process.argv");
        check_process(|p| p.env = vec![("A=B".into(), String::new())], "process.env");
        check_process(|p| p.cwd = "/a/../../b".into(), "process.cwd");
        check_process(|p| p.uid = 65_536, "process.uid");
        check(|p| p.process.as_mut().expect("a program").argv.clear(), "process.argv");
        assert_eq!(Plan { process: None, ..plan() }.check(), Ok(()));
        let bind = |target: &str| Bind {
            source: "/x".into(),
            target: target.into(),
            read_only: true,
            ids: BindIds::default(),
        };
        let mut p = plan();
        p.binds = vec![bind("/")];
        assert_eq!(p.check().expect_err("whole root").field, "binds");
        p.binds = vec![bind("/a/../b")];
        assert_eq!(p.check().expect_err("dots").field, "binds");
    }
}
