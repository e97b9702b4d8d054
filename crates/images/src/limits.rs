//! Every limit of this crate.

use std::time::Duration;

/// Layers of one image, as in Docker. Each is a directory that every container start mounts.
pub const IMAGE_LAYERS_MAX: usize = 127;

/// Files, folders and links in one layer.
pub const LAYER_ENTRIES_MAX: u64 = 4_000_000;

/// Folders below each other in one layer. The walk holds one descriptor for each.
pub const LAYER_DEPTH_MAX: usize = 512;

/// Bytes of all files of one snapshot, holes counted.
pub const SNAPSHOT_BYTES_MAX: u64 = 64 << 30;

/// Bytes that a snapshot reads of a file at once.
pub(crate) const SNAPSHOT_PIECE_BYTES: usize = 1 << 20;

/// Files of a layer that the next snapshot finds again; more are written again.
pub(crate) const SHARED_FILES_MAX: usize = 500_000;

/// Folders below each other that a removal follows before it moves what is deeper to the top.
pub(crate) const REMOVE_DEPTH_MAX: usize = 256;

/// Bytes of extended attributes of one file that are looked at.
pub(crate) const XATTR_BYTES_MAX: usize = 64 << 10;

/// Bytes of all recipe lines of one image together.
pub const RECIPE_BYTES_MAX: usize = 4 << 20;

/// Instructions of one recipe.
pub const RECIPE_STEPS_MAX: usize = 2_000;

/// Bytes of one small text file that is read out of an image or the host's settings.
pub(crate) const TEXT_BYTES_MAX: u64 = 4 << 20;

/// How long making one base image may take before it is stopped.
pub const BASE_BUILD_MAX: Duration = Duration::from_secs(45 * 60);

/// Bytes at the end of a failed base build's output that its error shows.
pub(crate) const BASE_OUTPUT_BYTES_MAX: usize = 4 << 10;

/// How long preparing the client's packages may take before it is stopped.
pub const CLIENT_BUILD_MAX: Duration = Duration::from_secs(30 * 60);

/// How long fetching uv may take before it is stopped.
pub(crate) const UV_FETCH_MAX: Duration = Duration::from_secs(10 * 60);

/// How long the newest release of uv that was found counts as the newest.
pub(crate) const UV_NEWEST_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Characters of a recipe line that a log line or an error shows.
pub(crate) const LINE_CHARS_MAX: usize = 160;

/// Names of files that an error lists.
pub(crate) const NAMES_SHOWN_MAX: usize = 8;

/// Bytes of one argument of a command; the kernel takes no longer ones (MAX_ARG_STRLEN).
pub(crate) const COMMAND_BYTES_MAX: usize = 128 << 10;

/// Bytes of a manifest, an image index or an image's configuration that a registry sends.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// Bytes of a registry's answer that says why it refuses, or of its token.
pub(crate) const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Characters of a registry's own words that an error shows.
pub(crate) const ANSWER_CHARS_MAX: usize = 300;

/// Image indexes within each other.
pub(crate) const INDEX_DEPTH_MAX: usize = 3;

/// Bytes of all layers of one image as the registry sends them.
pub const PULL_BYTES_MAX: u64 = 64 << 30;

/// Bytes of one layer once it is unpacked, the archive's own headers included.
pub const LAYER_BYTES_MAX: u64 = 64 << 30;

/// How many times its packed size a layer may become ...
pub const LAYER_RATIO_MAX: u64 = 200;

/// ... once it has become larger than this: small layers of zeros pack much better.
pub const LAYER_RATIO_FREE_BYTES: u64 = 256 << 20;

/// Bytes of one extended header of an archive (long names, attributes).
pub(crate) const ARCHIVE_HEADER_BYTES_MAX: u64 = 1 << 20;

/// Bytes of a path in an archive, as the kernel takes them (PATH_MAX, with the final zero).
pub(crate) const ARCHIVE_PATH_BYTES_MAX: usize = 4_095;

/// Memory that a zstd window may take, as a power of two: what `zstd -d` takes by itself.
pub(crate) const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Layers of one image that are pulled and unpacked at the same time.
pub(crate) const LAYERS_AT_ONCE_MAX: usize = 4;

/// Bytes of unpacked layers that wait for one sync of the file system.
pub(crate) const UNSYNCED_BYTES_MAX: u64 = 512 << 20;

/// Times that a broken download goes on without getting a byte further.
pub(crate) const RETRIES_MAX: u32 = 5;

/// How long reaching a registry may take: a name's address, then a connection.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(3);

/// How long a registry may be silent in the middle of an answer.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How long one layer may take to arrive.
pub const LAYER_PULL_MAX: Duration = Duration::from_secs(2 * 60 * 60);

/// How long a registry that could not be reached is not asked again.
pub(crate) const UNREACHABLE_MAX: Duration = Duration::from_secs(60);

/// Registries that are noted as out of reach at the same time.
pub(crate) const UNREACHABLE_HOSTS_MAX: usize = 256;

/// Links that looking for a file in an image follows, as the kernel's own limit.
pub(crate) const LINKS_MAX: usize = 40;

/// Wheels of the client that are kept.
pub const WHEELS_MAX: usize = 2_000;

/// Bytes of all of them.
pub const WHEELS_BYTES_MAX: u64 = 2 << 30;
