//! What older clients ask the control plane to do inside a sandbox is asked of its command router,
//! as newer clients ask it themselves: there is one engine, and nothing about programs is
//! remembered here. Their ids say it all, so that they hold over restarts of the server.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use model::TaskId;
use sha2::{Digest, Sha256};
use store::Hint;
use store::sandboxes::{self, Phase};
use store::tasks;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status, Streaming};
use wire::router as pb;
use wire::rpc::router as rpc;
use wire::rpc::{ServerStreaming, Unary};

use super::access::router_token;
use crate::Plane;
use crate::api::gate::{Cx, Member};
use crate::api::poll::Poll;
use crate::api::refusal::Refusal;
use crate::limits::{POLL_MAX, SANDBOX_END_TOLD_MAX};
use crate::sandboxes::{Piece, Reach, Unreached};

/// The way to living sandboxes.
pub(super) fn reach(plane: &Plane) -> Result<&Arc<dyn Reach>, Refusal> {
    plane.reach.get().ok_or_else(|| Refusal::Conflict("this server has no sandboxes".into()))
}

/// Writes to the standard input of a program, or of a sandbox's own. It is not waited for without
/// end: what is to be written takes room that all clients share. The client sends again what was
/// given up, under the same number, and the program's side goes on where it has stopped.
pub(super) async fn write(plane: &Plane, piece: Piece) -> Result<(), Refusal> {
    let written = reach(plane)?.write(piece);
    tokio::select! {
        written = in_time(POLL_MAX, written) => written,
        () = plane.closed() => Err(Refusal::Unavailable("the server ends: write it again".into())),
    }
}

async fn in_time(
    most: Duration,
    written: impl Future<Output = Result<(), Unreached>>,
) -> Result<(), Refusal> {
    let late = |_| {
        let secs = most.as_secs();
        let text = format!(
            "the program has not read all of this within {secs} s: some of it may be written"
        );
        Refusal::TooLate(text)
    };
    Ok(tokio::time::timeout(most, written).await.map_err(late)??)
}

/// How the router begins what it says of a program that it does not know in a sandbox that lives.
const OF_PROGRAM: &str = "exec_id: ";

/// The code of a program that a signal has ended, as shells have it.
const SIGNALLED: i32 = 128;

/// The code of a program that was killed with its sandbox.
pub(super) const KILLED: i32 = SIGNALLED + 9;

/// One sandbox of the caller's, inside which something is done.
#[derive(Debug, Clone)]
pub(super) struct Inside {
    pub(super) plane: Arc<Plane>,
    pub(super) task: TaskId,
}

/// The command router as gRPC's client takes it.
#[derive(Clone)]
struct Router(Arc<dyn Reach>);

impl tower::Service<http::Request<tonic::body::Body>> for Router {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = futures::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let reach = self.0.clone();
        async move { Ok(reach.ask(request).await) }.boxed()
    }
}

/// What an id of a program, or of work on files, is made of.
pub(super) fn parts(id: &str) -> Option<(&str, &str)> {
    id.split_once(':').filter(|(task, exec)| !task.is_empty() && !exec.is_empty())
}

impl Inside {
    /// The sandbox of a container.
    pub(super) async fn of(cx: &Cx<Member>, id: &str) -> Result<Self, Refusal> {
        let mut db = cx.plane.store.read().await?;
        let task = TaskId::parse(id)?;
        if let Some(sandbox) = sandboxes::by_task(&mut db, cx.scope(), &task).await? {
            return Ok(Self { plane: cx.plane.clone(), task: sandbox.task });
        }
        if tasks::get(&mut db, cx.scope(), &task).await?.is_none() {
            return Err(Refusal::not_found("container", id));
        }
        let text = format!(
            "`{id}` is a container of a function: clients from 1.2 on run commands in it, this one \
             does so in sandboxes only"
        );
        Err(Refusal::Conflict(text))
    }

    /// The sandbox in which something was started, and what it is called there.
    pub(super) async fn of_exec(cx: &Cx<Member>, id: &str) -> Result<(Self, String), Refusal> {
        let (task, exec) = parts(id).ok_or_else(|| Refusal::not_found("exec", id))?;
        Ok((Self::of(cx, task).await?, exec.to_owned()))
    }

    /// A name for what this call starts: all attempts of one call have the same, so that it is
    /// started once.
    pub(super) fn name(cx: &Cx<Member>, kind: char) -> String {
        let bits = match cx.replay_key() {
            Some(key) => Sha256::digest(key)[..16].to_vec(),
            None => cx.plane.bits().to_vec(),
        };
        format!("{kind}-{}", hex::encode(bits))
    }

    /// The id under which clients find what was started.
    pub(super) fn id(&self, exec: &str) -> String {
        format!("{}:{exec}", self.task)
    }

    fn router(&self) -> Result<(Router, MetadataMap), Status> {
        let reach = reach(&self.plane)?.clone();
        let token = format!("Bearer {}", router_token(&self.plane, &self.task));
        let token = token.parse().map_err(|_| Status::internal("a token is no header"))?;
        let mut metadata = MetadataMap::new();
        metadata.insert(http::header::AUTHORIZATION.as_str(), token);
        Ok((Router(reach), metadata))
    }

    /// Asks the router.
    pub(super) async fn call<R: Unary>(&self, request: R::Request) -> Result<R::Response, Status> {
        let (router, metadata) = self.router()?;
        Ok(wire::rpc::call::<R>(router, metadata, request).await?.into_inner())
    }

    /// Asks the router for a stream.
    pub(super) async fn stream<R: ServerStreaming>(
        &self,
        request: R::Request,
    ) -> Result<Streaming<R::Response>, Status> {
        let (router, metadata) = self.router()?;
        Ok(wire::rpc::stream::<R>(router, metadata, request).await?.into_inner())
    }

    /// A stream of a program's output from a byte on.
    pub(super) async fn output(
        &self,
        exec: &str,
        is_stderr: bool,
        offset: u64,
    ) -> Result<Streaming<pb::TaskExecStdioReadResponse>, Status> {
        let file_descriptor = match is_stderr {
            false => pb::TaskExecStdioFileDescriptor::Stdout,
            true => pb::TaskExecStdioFileDescriptor::Stderr,
        };
        let request = pb::TaskExecStdioReadRequest {
            task_id: self.task.to_string(),
            exec_id: exec.to_owned(),
            offset,
            file_descriptor: file_descriptor.into(),
        };
        self.stream::<rpc::TaskExecStdioRead>(request).await
    }

    /// How a program ended, within some time; nothing if it runs on, or the server ends.
    pub(super) async fn exit(&self, exec: &str, until: Instant) -> Result<Option<i32>, Status> {
        use pb::task_exec_poll_response::ExitStatus as Polled;
        use pb::task_exec_wait_response::ExitStatus as Waited;
        let (task_id, exec_id) = (self.task.to_string(), exec.to_owned());
        let poll = pb::TaskExecPollRequest { task_id: task_id.clone(), exec_id: exec_id.clone() };
        if let Some(exit) = self.call::<rpc::TaskExecPoll>(poll).await?.exit_status {
            return Ok(Some(match exit {
                Polled::Code(code) => code,
                Polled::Signal(signal) => SIGNALLED + signal,
            }));
        }
        while Instant::now() < until {
            let (task_id, exec_id) = (task_id.clone(), exec_id.clone());
            let wait = self.call::<rpc::TaskExecWait>(pb::TaskExecWaitRequest { task_id, exec_id });
            let ended = tokio::select! {
                ended = wait => ended,
                () = tokio::time::sleep_until(until) => return Ok(None),
                () = self.plane.closed() => return Ok(None),
            };
            match ended.map(|ended| ended.exit_status) {
                Ok(Some(Waited::Code(code))) => return Ok(Some(code)),
                Ok(Some(Waited::Signal(signal))) => return Ok(Some(SIGNALLED + signal)),
                Ok(None) => return Err(Status::internal("the router tells no end")),
                // It runs on: ask again.
                Err(status) if status.code() == Code::DeadlineExceeded => {}
                Err(status) => return Err(status),
            }
        }
        Ok(None)
    }

    /// Whether a refusal of the router's means that the sandbox has ended. It may hear of that a
    /// moment before it is written down.
    ///
    /// # Errors
    /// UNAVAILABLE if it takes longer until it is.
    pub(super) async fn has_ended(&self, status: &Status) -> Result<bool, Refusal> {
        if status.code() != Code::NotFound {
            return Ok(false);
        }
        let find = async || -> Result<_, Refusal> {
            let mut db = self.plane.store.read().await?;
            Ok(sandboxes::by_task_any(&mut db, &self.task).await?)
        };
        let Some(sandbox) = find().await? else { return Ok(true) };
        let mut poll = Poll::begin(&self.plane, Hint::Sandbox(sandbox.id), SANDBOX_END_TOLD_MAX);
        loop {
            if find().await?.is_none_or(|sandbox| sandbox.phase == Phase::Ended) {
                return Ok(true);
            }
            if status.message().starts_with(OF_PROGRAM) {
                return Ok(false);
            }
            if !poll.again(&self.plane).await {
                let text = "the sandbox has ended, and is being cleared away: ask again";
                return Err(Refusal::Unavailable(text.into()));
            }
        }
    }
}

/// The moment after a wait that a client asks for.
pub(super) fn until(wait: Duration) -> Instant {
    Instant::now() + wait
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_reads_nothing_is_not_waited_for_without_end() {
        let never = in_time(Duration::from_millis(10), std::future::pending()).await;
        assert!(matches!(never, Err(Refusal::TooLate(_))), "{never:?}");
        in_time(Duration::from_secs(60), async { Ok(()) }).await.unwrap();
        let later = async { Err(Unreached::Later("found again".into())) };
        let later = in_time(Duration::from_secs(60), later).await;
        assert!(matches!(later, Err(Refusal::Unavailable(_))), "{later:?}");
    }
}
