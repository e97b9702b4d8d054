//! A sandbox's files as an image, for clients that do not ask the command router for it.

use model::ImageId;
use store::images;
use wire::client as pb;
use wire::router::TaskSnapshotFilesystemRequest;
use wire::rpc::router::TaskSnapshotFilesystem;

use super::find;
use super::inside::{Inside, until};
use super::life::wait_of;
use crate::api::gate::{Cx, Member};
use crate::api::images as api_images;
use crate::api::refusal::Refusal;

/// Keeps all files of a running sandbox. What is begun goes on when the client's time is over: it
/// finds the same snapshot when it asks again.
pub(in crate::api) async fn snapshot_fs(
    cx: Cx<Member>,
    req: pb::SandboxSnapshotFsRequest,
) -> Result<pb::SandboxSnapshotFsResponse, Refusal> {
    let late = until(wait_of(req.timeout));
    let task = {
        let mut db = cx.plane.store.read().await?;
        find(&mut db, cx.scope(), &req.sandbox_id).await?.task
    };
    let inside = Inside { plane: cx.plane.clone(), task };
    let asked = TaskSnapshotFilesystemRequest {
        task_id: inside.task.to_string(),
        snapshot_id: Inside::name(&cx, 's'),
        ..TaskSnapshotFilesystemRequest::default()
    };
    let kept = tokio::time::timeout_at(late, inside.call::<TaskSnapshotFilesystem>(asked)).await;
    let too_late =
        |_| Refusal::TooLate("the snapshot takes longer: give it a longer timeout".into());
    let image_id = kept.map_err(too_late)??.image_id;
    let mut db = cx.plane.store.read().await?;
    let image = images::get(&mut db, cx.scope(), &ImageId::parse(&image_id)?).await?;
    let image = image.ok_or_else(|| Refusal::not_found("image", &image_id))?;
    Ok(pb::SandboxSnapshotFsResponse {
        image_id,
        result: Some(api_images::success()),
        image_metadata: Some(api_images::metadata(&image)),
    })
}
