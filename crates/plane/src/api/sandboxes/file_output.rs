//! What the file tool says, on its way to an older client: what it reads, the events that it sees,
//! or its failure.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use futures::stream::try_unfold;
use serde_json::Value;
use tonic::{Status, Streaming};
use wire::client as pb;
use wire::client::SystemErrorCode as Errno;
use wire::router::{TaskExecStdinWriteRequest, TaskExecStdioReadResponse};
use wire::rpc::router::TaskExecStdinWrite;

use super::files::WATCH;
use super::inside::{self, Inside};
use crate::api::refusal::Refusal;
use crate::limits::{FAILURE_BYTES_MAX, POLL_MAX, WATCH_REOPENED_MAX};

/// Work on files that a client follows.
pub(super) struct Following {
    work: Running,
    source: Streaming<TaskExecStdioReadResponse>,
    /// Batches that stand ready.
    ready: VecDeque<pb::FilesystemRuntimeOutputBatch>,
    /// The beginning of an event whose end has not come.
    line: BytesMut,
    sent: u64,
    done: bool,
}

/// A program that works on files.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) inside: Inside,
    pub(super) exec: String,
}

impl Running {
    fn is_watch(&self) -> bool {
        self.exec.starts_with(WATCH)
    }

    async fn taken(&self) -> Result<crate::sandboxes::Taken, Refusal> {
        let (task, exec) = (self.inside.task.clone(), self.exec.clone());
        Ok(inside::reach(&self.inside.plane)?.taken(task, exec).await?)
    }

    /// Ends a watch to which nobody listens for a while: the file tool ends with its stdin.
    pub(super) async fn end_unless_read(self) {
        tokio::time::sleep(WATCH_REOPENED_MAX).await;
        if !self.taken().await.is_ok_and(|taken| taken.readers == 0) {
            return;
        }
        let end = TaskExecStdinWriteRequest {
            task_id: self.inside.task.to_string(),
            exec_id: self.exec.clone(),
            eof: true,
            ..TaskExecStdinWriteRequest::default()
        };
        if let Err(status) = self.inside.call::<TaskExecStdinWrite>(end).await {
            tracing::debug!(%status, "a watch that nobody reads was not ended");
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if self.work.is_watch() && !self.done {
            tokio::spawn(self.work.clone().end_unless_read());
        }
    }
}

impl Following {
    /// Begins where the last reader has stopped.
    pub(super) async fn begin(inside: Inside, exec: String) -> Result<Self, Refusal> {
        let work = Running { inside, exec };
        let taken = work.taken().await?.bytes;
        if taken > 0 && !work.is_watch() {
            // What of it has reached the client nobody knows, and it would take it twice.
            let text = "the connection was lost while a file was read: read it again";
            return Err(Refusal::Conflict(text.into()));
        }
        let source = work.inside.output(&work.exec, false, taken).await?;
        let ready = VecDeque::new();
        Ok(Self { work, source, ready, line: BytesMut::new(), sent: 0, done: false })
    }

    /// All batches, the last of which says that it is the end.
    pub(super) fn batches(
        self,
    ) -> impl Stream<Item = Result<pb::FilesystemRuntimeOutputBatch, Refusal>> {
        try_unfold(self, |mut following| async move {
            let batch = following.next().await?;
            Ok(batch.map(|batch| (batch, following)))
        })
    }

    async fn next(&mut self) -> Result<Option<pb::FilesystemRuntimeOutputBatch>, Refusal> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            if self.done {
                return Ok(None);
            }
            let message = tokio::select! {
                message = self.source.message() => message,
                () = self.work.inside.plane.closed() => return Ok(None),
            };
            match message {
                Ok(Some(message)) => self.take(message.data),
                Ok(None) => match self.end().await {
                    Ok(true) => {}
                    Ok(false) => return Ok(None),
                    Err(status) => self.lose(status).await?,
                },
                Err(status) => self.lose(status).await?,
            }
        }
    }

    fn put(&mut self, output: Bytes) {
        self.sent += 1;
        let (output, batch_index) = (vec![output], self.sent);
        let batch =
            pb::FilesystemRuntimeOutputBatch { output, batch_index, error: None, eof: false };
        self.ready.push_back(batch);
    }

    /// The client wants each event in a message of its own.
    fn take(&mut self, data: Bytes) {
        if !self.work.is_watch() {
            return self.put(data);
        }
        self.line.extend_from_slice(&data);
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line = self.line.split_to(end + 1);
            self.put(event(&line[..end]));
        }
    }

    /// What follows the output; false if the server ends before it is known.
    async fn end(&mut self) -> Result<bool, Status> {
        let work = &self.work;
        let code = loop {
            match work.inside.exit(&work.exec, inside::until(POLL_MAX)).await? {
                Some(code) => break code,
                None if work.inside.plane.is_closing() => return Ok(false),
                None => {}
            }
        };
        let failure = match code {
            0 => None,
            _ => {
                let mut said = BytesMut::new();
                let mut errors = work.inside.output(&work.exec, true, 0).await?;
                while let Some(message) = errors.message().await? {
                    said.extend_from_slice(&message.data);
                    if said.len() > FAILURE_BYTES_MAX {
                        break;
                    }
                }
                Some(failure(code, &said))
            }
        };
        self.finish(failure);
        Ok(true)
    }

    async fn lose(&mut self, status: Status) -> Result<(), Refusal> {
        if !self.work.inside.has_ended(&status).await? {
            return Err(status.into());
        }
        let error_message = "the sandbox has ended".to_owned();
        let error_code = Errno::Unspecified.into();
        self.finish(Some(pb::SystemErrorMessage { error_code, error_message }));
        Ok(())
    }

    fn finish(&mut self, error: Option<pb::SystemErrorMessage>) {
        self.done = true;
        let mut last = |error, eof| {
            self.sent += 1;
            let (output, batch_index) = (vec![], self.sent);
            self.ready.push_back(pb::FilesystemRuntimeOutputBatch {
                output,
                batch_index,
                error,
                eof,
            });
        };
        if error.is_some() {
            last(error, false);
        }
        last(None, true);
    }
}

/// An event as older clients read it: they know no renames, and two line ends are its end.
fn event(line: &[u8]) -> Bytes {
    const BEGINS: &[u8] = br#"{"event_type":""#;
    let renamed = line.strip_prefix(BEGINS).filter(|rest| rest.starts_with(b"Rename"));
    let after = renamed.and_then(|rest| rest.splitn(2, |byte| *byte == b'"').nth(1));
    match after {
        Some(after) => [BEGINS, br#"Modify""#, after, b"\n\n"].concat().into(),
        None => [line, b"\n\n"].concat().into(),
    }
}

/// What the file tool says when it fails, as the client understands it.
fn failure(code: i32, said: &[u8]) -> pb::SystemErrorMessage {
    let text = String::from_utf8_lossy(said);
    let json: Value = serde_json::from_str(text.trim()).unwrap_or_default();
    let field = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    let (kind, message, detail) = (field("error_kind"), field("message"), field("detail"));
    let (error_code, is_plain) = match kind.as_str() {
        "NotFound" => (Errno::Noent, true),
        "IsDirectory" => (Errno::Isdir, true),
        "NotDirectory" => (Errno::Notdir, true),
        "PermissionDenied" => (Errno::Acces, true),
        "PathAlreadyExists" => (Errno::Exist, true),
        "NoSpace" => (Errno::Nospc, true),
        "FileTooLarge" => (Errno::Fbig, false),
        "TooMany" => (Errno::Mfile, false),
        "Io" => (Errno::Io, false),
        "DirectoryNotEmpty" | "NotAFile" | "InvalidPath" | "InvalidCommand" | "Invalid"
        | "Busy" => (Errno::Inval, false),
        _ => (Errno::Unspecified, false),
    };
    // What the standard library says of an error, and behind its number the path.
    let (words, rest) = detail.split_once(" (os error ").unwrap_or((detail.as_str(), ""));
    let path = rest.split_once(')').map_or("", |(_, path)| path);
    let error_message = if kind.is_empty() {
        match text.trim() {
            "" => format!("the file tool of the sandbox ended with code {code}"),
            text => text.to_owned(),
        }
    } else if is_plain && !words.is_empty() {
        // The system's own words, which callers look for.
        format!("{words}{path}")
    } else if message.ends_with(path) {
        message
    } else {
        format!("{message}{path}")
    };
    pb::SystemErrorMessage { error_code: error_code.into(), error_message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_the_codes_that_clients_know() {
        let check = |said: &str, code: Errno, text: &str| {
            let error = failure(1, said.as_bytes());
            assert_eq!((error.error_code(), error.error_message.as_str()), (code, text));
        };
        check(
            "{\"error_kind\":\"NotFound\",\"message\":\"no such file or directory\",\
             \"detail\":\"No such file or directory (os error 2): /a\"}\n",
            Errno::Noent,
            "No such file or directory: /a",
        );
        check(
            r#"{"error_kind":"NotOpen","message":"it was closed","detail":""}"#,
            Errno::Unspecified,
            "it was closed",
        );
        check(
            r#"{"error_kind":"DirectoryNotEmpty","message":"not empty: /a","detail":"x: /a"}"#,
            Errno::Inval,
            "not empty: /a",
        );
        check("panicked\n", Errno::Unspecified, "panicked");
        let killed = failure(137, b"");
        assert!(killed.error_message.contains("137"), "{}", killed.error_message);
    }

    #[test]
    fn events_are_those_that_older_clients_know() {
        let check = |line: &str, wanted: &str| {
            assert_eq!(event(line.as_bytes()), Bytes::copy_from_slice(wanted.as_bytes()));
        };
        check(
            r#"{"event_type":"Create","paths":["/a"]}"#,
            "{\"event_type\":\"Create\",\"paths\":[\"/a\"]}\n\n",
        );
        check(
            r#"{"event_type":"RenameFrom","paths":["/a\""]}"#,
            "{\"event_type\":\"Modify\",\"paths\":[\"/a\\\"\"]}\n\n",
        );
    }
}
