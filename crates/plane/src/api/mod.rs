//! The client's protocol: rows, gates and handlers. Messages of the wire stop here (A5).

pub mod gate;
pub mod receipt;
pub mod refusal;
pub mod rows;
pub mod service;
pub mod start;
pub mod table;

mod apps;
mod blobs;
mod calls;
mod chunks;
mod containers;
mod declines;
mod definition;
mod dicts;
mod environments;
mod functions;
mod identity;
mod image_names;
mod images;
mod intake;
mod logs;
mod mounts;
mod objects;
mod outcome;
mod past_logs;
mod poll;
mod queues;
mod replay;
mod sandboxes;
mod secrets;
mod tasks;

use wire::client::{FunctionCallInvocationType, FunctionCallType};

/// The kind of a call of one input.
pub(crate) const CALL_UNARY: i32 = FunctionCallType::Unary as i32;

/// How a call is made whose caller waits for its answer.
pub(crate) const CALL_SYNC: i32 = FunctionCallInvocationType::Sync as i32;
