//! The whole conversation between plane and worker: two closed enums.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::resources::Capacity;
use crate::sandbox::SandboxStart;
use crate::spec::{BuildSpec, ImageContent, TaskSpec};
use crate::{ImageId, Millis, TaskId, Time, WorkerId};

/// What the plane wants a worker to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// Run this container.
    Start(Box<TaskSpec>),
    /// Run this sandbox; its container outlives the worker's own process.
    Sandbox(Box<SandboxStart>),
    /// End this container: ask its main process, then kill the whole tree.
    Stop {
        /// Which one.
        task: TaskId,
        /// How long it may take by itself; 0 kills at once.
        grace_ms: Millis,
    },
    /// Build this image.
    Build(Box<BuildSpec>),
}

/// What a worker has seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// A worker is there, with what it has and what it runs.
    Joined {
        /// Who.
        worker: WorkerId,
        /// What it has.
        capacity: Capacity,
        /// Containers that live on it, or whose ends it still reports.
        running: Vec<TaskId>,
    },
    /// The container's processes exist.
    Started {
        /// Which one.
        task: TaskId,
    },
    /// A container whose files are kept has ended well; its end is reported next.
    Kept {
        /// Which one.
        task: TaskId,
        /// Its image with one layer more, or why there is none.
        result: Result<ImageContent, String>,
    },
    /// The container is gone, and all that it owned.
    Ended {
        /// Which one.
        task: TaskId,
        /// Why.
        end: End,
    },
    /// A container printed something.
    Log(LogLine),
    /// A build printed something.
    BuildLog {
        /// Which image.
        image: ImageId,
        /// What.
        data: Bytes,
    },
    /// A build ended.
    Built {
        /// Which image.
        image: ImageId,
        /// The image, or what went wrong, told to whoever asked for it.
        result: Result<ImageContent, String>,
    },
}

/// Output of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Who printed it.
    pub task: TaskId,
    /// Through which stream.
    pub stream: Stream,
    /// When it was read.
    pub at: Time,
    /// What: any bytes, not always a whole line.
    pub data: Bytes,
}

/// A container's output streams. The numbers are the wire's (`FileDescriptor`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output, 1.
    Stdout,
    /// Standard error, 2.
    Stderr,
    /// Words of the platform, 3.
    Info,
}

impl Stream {
    /// The wire's number.
    pub const fn number(self) -> i32 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Info => 3,
        }
    }
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Its main process exited.
    Exit {
        /// The exit code.
        code: i32,
    },
    /// Its main process was killed by a signal.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// The kernel ended its main process, because the memory limit was reached.
    OutOfMemory {
        /// The limit.
        limit_bytes: u64,
    },
    /// It could not be started.
    NotStarted {
        /// Why, for whoever called.
        reason: String,
    },
    /// The plane ordered it.
    Stopped,
    /// Its time was over.
    TimedOut,
    /// It was idle for longer than it may be.
    Idle,
    /// Its worker is gone.
    Lost,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit { code } => write!(f, "its main process exited with code {code}"),
            Self::Signal { signal } => write!(f, "its main process was killed by signal {signal}"),
            Self::OutOfMemory { limit_bytes } => write!(
                f,
                "it ran out of memory: the kernel ended it at its limit of {} MiB",
                limit_bytes >> 20
            ),
            Self::NotStarted { reason } => write!(f, "it could not be started: {reason}"),
            Self::Stopped => f.write_str("it was stopped"),
            Self::TimedOut => f.write_str("its time was over"),
            Self::Idle => f.write_str("it was idle for too long"),
            Self::Lost => f.write_str("its worker is gone"),
        }
    }
}
