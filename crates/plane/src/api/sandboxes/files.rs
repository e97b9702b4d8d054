//! Files of sandboxes, for clients that do not run the file tool themselves (until modal 1.4.3):
//! it is run for them. Each piece of work is a program; an open file is held inside the sandbox.

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::{Code, Status};
use wire::client as pb;
use wire::client::container_filesystem_exec_request::FileExecRequestOneof as Asked;
use wire::router::{
    TaskExecStartRequest, TaskExecStderrConfig, TaskExecStdinWriteRequest, TaskExecStdoutConfig,
};
use wire::rpc::router::{TaskExecStart, TaskExecStdinWrite};

use super::file_output::{Following, Running};
use super::inside::Inside;
use crate::api::gate::{Cx, Member};
use crate::api::refusal::Refusal;
use crate::limits::{FILE_WRITE_BYTES_MAX, FILE_WRITE_SECS_MAX, POLL_MAX};

/// The file tool of every sandbox, where newer clients run it, too (modal 1.6.4).
const TOOL: &str = "/__modal/.bin/modal-sandbox-fs-tools";

/// The kind of work on files, in its name.
const WORK: char = 'f';

/// The kind of a watch, whose output is events.
pub(super) const WATCH: char = 'w';

/// A piece of work as the file tool understands it.
#[derive(Debug, PartialEq)]
struct Work {
    kind: char,
    command: Value,
    /// What it reads.
    input: Option<Bytes>,
}

impl Work {
    fn of(asked: Asked, handle: &str) -> Result<Self, Refusal> {
        let span = |start: Option<u32>, end: Option<u32>| json!({ "start": start, "end": end });
        let mut input = None;
        let mut kind = WORK;
        let command = match asked {
            Asked::FileOpenRequest(open) => {
                if open.file_descriptor.is_some() {
                    let why = "the server chooses it: leave it out";
                    return Err(Refusal::invalid("file_descriptor", why));
                }
                let handle = json!(handle);
                json!({ "OpenFile": { "path": open.path, "mode": open.mode, "handle": handle } })
            }
            Asked::FileReadRequest(read) => {
                json!({ "ReadOn": { "handle": read.file_descriptor, "count": read.n } })
            }
            Asked::FileReadLineRequest(read) => {
                json!({ "ReadLine": { "handle": read.file_descriptor } })
            }
            Asked::FileWriteRequest(write) => {
                input = Some(write.data);
                json!({ "WriteOn": { "handle": write.file_descriptor } })
            }
            Asked::FileFlushRequest(flush) => {
                json!({ "Flush": { "handle": flush.file_descriptor } })
            }
            Asked::FileSeekRequest(seek) => {
                let whence = match seek.whence() {
                    pb::SeekWhence::SeekSet => "Start",
                    pb::SeekWhence::SeekCur => "Current",
                    pb::SeekWhence::SeekEnd => "End",
                };
                let handle = seek.file_descriptor;
                json!({ "Seek": { "handle": handle, "offset": seek.offset, "whence": whence } })
            }
            Asked::FileDeleteBytesRequest(delete) => {
                let span = span(delete.start_inclusive, delete.end_exclusive);
                json!({ "DeleteBytes": { "handle": delete.file_descriptor, "span": span } })
            }
            Asked::FileWriteReplaceBytesRequest(replace) => {
                input = Some(replace.data);
                let span = span(replace.start_inclusive, replace.end_exclusive);
                json!({ "ReplaceBytes": { "handle": replace.file_descriptor, "span": span } })
            }
            Asked::FileCloseRequest(close) => {
                json!({ "CloseFile": { "handle": close.file_descriptor } })
            }
            Asked::FileLsRequest(list) => json!({ "ListNames": { "path": list.path } }),
            Asked::FileMkdirRequest(make) => {
                json!({ "MakeDirectory": { "path": make.path, "parents": make.make_parents } })
            }
            Asked::FileRmRequest(remove) => {
                json!({ "Remove": { "path": remove.path, "recursive": remove.recursive } })
            }
            Asked::FileWatchRequest(watch) => {
                kind = WATCH;
                let (path, recursive) = (watch.path, watch.recursive);
                let timeout = watch.timeout_secs;
                json!({ "Watch": {
                    "path": path, "recursive": recursive, "timeout_secs": timeout,
                } })
            }
        };
        Ok(Self { kind, command, input })
    }
}

/// Starts a piece of work.
pub(in crate::api) async fn filesystem_exec(
    cx: Cx<Member>,
    req: pb::ContainerFilesystemExecRequest,
) -> Result<pb::ContainerFilesystemExecResponse, Refusal> {
    let inside = Inside::of(&cx, &req.task_id).await?;
    let missing = || Refusal::invalid("file_exec_request_oneof", "it says not what is to be done");
    let asked = req.file_exec_request_oneof.ok_or_else(missing)?;
    let handle = matches!(asked, Asked::FileOpenRequest(_)).then(|| Inside::name(&cx, 'h'));
    let work = Work::of(asked, handle.as_deref().unwrap_or_default())?;
    if let Some(data) = work.input.as_ref().filter(|data| data.len() > FILE_WRITE_BYTES_MAX) {
        let why = format!("{} bytes are more than {FILE_WRITE_BYTES_MAX}", data.len());
        return Err(Refusal::invalid("data", why));
    }
    let (name, is_watch) = (Inside::name(&cx, work.kind), work.kind == WATCH);
    // What is to be written takes room that all clients share.
    let begun = timeout(POLL_MAX, begin(&inside, &name, work));
    tokio::select! {
        begun = begun => begun.map_err(|_| not_taken())??,
        () = cx.plane.closed() => {
            return Err(Status::unavailable("the server ends: ask again").into());
        }
    }
    let exec_id = inside.id(&name);
    if is_watch {
        // Its client may never come to read it.
        tokio::spawn(Running { inside, exec: name }.end_unless_followed());
    }
    Ok(pb::ContainerFilesystemExecResponse { exec_id, file_descriptor: handle })
}

/// Starts the file tool and hands it what it reads. What was given up midway is gone on with when
/// the client sends it again; if it does not, the tool is killed before it has touched the file.
async fn begin(inside: &Inside, name: &str, work: Work) -> Result<(), Status> {
    let start = TaskExecStartRequest {
        task_id: inside.task.to_string(),
        exec_id: name.to_owned(),
        command_args: vec![TOOL.into(), work.command.to_string()],
        stdout_config: TaskExecStdoutConfig::Pipe.into(),
        stderr_config: TaskExecStderrConfig::Pipe.into(),
        workdir: Some("/".into()),
        timeout_secs: work.input.is_some().then_some(FILE_WRITE_SECS_MAX),
        ..TaskExecStartRequest::default()
    };
    inside.call::<TaskExecStart>(start).await?;
    let Some(data) = work.input else { return Ok(()) };
    let write = TaskExecStdinWriteRequest {
        task_id: inside.task.to_string(),
        exec_id: name.to_owned(),
        offset: 0,
        data,
        eof: true,
    };
    match inside.call::<TaskExecStdinWrite>(write).await {
        Ok(_) => Ok(()),
        // It has failed before it read all: its output says why.
        Err(status) if status.code() == Code::FailedPrecondition => Ok(()),
        Err(status) => Err(status),
    }
}

fn not_taken() -> Refusal {
    let text = format!(
        "the file tool of the sandbox has not begun, or not read what it is to write, within {} s: \
         look whether something in the sandbox has stopped it",
        POLL_MAX.as_secs()
    );
    Refusal::TooLate(text)
}

/// Follows a piece of work to its end. The stream ends before only with the server or its client:
/// the client does not say how much it has when it asks again.
pub(in crate::api) async fn filesystem_output(
    cx: Cx<Member>,
    req: pb::ContainerFilesystemExecGetOutputRequest,
) -> Result<impl Stream<Item = Result<pb::FilesystemRuntimeOutputBatch, Refusal>> + use<>, Refusal>
{
    let (inside, exec) = Inside::of_exec(&cx, &req.exec_id).await?;
    Ok(Following::begin(inside, exec).await?.batches())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_what_the_tool_understands() {
        let check = |asked, kind, command: &str, input: Option<&'static [u8]>| {
            let work = Work::of(asked, "h-1").unwrap();
            let command = serde_json::from_str(command).unwrap();
            assert_eq!(work, Work { kind, command, input: input.map(Bytes::from_static) });
        };
        let file_descriptor = || "h-1".to_owned();
        check(
            Asked::FileOpenRequest(pb::ContainerFileOpenRequest {
                file_descriptor: None,
                path: "/a\"b".into(),
                mode: "rb".into(),
            }),
            'f',
            r#"{"OpenFile":{"path":"/a\"b","mode":"rb","handle":"h-1"}}"#,
            None,
        );
        check(
            Asked::FileReadRequest(pb::ContainerFileReadRequest {
                file_descriptor: file_descriptor(),
                n: None,
            }),
            'f',
            r#"{"ReadOn":{"handle":"h-1","count":null}}"#,
            None,
        );
        check(
            Asked::FileSeekRequest(pb::ContainerFileSeekRequest {
                file_descriptor: file_descriptor(),
                offset: -3,
                whence: 2,
            }),
            'f',
            r#"{"Seek":{"handle":"h-1","offset":-3,"whence":"End"}}"#,
            None,
        );
        check(
            Asked::FileWriteReplaceBytesRequest(pb::ContainerFileWriteReplaceBytesRequest {
                file_descriptor: file_descriptor(),
                data: Bytes::from_static(b"new"),
                start_inclusive: Some(2),
                end_exclusive: None,
            }),
            'f',
            r#"{"ReplaceBytes":{"handle":"h-1","span":{"start":2,"end":null}}}"#,
            Some(b"new"),
        );
        check(
            Asked::FileWatchRequest(pb::ContainerFileWatchRequest {
                path: "/a".into(),
                recursive: true,
                timeout_secs: Some(3),
            }),
            'w',
            r#"{"Watch":{"path":"/a","recursive":true,"timeout_secs":3}}"#,
            None,
        );
    }
}
