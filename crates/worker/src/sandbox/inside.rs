//! What a sandbox finds inside: its environment, its program, its small files, the file tool.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use images::Image;
use jail::network::{Outbound, Policy, Subnet};
use jail::{Bind, BindIds, Plan, Process};
use model::sandbox::{NetworkRule, SandboxStart};

use super::folder::Folder;
use crate::limits::SHM_BYTES;
use crate::mount_points::MountPoints;
use crate::supervisor::words::{Assignment, OnTerminal};
use crate::task::inside;

/// The places that a sandbox is made of.
pub(crate) struct Places<'p> {
    /// Its folder, which has the name of its control group.
    pub(crate) folder: &'p Folder,
    /// The control group above it.
    pub(crate) cgroup_parent: String,
    /// Its range of host ids.
    pub(crate) ids: jail::IdRange,
    /// Its root, bottom first.
    pub(crate) layers: Vec<PathBuf>,
    /// Its writable layer.
    pub(crate) upper: PathBuf,
    /// The kernel's folder beside that.
    pub(crate) work: PathBuf,
    /// The folder with the file tool.
    pub(crate) tools: &'p Path,
    /// The address to ask for names, where there is a network.
    pub(crate) resolver: Option<Ipv4Addr>,
}

/// The image's variables, then the sandbox's.
fn environment(start: &SandboxStart, image: &Image) -> Vec<(String, String)> {
    let mut env = images::Config::default();
    env.set_env("PATH", images::DEFAULT_PATH.into());
    env.set_env("HOME", "/root".into());
    env.set_env("LANG", "C.UTF-8".into());
    for (name, value) in image.config.env.iter().chain(&start.env) {
        env.set_env(name, value.clone());
    }
    env.env
}

/// What is run: the sandbox's own program, by the image's entrypoint where that has one, or the
/// image's. None: nothing.
fn program(start: &SandboxStart, image: &Image) -> Vec<String> {
    let own = if start.entrypoint.is_empty() { &image.config.cmd } else { &start.entrypoint };
    image.config.entrypoint.iter().chain(own).cloned().collect()
}

/// The sandbox's folder, else the image's, else root's home, if the image has one.
fn cwd(start: &SandboxStart, image: &Image, layers: &[PathBuf]) -> String {
    match (&start.workdir, image.config.workdir.as_str()) {
        (Some(path), _) => path.clone(),
        (None, "" | "/") => {
            let has_home = layers.iter().any(|layer| layer.join("root").is_dir());
            if has_home { "/root".into() } else { "/".into() }
        }
        (None, path) => path.to_owned(),
    }
}

/// What its supervisor is to do.
pub(crate) fn assignment(start: &SandboxStart, image: &Image, places: Places<'_>) -> Assignment {
    let (env, cwd) = (environment(start, image), cwd(start, image, &places.layers));
    let argv = program(start, image);
    let process = (!argv.is_empty()).then(|| Process {
        argv,
        env: env.clone(),
        cwd: PathBuf::from(&cwd),
        uid: 0,
        gid: 0,
        groups: vec![],
    });
    let (process, on_terminal) = match (process, &start.pty) {
        (Some(mut process), Some(pty)) => {
            let mut env = images::Config { env: process.env, ..images::Config::default() };
            pty.env.iter().for_each(|(name, value)| env.set_env(name, value.clone()));
            process.env = env.env;
            (None, Some(OnTerminal { process, rows: pty.rows, columns: pty.columns }))
        }
        (process, _) => (process, None),
    };
    let hostname = "palisade".to_owned();
    let plan = Plan {
        name: places.folder.name().to_owned(),
        cgroup_parent: places.cgroup_parent,
        ids: places.ids,
        layers: places.layers,
        upper: places.upper,
        work: places.work,
        volatile: true,
        binds: vec![Bind {
            source: places.tools.to_owned(),
            target: tools_inside(),
            read_only: true,
            ids: BindIds::MappedIfPossible,
        }],
        files: vec![
            inside::file(FILES[0], format!("{hostname}\n").into_bytes()),
            inside::file(FILES[1], inside::hosts(&hostname)),
            inside::file(FILES[2], inside::resolv_conf(places.resolver)),
        ],
        hostname,
        tmpfs: vec![],
        shm_bytes: SHM_BYTES.min(start.limits.memory_bytes / 2),
        limits: inside::limits(&start.limits),
        process,
        takes_execs: true,
        end_with_caller: true,
    };
    Assignment {
        task: start.task.clone(),
        folder: places.folder.path().to_owned(),
        plan,
        on_terminal,
        env,
        cwd,
        deadline: start.deadline,
        idle_timeout_ms: start.idle_timeout_ms,
        probe: start.probe.clone(),
    }
}

/// Where small files of ours lie in every sandbox.
const FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// What the jail makes in a sandbox's writable layer to mount something on it.
pub(crate) fn mount_points(layers: &[PathBuf]) -> MountPoints {
    let tools = tools_inside();
    MountPoints::of(FILES.iter().map(Path::new).chain([&*tools]), layers)
}

/// The folder in which clients look for the file tool.
fn tools_inside() -> PathBuf {
    Path::new(fstools_embedded::PATH).parent().unwrap_or(Path::new("/")).to_owned()
}

/// What it may reach; none is nothing, without an interface.
pub(crate) fn policy(rule: &NetworkRule) -> Option<Policy> {
    match rule {
        NetworkRule::Blocked => None,
        NetworkRule::Open => Some(Policy::default()),
        NetworkRule::Listed { cidrs, domains } => {
            // IPv6 passes nowhere, whatever is listed.
            let ranges = cidrs.iter().filter_map(|range| match range {
                ipnet::IpNet::V4(range) => Subnet::new(range.network(), range.prefix_len()),
                ipnet::IpNet::V6(_) => None,
            });
            let outbound = Outbound::List { cidrs: ranges.collect(), domains: domains.clone() };
            Some(Policy { outbound, ..Policy::default() })
        }
    }
}
