//! The output of a sandbox's own program, on its way to the plane's log. How far it has come is
//! written down, so that a restarted worker goes on there.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use model::TaskId;
use model::link::{LogLine, Report, Stream};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use wire::router::{SandboxStdioFileDescriptor, SandboxStdioReadV2Request};
use wire::rpc::router::SandboxStdioReadV2;

use super::link::Link;
use super::{Sandbox, lock};
use crate::Worker;
use crate::limits::FOLLOW_PAUSE;
use crate::task::now;

/// The link as a client of gRPC takes it.
#[derive(Debug, Clone)]
struct Service(Arc<Link>);

impl tower::Service<http::Request<tonic::body::Body>> for Service {
    type Response = http::Response<tonic::body::Body>;
    type Error = super::link::Error;
    type Future = futures::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<tonic::body::Body>) -> Self::Future {
        let link = self.0.clone();
        Box::pin(async move {
            *request.uri_mut() = super::link::uri(request.uri().path())?;
            link.send(request).await
        })
    }
}

/// Reports both streams until their ends.
pub(super) async fn follow(worker: Arc<Worker>, sandbox: Arc<Sandbox>) {
    let reported = Arc::new(Mutex::new(sandbox.folder.reported()));
    let task = lock(&sandbox.record).start.task.clone();
    let stream = |stream| {
        let (worker, sandbox, task) = (worker.clone(), sandbox.clone(), task.clone());
        let reported = reported.clone();
        async move {
            // A connection may be lost while the sandbox lives: it is gone on where it was.
            while let Err(status) = report(&worker, &sandbox, &task, stream, &reported).await {
                let is_over = matches!(status.code(), Code::NotFound | Code::DataLoss);
                if is_over || sandbox.folder.connect().is_err() {
                    tracing::debug!(%status, "a sandbox's output is not reported any more");
                    return;
                }
                tracing::debug!(%status, "a sandbox's output is asked for again");
                tokio::time::sleep(FOLLOW_PAUSE).await;
            }
        }
    };
    tokio::join!(stream(Stream::Stdout), stream(Stream::Stderr));
}

async fn report(
    worker: &Worker,
    sandbox: &Sandbox,
    task: &TaskId,
    stream: Stream,
    reported: &Mutex<[u64; 2]>,
) -> Result<(), Status> {
    let (index, descriptor) = match stream {
        Stream::Stdout => (0, SandboxStdioFileDescriptor::Stdout),
        Stream::Stderr | Stream::Info => (1, SandboxStdioFileDescriptor::Stderr),
    };
    let request = SandboxStdioReadV2Request {
        task_id: task.to_string(),
        offset: lock(reported)[index],
        file_descriptor: descriptor.into(),
    };
    let service = Service(sandbox.link.clone());
    let answer = wire::rpc::stream::<SandboxStdioReadV2>(service, MetadataMap::new(), request);
    let mut messages = answer.await?.into_inner();
    let tell = async |data: Bytes, next: u64| {
        if data.is_empty() {
            return;
        }
        let line = LogLine { task: task.clone(), stream, at: now(), data };
        worker.report(Report::Log(line)).await;
        let all = {
            let mut reported = lock(reported);
            reported[index] = next;
            *reported
        };
        if let Err(error) = sandbox.folder.write_reported(all) {
            tracing::warn!(%error, "how far a sandbox's output was reported is not written down");
        }
    };
    // The beginning of a character whose rest has not come.
    let (mut torn, mut end) = (Bytes::new(), 0);
    while let Some(message) = messages.message().await? {
        end = message.starting_offset + message.data.len() as u64;
        let mut data = match torn.is_empty() {
            true => message.data,
            false => [&*torn, &*message.data].concat().into(),
        };
        torn = data.split_off(model::text::whole(&data));
        tell(data, end - torn.len() as u64).await;
    }
    tell(torn, end).await;
    Ok(())
}
