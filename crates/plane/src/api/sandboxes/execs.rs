//! Programs in sandboxes, for clients that know no command router (modal 1.0.5).

use bytes::{Bytes, BytesMut};
use futures::Stream;
use futures::stream::try_unfold;
use tokio::time::{Instant, timeout_at};
use tonic::{Status, Streaming};
use wire::client as pb;
use wire::router::{
    TaskExecStartRequest, TaskExecStderrConfig, TaskExecStdioReadResponse, TaskExecStdoutConfig,
};
use wire::rpc::router::TaskExecStart;

use super::inside::{self, Inside, KILLED};
use super::life::wait_of;
use crate::api::gate::{Cx, Member};
use crate::api::refusal::Refusal;
use crate::limits::{STDIN_BYTES_MAX, TORN_HELD_MAX};
use crate::sandboxes::Piece;

/// The kind of what is started here, in its name.
const PROGRAM: char = 'p';

/// Starts a program.
pub(in crate::api) async fn exec(
    cx: Cx<Member>,
    req: pb::ContainerExecRequest,
) -> Result<pb::ContainerExecResponse, Refusal> {
    use pb::ExecOutputOption::{Devnull, Pipe, Stdout, Unspecified};
    let inside = Inside::of(&cx, &req.task_id).await?;
    if req.terminate_container_on_exit {
        let why = "the end of a program does not end its sandbox: terminate the sandbox";
        return Err(Refusal::invalid("terminate_container_on_exit", why));
    }
    let stdout_config = match req.stdout_output() {
        Unspecified | Pipe => TaskExecStdoutConfig::Pipe,
        Devnull => TaskExecStdoutConfig::Devnull,
        Stdout => {
            let why = "a program's output does not go to its sandbox's: take it from the program";
            return Err(Refusal::invalid("stdout_output", why));
        }
    };
    let stderr_config = match req.stderr_output() {
        Unspecified | Pipe => TaskExecStderrConfig::Pipe,
        Devnull => TaskExecStderrConfig::Devnull,
        Stdout => TaskExecStderrConfig::Stdout,
    };
    let name = Inside::name(&cx, PROGRAM);
    let start = TaskExecStartRequest {
        task_id: inside.task.to_string(),
        exec_id: name.clone(),
        command_args: req.command,
        stdout_config: stdout_config.into(),
        stderr_config: stderr_config.into(),
        timeout_secs: Some(req.timeout_secs).filter(|&seconds| seconds > 0),
        workdir: req.workdir,
        secret_ids: req.secret_ids,
        pty_info: req.pty_info,
        runtime_debug: req.runtime_debug,
        ..TaskExecStartRequest::default()
    };
    inside.call::<TaskExecStart>(start).await?;
    Ok(pb::ContainerExecResponse { exec_id: inside.id(&name) })
}

/// Waits for a program's end.
pub(in crate::api) async fn exec_wait(
    cx: Cx<Member>,
    req: pb::ContainerExecWaitRequest,
) -> Result<pb::ContainerExecWaitResponse, Refusal> {
    let (inside, exec) = Inside::of_exec(&cx, &req.exec_id).await?;
    let exit = inside.exit(&exec, inside::until(wait_of(req.timeout))).await;
    let exit_code = match exit {
        Ok(exit_code) => exit_code,
        Err(status) if inside.has_ended(&status).await? => {
            let text = "the sandbox has ended, and with it what is known of its programs";
            return Err(Refusal::Conflict(text.into()));
        }
        Err(status) => return Err(status.into()),
    };
    Ok(pb::ContainerExecWaitResponse { exit_code, completed: exit_code.is_some() })
}

/// Writes to a program's standard input.
pub(in crate::api) async fn exec_put_input(
    cx: Cx<Member>,
    req: pb::ContainerExecPutInputRequest,
) -> Result<(), Refusal> {
    let (inside, exec) = Inside::of_exec(&cx, &req.exec_id).await?;
    let input = req.input.unwrap_or_default();
    if input.message.len() > STDIN_BYTES_MAX {
        let why = format!("{} bytes are more than {STDIN_BYTES_MAX}", input.message.len());
        return Err(Refusal::invalid("input", why));
    }
    let index = u32::try_from(input.message_index);
    let index = index.map_err(|error| Refusal::invalid("message_index", error.to_string()))?;
    let (data, eof) = (input.message, input.eof);
    let piece = Piece { task: inside.task, exec: Some(exec), index, data, eof };
    inside::write(&cx.plane, piece).await
}

/// Reads one stream of a program, and tells its end. Without one the stream ends when its time is
/// up: the client opens another, which goes on where this has stopped.
pub(in crate::api) async fn exec_output(
    cx: Cx<Member>,
    req: pb::ContainerExecGetOutputRequest,
) -> Result<impl Stream<Item = Result<pb::RuntimeOutputBatch, Refusal>> + use<>, Refusal> {
    let fd = req.file_descriptor();
    let is_stderr = match fd {
        pb::FileDescriptor::Stdout => false,
        pb::FileDescriptor::Stderr => true,
        pb::FileDescriptor::Unspecified | pb::FileDescriptor::Info => {
            let why = "it must say standard output or standard error";
            return Err(Refusal::invalid("file_descriptor", why));
        }
    };
    let (inside, exec) = Inside::of_exec(&cx, &req.exec_id).await?;
    let offset = req.last_batch_index;
    let stage = match inside.output(&exec, is_stderr, offset).await {
        Ok(source) => Stage::Begins(source),
        Err(status) if inside.has_ended(&status).await? => Stage::Killed,
        Err(status) => return Err(status.into()),
    };
    let reading = Reading {
        inside,
        exec,
        fd,
        as_bytes: req.get_raw_bytes,
        offset,
        until: inside::until(wait_of(req.timeout)),
        torn: BytesMut::new(),
        stage,
    };
    Ok(try_unfold(reading, Reading::next))
}

enum Stage {
    /// The client hears first that the program runs.
    Begins(Streaming<TaskExecStdioReadResponse>),
    Reads(Streaming<TaskExecStdioReadResponse>),
    /// All of the stream is told.
    Waits,
    /// The sandbox has ended, and so has what ran in it.
    Killed,
    Done,
}

/// One stream of a program on its way to a client.
struct Reading {
    inside: Inside,
    exec: String,
    fd: pb::FileDescriptor,
    as_bytes: bool,
    /// Where the next batch begins.
    offset: u64,
    until: Instant,
    /// The beginning of a character whose rest has not come: clients decode each batch by itself.
    torn: BytesMut,
    stage: Stage,
}

/// What comes of a stream within a while.
enum Came {
    Data(Bytes),
    End,
    /// Nothing, for as long as torn characters are held back.
    Nothing,
    /// The time is up, or the server ends.
    Over,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(pb::RuntimeOutputBatch, Self)>, Refusal> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Begins(source) => {
                    self.stage = Stage::Reads(source);
                    return Ok(Some(self.batch(Bytes::new())));
                }
                Stage::Reads(mut source) => match self.come(&mut source).await {
                    Ok(Came::Data(data)) => {
                        self.stage = Stage::Reads(source);
                        self.torn.extend_from_slice(&data);
                        let whole = model::text::whole(&self.torn);
                        if whole > 0 {
                            let data = self.torn.split_to(whole).freeze();
                            return Ok(Some(self.batch(data)));
                        }
                    }
                    Ok(Came::Nothing) => {
                        self.stage = Stage::Reads(source);
                        let data = self.torn.split().freeze();
                        return Ok(Some(self.batch(data)));
                    }
                    Ok(Came::End) => {
                        self.stage = Stage::Waits;
                        if !self.torn.is_empty() {
                            let data = self.torn.split().freeze();
                            return Ok(Some(self.batch(data)));
                        }
                    }
                    Ok(Came::Over) => return Ok(None),
                    Err(status) => self.stage = self.lost(status).await?,
                },
                Stage::Waits => match self.inside.exit(&self.exec, self.until).await {
                    Ok(Some(code)) => return Ok(Some(self.last(code))),
                    Ok(None) => return Ok(None),
                    Err(status) => self.stage = self.lost(status).await?,
                },
                Stage::Killed => return Ok(Some(self.last(KILLED))),
                Stage::Done => return Ok(None),
            }
        }
    }

    async fn come(
        &self,
        source: &mut Streaming<TaskExecStdioReadResponse>,
    ) -> Result<Came, Status> {
        let held = Instant::now() + TORN_HELD_MAX;
        let is_torn = !self.torn.is_empty();
        let until = if is_torn { held.min(self.until) } else { self.until };
        tokio::select! {
            biased;
            message = timeout_at(until, source.message()) => match message {
                Ok(message) => Ok(message?.map_or(Came::End, |message| Came::Data(message.data))),
                Err(_) if is_torn && Instant::now() < self.until => Ok(Came::Nothing),
                Err(_) => Ok(Came::Over),
            },
            () = self.inside.plane.closed() => Ok(Came::Over),
        }
    }

    /// What follows where the router says no.
    async fn lost(&self, status: Status) -> Result<Stage, Refusal> {
        match self.inside.has_ended(&status).await? {
            true => Ok(Stage::Killed),
            false => Err(status.into()),
        }
    }

    fn batch(mut self, data: Bytes) -> (pb::RuntimeOutputBatch, Self) {
        self.offset += data.len() as u64;
        let mut item = pb::RuntimeOutputMessage {
            file_descriptor: self.fd.into(),
            ..pb::RuntimeOutputMessage::default()
        };
        match self.as_bytes {
            true => item.message_bytes = data,
            false => item.message = String::from_utf8_lossy(&data).into_owned(),
        }
        let batch_index = self.offset;
        (pb::RuntimeOutputBatch { items: vec![item], batch_index, exit_code: None }, self)
    }

    fn last(self, code: i32) -> (pb::RuntimeOutputBatch, Self) {
        let batch_index = self.offset;
        (pb::RuntimeOutputBatch { items: vec![], batch_index, exit_code: Some(code) }, self)
    }
}
