//! Every limit of this crate.

use std::time::Duration;

/// Layers of one image, as in Docker. Each is a directory that every container start mounts.
pub const IMAGE_LAYERS_MAX: usize = 127;

/// Files, folders and links in one layer.
pub const LAYER_ENTRIES_MAX: u64 = 4_000_000;

/// Folders below each other in one layer. The walk holds one descriptor for each.
pub const LAYER_DEPTH_MAX: usize = 512;

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
