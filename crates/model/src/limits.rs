//! The limits of the domain. Each is documented where users see it: docs/limits.md.

use crate::Millis;

/// How often an input may lose its container through no fault of its own before it fails.
pub const LOST_MAX: u32 = 8;

/// Containers that one function may have when its definition says nothing.
pub const CONTAINERS_MAX: u32 = 1_000;

/// Containers of one function that may be starting at the same time.
pub const STARTING_MAX: u32 = 16;

/// Starts in a row that may fail before waiting inputs get the failure as their result.
pub const START_FAILURES_MAX: u32 = 3;

/// An ephemeral app whose client has not been heard of for so long is ended.
pub const HEARTBEAT_MAX: Millis = Millis::from_secs(50);

/// A container that has not been heard of for so long is ended.
pub const TASK_HEARTBEAT_MAX: Millis = Millis::from_secs(90);

/// An idle container ends after this long when its function says nothing.
pub const SCALEDOWN_WINDOW_DEFAULT: Millis = Millis::from_secs(60);

/// A function's timeout when its definition says nothing.
pub const TIMEOUT_DEFAULT: Millis = Millis::from_secs(300);

/// The longest timeout.
pub const TIMEOUT_MAX: Millis = Millis::from_secs(24 * 3_600);
