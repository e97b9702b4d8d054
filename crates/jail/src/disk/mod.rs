//! Limits on what a container's writable layer may hold.
//!
//! Three mechanisms, the best that works here is taken, and none is taken without having seen it
//! refuse a write:
//!
//! - *project quota* of the data folder's own file system (ext4 or xfs mounted with `prjquota`):
//!   nothing to set up, nothing shared;
//! - a *btrfs* file system of our own in a sparse file, mounted through a loop device, with a
//!   subvolume and a quota group per container. It is made anew by each [`Disk::open`] that has
//!   nothing to keep, and gives freed space back to the host;
//! - *tmpfs*, whose pages count as the container's memory: a container that fills its disk then
//!   meets its memory limit, if that is lower.
//!
//! A write beyond the limit fails with EDQUOT (project quota, btrfs) or ENOSPC (tmpfs, or when
//! the whole scratch space is full). Overlays write with the rights of whoever mounted them:
//! a mounter with CAP_SYS_RESOURCE in its effective set would lift ext4's project quotas.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

mod error;
mod image;
mod keeping;
mod mounts;
mod probe;
mod project;
mod tmpfs;

pub use error::{Error, PassedOver};
use image::Image;
use keeping::{go_on, names};
use project::{Project, Removal};
use tmpfs::Memory;

use crate::limits::{SCRATCH_BYTES_MIN, SCRATCH_NAME_BYTES_MAX};

/// How limits are enforced, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// Project quotas of the data folder's file system.
    ProjectQuota,
    /// Quota groups of a btrfs file system in a file.
    Btrfs,
    /// A tmpfs per container, counted as its memory.
    Tmpfs,
}

impl Mechanism {
    const ALL: [Self; 3] = [Self::ProjectQuota, Self::Btrfs, Self::Tmpfs];
}

impl std::fmt::Display for Mechanism {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ProjectQuota => "project quota",
            Self::Btrfs => "btrfs in a file",
            Self::Tmpfs => "tmpfs",
        })
    }
}

/// Where scratch space lies and how much of it there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// A folder of the host that is ours alone; it must exist.
    pub dir: PathBuf,
    /// Bytes that all containers together may hold, for [`Mechanism::Btrfs`]; `None` takes what
    /// is free now, but for a reserve.
    pub capacity_bytes: Option<u64>,
    /// The only mechanism that may be used; `None` takes the best.
    pub only: Option<Mechanism>,
}

/// What this module's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// Names the step and the path of a failed call.
fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Step { step, path: path.to_owned(), source }
}

/// Scratch space for containers' writable layers.
#[derive(Debug)]
pub struct Disk {
    backend: Arc<Backend>,
    mechanism: Mechanism,
    passed_over: Vec<PassedOver>,
}

type Backend = Mutex<State>;

#[derive(Debug)]
struct State {
    /// The mechanism that was taken; `None` after closing.
    inner: Option<Inner>,
    /// Scratch space that stays when the rest is closed.
    left: BTreeSet<String>,
}

#[derive(Debug)]
enum Inner {
    Project(Project),
    Image(Image),
    Memory(Memory),
}

/// One container's share.
#[derive(Debug)]
pub struct Scratch {
    /// Folder for the overlay's changes.
    pub upper: PathBuf,
    /// Folder for the overlay's own use, beside `upper`.
    pub work: PathBuf,
    name: String,
    backend: Arc<Backend>,
    is_removed: bool,
}

impl Disk {
    /// Removes what a killed server left in `config.dir`, then takes the best mechanism that is
    /// seen to work.
    ///
    /// # Errors
    /// If what was left cannot be removed, or no mechanism works (or not the only one allowed).
    pub fn open(config: &DiskConfig) -> Result<Self> {
        Self::open_keeping(config, &[])
    }

    /// As [`Self::open`], but the scratch space of these names stays: what stands on it has
    /// outlived the server that made it. [`Self::adopt`] takes it over. If the mechanism of that
    /// server cannot be gone on with, all of it is lost, and `adopt` says so.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_keeping(config: &DiskConfig, keep: &[String]) -> Result<Self> {
        let mut passed_over = Vec::new();
        if !keep.is_empty() {
            match go_on(&config.dir, keep) {
                Ok((mechanism, inner)) => return Ok(Self::with(mechanism, inner, passed_over)),
                Err((mechanism, error)) => passed_over.push(PassedOver {
                    mechanism,
                    why: format!("going on with what an earlier server made: {}", chain(&error)),
                    remedy: "see why it was lost",
                }),
            }
        }
        for mechanism in Mechanism::ALL {
            if config.only.is_some_and(|only| only != mechanism) {
                continue;
            }
            clean(&config.dir)?;
            match start(mechanism, config) {
                Ok(inner) => return Ok(Self::with(mechanism, inner, passed_over)),
                Err(error) => passed_over.push(PassedOver {
                    mechanism,
                    why: chain(&error),
                    remedy: remedy(mechanism),
                }),
            }
        }
        clean(&config.dir)?;
        Err(Error::NoMechanism { dir: config.dir.clone(), passed: passed_over })
    }

    fn with(mechanism: Mechanism, inner: Inner, passed_over: Vec<PassedOver>) -> Self {
        let state = State { inner: Some(inner), left: BTreeSet::new() };
        Self { backend: Arc::new(Mutex::new(state)), mechanism, passed_over }
    }

    /// Takes over scratch space that [`Self::open_keeping`] kept.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn adopt(&self, name: &str) -> Result<Scratch> {
        let guard = lock(&self.backend);
        let inner = guard.inner.as_ref().ok_or(Error::Closed)?;
        let folder = inner.find(name).ok_or_else(|| Error::Lost(name.to_owned()))?;
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        let (name, backend) = (name.to_owned(), Arc::clone(&self.backend));
        Ok(Scratch { upper, work, name, backend, is_removed: false })
    }

    /// How limits are enforced.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// The better mechanisms, and why each was not taken.
    #[must_use]
    pub fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
    }

    /// Makes scratch space that may hold `bytes`, what the file system needs for itself included.
    ///
    /// # Errors
    /// A name that is no plain word or in use, a limit that is too small to be kept, a host that
    /// is nearly full, or a step that the kernel refused.
    pub fn make(&self, name: &str, bytes: u64) -> Result<Scratch> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > SCRATCH_NAME_BYTES_MAX || !name.bytes().all(is_plain) {
            return Err(Error::Name(name.to_owned()));
        }
        if bytes < SCRATCH_BYTES_MIN {
            return Err(Error::TooSmall(bytes));
        }
        let mut guard = lock(&self.backend);
        let inner = guard.inner.as_mut().ok_or(Error::Closed)?;
        let folder = inner.make(name, bytes)?;
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        for path in [&upper, &work] {
            if let Err(error) = std::fs::create_dir(path) {
                // The first error is the one to tell.
                let _ = inner.remove(name).map(|rest| rest.map(Removal::finish));
                return Err(at("make", path)(error));
            }
        }
        let (name, backend) = (name.to_owned(), Arc::clone(&self.backend));
        Ok(Scratch { upper, work, name, backend, is_removed: false })
    }

    /// Removes everything, but for what was left ([`Scratch::leave`]): without such, mounts, loop
    /// devices and `dir` are afterwards as before [`Disk::open`]. Overlays on scratch space must be
    /// unmounted, and removals have returned, before. Closing twice is fine.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub fn close(&self) -> Result<()> {
        let (inner, left) = {
            let mut state = lock(&self.backend);
            (state.inner.take(), std::mem::take(&mut state.left))
        };
        match inner {
            Some(inner) if left.is_empty() => inner.close(),
            Some(inner) => inner.close_but(&left),
            None => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever wants to know calls close.
        let _ = self.close();
    }
}

impl Scratch {
    /// Bytes in use; with btrfs as of its last commit, which is some 5 seconds old.
    ///
    /// # Errors
    /// If the disk is closed or the kernel does not tell.
    pub fn usage(&self) -> Result<u64> {
        match lock(&self.backend).inner.as_ref() {
            Some(Inner::Project(project)) => project.usage(&self.name),
            Some(Inner::Image(image)) => image.usage(&self.name),
            Some(Inner::Memory(memory)) => memory.usage(&self.name),
            None => Err(Error::Closed),
        }
    }

    /// Lets go of it: it stays when the server ends, for [`Disk::open_keeping`] of the next one.
    pub fn leave(mut self) {
        lock(&self.backend).left.insert(self.name.clone());
        self.is_removed = true;
    }

    /// Removes it and all that is in it; the overlay must be unmounted. Dropping does the same
    /// without telling of errors.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(mut self) -> Result<()> {
        self.take_away()
    }

    fn take_away(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_removed, true) {
            return Ok(());
        }
        let rest = match lock(&self.backend).inner.as_mut() {
            Some(inner) => inner.remove(&self.name)?,
            // Closing removed it.
            None => None,
        };
        rest.map_or(Ok(()), Removal::finish)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whoever wants to know calls remove.
        let _ = self.take_away();
    }
}

impl Inner {
    /// Makes the folder `name` with its limit and returns its path.
    fn make(&mut self, name: &str, bytes: u64) -> Result<PathBuf> {
        match self {
            Self::Project(project) => project.make(name, bytes),
            Self::Image(image) => image.make(name, bytes),
            Self::Memory(memory) => memory.make(name, bytes),
        }
    }

    /// Removes the folder `name`, but for what is returned: that takes long, and is done without
    /// holding up others.
    fn remove(&mut self, name: &str) -> Result<Option<Removal>> {
        match self {
            Self::Project(project) => project.remove(name).map(Some),
            Self::Image(image) => image.remove(name).map(|()| None),
            Self::Memory(memory) => memory.remove(name).map(|()| None),
        }
    }

    /// The folder `name`, if there is one.
    fn find(&self, name: &str) -> Option<PathBuf> {
        match self {
            Self::Project(project) => project.find(name),
            Self::Image(image) => image.find(name),
            Self::Memory(memory) => memory.find(name),
        }
    }

    fn close(self) -> Result<()> {
        match self {
            Self::Project(project) => project.close(),
            Self::Image(image) => image.close(),
            Self::Memory(memory) => memory.close(),
        }
    }

    /// Removes all folders but those `left`, and lets everything else stand.
    fn close_but(self, left: &BTreeSet<String>) -> Result<()> {
        self.clear_but(left).map(drop)
    }

    /// Removes all folders but those `left`.
    fn clear_but(mut self, left: &BTreeSet<String>) -> Result<Self> {
        let folder = match &self {
            Self::Project(project) => project.folder(),
            Self::Image(image) => image.folder(),
            Self::Memory(memory) => memory.folder(),
        };
        let mut removed = Ok(());
        for name in names(folder)? {
            if !left.contains(&name) {
                let rest = self.remove(&name).and_then(|rest| rest.map_or(Ok(()), Removal::finish));
                removed = removed.and(rest);
            }
        }
        removed.map(|()| self)
    }
}

fn start(mechanism: Mechanism, config: &DiskConfig) -> Result<Inner> {
    let mut inner = match mechanism {
        Mechanism::ProjectQuota => Inner::Project(Project::open(&config.dir)?),
        Mechanism::Btrfs => Inner::Image(Image::open(&config.dir, config.capacity_bytes)?),
        Mechanism::Tmpfs => Inner::Memory(Memory::open(&config.dir)?),
    };
    match probe::run(&mut inner) {
        Ok(()) => Ok(inner),
        Err(error) => inner.close().and(Err(error)),
    }
}

fn remedy(mechanism: Mechanism) -> &'static str {
    match mechanism {
        Mechanism::ProjectQuota => {
            "put the data folder on xfs or ext4 (tune2fs -O project,quota) mounted with prjquota, \
             on a kernel that has quotas"
        }
        Mechanism::Btrfs => {
            "install btrfs-progs, and run where the kernel has btrfs, loop devices may be made and \
             the data folder has room"
        }
        Mechanism::Tmpfs => "run with the right to mount (CAP_SYS_ADMIN)",
    }
}

/// Where all scratch space of `dir` is.
fn scratch_folder(dir: &Path) -> PathBuf {
    dir.join("palisade-scratch")
}

/// The file that holds a btrfs.
fn image_file(dir: &Path) -> PathBuf {
    dir.join("palisade-scratch.img")
}

/// Removes what an earlier server left. What still runs on it keeps it until it ends: mounts are
/// detached, files unlinked, and the loop device goes with its last user.
fn clean(dir: &Path) -> Result<()> {
    let dir = dir.canonicalize().map_err(at("find", dir))?;
    let folder = scratch_folder(&dir);
    mounts::detach_all(&folder)?;
    let gone = |result: io::Result<()>, step, path: &Path| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(step, path)(error)),
        _ => Ok(()),
    };
    let image = image_file(&dir);
    gone(std::fs::remove_file(&image), "remove", &image)?;
    project::clean(&folder)?;
    gone(std::fs::remove_dir(&folder), "remove", &folder)
}

/// The error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Locks; what is locked is whole even if a holder panicked, because a half-made scratch is
/// removed by its name.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
