//! The limits of the control plane.

use std::time::Duration;

use model::Millis;

/// A message of the protocol: the client sends inputs of 2 MiB, files of 4 MiB, chunk batches of
/// 16 MiB and definitions of 16 MiB (modal 1.6.4).
pub const MESSAGE_BYTES_MAX: usize = 100 << 20;

/// A message of a restricted container: it sends outputs of 2 MiB and chunk batches of 16 MiB.
pub const RESTRICTED_MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Bytes of messages that the server holds at a time for a restricted container.
pub const RESTRICTED_BYTES_MAX: usize = 33 << 20;

/// Requests of a restricted container at a time; further ones wait.
pub const RESTRICTED_REQUESTS_MAX: usize = 512;

/// Bytes of messages that the server holds at a time for another container.
pub const DOOR_BYTES_MAX: usize = 128 << 20;

/// Requests of another container at a time; further ones wait.
pub const DOOR_REQUESTS_MAX: usize = 4_096;

/// Bytes of messages that the server holds at a time for all clients at its port.
pub const PORT_BYTES_MAX: usize = 1 << 30;

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

/// The scheduler's looks begin at least this far apart: short beside the start of a container.
pub const LOOK_EVERY: Duration = Duration::from_millis(10);

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

/// How long answers are kept for a client that asks again: well beyond its last attempt, and not
/// so long that large ones pile up.
pub const REPLAY_KEPT: Millis = Millis::from_secs(600);

/// How often what is old is forgotten.
pub const FORGET_EVERY: Millis = Millis::from_secs(600);

/// How long results of a call are kept.
pub const CALL_KEPT: Millis = Millis::from_secs(7 * 24 * 3_600);

/// How long a container may take to end by itself when it is stopped.
pub const STOP_GRACE: Millis = Millis::from_secs(2);

/// How long a wait for an item of a queue is held; the client asks for 50 s (modal 1.6.4).
pub const QUEUE_POLL_MAX: Duration = Duration::from_secs(50);

/// How long a wait for an item after a place is held; the client asks for 30 s (modal 1.6.4).
pub const QUEUE_NEXT_POLL_MAX: Duration = Duration::from_secs(30);

/// Items of one partition of a queue.
pub const QUEUE_ITEMS_MAX: u32 = 5_000;

/// An item of a queue.
pub const QUEUE_ITEM_BYTES_MAX: usize = 1 << 20;

/// The items of one partition of a queue.
pub const QUEUE_PARTITION_BYTES_MAX: u64 = 64 << 20;

/// Partitions of one queue that are not empty.
pub const QUEUE_PARTITIONS_MAX: u32 = 100_000;

/// The key of a partition.
pub const QUEUE_PARTITION_KEY_BYTES_MAX: usize = 64;

/// How long a partition lives after its last put when the put says nothing, and at most.
pub const QUEUE_PARTITION_TTL_MAX: Millis = Millis::from_secs(24 * 3_600);

/// Items of a queue in one answer that leaves them there.
pub const QUEUE_NEXT_ITEMS_MAX: u32 = 100;

/// Bytes of items of a queue in one answer that leaves them there, beyond which no further one is
/// added.
pub const QUEUE_NEXT_BYTES_MAX: u64 = 16 << 20;

/// How long items that were sent are kept for a caller that asks again with the same key: longer
/// than the client goes on trying to reach the server (63 s, modal 1.6.4).
pub const QUEUE_CLAIM_KEPT: Millis = Millis::from_secs(120);

/// Answers from queues whose fate is known but not written. Beyond that, nothing is taken.
pub const QUEUE_UNSETTLED_MAX: usize = 4_096;

/// The key of an entry of a dict.
pub const DICT_KEY_BYTES_MAX: usize = 64 << 10;

/// An entry of a dict, key and value.
pub const DICT_ENTRY_BYTES_MAX: usize = 96 << 20;

/// Entries that one request writes.
pub const DICT_UPDATES_MAX: usize = 10_000;

/// Entries of a dict that are counted.
pub const DICT_COUNTED_MAX: u32 = 100_000;

/// Entries that a stream of a dict's contents reads at once.
pub const DICT_PAGE_ENTRIES_MAX: u32 = 256;

/// Bytes of entries that a stream of a dict's contents reads at once, beyond which no further
/// entry is read.
pub const DICT_PAGE_BYTES_MAX: u64 = 4 << 20;

/// How long an entry of a dict is kept after it was last written or read.
pub const DICT_ENTRY_KEPT: Millis = Millis::from_secs(7 * 24 * 3_600);

/// A reading of a dict's entry is noted only where the last note is older than this, so that
/// readings cost no writing.
pub const DICT_READ_NOTED_EVERY: Millis = Millis::from_secs(3_600);

/// A queue or dict without a name that has not been heard of for so long is forgotten; its client
/// says every 300 s that it lives (modal 1.6.4).
pub const OBJECT_HEARTBEAT_MAX: Millis = Millis::from_secs(15 * 60);

/// How long a secret is kept that has neither a name nor an app.
pub const SECRET_KEPT: Millis = Millis::from_secs(7 * 24 * 3_600);

/// A variable of a secret, name and value: what the kernel takes as one string of a new program's
/// environment (MAX_ARG_STRLEN), with `=` and the final zero.
pub const SECRET_VARIABLE_BYTES_MAX: usize = (128 << 10) - 2;

/// All variables of a secret.
pub const SECRET_BYTES_MAX: usize = 512 << 10;

/// Queues, dicts or secrets in one list.
pub const OBJECTS_LISTED_MAX: u32 = 100;

/// Rows of what has ended that one sweep removes in one transaction.
pub const SWEEP_ROWS_MAX: u32 = 1_000;

/// A piece of an answer with a receipt, as it is handed to the transport.
pub const RECEIPT_PIECE_BYTES_MAX: usize = 64 << 10;
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

/// Output of one app that is kept.
pub const LOG_BYTES_KEPT: u64 = 256 << 20;

/// Output of one app after which it is looked at whether there is more than is kept.
pub const LOG_BYTES_BETWEEN_TRIMS: u64 = 32 << 20;

/// Names of images, or publications of one, in one answer.
pub const IMAGE_NAMES_LISTED_MAX: u32 = 1_000;

/// Images below each other that are told of when an image's builds are asked for.
pub const BUILD_CHAIN_MAX: usize = 1_000;

/// Pieces of output of the past in one answer.
pub const LOGS_FETCHED_MAX: u32 = 5_000;

/// Pieces of output that are counted for one answer.
pub const LOGS_COUNTED_MAX: u32 = 50_000;

/// How long a new sandbox waits for room on a worker.
pub const SANDBOX_ROOM_WAIT: Duration = Duration::from_secs(60);

/// How long a sandbox may take from its placement until its container exists.
pub const SANDBOX_START_MAX: Millis = Millis::from_secs(120);

/// How long a sandbox may outlive its deadline before the plane ends it: what stands beside its
/// container should have done so by itself.
pub const SANDBOX_OVERDUE_MAX: Millis = Millis::from_secs(3);

/// How long the call that terminates a sandbox waits for its end.
pub const SANDBOX_TERMINATE_POLL: Duration = Duration::from_secs(10);

/// CPU that is reserved for a sandbox whose definition says nothing: most of them are idle.
pub const SANDBOX_CPU_REQUEST_MILLIS_DEFAULT: u64 = 5;

/// Memory that is reserved for a sandbox whose definition says nothing.
pub const SANDBOX_MEMORY_REQUEST_BYTES_DEFAULT: u64 = 32 << 20;

/// A sandbox's program and arguments, or those of its probe: what the client takes (modal 1.6.4).
pub const SANDBOX_ARGS_BYTES_MAX: usize = 64 << 10;

/// A sandbox's working folder: the kernel's longest path.
pub const SANDBOX_WORKDIR_BYTES_MAX: usize = 4_095;

/// Sources of variables of one sandbox.
pub const SANDBOX_SECRETS_MAX: usize = 128;

/// Ports of one sandbox that are reached from outside.
pub const SANDBOX_PORTS_MAX: usize = 64;

/// Ranges, or names, in one allow list.
pub const SANDBOX_ALLOWED_MAX: usize = 1_000;

/// Labels of one sandbox.
pub const SANDBOX_TAGS_MAX: usize = 64;

/// The name of a label, or its value.
pub const SANDBOX_TAG_BYTES_MAX: usize = 63;

/// How long a token for a command router is good. The client asks for another before its end.
pub const ROUTER_TOKEN_LIFE: Millis = Millis::from_secs(3_600);

/// Tokens of one sandbox that let their holders connect.
pub const CONNECT_TOKENS_MAX: u64 = 1_000;

/// What a sandbox's program is told of whoever connects with a token.
pub const CONNECT_METADATA_BYTES_MAX: usize = 4 << 10;

/// One write to a sandbox's standard input: the client sends 2 MiB (modal 1.6.4).
pub const STDIN_BYTES_MAX: usize = 4 << 20;

/// How long the beginning of a character is held back for its rest, in what a program prints:
/// older clients decode each piece by itself.
pub const TORN_HELD_MAX: Duration = Duration::from_secs(2);

/// How long it may take until the end of a sandbox that is seen is also written down.
pub const SANDBOX_END_TOLD_MAX: Duration = Duration::from_secs(5);

/// One write to a file of a sandbox: older clients send no more (modal 1.0.5).
pub const FILE_WRITE_BYTES_MAX: usize = 16 << 20;

/// How many seconds the file tool of a sandbox may take to write, which it does once it has read
/// all: more than the attempts of a client to send it (4 of 55 s, modal 1.0.5).
pub const FILE_WRITE_SECS_MAX: u32 = 300;

/// What is read of the file tool's words about a failure.
pub const FAILURE_BYTES_MAX: usize = 64 << 10;

/// How long the file tool's words about a failure are waited for, once it has ended.
pub const FAILURE_TOLD_MAX: Duration = Duration::from_secs(10);

/// One event of a watch: two of the kernel's longest paths, in JSON.
pub const WATCH_LINE_BYTES_MAX: usize = 64 << 10;

/// How long work on a sandbox's files goes on while nobody follows it.
pub const WORK_REOPENED_MAX: Duration = Duration::from_secs(30);

/// How long the output of work on a sandbox's files that nobody follows any more is taken for
/// nobody, so that the work ends: time for the largest file.
pub const WORK_DRAINED_MAX: Duration = Duration::from_secs(600);
