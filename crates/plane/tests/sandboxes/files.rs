//! Files of sandboxes for older clients, as far as no sandbox is needed.

use tonic::Code;
use wire::client as pb;
use wire::rpc::client as names;

use crate::bench::Bench;
use crate::world::{metadata, refused};

/// A client that watches asks again where it hears UNAVAILABLE, and with other codes its caller
/// waits for ever (modal 1.0.5).
#[tokio::test]
async fn a_watch_that_is_not_reached_yet_is_to_be_asked_for_again() {
    let mut bench = Bench::new().await;
    let (_, start) = bench.create_plain().await;
    let exec_id = format!("{}:w-1", start.task);
    let request = pb::ContainerFilesystemExecGetOutputRequest { exec_id, timeout: 55.0 };
    let api = bench.api();
    type Output = names::ContainerFilesystemExecGetOutput;
    let followed = wire::rpc::stream::<Output>(api, metadata(None), request).await;
    refused(followed.map(drop), Code::Unavailable, "no sandbox runs here");
}
