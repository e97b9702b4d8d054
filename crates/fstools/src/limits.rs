//! The limits of the file tool.

use std::time::Duration;

/// The largest file that is read. Clients expect a limit and have an error of its own for it.
pub(crate) const READ_BYTES_MAX: u64 = 5 << 30;

/// What is held of a file that is read or written.
pub(crate) const CHUNK_BYTES_MAX: usize = 256 << 10;

/// What is read ahead of a line of an open file.
pub(crate) const LINE_CHUNK_BYTES_MAX: usize = 4 << 10;

/// What one command writes to an open file: clients send no more (modal 1.0.5).
pub(crate) const INPUT_BYTES_MAX: u64 = 16 << 20;

/// The name of an open file.
pub(crate) const HANDLE_BYTES_MAX: usize = 64;

/// Entries of a folder that is listed; they are sorted, so their names are held.
pub(crate) const ENTRIES_MAX: usize = 1_000_000;

/// What is read of /etc/passwd and /etc/group.
pub(crate) const DATABASE_BYTES_MAX: u64 = 1 << 20;

/// Links that a path to be written may lead through: the kernel's own limit.
pub(crate) const LINKS_MAX: usize = 40;

/// Attempts to find a name that nothing has yet.
pub(crate) const NAMES_MAX: usize = 16;

/// Folders below one that is watched.
pub(crate) const FOLDERS_MAX: usize = 100_000;

/// Bytes of the kernel's events that are read at once; one has at most 16 and a name of 256.
pub(crate) const EVENT_BYTES_MAX: usize = 64 << 10;

/// Events after which a watch looks at its deadline and at its client again.
pub(crate) const EVENTS_MAX: usize = 1_024;

/// How long the first half of a rename waits for the second. The kernel reports both at once.
pub(crate) const RENAME_MAX: Duration = Duration::from_millis(20);

/// The longest watch that a timeout can ask for: the longest life of a sandbox, and more.
pub(crate) const TIMEOUT_SECS_MAX: f64 = 31_536_000.0;
