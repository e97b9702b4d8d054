//! Control groups: where they are on this host, and the one of a container.
//!
//! Three kinds of hosts exist: all controllers in the one tree of v2, all in trees of v1, or some
//! here and some there (hybrid). A container gets a directory in each tree that holds something
//! for it, and one in v2's tree whenever there is one: it kills all processes at once.

mod ahead;
mod exec;
mod freeze;
mod group;
mod join;
mod layout;

pub(crate) use ahead::Ahead;
pub(crate) use exec::ExecGroup;
pub use group::{Error, Usage};
pub(crate) use group::{Group, empty_and_remove, open, remove_tree};
pub use join::join;
pub(crate) use layout::Layout;
