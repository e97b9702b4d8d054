//! Images of a sandbox's files, and images that are laid into it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, PathBuf};

use http::{Request, Response};
use images::SnapshotError;
use model::spec::ImageContent;
use model::{ImageId, Millis, TaskId};
use tonic::Status;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;
use wire::router as pb;

use super::rows::Files;
use super::{Desk, Snapshot};
use crate::limits::{PATH_BYTES_MAX, SNAPSHOT_NAME_BYTES_MAX};
use crate::sandbox::{FilesError, Place};

/// Answers one of the rpcs.
pub(super) async fn answer(
    desk: Desk,
    task: TaskId,
    what: Files,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    match what {
        Files::Keep => {
            unary(request, |asked: pb::TaskSnapshotFilesystemRequest| async move {
                let image_id = keep_all(desk, task, asked).await?.into();
                Ok(pb::TaskSnapshotFilesystemResponse { image_id })
            })
            .await
        }
        Files::KeepFolder => {
            unary(request, |asked: pb::TaskSnapshotDirectoryRequest| async move {
                let image_id = keep_folder(desk, task, asked).await?.into();
                Ok(pb::TaskSnapshotDirectoryResponse { image_id })
            })
            .await
        }
        Files::Mount => unary(request, |asked| mount(desk, task, asked)).await,
        Files::Unmount => unary(request, |asked| unmount(desk, task, asked)).await,
    }
}

/// Decodes a request, has it done to its end even if its client goes away, encodes the answer.
async fn unary<Q, A, F>(
    request: Request<Body>,
    act: impl FnOnce(Q) -> F + Send + 'static,
) -> Result<Response<Body>, Status>
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Message + Default + Send + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let mut act = Some(act);
    let done = tower::service_fn(move |request: tonic::Request<Q>| {
        let act = act.take();
        async move {
            let again = || Status::internal("one request was answered twice");
            let done = tokio::spawn(act.ok_or_else(again)?(request.into_inner()));
            let died = |_| Status::internal("a task of the worker died");
            done.await.map_err(died)?.map(tonic::Response::new)
        }
    });
    Ok(Grpc::new(ProstCodec::<A, Q>::default()).unary(done, request).await)
}

async fn keep_all(
    desk: Desk,
    task: TaskId,
    asked: pb::TaskSnapshotFilesystemRequest,
) -> Result<ImageId, Status> {
    super::check_task(&task, &asked.task_id)?;
    refuse(&asked.container_id, asked.customer_supplied_encryption_key.as_deref())?;
    keep(desk, task, asked.snapshot_id, asked.ttl_seconds, Place::Root).await
}

async fn keep_folder(
    desk: Desk,
    task: TaskId,
    asked: pb::TaskSnapshotDirectoryRequest,
) -> Result<ImageId, Status> {
    super::check_task(&task, &asked.task_id)?;
    refuse(&asked.container_id, asked.customer_supplied_encryption_key.as_deref())?;
    let place = Place::Folder(path(asked.path.into())?);
    keep(desk, task, asked.snapshot_id, asked.ttl_seconds, place).await
}

async fn keep(
    desk: Desk,
    task: TaskId,
    name: String,
    ttl_seconds: Option<i64>,
    place: Place,
) -> Result<ImageId, Status> {
    if name.is_empty() || name.len() > SNAPSHOT_NAME_BYTES_MAX {
        let why = format!("snapshot_id: give 1 to {SNAPSHOT_NAME_BYTES_MAX} bytes");
        return Err(Status::invalid_argument(why));
    }
    let ttl = ttl(ttl_seconds)?;
    if let Some(known) = desk.images.find(task.clone(), name.clone()).await? {
        return Ok(known);
    }
    let is_whole = place == Place::Root;
    let kept = desk.running(&task)?.keep(&desk.worker()?, place).await.map_err(status)?;
    // Its layers are leased until the image is known.
    let snapshot = Snapshot { name, content: kept.content.clone(), is_whole, ttl };
    desk.images.publish(task, snapshot).await
}

/// How long a snapshot is kept. Clients write -1 for no end (modal 1.6.4); older ones say nothing.
fn ttl(seconds: Option<i64>) -> Result<Option<Millis>, Status> {
    match seconds {
        None | Some(-1) => Ok(None),
        Some(seconds) if seconds > 0 => Ok(Some(Millis(seconds.unsigned_abs() * 1_000))),
        Some(_) => Err(Status::invalid_argument("ttl_seconds: give at least 1, or -1 for no end")),
    }
}

async fn mount(
    desk: Desk,
    task: TaskId,
    asked: pb::TaskMountDirectoryRequest,
) -> Result<(), Status> {
    super::check_task(&task, &asked.task_id)?;
    refuse(&asked.container_id, asked.customer_supplied_encryption_key.as_deref())?;
    let path = path(asked.path.into())?;
    if path.components().all(|part| matches!(part, Component::RootDir | Component::CurDir)) {
        return Err(Status::invalid_argument("path: an image cannot be laid on `/` itself"));
    }
    let image = match asked.image_id.as_str() {
        "" => ImageContent::default(),
        id => {
            let id = ImageId::parse(id);
            let id = id.map_err(|error| Status::not_found(format!("image_id: {error}")))?;
            desk.images.content(task.clone(), id).await?
        }
    };
    desk.running(&task)?.mount(&desk.worker()?, path, image).await.map_err(status)
}

async fn unmount(
    desk: Desk,
    task: TaskId,
    asked: pb::TaskUnmountDirectoryRequest,
) -> Result<(), Status> {
    super::check_task(&task, &asked.task_id)?;
    refuse(&asked.container_id, None)?;
    let path = path(asked.path.into())?;
    desk.running(&task)?.unmount(path).await.map_err(status)
}

/// What cannot be done here is refused.
fn refuse(container: &str, key: Option<&[u8]>) -> Result<(), Status> {
    if !container.is_empty() {
        let why = "container_id: a sandbox has no further containers here";
        return Err(Status::unimplemented(why));
    }
    if key.is_some_and(|key| !key.is_empty()) {
        let why = "customer_supplied_encryption_key: images are not encrypted here; leave it out";
        return Err(Status::unimplemented(why));
    }
    Ok(())
}

/// An absolute path.
fn path(bytes: Vec<u8>) -> Result<PathBuf, Status> {
    let refused = |why: &str| Err(Status::invalid_argument(format!("path: {why}")));
    if bytes.contains(&0) {
        return refused("it has a zero byte");
    }
    if bytes.len() > PATH_BYTES_MAX {
        return refused(&format!("it has more than {PATH_BYTES_MAX} bytes"));
    }
    let path = PathBuf::from(OsString::from_vec(bytes));
    if !path.is_absolute() {
        return refused("it must begin with `/`");
    }
    Ok(path)
}

fn status(error: FilesError) -> Status {
    let text = crate::task::chain(&error);
    match error {
        FilesError::Ended => super::ended(),
        FilesError::Missing { .. } | FilesError::Layers(images::LayerError::NotFound { .. }) => {
            Status::not_found(text)
        }
        FilesError::Attach(jail::AttachError::Refused(_)) => Status::invalid_argument(text),
        FilesError::TooMany(_)
        | FilesError::Copy(SnapshotError::Layer(images::LayerError::Full { .. })) => {
            Status::resource_exhausted(text)
        }
        FilesError::Thread | FilesError::View(_) | FilesError::File(_) => Status::internal(text),
        FilesError::Freeze(_)
        | FilesError::Thawed
        | FilesError::Copy(_)
        | FilesError::Layers(_)
        | FilesError::Attach(_)
        | FilesError::Image(_)
        | FilesError::Owners => Status::failed_precondition(text),
    }
}
