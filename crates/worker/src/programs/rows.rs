//! The client's requests about programs in one container. The router has checked whose they are,
//! and has put in the values of secrets.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use jail::{Exit, Process};
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;
use wire::router as pb;
use wire::router::task_exec_stdin_write_stream_request::Payload;
use wire::rpc::router as rpc;
use wire::rpc::{ClientStreaming, Rpc, ServerStreaming, Unary};

use super::container::Container;
use super::execs::{Program, Stderr};
use super::incoming::{Incoming, OF_EXEC};
use super::running::Running;
use super::spool::{self, Spool};
use super::stdin::Stdin;
use crate::limits::{
    EXEC_ARGUMENTS_BYTES_MAX, EXEC_ID_BYTES_MAX, EXEC_REQUEST_BYTES_MAX, EXEC_WAIT_MAX,
    INPUT_MESSAGE_BYTES_MAX,
};

/// Answers a request of the client's.
pub(crate) async fn answer(container: Arc<Container>, request: Request<Body>) -> Response<Body> {
    match request.uri().path() {
        rpc::TaskExecStart::PATH => {
            unary::<rpc::TaskExecStart, _>(request, |request| start(container, request)).await
        }
        rpc::TaskExecStdioRead::PATH => {
            stream::<rpc::TaskExecStdioRead, _, _>(request, |request| read(container, request))
                .await
        }
        rpc::TaskExecStdinWrite::PATH => written(write_exec(container, request.into_body()).await),
        rpc::TaskExecStdinWriteStream::PATH => {
            sending::<rpc::TaskExecStdinWriteStream, _>(request, |sent| {
                write_stream(container, sent)
            })
            .await
        }
        rpc::TaskExecStdinStatus::PATH => {
            unary::<rpc::TaskExecStdinStatus, _>(request, |request| {
                stdin_status(container, request)
            })
            .await
        }
        rpc::TaskExecPoll::PATH => {
            unary::<rpc::TaskExecPoll, _>(request, |request| poll(container, request)).await
        }
        rpc::TaskExecWait::PATH => {
            unary::<rpc::TaskExecWait, _>(request, |request| wait(container, request)).await
        }
        path => Status::unimplemented(format!("{path} is not served here")).into_http(),
    }
}

fn grpc<R: Rpc>(bytes_max: usize) -> Grpc<ProstCodec<R::Response, R::Request>> {
    Grpc::new(ProstCodec::default()).max_decoding_message_size(bytes_max)
}

/// Answers a request of one message with another.
pub(crate) async fn unary<R: Unary, Fut>(
    request: Request<Body>,
    handler: impl FnOnce(R::Request) -> Fut,
) -> Response<Body>
where
    Fut: Future<Output = Result<R::Response, Status>> + Send + 'static,
{
    let mut handler = Some(handler);
    let service = tower::service_fn(|request: tonic::Request<R::Request>| {
        let work = handler.take().map(|handler| handler(request.into_inner()));
        async move {
            let work = work.ok_or_else(|| Status::internal("answered twice"))?;
            work.await.map(tonic::Response::new)
        }
    });
    grpc::<R>(EXEC_REQUEST_BYTES_MAX).unary(service, request).await
}

/// Answers a request of one message with as many as there are.
pub(crate) async fn stream<R: ServerStreaming, Fut, S>(
    request: Request<Body>,
    handler: impl FnOnce(R::Request) -> Fut,
) -> Response<Body>
where
    Fut: Future<Output = Result<S, Status>> + Send + 'static,
    S: Stream<Item = Result<R::Response, Status>> + Send + 'static,
{
    let mut handler = Some(handler);
    let service = tower::service_fn(|request: tonic::Request<R::Request>| {
        let work = handler.take().map(|handler| handler(request.into_inner()));
        async move {
            let work = work.ok_or_else(|| Status::internal("answered twice"))?;
            work.await.map(|stream| tonic::Response::new(stream.boxed()))
        }
    });
    grpc::<R>(EXEC_REQUEST_BYTES_MAX).server_streaming(service, request).await
}

async fn sending<R: ClientStreaming, Fut>(
    request: Request<Body>,
    handler: impl FnOnce(Streaming<R::Request>) -> Fut,
) -> Response<Body>
where
    Fut: Future<Output = Result<R::Response, Status>> + Send + 'static,
{
    let mut handler = Some(handler);
    let service = tower::service_fn(|request: tonic::Request<Streaming<R::Request>>| {
        let work = handler.take().map(|handler| handler(request.into_inner()));
        async move {
            let work = work.ok_or_else(|| Status::internal("answered twice"))?;
            work.await.map(tonic::Response::new)
        }
    });
    grpc::<R>(INPUT_MESSAGE_BYTES_MAX).client_streaming(service, request).await
}

/// The answer to a write, which is a message without fields.
pub(crate) fn written(result: Result<(), Status>) -> Response<Body> {
    const NO_FIELDS: &[u8] = &[0; 5];
    if let Err(status) = result {
        return status.into_http();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from(i32::from(Code::Ok)));
    let body = Full::from(NO_FIELDS).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(Body::new(body));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    response
}

/// Whether a request is about this container.
pub(crate) fn check_task(container: &Container, task_id: &str) -> Result<(), Status> {
    if task_id == container.task().as_str() {
        return Ok(());
    }
    Err(Status::not_found(format!("task_id: `{task_id}` is not the task that the token opens")))
}

async fn find(container: &Container, task_id: &str, exec_id: &str) -> Result<Arc<Running>, Status> {
    check_task(container, task_id)?;
    container.execs().find(exec_id).await
}

async fn start(
    container: Arc<Container>,
    request: pb::TaskExecStartRequest,
) -> Result<pb::TaskExecStartResponse, Status> {
    check_task(&container, &request.task_id)?;
    let id = request.exec_id.clone();
    let program = program(&container, request)?;
    container.execs().start(&container, &id, program).await?;
    Ok(pb::TaskExecStartResponse {})
}

/// A field that is wrong.
pub(crate) fn invalid(field: &str, why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {why}"))
}

/// What a request asks for.
fn program(container: &Container, request: pb::TaskExecStartRequest) -> Result<Program, Status> {
    if request.exec_id.is_empty() || request.exec_id.len() > EXEC_ID_BYTES_MAX {
        return Err(invalid("exec_id", format!("it has not 1 to {EXEC_ID_BYTES_MAX} bytes")));
    }
    if !request.container_id.is_empty() {
        return Err(invalid("container_id", "there are no further containers beside it"));
    }
    let stdout = match pb::TaskExecStdoutConfig::try_from(request.stdout_config) {
        Ok(pb::TaskExecStdoutConfig::Devnull) => false,
        Ok(pb::TaskExecStdoutConfig::Pipe) => true,
        Err(error) => return Err(invalid("stdout_config", error)),
    };
    let stderr = match pb::TaskExecStderrConfig::try_from(request.stderr_config) {
        Ok(pb::TaskExecStderrConfig::Devnull) => Stderr::Null,
        Ok(pb::TaskExecStderrConfig::Pipe) => Stderr::Kept,
        Ok(pb::TaskExecStderrConfig::Stdout) => Stderr::Stdout,
        Err(error) => return Err(invalid("stderr_config", error)),
    };
    let pty = request.pty_info.as_ref().filter(|pty| pty.enabled);
    let terminal = pty.map(|pty| {
        let narrow = |n: u32, usual| match u16::try_from(n) {
            Ok(0) | Err(_) => usual,
            Ok(n) => n,
        };
        (narrow(pty.winsz_rows, 24), narrow(pty.winsz_cols, 80))
    });
    let cwd = folder(container, request.workdir.as_deref())?;
    let timeout = request.timeout_secs.filter(|&seconds| seconds > 0);
    let env = environment(container, &request)?;
    let argv = arguments(request.command_args)?;
    Ok(Program {
        process: Process { argv, env, cwd: cwd.into(), uid: 0, gid: 0, groups: vec![] },
        stdout,
        stderr,
        terminal,
        timeout: timeout.map(|seconds| Duration::from_secs(seconds.into())),
    })
}

fn arguments(argv: Vec<String>) -> Result<Vec<String>, Status> {
    let field = "command_args";
    if argv.first().is_none_or(String::is_empty) {
        return Err(invalid(field, "the command names no program"));
    }
    let bytes: usize = argv.iter().map(String::len).sum();
    if bytes >= EXEC_ARGUMENTS_BYTES_MAX {
        return Err(invalid(
            field,
            format!(
                "the command has {bytes} bytes of arguments: it may have fewer than \
                 {EXEC_ARGUMENTS_BYTES_MAX}; write what is longer to a file or to its stdin"
            ),
        ));
    }
    if argv.iter().any(|argument| argument.contains('\0')) {
        return Err(invalid(field, "an argument holds a NUL byte"));
    }
    Ok(argv)
}

fn folder(container: &Container, workdir: Option<&str>) -> Result<String, Status> {
    let Some(workdir) = workdir.filter(|workdir| !workdir.is_empty()) else {
        return Ok(container.cwd().to_owned());
    };
    let plain = workdir.split('/').all(|part| part != "..");
    if !workdir.starts_with('/') || workdir.contains('\0') || !plain {
        return Err(invalid("workdir", format!("{workdir:?} is no absolute path without `..`")));
    }
    Ok(workdir.to_owned())
}

/// The container's variables, those of the terminal, those of secrets and the request's: later ones
/// win.
fn environment(
    container: &Container,
    request: &pb::TaskExecStartRequest,
) -> Result<Vec<(String, String)>, Status> {
    use wire::client::secret_source::Source;
    let mut env = images::Config { env: container.env().to_vec(), ..images::Config::default() };
    let mut set = |name: &str, value: &str| {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid("env", format!("{name:?} is no usable variable")));
        }
        env.set_env(name, value.to_owned());
        Ok(())
    };
    if let Some(pty) = request.pty_info.as_ref().filter(|pty| pty.enabled) {
        let told = [
            ("TERM", &pty.env_term),
            ("COLORTERM", &pty.env_colorterm),
            ("TERM_PROGRAM", &pty.env_term_program),
        ];
        for (name, value) in told.into_iter().filter(|(_, value)| !value.is_empty()) {
            set(name, value)?;
        }
    }
    for source in &request.secret_sources {
        match &source.source {
            Some(Source::Env(map)) => {
                map.contents.iter().try_for_each(|(name, value)| set(name, value))?;
            }
            Some(Source::SecretId(id)) => {
                return Err(Status::internal(format!("the secret {id} was not looked up")));
            }
            None => {}
        }
    }
    request.env.iter().try_for_each(|(name, value)| set(name, value))?;
    Ok(env.env)
}

fn unreadable(error: spool::Error) -> Status {
    let text = error.to_string();
    match error {
        spool::Error::Gone { .. } | spool::Error::Beyond { .. } => Status::out_of_range(text),
        // Nothing is gained by asking again.
        spool::Error::Cut { .. } | spool::Error::Read(_) => Status::data_loss(text),
    }
}

/// The messages of one reader.
pub(crate) fn messages<M: Send + 'static, F>(
    spool: &Arc<Spool>,
    offset: u64,
    message: F,
) -> impl Stream<Item = Result<M, Status>> + Send + 'static + use<M, F>
where
    F: Fn(u64, bytes::Bytes) -> M + Send + 'static,
{
    let reader = spool.reader(offset);
    futures::stream::try_unfold((reader, message), |(mut reader, message)| async move {
        let next = reader.next().await.map_err(unreadable)?;
        Ok(next.map(|(from, data)| (message(from, data), (reader, message))))
    })
}

async fn read(
    container: Arc<Container>,
    request: pb::TaskExecStdioReadRequest,
) -> Result<impl Stream<Item = Result<pb::TaskExecStdioReadResponse, Status>>, Status> {
    let exec = find(&container, &request.task_id, &request.exec_id).await?;
    let is_stderr = request.file_descriptor() == pb::TaskExecStdioFileDescriptor::Stderr;
    // Of a stream that goes nowhere there is nothing to read.
    let spool = exec.output(is_stderr)?;
    let messages = spool.map(|spool| {
        messages(&spool, request.offset, |_, data| pb::TaskExecStdioReadResponse { data })
    });
    Ok(futures::stream::iter(messages).flatten())
}

/// Writes what arrives.
pub(crate) async fn write(
    stdin: &Stdin,
    offset: u64,
    mut incoming: Incoming,
) -> Result<(), Status> {
    let mut writing = stdin.write_from(offset, false).await?;
    while let Some(data) = incoming.data().await? {
        writing.write(&data).await?;
    }
    if incoming.finish().await? {
        writing.eof().await?;
    }
    Ok(())
}

async fn write_exec(container: Arc<Container>, body: Body) -> Result<(), Status> {
    let (head, incoming) = Incoming::begin(body, OF_EXEC).await?;
    let exec = find(&container, &head.task_id, &head.exec_id).await?;
    write(&exec.stdin, head.offset, incoming).await
}

async fn write_stream(
    container: Arc<Container>,
    mut sent: Streaming<pb::TaskExecStdinWriteStreamRequest>,
) -> Result<pb::TaskExecStdinWriteStreamResponse, Status> {
    let first = sent.message().await?.and_then(|message| message.payload);
    let Some(Payload::Start(start)) = first else {
        return Err(invalid("start", "the first message of a stream says where it begins"));
    };
    let exec = find(&container, &start.task_id, &start.exec_id).await?;
    let mut writing = exec.stdin.write_from(start.offset, true).await?;
    loop {
        let message = tokio::select! {
            message = sent.message() => message?,
            status = writing.displaced() => return Err(status),
        };
        match message.and_then(|message| message.payload) {
            Some(Payload::Data(data)) => writing.write(&data).await?,
            Some(Payload::End(_)) => {
                writing.eof().await?;
                return Ok(pb::TaskExecStdinWriteStreamResponse {});
            }
            Some(Payload::Start(_)) => {
                return Err(invalid("start", "only the first message says where it begins"));
            }
            // Without an end it can be gone on with.
            None => return Err(Status::cancelled("the stream of stdin stopped without an end")),
        }
    }
}

async fn stdin_status(
    container: Arc<Container>,
    request: pb::TaskExecStdinStatusRequest,
) -> Result<pb::TaskExecStdinStatusResponse, Status> {
    let exec = find(&container, &request.task_id, &request.exec_id).await?;
    let (num_bytes_written, closed) = exec.stdin.status().await;
    Ok(pb::TaskExecStdinStatusResponse { num_bytes_written, closed })
}

async fn poll(
    container: Arc<Container>,
    request: pb::TaskExecPollRequest,
) -> Result<pb::TaskExecPollResponse, Status> {
    use pb::task_exec_poll_response::ExitStatus;
    let exec = find(&container, &request.task_id, &request.exec_id).await?;
    let exit_status = exec.exit().map(|exit| match exit {
        Exit::Code(code) => ExitStatus::Code(code),
        Exit::Signal(signal) => ExitStatus::Signal(signal),
    });
    Ok(pb::TaskExecPollResponse { exit_status })
}

async fn wait(
    container: Arc<Container>,
    request: pb::TaskExecWaitRequest,
) -> Result<pb::TaskExecWaitResponse, Status> {
    use pb::task_exec_wait_response::ExitStatus;
    let exec = find(&container, &request.task_id, &request.exec_id).await?;
    let exit = exec.ended_within(EXEC_WAIT_MAX).await;
    let still = || Status::deadline_exceeded("the program still runs: ask again");
    let exit = exit.ok_or_else(still)?;
    exec.output_read().await;
    tokio::time::sleep(container.execs().rules().end_pause).await;
    let exit_status = Some(match exit {
        Exit::Code(code) => ExitStatus::Code(code),
        Exit::Signal(signal) => ExitStatus::Signal(signal),
    });
    Ok(pb::TaskExecWaitResponse { exit_status })
}
