//! What a function's container finds inside: its environment, its program, its small files.

use std::path::{Path, PathBuf};

use images::Image;
use jail::{Bind, BindIds, InlineFile, Limits, Plan, Process};
use model::spec::TaskSpec;

use crate::door::{DOOR_INSIDE, SOCKET_NAME};
use crate::limits::SHM_BYTES;

/// Where the client's description of the task lies.
const ARGUMENTS_INSIDE: &str = "/run/palisade/arguments";

/// Name servers for a container without a network: none.
const NO_RESOLVER: &str = "# this container has no network\n";

/// The places that a task's container is made of.
pub(crate) struct Places<'p> {
    /// Name of its control group.
    pub name: String,
    /// The control group above it.
    pub cgroup_parent: String,
    /// Its range of host ids.
    pub ids: jail::IdRange,
    /// Its root, bottom first.
    pub layers: Vec<PathBuf>,
    /// Its writable layer.
    pub dirs: images::StepDirs,
    /// The folder with its socket.
    pub door: &'p Path,
    /// The address to ask for names, where it has a network.
    pub resolver: Option<std::net::Ipv4Addr>,
    /// Whether clients may run programs in it.
    pub takes_execs: bool,
}

/// What is started: the client's own program, by the image's entrypoint where it has one. That
/// must execute its arguments, as everywhere.
fn program(image: &Image) -> Vec<String> {
    let client = ["python", "-m", "modal._container_entrypoint"].map(String::from);
    image.config.entrypoint.iter().cloned().chain(client).collect()
}

/// The environment: the image's, then the secrets', then what the client's program needs.
fn environment(spec: &TaskSpec, image: &Image) -> Vec<(String, String)> {
    let mut env = images::Config::default();
    env.set_env("PATH", images::DEFAULT_PATH.into());
    env.set_env("HOME", "/root".into());
    env.set_env("LANG", "C.UTF-8".into());
    let set = image.config.env.iter().chain(&spec.env);
    for (name, value) in set {
        env.set_env(name, value.clone());
    }
    let python_path = match env.env("PYTHONPATH") {
        Some(path) if !path.is_empty() => format!("{path}:/root:/pkg"),
        Some(_) | None => "/root:/pkg".to_owned(),
    };
    env.set_env("PYTHONPATH", python_path);
    env.set_env("PYTHONUNBUFFERED", "1".into());
    if spec.keeps_files {
        // What Python compiles of the source that is laid over the image is no part of it.
        env.set_env("PYTHONDONTWRITEBYTECODE", "1".into());
    }
    // Without it the program takes the path of a client on a user's machine (modal 1.6.4).
    env.set_env("MODAL_IS_REMOTE", "1".into());
    env.set_env("MODAL_SERVER_URL", format!("unix://{DOOR_INSIDE}/{SOCKET_NAME}"));
    env.set_env("MODAL_CONTAINER_ARGUMENTS_PATH", ARGUMENTS_INSIDE.into());
    env.env
}

pub(crate) fn file(target: &str, content: Vec<u8>) -> InlineFile {
    InlineFile { target: target.into(), content, mode: 0o644, read_only: true }
}

/// `/etc/hosts` of a container.
pub(crate) fn hosts(hostname: &str) -> Vec<u8> {
    format!("127.0.0.1\tlocalhost {hostname}\n").into_bytes()
}

/// `/etc/resolv.conf` of a container.
pub(crate) fn resolv_conf(resolver: Option<std::net::Ipv4Addr>) -> Vec<u8> {
    match resolver {
        Some(address) => format!("nameserver {address}\n").into_bytes(),
        None => NO_RESOLVER.as_bytes().to_vec(),
    }
}

/// Limits as the jail has them.
pub(crate) fn limits(limits: &model::resources::Limits) -> Limits {
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Limits {
        memory_bytes: limits.memory_bytes,
        // A whole core is the usual share of 100.
        cpu_weight: narrow(limits.cpu_weight_millis / 10).clamp(1, 10_000),
        cpu_max_millis: Some(narrow(limits.cpu_max_millis)),
        pids: limits.pids,
        open_files: limits.open_files,
        file_size_bytes: None,
    }
}

/// The plan of a task's container, and the program in it.
pub(crate) fn plan(spec: &TaskSpec, image: &Image, places: Places<'_>) -> (Plan, Process) {
    let hostname = "palisade".to_owned();
    let process = Process {
        argv: program(image),
        env: environment(spec, image),
        cwd: cwd(image),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    };
    let plan = Plan {
        name: places.name,
        cgroup_parent: places.cgroup_parent,
        ids: places.ids,
        layers: places.layers,
        upper: places.dirs.upper,
        work: places.dirs.work,
        // What is kept is written to the disk before it gets its name.
        volatile: !spec.keeps_files,
        binds: vec![Bind {
            source: places.door.to_owned(),
            target: DOOR_INSIDE.into(),
            read_only: true,
            ids: BindIds::AsIs,
        }],
        files: vec![
            file("/etc/hostname", format!("{hostname}\n").into_bytes()),
            file("/etc/hosts", hosts(&hostname)),
            file("/etc/resolv.conf", resolv_conf(places.resolver)),
            file(ARGUMENTS_INSIDE, spec.arguments.to_vec()),
        ],
        hostname,
        tmpfs: Vec::new(),
        shm_bytes: SHM_BYTES.min(spec.limits.memory_bytes / 2),
        limits: limits(&spec.limits),
        process: Some(process.clone()),
        takes_execs: places.takes_execs,
        end_with_caller: true,
    };
    (plan, process)
}

/// The image's working folder; `/root` where it says nothing, as the client's users expect.
fn cwd(image: &Image) -> PathBuf {
    match image.config.workdir.as_str() {
        "" | "/" => PathBuf::from("/root"),
        path => PathBuf::from(path),
    }
}
