//! Why scratch space cannot be had.

use std::io;
use std::path::PathBuf;

use super::Mechanism;
use crate::limits::SCRATCH_BYTES_MIN;

/// A mechanism that was not taken, for the person who runs the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// Which.
    pub mechanism: Mechanism,
    /// Why it does not work here.
    pub why: String,
    /// What to do to get it.
    pub remedy: &'static str,
}

/// Why scratch space could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("no disk limit can be enforced in {dir}: {}", reasons(.passed))]
    NoMechanism { dir: PathBuf, passed: Vec<PassedOver> },
    #[error("scratch name {0:?} is not up to 64 letters, digits, `-` and `_`")]
    Name(String),
    #[error("disk limit of {0} bytes is less than {SCRATCH_BYTES_MIN}")]
    TooSmall(u64),
    #[error("disk capacity of {bytes} bytes in {dir} is less than {min}")]
    Capacity { dir: PathBuf, bytes: u64, min: u64 },
    #[error("the file system of {dir} has only {free} bytes free: make room")]
    Full { dir: PathBuf, free: u64 },
    #[error("no {0} on this file system")]
    Unsupported(&'static str),
    #[error("a write of {wrote} bytes passed under a limit of {limit}")]
    NotEnforced { wrote: u64, limit: u64 },
    #[error("{step} {path}")]
    Step { step: &'static str, path: PathBuf, source: io::Error },
    #[error("run {program}: {said}")]
    Program { program: &'static str, said: String },
    #[error("the disk space {0} of an earlier server is lost")]
    Lost(String),
    #[error("disk is closed")]
    Closed,
}

fn reasons(passed: &[PassedOver]) -> String {
    let reason = |passed: &PassedOver| format!("{}: {}", passed.mechanism, passed.why);
    passed.iter().map(reason).collect::<Vec<_>>().join("; ")
}
