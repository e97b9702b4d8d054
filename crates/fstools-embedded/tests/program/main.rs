//! The file tool as sandboxes have it: the program that this crate carries, in processes. For root.
#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod files;
mod folders;
mod handles;
mod info;
mod tool;
mod watch;
