//! The protocol that the client and its containers speak: messages, one marker type per rpc, the
//! names of all rpcs, and a finder of fields that are not declared here. No logic.
//!
//! The .proto files are written for this crate and hold what is served. Numbers, names and types
//! are those of the client's own descriptors; `tests/wire` compares them with an installed client.

pub mod limits;
pub mod names;
pub mod rpc;
pub mod unknown;

/// The messages of the client's service.
pub mod client {
    #![allow(clippy::all, reason = "generated code")]

    include!(concat!(env!("OUT_DIR"), "/modal.client.rs"));
}

/// The messages of the command router.
pub mod router {
    #![allow(clippy::all, reason = "generated code")]

    include!(concat!(env!("OUT_DIR"), "/modal.task_command_router.rs"));
}

/// The full name of the service that clients and containers call.
pub const CLIENT_SERVICE: &str = "modal.client.ModalClient";

/// The full name of the service through which clients run commands in containers.
pub const ROUTER_SERVICE: &str = "modal.task_command_router.TaskCommandRouter";

/// All declarations of this crate, with what they import, as an encoded
/// `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
