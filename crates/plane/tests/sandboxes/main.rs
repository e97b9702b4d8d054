//! Sandboxes over a real store, with a worker that does as a test says.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod bench;
mod definitions;
mod ends;
mod files;
mod life;
mod reunion;
mod snapshots;
mod ways;
#[path = "../world/mod.rs"]
mod world;
