//! What this host offers to containers: read where the kernel says it, tried where it does not.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;

use crate::cgroup::Layout;
use crate::plan::{IdRange, Limits, Plan, Process};
use crate::root::Root;
use crate::sys::mount::set_attributes;

/// What can be read without trying anything.
#[derive(Debug, Clone)]
pub struct Host {
    /// Release of the kernel, e.g. `6.1.0-32-amd64`.
    pub kernel: String,
    /// Whether it is older than 6.1, the oldest that this crate is made for.
    pub kernel_too_old: bool,
    /// Whether this process is root in its user namespace.
    pub root: bool,
    /// Whether that is the host's own user namespace, and not one inside another.
    pub initial_user_namespace: bool,
    /// User namespaces that may be made; 0 where an administrator switched them off.
    pub user_namespaces_max: u64,
    /// Whether the kernel has overlayfs, now or as a module that it will load.
    pub overlay_known: bool,
    /// Whether syscall filters can answer errors.
    pub seccomp: bool,
    /// Which control group trees hold what a plan's limits need.
    pub cgroups: Cgroups,
    /// Hard limit of open files: containers cannot have more.
    pub open_files_max: Option<u64>,
    /// Capabilities that building containers needs and this process does not have.
    pub capabilities_missing: Vec<&'static str>,
    /// Capabilities without which something is weaker, and what.
    pub capabilities_wished: Vec<(&'static str, &'static str)>,
    /// Mounts that hide parts of /proc: the kernel then refuses a new /proc to containers.
    pub proc_hidden_by: Vec<String>,
}

/// Where the controllers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    /// All in one tree, all in trees of their own, or both.
    pub kind: CgroupKind,
    /// Version of the tree that holds `memory`, if any does.
    pub memory: Option<u8>,
    /// The same for `cpu`.
    pub cpu: Option<u8>,
    /// The same for `pids`.
    pub pids: Option<u8>,
}

impl Cgroups {
    /// Whether any limit is kept by version 1.
    pub fn needs_version_1(&self) -> bool {
        [self.memory, self.cpu, self.pids].contains(&Some(1))
    }

    /// Whether version 2 is there, with or without controllers.
    pub fn has_version_2(&self) -> bool {
        matches!(self.kind, CgroupKind::V2 | CgroupKind::Hybrid)
    }
}

/// The kinds of control group layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupKind {
    /// Only version 2.
    V2,
    /// Only version 1.
    V1,
    /// Both are mounted.
    Hybrid,
    /// None is mounted.
    None,
}

/// Reads the facts of this host.
pub fn read() -> Host {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let (missing, wished) = capabilities();
    Host {
        kernel_too_old: version(&kernel) < (6, 1),
        kernel,
        root: rustix::process::geteuid().is_root(),
        initial_user_namespace: fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"])),
        user_namespaces_max: number("/proc/sys/user/max_user_namespaces").unwrap_or(0),
        overlay_known: fs::read_to_string("/proc/filesystems")
            .is_ok_and(|list| list.lines().any(|line| line.ends_with("\toverlay")))
            || Path::new("/lib/modules").is_dir(),
        seccomp: fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail")
            .is_ok_and(|list| list.split_whitespace().any(|action| action == "errno")),
        cgroups: cgroups(&Layout::detect().unwrap_or_default()),
        open_files_max: getrlimit(Resource::Nofile).maximum,
        capabilities_missing: missing,
        capabilities_wished: wished,
        proc_hidden_by: proc_hidden_by(
            &fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
        ),
    }
}

/// Whether further programs can be started in containers of this host ([`Plan::takes_execs`]): each
/// is born in a group of version 2's tree.
pub fn takes_execs() -> bool {
    Layout::detect().is_ok_and(|layout| layout.v2.is_some())
}

/// Lets this process open as many files as the host allows it. Containers and the programs in them
/// take some each: without it there can be fewer at once.
pub fn raise_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Why the trial failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder for it.
    #[error("preparing the folder of a trial container: {0}")]
    Folder(#[from] crate::root::Error),
    /// The container.
    #[error(transparent)]
    Container(#[from] crate::spawn::Error),
}

/// Builds a container with an empty root below `folder`, a folder on the file system on which
/// containers will live, and removes it: everything that [`crate::prepare`] does is tried,
/// nothing is executed inside. Answers how long building took.
///
/// # Errors
/// Which step failed, and why.
pub fn try_container(
    exe: &Path,
    folder: &Path,
    cgroup_parent: &str,
    ids: IdRange,
) -> Result<Duration, Error> {
    let root = Root::open_folder(folder)?;
    let name = format!("trial-{}", std::process::id());
    for part in ["layer", "upper", "work"] {
        root.mkdir_all(&Path::new(&name).join(part), 0o700)?;
    }
    let begin = Instant::now();
    let plan = trial(name.clone(), &folder.join(&name), cgroup_parent, ids);
    let stdio = crate::Stdio::null()
        .map_err(|source| crate::root::Error::Open { path: "/dev/null".into(), source })?;
    let tried = crate::spawn::prepare_with(exe, &plan, stdio).map(|_| begin.elapsed());
    root.remove_all(name.as_ref())?;
    Ok(tried?)
}

/// Whether a tmpfs can map ids, which came with Linux 6.3: tried on one that is attached nowhere,
/// with the user namespace of a process that is started for it.
///
/// # Errors
/// When it could not be tried.
pub fn try_memory_ids() -> io::Result<bool> {
    let mut holder = Command::new("unshare")
        .args(["--user", "--map-root-user", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let tried = try_ids_of(&mut holder);
    holder.kill()?;
    holder.wait()?;
    tried
}

fn try_ids_of(holder: &mut Child) -> io::Result<bool> {
    let (Some(mut to), Some(mut from)) = (holder.stdin.take(), holder.stdout.take()) else {
        return Err(io::Error::other("no pipes to the process"));
    };
    // It answers once it is in its namespace.
    to.write_all(b"x")?;
    from.read_exact(&mut [0])?;
    let userns = fs::File::open(format!("/proc/{}/ns/user", holder.id()))?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    match set_attributes(mount.as_fd(), 0, Some(userns.as_fd()), false) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error),
    }
}

fn trial(name: String, folder: &Path, cgroup_parent: &str, ids: IdRange) -> Plan {
    Plan {
        name,
        cgroup_parent: cgroup_parent.to_owned(),
        hostname: "trial".into(),
        ids,
        layers: vec![folder.join("layer")],
        upper: folder.join("upper"),
        work: folder.join("work"),
        volatile: true,
        binds: vec![],
        files: vec![],
        tmpfs: vec![],
        shm_bytes: 1 << 20,
        limits: Limits {
            memory_bytes: 64 << 20,
            cpu_weight: 100,
            cpu_max_millis: Some(1000),
            pids: 16,
            open_files: 64,
            file_size_bytes: None,
        },
        process: Some(Process {
            argv: vec!["nothing".into()],
            env: vec![],
            cwd: PathBuf::from("/"),
            uid: 0,
            gid: 0,
            groups: vec![],
        }),
        takes_execs: false,
        end_with_caller: true,
    }
}

fn version(kernel: &str) -> (u32, u32) {
    let digits = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().unwrap_or(0)
    };
    let mut parts = kernel.split('.').map(digits);
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn cgroups(layout: &Layout) -> Cgroups {
    let version = |controller: &str| {
        let v2 = layout.v2_of(controller).map(|_| 2);
        v2.or_else(|| layout.v1_of(controller).map(|_| 1))
    };
    let kind = match (&layout.v2, layout.v1.is_empty()) {
        (Some(_), true) => CgroupKind::V2,
        (Some(_), false) => CgroupKind::Hybrid,
        (None, false) => CgroupKind::V1,
        (None, true) => CgroupKind::None,
    };
    Cgroups { kind, memory: version("memory"), cpu: version("cpu"), pids: version("pids") }
}

fn capabilities() -> (Vec<&'static str>, Vec<(&'static str, &'static str)>) {
    let held =
        rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let missing = NEEDED.iter().filter(|(one, _)| !held.contains(*one)).map(|&(_, name)| name);
    let wished = WISHED.iter().filter(|(one, ..)| !held.contains(*one));
    (missing.collect(), wished.map(|&(_, name, why)| (name, why)).collect())
}

const NEEDED: [(CapabilitySet, &str); 8] = [
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::SETPCAP, "CAP_SETPCAP"),
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    (CapabilitySet::FOWNER, "CAP_FOWNER"),
    (CapabilitySet::KILL, "CAP_KILL"),
];

const WISHED: [(CapabilitySet, &str, &str); 2] = [
    (CapabilitySet::SYS_RESOURCE, "CAP_SYS_RESOURCE", "limits of open files cannot be raised"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "containers can have no network"),
];

/// Mount points below /proc, but for what Linux itself puts there.
fn proc_hidden_by(mountinfo: &str) -> Vec<String> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    let usual = |point: &&str| !point.starts_with("/proc/sys/fs/binfmt_misc");
    points.filter(|point| point.starts_with("/proc/")).filter(usual).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        for (text, want) in
            [("6.1.0-32-amd64", (6, 1)), ("6.18.44", (6, 18)), ("5.15", (5, 15)), ("x", (0, 0))]
        {
            assert_eq!(version(text), want, "{text}");
        }
    }

    #[test]
    fn reads_what_hides_proc() {
        let mounts = "1 0 0:5 / /proc rw - proc proc rw\n\
                      2 1 0:6 / /proc/sys/fs/binfmt_misc rw - autofs x rw\n\
                      3 1 0:7 / /proc/kcore rw - tmpfs tmpfs rw\n";
        assert_eq!(proc_hidden_by(mounts), ["/proc/kcore"]);
    }

    #[test]
    fn memory_maps_ids_from_6_3_on() {
        // Other distributions may have brought it to older kernels; Debian and kernel.org did not.
        assert_eq!(try_memory_ids().unwrap(), version(&read().kernel) >= (6, 3));
    }

    #[test]
    fn reads_this_host() {
        let host = read();
        assert!(!host.kernel_too_old && host.seccomp && host.overlay_known, "{host:?}");
        assert_ne!(host.cgroups.kind, CgroupKind::None, "{host:?}");
    }
}
