//! HTTP and TLS: one port for the client's protocol (HTTP/2) and for blobs (HTTP/1.1 or 2). The
//! same routes stand behind each container's own door, bound to what that container may have.

mod carry;
pub mod connect;
pub mod host_ports;
pub mod limits;
pub mod local;
mod opening;
mod port;
pub mod tls;
mod transfer;
pub mod tunnel;
pub mod visits;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use plane::api::table::RpcTable;
use plane::{Api, Plane, Transport};

pub use opening::Speech;
pub use port::{Error, Peer, Port};

/// The routes as they are met through one transport.
pub fn routes(plane: &Arc<Plane>, tables: &Arc<[RpcTable]>, transport: Transport) -> Router {
    let blobs = transfer::Blobs { plane: plane.clone(), door: transport.blob_door() };
    let api = Api::new(plane.clone(), tables.clone(), transport);
    Router::new()
        .route("/blobs/{token}", get(transfer::download).put(transfer::upload))
        .with_state(blobs)
        .fallback_service(api)
}
