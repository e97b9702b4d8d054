//! The limits of a worker.

use std::time::Duration;

/// Output of a container that is read at a time.
pub(crate) const LOG_CHUNK_BYTES_MAX: usize = 32 << 10;

/// How long a program in a sandbox may take to accept a connection.
pub(crate) const DIAL_MAX: Duration = Duration::from_secs(10);

/// Connections of one container to its door at the same time.
pub(crate) const DOOR_CONNECTIONS_MAX: usize = 64;

/// How long a container's last output may take to arrive after its end.
pub(crate) const LAST_OUTPUT_MAX: Duration = Duration::from_secs(2);

/// How long the processes of a container may take to die.
pub(crate) const KILL_MAX: Duration = Duration::from_millis(jail::limits::KILL_MS_MAX);

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

/// Questions that one container may have waiting for an answer.
pub(crate) const QUESTIONS_PER_CONTAINER_MAX: usize = 128;
/// Questions of all containers that may wait for an answer.
pub(crate) const QUESTIONS_MAX: usize = 2_048;
/// Connections to the resolver that one container may hold.
pub(crate) const DNS_CONNECTIONS_PER_CONTAINER_MAX: usize = 8;
/// Connections to the resolver of all containers.
pub(crate) const DNS_CONNECTIONS_MAX: usize = 512;
/// Milliseconds for which such a connection may be silent, or take for one question.
pub(crate) const DNS_IDLE_MS_MAX: u64 = 10_000;
/// Questions over one connection.
pub(crate) const DNS_QUESTIONS_PER_CONNECTION_MAX: usize = 1_000;
/// Bytes of a question.
pub(crate) const QUESTION_BYTES_MAX: usize = 1_232;
/// Bytes of an answer by UDP: what passes everywhere without fragments (DNS flag day 2020).
pub(crate) const UDP_ANSWER_BYTES_MAX: u16 = 1_232;
/// Bytes of an answer by TCP, which is the protocol's own limit.
pub(crate) const TCP_ANSWER_BYTES_MAX: usize = 65_535;
/// Resolvers of the host that are asked, as in resolv.conf(5).
pub(crate) const SERVERS_MAX: usize = 3;
/// Times that each of them is asked.
pub(crate) const ROUNDS_MAX: usize = 2;
/// Milliseconds for one of them to answer.
pub(crate) const SERVER_MS_MAX: u64 = 2_000;
/// Milliseconds for all of it; what a stub resolver waits by default.
pub(crate) const QUESTION_MS_MAX: u64 = 4_900;
/// Bytes of the host's resolver configuration that are read.
pub(crate) const RESOLV_CONF_BYTES_MAX: u64 = 64 << 10;
/// Addresses of one answer for a named host; more are left out.
pub(crate) const ADMITTED_PER_ANSWER_MAX: usize = 16;
/// Seconds for which such an address passes at least, however short-lived the answer is.
pub(crate) const ADMITTED_SECONDS_MIN: u64 = 60;
/// Names of hosts in one container's policy.
pub(crate) const NAMES_PER_CONTAINER_MAX: usize = 64;
/// Connections through one forwarded port.
pub(crate) const FORWARDED_MAX: usize = 64;
/// Milliseconds for a forwarded connection to be made on the host.
pub(crate) const FORWARD_CONNECT_MS_MAX: u64 = 5_000;

/// Bytes of a program's output that nobody has read yet; with more the program waits. As much as
/// the largest file that a client reads: some clients wait for a program's end before they read.
pub(crate) const OUTPUT_UNREAD_BYTES_MAX: u64 = 5 << 30;
/// Bytes on the disk of the output of all programs in one sandbox; with more they wait.
pub(crate) const OUTPUT_ALL_BYTES_MAX: u64 = 6 << 30;
/// Percent of the data folder's disk that are left free: with less the programs wait.
pub(crate) const DISK_FREE_PERCENT_MIN: u64 = 5;
/// Bytes of a program's output that may be unread whatever others have: a stream that is read goes
/// on.
pub(crate) const OUTPUT_ALWAYS_BYTES: u64 = 256 << 10;
/// Bytes of output after which the disk is looked at again.
pub(crate) const OUTPUT_LOOK_BYTES: u64 = 16 << 20;
/// How often the disk is looked at while programs wait for room.
pub(crate) const SPACE_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes that a reader of a sandbox's own output may be behind before the program waits for it.
pub(crate) const OUTPUT_STALLED_BYTES_MAX: u64 = 64 << 20;
/// Bytes of output that are kept behind the furthest reader, for one that has lost its connection:
/// twice the client's window, because so much can be on its way to a client that reads nothing.
pub(crate) const OUTPUT_KEPT_BYTES_MAX: u64 = 128 << 20;
/// How long a program's end is kept from whoever asks for it while somebody reads its output. The
/// client's commands print what they read on the side, and end with the program (modal 1.6.4).
pub(crate) const END_BEHIND_OUTPUT_MAX: Duration = Duration::from_millis(500);
/// How long it is kept while nobody reads: who starts to read asks for both at the same time.
pub(crate) const READER_COMES_MAX: Duration = Duration::from_millis(10);
/// Bytes of output that are given back to the file system at a time.
pub(crate) const OUTPUT_FREED_BYTES_MIN: u64 = 4 << 20;
/// Bytes of output in one message.
pub(crate) const OUTPUT_MESSAGE_BYTES_MAX: usize = 128 << 10;
/// How long a reader of a sandbox's own output may take nothing before it holds nothing up.
pub(crate) const READER_STALL_MAX: Duration = Duration::from_secs(10);
/// How long a program's streams may be silent after its end, while background processes hold them.
pub(crate) const SILENCE_AFTER_END_MAX: Duration = Duration::from_secs(1);
/// How long a write to a program that reads no more waits for its end before it fails.
pub(crate) const END_AFTER_STDIN_MAX: Duration = Duration::from_secs(2);
/// Pause between two reads of what is thrown away: a pipe's 64 KiB each time.
pub(crate) const DRAIN_PAUSE: Duration = Duration::from_millis(2);
/// Bytes of one message of a stream that is written.
pub(crate) const INPUT_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Bytes of the fields of a request around its data.
pub(crate) const INPUT_HEAD_BYTES_MAX: u64 = 4 << 10;
/// Programs that run in one sandbox beside its own, at the same time.
pub(crate) const EXECS_MAX: usize = 2_048;
/// Ended programs of one sandbox whose output is kept.
pub(crate) const EXECS_ENDED_MAX: usize = 4_096;
/// Ended programs of one sandbox of which is known how they ended.
pub(crate) const EXECS_KNOWN_MAX: usize = 16_384;
/// How long is known how a program ended: the longest life of a sandbox.
pub(crate) const EXEC_END_KEPT_MAX: Duration = Duration::from_secs(86_400);
/// Programs that run in one container of a function beside its own, at the same time.
pub(crate) const FUNCTION_EXECS_MAX: usize = 64;
/// Ended programs of one container of a function of which is known how they ended.
pub(crate) const FUNCTION_EXECS_ENDED_MAX: usize = 64;
/// Pause before the end of a program in a function's container is told.
pub(crate) const FUNCTION_EXEC_END_PAUSE: Duration = Duration::from_millis(30);
/// Programs in all containers of functions that run, have left background processes which hold
/// their streams, or have output that is kept. Each takes up to ten of the server's open files.
pub(crate) const FUNCTIONS_EXECS_MAX: usize = 512;
/// How long the output of an ended program is kept once it was read to its end.
pub(crate) const EXEC_READ_KEPT_MAX: Duration = Duration::from_secs(120);
/// How long the output of an ended program is kept that nobody reads.
pub(crate) const EXEC_UNREAD_KEPT_MAX: Duration = Duration::from_secs(3_600);
/// Bytes of a program's arguments together: the client's own limit (modal 1.6.4).
pub(crate) const EXEC_ARGUMENTS_BYTES_MAX: usize = 65_536;
/// Bytes of a program's id.
pub(crate) const EXEC_ID_BYTES_MAX: usize = 128;
/// Bytes of a request to start a program: arguments and variables.
pub(crate) const EXEC_REQUEST_BYTES_MAX: usize = 4 << 20;
/// How long a question for a program's end waits: less than the client's own minute.
pub(crate) const EXEC_WAIT_MAX: Duration = Duration::from_secs(50);
/// Requests to a supervisor at the same time.
pub(crate) const SUPERVISOR_REQUESTS_MAX: u32 = 16_384;
/// Connections to a supervisor at the same time.
pub(crate) const SUPERVISOR_CONNECTIONS_MAX: usize = 64;
/// Bytes of one request or answer that wait between worker and supervisor.
pub(crate) const SUPERVISOR_WINDOW_BYTES: u32 = 128 << 10;
/// Threads of a supervisor that wait for the kernel.
pub(crate) const SUPERVISOR_THREADS_MAX: usize = 16;
/// Programs of one container that are being started at the same time: fewer than a supervisor has
/// threads.
pub(crate) const EXEC_STARTS_MAX: usize = 8;
/// Bytes of an order to a supervisor.
pub(crate) const SUPERVISOR_ORDER_BYTES_MAX: usize = 64 << 20;
/// How long a supervisor waits for the worker that made it.
pub(crate) const UNNOTICED_MAX: Duration = Duration::from_secs(120);
/// Supervisors that wait for a sandbox. Each takes some 3 MiB with what will build its container.
pub(crate) const SPARES_MAX: usize = 6;
/// As many are left when further ones are made. Several at a time: with control groups of version
/// 1 they wait for the kernel together.
pub(crate) const SPARES_MIN: usize = 2;
/// Pause after a start before further ones are made, unless none is left.
pub(crate) const FILL_PAUSE: Duration = Duration::from_millis(30);
/// Pause after a sandbox's end before the output of those is looked for that ended long ago.
pub(crate) const FORGET_PAUSE: Duration = Duration::from_secs(10);
/// How long a supervisor answers after its container's end, while somebody reads.
pub(crate) const LINGER_MAX: Duration = Duration::from_secs(60);
/// How long it answers if nobody reads.
pub(crate) const LINGER_MIN: Duration = Duration::from_secs(2);
/// Pause after an end that failed, before it is tried again.
pub(crate) const END_PAUSE: Duration = Duration::from_millis(500);
/// How long one try of a probe may take.
pub(crate) const PROBE_TRY_MAX: Duration = Duration::from_secs(10);

/// How long a supervisor may take to answer a short question.
pub(crate) const SUPERVISOR_ANSWER_MAX: Duration = Duration::from_secs(60);
/// Sandboxes that have ended of which the output is kept.
pub(crate) const ENDED_SANDBOXES_MAX: usize = 256;
/// How long the output of a sandbox that has ended is kept.
pub(crate) const ENDED_SANDBOX_KEPT_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Bytes on the disk that the output of all of them may take.
pub(crate) const ENDED_OUTPUT_BYTES_MAX: u64 = 4 << 30;
/// Pause before the output of a sandbox is asked for again whose connection was lost.
pub(crate) const FOLLOW_PAUSE: Duration = Duration::from_millis(500);
/// How long the last output of a sandbox may take to be reported after its end.
pub(crate) const LAST_LINES_MAX: Duration = Duration::from_secs(5);
/// Bytes of a sandbox's record.
pub(crate) const RECORD_BYTES_MAX: u64 = 16 << 20;
/// Times that a sandbox whose supervisor is gone is killed before it is given up.
pub(crate) const END_TRIES_MAX: usize = 20;
/// How long a sandbox may stand still: less than a program that is started in it waits for that.
pub(crate) const FROZEN_MAX: Duration = Duration::from_secs(25);
/// How long of that its files are copied.
pub(crate) const COPY_MAX: Duration = Duration::from_secs(24);
/// Layers of a sandbox's root up to which a snapshot of its files is one layer more; with more, it
/// is one layer with all files.
pub(crate) const SNAPSHOT_LAYERS_MAX: usize = 64;
/// Images that are laid into one sandbox at the same time.
pub(crate) const MOUNTED_IMAGES_MAX: usize = 32;
/// Places of one sandbox of which the last snapshot is remembered, to share files with.
pub(crate) const SNAPSHOT_PLACES_MAX: usize = 64;
/// Bytes of the name that a client gives to a snapshot.
pub(crate) const SNAPSHOT_NAME_BYTES_MAX: usize = 128;
/// Bytes of a path in a request, as the kernel takes them (PATH_MAX, with the final zero).
pub(crate) const PATH_BYTES_MAX: usize = 4_095;
