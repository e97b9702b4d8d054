//! The client's requests to one sandbox, as the supervisor answers them. The worker has checked
//! whose they are, and has put in the values of secrets.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use wire::router as pb;
use wire::rpc::Rpc;
use wire::rpc::router as rpc;

use super::life::Life;
use crate::programs::incoming::{Incoming, OF_SANDBOX};
use crate::programs::rows::{self, check_task, invalid, messages, stream, unary, write, written};
use crate::programs::spool::Spool;

/// Answers a request of the client's.
pub(crate) async fn answer(life: Arc<Life>, request: Request<Body>) -> Response<Body> {
    match request.uri().path() {
        rpc::SandboxStdioReadV2::PATH => {
            stream::<rpc::SandboxStdioReadV2, _, _>(request, |request| read_own(life, request))
                .await
        }
        rpc::SandboxStdinWriteV2::PATH => written(write_own(life, request.into_body()).await),
        rpc::SandboxWaitUntilReady::PATH => {
            unary::<rpc::SandboxWaitUntilReady, _>(request, |request| ready(life, request)).await
        }
        _ => rows::answer(life.container().clone(), request).await,
    }
}

async fn read_own(
    life: Arc<Life>,
    request: pb::SandboxStdioReadV2Request,
) -> Result<impl Stream<Item = Result<pb::SandboxStdioReadV2Response, Status>>, Status> {
    check_task(life.container(), &request.task_id)?;
    let spool = match request.file_descriptor() {
        pb::SandboxStdioFileDescriptor::Stdout => &life.own().stdout,
        pb::SandboxStdioFileDescriptor::Stderr => &life.own().stderr,
    };
    Ok(own_messages(spool, request.offset))
}

/// The messages of a reader of the sandbox's own output.
pub(crate) fn own_messages(
    spool: &Arc<Spool>,
    offset: u64,
) -> impl Stream<Item = Result<pb::SandboxStdioReadV2Response, Status>> + Send + 'static + use<> {
    messages(spool, offset, |starting_offset, data| pb::SandboxStdioReadV2Response {
        data,
        starting_offset,
    })
}

async fn write_own(life: Arc<Life>, body: Body) -> Result<(), Status> {
    let (head, incoming) = Incoming::begin(body, OF_SANDBOX).await?;
    check_task(life.container(), &head.task_id)?;
    let _busy = life.container().activity().busy();
    write(life.own().stdin()?, head.offset, incoming).await
}

async fn ready(
    life: Arc<Life>,
    request: pb::SandboxWaitUntilReadyTcrRequest,
) -> Result<pb::SandboxWaitUntilReadyTcrResponse, Status> {
    check_task(life.container(), &request.task_id)?;
    if !life.readiness().is_probed() {
        return Err(Status::failed_precondition(
            "the sandbox has no readiness probe: give it one with Sandbox.create(readiness_probe=)",
        ));
    }
    let seconds = Duration::try_from_secs_f32(request.timeout);
    let seconds = seconds.map_err(|error| invalid("timeout", error))?;
    let ready = tokio::select! {
        ready = life.readiness().within(seconds) => ready,
        () = life.container().gone() => {
            return Err(Status::not_found("the sandbox has ended before it was ready"));
        }
    };
    let late = || Status::deadline_exceeded("the sandbox was not ready in time");
    let ready_at = ready.ok_or_else(late)?.0 as f64 / 1_000.0;
    Ok(pb::SandboxWaitUntilReadyTcrResponse { ready_at })
}
