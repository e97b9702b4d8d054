//! The limits of the control plane.

use std::time::Duration;

use model::Millis;

/// A message of the protocol: the client sends inputs of 2 MiB, files of 4 MiB, chunk batches of
/// 16 MiB and definitions of 16 MiB (modal 1.6.4).
pub const MESSAGE_BYTES_MAX: usize = 100 << 20;

/// A payload that travels as a blob, unless the operator says otherwise.
pub const PAYLOAD_BYTES_DEFAULT: u64 = 256 << 20;

/// What one container may keep in blobs, in payloads of the largest size.
pub const TASK_PAYLOADS_MAX: u64 = 16;

/// A payload that travels in a message; larger ones become blobs.
pub const INLINE_BYTES_MAX: u64 = 2 << 20;

/// How long a long poll is held when its caller names no time.
pub const POLL_MAX: Duration = Duration::from_secs(55);

/// How long a container's heartbeat is held; its client gives up after 15.1 s.
pub const HEARTBEAT_POLL: Duration = Duration::from_secs(12);

/// How long a sleeper trusts that no hint was lost.
pub const SCAN_EVERY: Duration = Duration::from_secs(2);

/// Outputs in one answer.
pub const OUTPUTS_MAX: u32 = 64;

/// Bytes of outputs in one answer, beyond which no further one is added.
pub const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// Log entries in one batch.
pub const LOG_ENTRIES_MAX: u32 = 256;

/// Inputs of one call that wait for an answer.
pub const INPUTS_OUTSTANDING_MAX: u32 = 1_000;

/// Inputs of one function that wait for a container.
pub const INPUTS_QUEUED_MAX: u32 = 1_000_000;

/// Inputs in one request.
pub const INPUTS_PER_REQUEST_MAX: usize = 1_000;

/// Files of one mount.
pub const MOUNT_FILES_MAX: usize = 100_000;

/// Outputs in one request of a container.
pub const OUTPUTS_PER_REQUEST_MAX: usize = 2_000;

/// Chunks in one request of a container.
pub const CHUNKS_PER_REQUEST_MAX: usize = 20_000;

/// What a chunk counts for at least in the limit of what a container may stream.
pub const CHUNK_BYTES_MIN: u64 = 256;

/// What a blob counts for at least in the limit of what a container may keep.
pub const BLOB_BYTES_MIN: u64 = 64 << 10;

/// How long a batch may wait to be full.
pub const BATCH_LINGER_MAX: Duration = Duration::from_secs(600);

/// Inputs in one batch of a batched function.
pub const BATCH_MAX: u32 = 1_000;

/// Tokens whose owners are remembered.
pub const TOKENS_CACHED_MAX: usize = 1_024;

/// Orders that wait for a worker to take them.
pub const ORDERS_MAX: usize = 1_024;

/// Reports that wait to be written.
pub const REPORTS_MAX: usize = 1_024;

/// Reports that are written in one transaction.
pub const REPORTS_PER_WRITE_MAX: usize = 128;

/// How long a cancelled input's container may take to give it up before it is killed.
pub const CANCEL_GRACE: Millis = Millis::from_secs(5);

/// How long answers are kept for a client that asks again.
pub const REPLAY_KEPT: Millis = Millis::from_secs(3_600);

/// How often what is old is forgotten.
pub const FORGET_EVERY: Millis = Millis::from_secs(600);

/// How long results of a call are kept.
pub const CALL_KEPT: Millis = Millis::from_secs(7 * 24 * 3_600);

/// How long a container may take to end by itself when it is stopped.
pub const STOP_GRACE: Millis = Millis::from_secs(2);

/// How long a container that has nothing to do any more may take to leave by itself.
pub const LEAVE_GRACE: Millis = Millis::from_secs(10);

/// A container that was told to end, and should have ended by now, is told again after this.
pub const TELL_AGAIN: Millis = Millis::from_secs(30);

/// An order that a worker did not take is tried again after this.
pub const UNDELIVERED_RETRY: Millis = Millis::from_secs(1);

/// How often a report that cannot be written is tried before it is dropped. On a full disk it is
/// tried until there is room.
pub const REPORT_TRIES_MAX: u32 = 5;

/// How long a report that could not be written waits for its next try.
pub const REPORT_RETRY: Duration = Duration::from_millis(500);
