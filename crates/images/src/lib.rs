//! Images: where they come from, how recipes make them, and where their layers lie.
//!
//! Code of a step never runs here: it runs through a `StepRunner`, which the worker has.
//! Everything here blocks; call it where blocking is fine.

mod apply;
mod apt;
mod base;
mod build;
pub mod catalogue;
mod claims;
mod client;
mod context;
mod debian;
mod export;
mod image;
mod import;
mod key;
mod key_lock;
mod layer;
mod lease;
pub mod limits;
mod listing;
mod manifest;
mod names;
pub mod package_settings;
mod pattern;
mod pull;
mod python;
pub mod recipe;
mod reference;
mod registry;
mod scope;
mod settle;
mod snapshot;
mod sources;
mod stack;
mod stage;
mod step;
mod tree;
mod unpack;
mod uv;

pub use apply::ApplyError;
pub use base::BaseError;
pub use build::{Builder, Error as BuildError, Log, Request, Secrets};
pub use client::{Client, Error as ClientError, WheelsError, import_wheels};
pub use context::{Context, ContextFile, ContextTree, CopyError};
pub use debian::Error as DebianError;
pub use export::{Error as ExportError, export};
pub use image::{Config, DEFAULT_PATH, Image};
pub use import::{Error as ImportError, ImportReport, import};
pub use key_lock::KeyLock;
pub use layer::{Draft, Error as LayerError, Key, LayerStore, Size};
pub use lease::{Evicted, Lease};
pub use listing::ListError;
pub use manifest::{
    Descriptor, ImageConfig, Manifest, ManifestError, parse_config, parse_manifest,
};
pub use names::Named;
pub use pattern::{is_pattern, matches};
pub use pull::PullError;
pub use reference::{Reference, ReferenceError};
pub use registry::RegistryError;
pub use snapshot::{Copied, Error as SnapshotError};
pub use sources::{Credentials, Mirror, MirrorError, Sources};
pub use step::{
    Entry, EntryKind, Exit, RunError, RunStep, Source, StepDirs, StepMount, StepRunner, TreeCopy,
};
pub use tree::TreeError;
pub use unpack::{Refusal, UnpackError, unpack_layer};
