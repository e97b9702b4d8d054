//! Files and mounts.

use bytes::Bytes;
use model::spec::MountFile;
use model::{BlobId, MountId};
use store::mounts;
use wire::client as pb;

use super::gate::{Cx, Member};
use super::refusal::Refusal;
use crate::limits::MOUNT_FILES_MAX;
use crate::pythons::Release;

/// What the client asks for under this name stands for the client package of its own release. The
/// server lays it into function containers by itself, so the mount is empty.
const CLIENT_MOUNT: &str = "modal-client-mount-";

fn check_sha256(field: &'static str, hex: &str) -> Result<(), Refusal> {
    let fits = hex.len() == 64 && hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    if fits {
        return Ok(());
    }
    Err(Refusal::invalid(field, "it is not a SHA-256 in lower-case hex"))
}

/// Which of some files the workspace has not sent yet.
pub(super) async fn check_existence(
    cx: Cx<Member>,
    req: pb::MountBatchedCheckExistenceRequest,
) -> Result<pb::MountBatchedCheckExistenceResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let mut missing = Vec::new();
    for hash in req.sha256_hex_hashes {
        check_sha256("sha256_hex_hashes", &hash)?;
        if !mounts::has_file(&mut db, cx.scope(), &hash).await? {
            missing.push(hash);
        }
    }
    Ok(pb::MountBatchedCheckExistenceResponse {
        missing_sha256_hex_hashes: missing,
        checked_at: None,
    })
}

/// Takes a file, or says whether it is there.
pub(super) async fn put_file(
    cx: Cx<Member>,
    req: pb::MountPutFileRequest,
) -> Result<pb::MountPutFileResponse, Refusal> {
    use pb::mount_put_file_request::DataOneof;
    check_sha256("sha256_hex", &req.sha256_hex)?;
    let scope = cx.scope();
    let size_bytes = match req.data_oneof {
        None => {
            let mut db = cx.plane.store.read().await?;
            let exists = mounts::has_file(&mut db, scope, &req.sha256_hex).await?;
            return Ok(pb::MountPutFileResponse { exists, checked_at: None });
        }
        Some(DataOneof::Data(data)) => store_file(&cx, &req.sha256_hex, data).await?,
        Some(DataOneof::DataBlobId(id)) => {
            let blob = {
                let mut db = cx.plane.store.read().await?;
                store::blobs::get(&mut db, scope, &BlobId::parse(&id)?).await?
            };
            let blob = blob.ok_or_else(|| Refusal::not_found("blob", &id))?;
            if blob.sha256.as_deref() != Some(req.sha256_hex.as_str()) {
                let why = format!("blob `{id}` does not hold the bytes of that hash");
                return Err(Refusal::invalid("sha256_hex", why));
            }
            blob.size_bytes
        }
    };
    let mut tx = cx.plane.store.begin().await?;
    cx.plane.check_kept(&req.sha256_hex).await?;
    mounts::put_file(&mut tx, scope, &req.sha256_hex, size_bytes).await?;
    tx.commit().await?;
    Ok(pb::MountPutFileResponse { exists: true, checked_at: None })
}

async fn store_file(cx: &Cx<Member>, sha256: &str, data: Bytes) -> Result<u64, Refusal> {
    let size_bytes = data.len() as u64;
    cx.plane.keep_bytes("data", sha256, data).await?;
    Ok(size_bytes)
}

/// An absolute path without `.`, `..` and NUL.
fn check_path(path: &str) -> Result<(), Refusal> {
    let fits = path.starts_with('/')
        && path.len() < 4_096
        && !path.contains('\0')
        && path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    if fits {
        return Ok(());
    }
    let path: String = path.chars().take(200).collect();
    let why = format!("`{path}` is not an absolute path of a file");
    Err(Refusal::invalid("files.filename", why))
}

/// The mount of a Python that the operator imported: one tree.
async fn python(cx: &Cx<Member>, release: &Release) -> Result<MountId, Refusal> {
    let found = cx.plane.config.pythons.find(release).map_err(Refusal::internal)?;
    let sha256 = found.ok_or_else(|| {
        let (mount, archive) = (release.mount(), release.archive());
        Refusal::NotFound(format!(
            "mount `{mount}` not found: this server has not that Python. Get {archive} of the \
             releases of python-build-standalone and run `palisade python import {archive}` on \
             the server, or start from an image that has a Python, as python:3.11-slim"
        ))
    })?;
    let file =
        MountFile { path: "/python".into(), sha256, mode: None, tree: Some(release.mount()) };
    let id = MountId::new(cx.plane.bits());
    let mut tx = cx.plane.store.begin().await?;
    mounts::insert(&mut tx, cx.scope(), &id, &[file], cx.now()).await?;
    tx.commit().await?;
    Ok(id)
}

/// Makes a mount of files that were sent before.
pub(super) async fn get_or_create(
    cx: Cx<Member>,
    req: pb::MountGetOrCreateRequest,
) -> Result<pb::MountGetOrCreateResponse, Refusal> {
    if let Some(release) = Release::of_mount(&req.deployment_name) {
        let mount_id = python(&cx, &release).await?.into();
        let handle_metadata = Some(pb::MountHandleMetadata::default());
        return Ok(pb::MountGetOrCreateResponse { mount_id, handle_metadata });
    }
    if !req.deployment_name.is_empty() && !req.deployment_name.starts_with(CLIENT_MOUNT) {
        let text = format!(
            "mount `{}` not found: this server has no mounts by name, beside the client's own",
            req.deployment_name
        );
        return Err(Refusal::NotFound(text));
    }
    if req.files.len() > MOUNT_FILES_MAX {
        let text = format!("a mount has at most {MOUNT_FILES_MAX} files: split it");
        return Err(Refusal::Exhausted(text));
    }
    let mut tx = cx.plane.store.begin().await?;
    let mut files = Vec::with_capacity(req.files.len());
    for file in req.files {
        check_path(&file.filename)?;
        check_sha256("files.sha256_hex", &file.sha256_hex)?;
        if !mounts::has_file(&mut tx, cx.scope(), &file.sha256_hex).await? {
            return Err(Refusal::not_found("file with the SHA-256", file.sha256_hex));
        }
        let mode = file.mode.map(|mode| mode & 0o7777);
        files.push(MountFile { path: file.filename, sha256: file.sha256_hex, mode, tree: None });
    }
    let id = MountId::new(cx.plane.bits());
    // The client sends them as they were hashed; the same files are the same build context.
    files.sort_by(|a, b| a.path.cmp(&b.path));
    mounts::insert(&mut tx, cx.scope(), &id, &files, cx.now()).await?;
    tx.commit().await?;
    let handle_metadata = Some(pb::MountHandleMetadata::default());
    Ok(pb::MountGetOrCreateResponse { mount_id: id.into(), handle_metadata })
}
