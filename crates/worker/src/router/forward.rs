//! Requests on their way to who has a container's programs, and what is left when a sandbox's
//! supervisor is no more.

use futures::StreamExt;
use http::{HeaderValue, Request, Response, header};
use model::TaskId;
use tonic::Status;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;
use wire::router::{
    SandboxStdioFileDescriptor, SandboxStdioReadV2Request, SandboxStdioReadV2Response,
};

use super::Holder;
use crate::programs::rows;
use crate::programs::spool::Spool;
use crate::sandbox::folder::Folder;
use crate::sandbox::link::{Error, uri};
use crate::supervisor::own_messages;
use crate::supervisor::words::{STDERR_FILE, STDOUT_FILE};

/// Passes a request on as it arrives, and its answer back.
pub(super) async fn pass(
    holder: &Holder,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let mut passed = Request::new(Body::empty());
    *passed.method_mut() = request.method().clone();
    *passed.uri_mut() = uri(request.uri().path()).map_err(status)?;
    let headers = passed.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    *passed.body_mut() = request.into_body();
    match holder {
        Holder::Sandbox(sandbox) => sandbox.link.send(passed).await.map_err(status),
        Holder::Worker(container) => Ok(rows::answer(container.clone(), passed).await),
    }
}

fn status(error: Error) -> Status {
    match error {
        // Its end is on its way.
        Error::Gone(_) => super::ended(),
        error => Status::unavailable(crate::task::chain(&error)),
    }
}

/// Answers from what is kept of a sandbox that has ended.
pub(super) async fn ended_output(
    task: &TaskId,
    folder: &Folder,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let read = tower::service_fn(|request: tonic::Request<SandboxStdioReadV2Request>| {
        let messages = messages(task, folder, request.into_inner());
        async move { messages.map(tonic::Response::new) }
    });
    let codec = ProstCodec::<SandboxStdioReadV2Response, SandboxStdioReadV2Request>::default();
    Ok(Grpc::new(codec).server_streaming(read, request).await)
}

type Messages = futures::stream::BoxStream<'static, Result<SandboxStdioReadV2Response, Status>>;

fn messages(
    task: &TaskId,
    folder: &Folder,
    request: SandboxStdioReadV2Request,
) -> Result<Messages, Status> {
    super::check_task(task, &request.task_id)?;
    let gone = || Status::not_found("the output of the sandbox is not kept any more");
    let ending = folder.ending().ok_or_else(gone)?;
    let (name, start) = match request.file_descriptor() {
        SandboxStdioFileDescriptor::Stdout => (STDOUT_FILE, ending.stdout_start),
        SandboxStdioFileDescriptor::Stderr => (STDERR_FILE, ending.stderr_start),
    };
    let spool = Spool::open(&folder.path().join(name), start).map_err(|_| gone())?;
    Ok(own_messages(&spool, request.offset).boxed())
}
