//! Build steps: commands of a recipe in containers with the same walls as any task, and files
//! written into layers as a process inside would write them.

use std::fs;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use images::package_settings::{self, Passthrough};
use images::{
    Entry, EntryKind, Exit, RunError, RunStep, Source, StepDirs, StepMount, StepRunner, TreeCopy,
};
use jail::network::Policy;
use jail::{Bind, BindIds, Child, InlineFile, Limits, Plan, Prepared, Process, Root, Stdio, Tmpfs};
use rustix::event::{PollFd, PollFlags, poll};

use crate::limits::{
    LOG_CHUNK_BYTES_MAX, SHM_BYTES, STEP_MEMORY_BYTES, STEP_OPEN_FILES, STEP_PIDS,
};
use crate::mount_points::MountPoints;
use crate::net::forward::Forward;
use crate::task::inside;
use crate::{Worker, tree_copy, users};

/// Runs the steps of one build.
pub(crate) struct Steps<'w> {
    worker: &'w Worker,
    name: String,
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> RunError {
    RunError::Failed(Box::new(error))
}

impl<'w> Steps<'w> {
    /// A runner; `name` tells in the names of control groups which build it is.
    pub(crate) fn new(worker: &'w Worker, name: &str) -> Self {
        use sha2::{Digest, Sha256};
        let hash = Sha256::digest(name.as_bytes());
        let n = worker.steps_begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self { worker, name: format!("step-{}-{n}", hex::encode(&hash[..6])) }
    }

    /// The host's package settings that a step gets: nothing where it has no network.
    fn settings(&self, step: &RunStep) -> Result<Passthrough, RunError> {
        if !step.network {
            return Ok(Passthrough::default());
        }
        let image = package_settings::image_apt(&step.layers).map_err(failed)?;
        let sharing = package_settings::Sharing::default();
        package_settings::collect(&self.worker.host, image.as_ref(), sharing).map_err(failed)
    }

    fn plan(
        &self,
        step: &RunStep,
        settings: &Passthrough,
        ids: jail::IdRange,
    ) -> Result<Plan, RunError> {
        let user = users::find(&step.layers, &step.user).map_err(RunError::Refused)?;
        let resolver = if step.network { self.worker.networks.gateway() } else { None };
        let file = |target: &str, content: Vec<u8>| InlineFile {
            target: target.into(),
            content,
            mode: 0o644,
            read_only: true,
        };
        let mut files = vec![
            file("/etc/resolv.conf", inside::resolv_conf(resolver)),
            file("/etc/hosts", inside::hosts("palisade")),
        ];
        let path = |path: &Path| path.to_string_lossy().into_owned();
        files.extend(settings.files.iter().map(|(target, text)| file(&path(target), text.clone())));
        let binds = settings.binds.iter().map(|(source, target)| Bind {
            source: source.clone(),
            target: target.clone(),
            read_only: true,
            ids: BindIds::MappedIfPossible,
        });
        let mut tmpfs = Vec::new();
        for mount in &step.mounts {
            match mount.clone() {
                StepMount::Tmpfs { target, size_bytes } => {
                    // Memory of it counts as the step's own, which is limited.
                    let bytes = size_bytes.unwrap_or(STEP_MEMORY_BYTES).min(STEP_MEMORY_BYTES);
                    tmpfs.push(Tmpfs { target, bytes, mode: 0o1777 });
                }
                StepMount::File { target, content, mode } => {
                    files.push(InlineFile { target, content, mode, read_only: true });
                }
            }
        }
        let cores = self.worker.config.capacity.cpu_millis;
        Ok(Plan {
            name: self.name.clone(),
            cgroup_parent: self.worker.cgroup_parent(),
            hostname: "palisade".into(),
            ids,
            layers: step.layers.iter().chain(&step.bound).cloned().collect(),
            upper: step.dirs.upper.clone(),
            work: step.dirs.work.clone(),
            volatile: false,
            binds: binds.collect(),
            files,
            tmpfs,
            shm_bytes: SHM_BYTES,
            limits: Limits {
                memory_bytes: STEP_MEMORY_BYTES.min(self.worker.config.capacity.memory_bytes),
                cpu_weight: 100,
                cpu_max_millis: u32::try_from(cores).ok().filter(|&cores| cores > 0),
                pids: STEP_PIDS,
                open_files: STEP_OPEN_FILES,
                file_size_bytes: None,
            },
            process: Some(Process {
                argv: step.argv.clone(),
                env: environment(settings, step),
                cwd: PathBuf::from(&step.cwd),
                uid: user.uid,
                gid: user.gid,
                groups: user.groups,
            }),
            takes_execs: false,
            end_with_caller: true,
        })
    }
}

impl StepRunner for Steps<'_> {
    fn run(&self, step: &RunStep, log: &mut dyn FnMut(&[u8])) -> Result<Exit, RunError> {
        let refused = |text: &str| RunError::Refused(text.into());
        let ids = self.worker.ids.take().ok_or_else(|| refused("no id range is free"))?;
        let settings = self.settings(step)?;
        let plan = self.plan(step, &settings, ids.range())?;
        let points = MountPoints::before(&plan, &step.layers);
        let (mut ours, theirs) = io::pipe().map_err(failed)?;
        let stderr = theirs.try_clone().map_err(failed)?;
        let stdin = fs::File::open("/dev/null").map_err(failed)?.into();
        let stdio = Stdio { stdin, stdout: theirs.into(), stderr: stderr.into() };
        let prepared = jail::prepare(&plan, stdio).map_err(|e| match e {
            jail::Error::Program { .. } => RunError::Refused(e.to_string()),
            other => failed(other),
        })?;
        let network = match step.network {
            true => {
                let namespace =
                    prepared.network_namespace().try_clone_to_owned().map_err(failed)?;
                Some(self.worker.networks.attach(namespace, &policy(&settings)).map_err(failed)?)
            }
            false => None,
        };
        let proxies = forward_proxies(&prepared, &settings).map_err(failed)?;
        let child = prepared.start().map_err(|e| match e {
            jail::Error::Program { .. } => RunError::Refused(e.to_string()),
            other => failed(other),
        })?;
        let in_time = follow(&child, &mut ours, step.timeout, log).map_err(failed)?;
        let ended = child.end().map_err(failed)?;
        rest(&mut ours, log).map_err(failed)?;
        drop((network, proxies));
        points.remove(&step.dirs.upper);
        Ok(match ended.exit {
            _ if !in_time => Exit::TimedOut,
            _ if ended.oom => Exit::OutOfMemory,
            jail::Exit::Code(code) => Exit::Code(code),
            jail::Exit::Signal(signal) => Exit::Signal(signal),
        })
    }

    fn write(
        &self,
        layers: &[PathBuf],
        draft: &StepDirs,
        entries: &[Entry],
    ) -> Result<(), RunError> {
        let root = self.tree(layers, draft)?;
        for entry in entries {
            write(&root, layers, entry).map_err(|error| {
                let path = entry.path.display();
                RunError::Refused(format!("writing {path}: {}", crate::task::chain(&error)))
            })?;
        }
        Ok(())
    }

    fn copy(&self, layers: &[PathBuf], draft: &StepDirs, copy: &TreeCopy) -> Result<(), RunError> {
        let from = self.tree(&copy.from, &copy.scratch)?;
        let to = self.tree(layers, draft)?;
        let owner = copy.owner.as_deref().map(|owner| users::find(layers, owner)).transpose();
        let owner = owner.map_err(RunError::Refused)?.map(|user| (user.uid, user.gid));
        let copied = tree_copy::copy(&from, &to, copy, owner);
        copied.map_err(|error| RunError::Refused(crate::task::chain(&error)))
    }
}

impl Steps<'_> {
    /// The tree of layers as a container sees it; writes go to the upper folder.
    fn tree(&self, layers: &[PathBuf], dirs: &StepDirs) -> Result<Root, RunError> {
        // An overlay wants a layer below; a scratch image has none.
        let empty;
        let layers = if layers.is_empty() {
            empty = [self.worker.empty_layer().map_err(failed)?];
            &empty[..]
        } else {
            layers
        };
        let mounted = jail::overlay(layers, &dirs.upper, &dirs.work).map_err(failed)?;
        Ok(Root::of(mounted))
    }
}

/// A step's environment: what every program expects, the host's settings, and over them what the
/// image and the step say.
fn environment(settings: &Passthrough, step: &RunStep) -> Vec<(String, String)> {
    let usual = [("PATH", images::DEFAULT_PATH), ("HOME", "/root")];
    let env = settings.merge_env(&step.env);
    let absent = |name: &str| !env.iter().any(|(known, _)| known == name);
    let usual = usual.into_iter().filter(|(name, _)| absent(name));
    let mut all: Vec<_> = usual.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    all.extend(env);
    all
}

/// Proxies on the host's own loopback, reachable at the same address inside.
fn forward_proxies(prepared: &Prepared, settings: &Passthrough) -> io::Result<Vec<Forward>> {
    let mut forwards = Vec::new();
    for (_, port) in &settings.loopback_proxies {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
        let listener = jail::listen_inside(prepared.network_namespace(), address);
        let listener = listener.map_err(io::Error::other)?;
        forwards.push(Forward::start(listener, address)?);
    }
    Ok(forwards)
}

/// What a step may reach beside the internet: just what the host's package settings name.
fn policy(settings: &Passthrough) -> Policy {
    let mut policy = Policy::default();
    for (host, port) in &settings.hosts {
        match host.parse::<std::net::IpAddr>() {
            // A proxy on the host's loopback is forwarded, and IPv6 is closed.
            Ok(address) if address.is_loopback() || address.is_ipv6() => {}
            Ok(address) => policy.also.push((address, *port)),
            Err(_) => policy.names.push((host.clone(), *port)),
        }
    }
    policy
}

/// Gives a step's output to the log until its program has ended; `false` if its time was up.
fn follow(
    child: &Child,
    ours: &mut io::PipeReader,
    timeout: Option<Duration>,
    log: &mut dyn FnMut(&[u8]),
) -> io::Result<bool> {
    let until = timeout.map(|timeout| Instant::now() + timeout);
    let mut chunk = vec![0; LOG_CHUNK_BYTES_MAX];
    let mut open = true;
    loop {
        let left = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return Ok(false),
            Some(left) => left.min(Duration::from_secs(60)),
            None => Duration::from_secs(60),
        };
        let pidfd = child.pidfd();
        let pipe = ours.as_fd();
        let watched = if open { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = [
            PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(pipe, watched),
        ];
        let left = left.try_into().unwrap_or(rustix::time::Timespec { tv_sec: 60, tv_nsec: 0 });
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let (ended, readable) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if open && readable {
            match ours.read(&mut chunk)? {
                0 => open = false,
                n => log(&chunk[..n]),
            }
        } else if ended {
            return Ok(true);
        }
    }
}

/// What was still in the pipe. Everything that could write to it is gone.
fn rest(ours: &mut io::PipeReader, log: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut chunk = vec![0; LOG_CHUNK_BYTES_MAX];
    loop {
        match ours.read(&mut chunk)? {
            0 => return Ok(()),
            n => log(&chunk[..n]),
        }
    }
}

fn refused(path: &Path, text: String) -> jail::RootError {
    let source = io::Error::other(text);
    jail::RootError::Path { action: "writing", path: path.to_owned(), source }
}

/// The folder that an entry goes into, and its name there.
fn place(root: &Root, entry: &Entry) -> PathBuf {
    let is_folder = root.stat(&entry.path).is_ok_and(|facts| facts.kind == jail::Kind::Folder);
    match &entry.name_in_folder {
        Some(name) if is_folder => entry.path.join(name),
        Some(_) | None => entry.path.clone(),
    }
}

fn write(root: &Root, layers: &[PathBuf], entry: &Entry) -> Result<(), jail::RootError> {
    let path = place(root, entry);
    let found = root.stat(&path).ok();
    let is_folder = found.as_ref().is_some_and(|facts| facts.kind == jail::Kind::Folder);
    if matches!(entry.kind, EntryKind::Folder) && is_folder {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        root.mkdir_all(parent, 0o755)?;
    }
    if root.stat_link(&path).is_ok() {
        root.remove_all(&path)?;
    }
    match &entry.kind {
        EntryKind::Folder => root.mkdir(&path, entry.mode)?,
        EntryKind::Link(target) => root.symlink(target.as_ref(), &path)?,
        EntryKind::File(source) => copy(root, &path, source, entry.mode)?,
    }
    if let Some(owner) = &entry.owner {
        let user = users::find(layers, owner).map_err(|text| refused(&path, text))?;
        root.chown(&path, user.uid, user.gid)?;
    }
    Ok(())
}

fn copy(root: &Root, path: &Path, source: &Source, mode: u32) -> Result<(), jail::RootError> {
    let fail = |error: io::Error| refused(path, error.to_string());
    let mut file = root.create_new(path, mode)?;
    match source {
        Source::Bytes(bytes) => io::Write::write_all(&mut file, bytes).map_err(fail)?,
        Source::File(from) => {
            let mut from = fs::File::open(from).map_err(fail)?;
            io::copy(&mut from, &mut file).map_err(fail)?;
        }
    }
    // The mask of this process must not show in an image.
    root.chmod(path, mode)
}
