//! Blobs: announced here, sent and fetched over HTTP.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::BlobId;
use store::blobs::{self, Blob};
use store::inputs;
use wire::client as pb;

use super::gate::{Cx, Known};
use super::refusal::Refusal;
use crate::limits::{BLOB_BYTES_MIN, TASK_PAYLOADS_MAX};

/// The URL at which the caller reaches a blob: a container finds it on its own loopback, since it
/// may have no other network.
fn url(cx: &Cx<Known>, token: &str) -> String {
    match &cx.caller {
        Known::User(_) => format!("{}/blobs/{token}", cx.plane.config.gateway_url),
        Known::Task(_) => {
            format!("http://127.0.0.1:{}/blobs/{token}", cx.plane.config.blob_port_inside)
        }
    }
}

/// Announces a blob; answers with the URL that takes its bytes.
pub(super) async fn create(
    cx: Cx<Known>,
    req: pb::BlobCreateRequest,
) -> Result<pb::BlobCreateResponse, Refusal> {
    let most = cx.plane.config.payload_bytes_max;
    let size_bytes = u64::try_from(req.content_length)
        .map_err(|_| Refusal::invalid("content_length", "it is negative"))?;
    if size_bytes > most {
        let text = format!(
            "the payload of {size_bytes} bytes is larger than the limit of {most} bytes (an \
             argument, a result or a file): send less, or let the operator raise \
             --payload-bytes-max"
        );
        return Err(Refusal::Exhausted(text));
    }
    let sha256 = STANDARD
        .decode(&req.content_sha256_base64)
        .ok()
        .filter(|sha256| sha256.len() == 32)
        .ok_or_else(|| {
            Refusal::invalid("content_sha256_base64", "it is not a SHA-256 in base64")
        })?;
    let mut tx = cx.plane.store.begin().await?;
    let task = cx.caller.task().map(|task| task.id.clone());
    if let Some(task) = &task {
        let kept = blobs::bytes_of_task(&mut tx, task, BLOB_BYTES_MIN).await?;
        if kept.saturating_add(size_bytes.max(BLOB_BYTES_MIN))
            > most.saturating_mul(TASK_PAYLOADS_MAX)
        {
            let text = format!("this container has sent {kept} bytes already, which is its limit");
            return Err(Refusal::Exhausted(text));
        }
    }
    let blob = Blob {
        id: BlobId::new(cx.plane.bits()),
        workspace: cx.scope().workspace.clone(),
        task,
        token: hex::encode(rand::random::<[u8; 32]>()),
        size_bytes,
        wanted_sha256: hex::encode(sha256),
        sha256: None,
    };
    blobs::insert(&mut tx, &blob, cx.now()).await?;
    tx.commit().await?;
    let url = url(&cx, &blob.token);
    let blob_id: String = blob.id.into();
    Ok(pb::BlobCreateResponse {
        blob_id: blob_id.clone(),
        blob_ids: vec![blob_id],
        upload_type_oneof: Some(pb::blob_create_response::UploadTypeOneof::UploadUrl(url.clone())),
        upload_types_oneof: Some(pb::blob_create_response::UploadTypesOneof::UploadUrls(
            pb::UploadUrlList { items: vec![url] },
        )),
    })
}

/// The URL that gives a blob's bytes. A container finds its own blobs alone: those that it made,
/// and those that its inputs carry.
pub(super) async fn get(
    cx: Cx<Known>,
    req: pb::BlobGetRequest,
) -> Result<pb::BlobGetResponse, Refusal> {
    let unknown = || Refusal::not_found("blob", &req.blob_id);
    let id = BlobId::parse(&req.blob_id)?;
    let mut db = cx.plane.store.read().await?;
    let blob = blobs::get(&mut db, cx.scope(), &id).await?.ok_or_else(unknown)?;
    if let Some(task) = cx.caller.task().filter(|task| task.restricted) {
        let own = blob.task.as_ref() == Some(&task.id)
            || inputs::task_has_blob(&mut db, &task.id, id.as_str()).await?;
        if !own {
            return Err(unknown());
        }
    }
    if blob.sha256.is_none() {
        return Err(unknown());
    }
    Ok(pb::BlobGetResponse { download_url: url(&cx, &blob.token) })
}
