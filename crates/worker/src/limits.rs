//! The limits of a worker.

use std::time::Duration;

/// Output of a container that is read at a time.
pub(crate) const LOG_CHUNK_BYTES_MAX: usize = 32 << 10;

/// Connections of one container to its door at the same time.
pub(crate) const DOOR_CONNECTIONS_MAX: usize = 64;

/// How long a container's last output may take to arrive after its end.
pub(crate) const LAST_OUTPUT_MAX: Duration = Duration::from_secs(2);

/// How long containers may take to end when the server does.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(10);

/// Containers that are being built or removed at the same time.
pub(crate) const CHANGES_MAX: usize = 4;

/// Image builds at the same time.
pub(crate) const BUILDS_MAX: usize = 2;

/// How long one build step may take.
pub(crate) const STEP_MAX: Duration = Duration::from_secs(3_600);

/// Memory of a build step.
pub(crate) const STEP_MEMORY_BYTES: u64 = 4 << 30;

/// Processes of a build step.
pub(crate) const STEP_PIDS: u64 = 4_096;

/// Open files of a process of a build step.
pub(crate) const STEP_OPEN_FILES: u64 = 16_384;

/// Size of a container's /dev/shm; it counts as its memory.
pub(crate) const SHM_BYTES: u64 = 256 << 20;
