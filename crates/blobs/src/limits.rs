//! Every limit of this crate.

/// The largest blob that a store takes unless it was opened with another limit.
///
/// Blobs carry call arguments, results, uploaded files and image contexts. 64 GiB is far above
/// what a client uploads in one piece and far below what would make a counter overflow.
pub const BLOB_BYTES_MAX: u64 = 64 << 30;

/// Bytes read from a source at once while they are hashed and written.
pub(crate) const CHUNK_BYTES_MAX: usize = 256 << 10;
