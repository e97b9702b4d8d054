//! Images: where they come from, how recipes make them, and where their layers lie.
//!
//! Code of a step never runs here: it runs through a `StepRunner`, which the worker has.
//! Everything here blocks; call it where blocking is fine.

mod apt;
mod build;
pub mod catalogue;
mod client;
mod context;
mod debian;
mod image;
mod key;
mod key_lock;
mod layer;
pub mod limits;
mod listing;
pub mod package_settings;
pub mod recipe;
mod scope;
mod stage;
mod step;
mod tree;
mod uv;

pub use build::{Builder, Error as BuildError, Log, Request, Secrets};
pub use client::{Client, Error as ClientError};
pub use context::{Context, ContextFile, ContextTree, CopyError, is_pattern, matches};
pub use debian::Error as DebianError;
pub use image::{Config, DEFAULT_PATH, Image};
pub use key_lock::KeyLock;
pub use layer::{Draft, Error as LayerError, Key, LayerStore, Size};
pub use listing::ListError;

pub use step::{
    Entry, EntryKind, Exit, RunError, RunStep, Source, StepDirs, StepMount, StepRunner, TreeCopy,
};
pub use tree::TreeError;
