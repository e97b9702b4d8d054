//! Images: where they come from, how recipes make them, and where their layers lie.
//!
//! Code of a step never runs here: it runs through a `StepRunner`, which the worker has.
//! Everything here blocks; call it where blocking is fine.

mod context;
mod image;
mod layer;
mod limits;
mod listing;
pub mod recipe;
mod step;
mod tree;

pub use context::{Context, ContextFile, CopyError};
pub use image::{Config, DEFAULT_PATH, Image};
pub use layer::{Draft, Error as LayerError, Key, KeyLock, LayerStore, Size};
pub use listing::ListError;
pub use step::{Entry, EntryKind, Exit, RunError, RunStep, Source, StepDirs, StepRunner};
