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
