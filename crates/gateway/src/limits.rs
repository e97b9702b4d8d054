//! The limits of the gateway.

use std::time::Duration;

/// Connections to the server's port at the same time; further ones wait.
pub const CONNECTIONS_MAX: usize = 4_096;

/// Connections of the server's owner to its socket at the same time; further ones wait.
pub(crate) const LOCAL_CONNECTIONS_MAX: usize = 256;

/// Connections of one listener that have not said yet what they want; further ones are closed.
pub const OPENINGS_MAX: usize = 1_024;

/// How long a peer may take for the TLS handshake and its first bytes.
pub const OPENING_MAX: Duration = Duration::from_secs(10);

/// How long open connections may take to end when the server does.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(3);

/// How long an answer to a peer that spoke the wrong language may take.
pub(crate) const REFUSAL_MAX: Duration = Duration::from_secs(1);

/// How long a certificate of our own is good for. Some clients refuse more than 398 days.
pub(crate) const CERTIFICATE_DAYS_MAX: i64 = 397;

/// A certificate with fewer days left is replaced.
pub(crate) const CERTIFICATE_DAYS_LEFT_MIN: i64 = 30;

/// How often the files of a given certificate are looked at.
pub(crate) const CERTIFICATE_LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the CA's certificate is good for. Its key stays the same.
pub(crate) const CA_DAYS_MAX: i64 = 3_650;

/// A CA's certificate that is older is signed again.
pub(crate) const CA_AGE_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Connections into one sandbox, through tunnels and by connect tokens; further ones are closed.
pub const VISITS_EACH_MAX: usize = 1_024;

/// Connections into all sandboxes; further ones are closed.
pub const VISITS_MAX: usize = 4_096;

/// How long a program in a sandbox may take to accept a connection.
pub(crate) const DIAL_MAX: Duration = Duration::from_secs(10);

/// A tunnel's connection that carries nothing for so long is closed.
pub const SILENCE_MAX: Duration = Duration::from_secs(3_600);

/// The same once one side has said that it sends no more: it may be gone altogether, which nobody
/// can tell from that.
pub const HALF_CLOSED_MAX: Duration = Duration::from_secs(60);

/// Bytes of a tunnel's connection that are on their way in one direction.
pub(crate) const COPY_BYTES_MAX: usize = 16 << 10;

/// A peer that is silent for so long is asked whether it is there still.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(60);

/// A connect token that a request shows.
pub(crate) const TOKEN_BYTES_MAX: usize = 1_024;

/// Browsers that came in by a connect token and hold a cookie; the oldest one is forgotten.
pub const SESSIONS_MAX: usize = 16_384;

/// Bytes of one request that nobody has read yet.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 512 << 10;
/// Bytes of all requests of one connection that nobody has read yet: as many as 1,024 of them can
/// have. What a program in a sandbox does not read of its stdin stays there, and must not keep
/// other requests of that connection from being read.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 512 << 20;
