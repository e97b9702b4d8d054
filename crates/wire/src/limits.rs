//! The limits of the protocol.

/// The largest message that is decoded, in bytes. The client sends definitions of up to 16 MiB and
/// batches of chunks of about the same size, and has no limit of its own.
pub const MESSAGE_BYTES_MAX: usize = 100 << 20;

/// How many undeclared fields are named before the search ends: enough for a person to read.
pub const UNKNOWN_FIELDS_MAX: usize = 16;
