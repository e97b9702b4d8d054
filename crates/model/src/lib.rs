//! The domain of palisade: what an app, a call, a task and an image are, and how each changes.
//!
//! Nothing here does I/O, reads a clock or draws a random number: `now` and new ids come in as
//! arguments (A1), so the same code runs in the server and in a simulation.

pub mod allowed;
pub mod autoscale;
pub mod call;
pub mod ids;
pub mod limits;
pub mod link;
pub mod output;
pub mod placement;
pub mod resources;
pub mod retry;
pub mod router_token;
pub mod sandbox;
pub mod spec;
pub mod text;
pub mod time;

pub use ids::{
    AppId, BlobId, CallId, ClassId, DictId, EnvironmentId, FunctionId, ImageId, InputId, MountId,
    QueueId, SandboxId, SecretId, TaskId, WorkerId, WorkspaceId,
};
pub use time::{Millis, Time};
