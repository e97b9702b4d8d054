//! What the file tool says, on its way to an older client: what it reads, the events that it sees,
//! or its failure.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::Stream;
use futures::stream::try_unfold;
use serde_json::Value;
use tokio::time::{sleep, timeout, timeout_at};
use tonic::{Status, Streaming};
use wire::client as pb;
use wire::client::SystemErrorCode as Errno;
use wire::router::{TaskExecPollRequest, TaskExecStdinWriteRequest, TaskExecStdioReadResponse};
use wire::rpc::router::{TaskExecPoll, TaskExecStdinWrite};

use super::files::WATCH;
use super::inside::{self, Inside};
use crate::api::refusal::Refusal;
use crate::limits::{
    FAILURE_BYTES_MAX, FAILURE_TOLD_MAX, POLL_MAX, WATCH_LINE_BYTES_MAX, WORK_DRAINED_MAX,
    WORK_REOPENED_MAX,
};
use crate::sandboxes::Taken;

/// Work on files that a client follows.
pub(super) struct Following {
    work: Running,
    /// Nothing if the sandbox had ended before.
    source: Option<Streaming<TaskExecStdioReadResponse>>,
    /// Batches that stand ready: one, or the last ones.
    ready: VecDeque<pb::FilesystemRuntimeOutputBatch>,
    /// What came of a watch.
    lines: Lines,
    sent: u64,
    /// All that the client is told stands ready.
    done: bool,
    /// The work is over, or its sandbox is.
    ended: bool,
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

    async fn taken(&self) -> Result<Taken, Status> {
        let (task_id, exec_id) = (self.inside.task.to_string(), self.exec.clone());
        let reach = inside::reach(&self.inside.plane)?;
        let why = match reach.taken(self.inside.task.clone(), exec_id.clone()).await {
            Ok(taken) => return Ok(taken),
            Err(why) => why,
        };
        // Whether that is for good the router knows: clients look at the code.
        self.inside.call::<TaskExecPoll>(TaskExecPollRequest { task_id, exec_id }).await?;
        Err(Status::unavailable(format!("what the file tool says is not reached: {why}")))
    }

    /// Has work end that nobody follows for a while.
    pub(super) async fn end_unless_followed(self) {
        let ended = tokio::select! {
            ended = self.end() => ended,
            () = self.inside.plane.closed() => return,
        };
        if let Err(status) = ended {
            tracing::debug!(%status, "work on files that nobody follows was not ended");
        }
    }

    async fn end(&self) -> Result<(), Status> {
        sleep(WORK_REOPENED_MAX).await;
        let taken = self.taken().await?;
        if taken.readers > 0 {
            return Ok(());
        }
        if self.is_watch() {
            // The file tool ends with its stdin.
            let end = TaskExecStdinWriteRequest {
                task_id: self.inside.task.to_string(),
                exec_id: self.exec.clone(),
                eof: true,
                ..TaskExecStdinWriteRequest::default()
            };
            return self.inside.call::<TaskExecStdinWrite>(end).await.map(drop);
        }
        let late = |_| Status::deadline_exceeded("it says more and more");
        timeout(WORK_DRAINED_MAX, self.drain(taken.bytes)).await.map_err(late)?
    }

    /// Takes what the work says for nobody: until then it takes room on the disk, and the work may
    /// wait, with the file's turn.
    async fn drain(&self, offset: u64) -> Result<(), Status> {
        let mut source = self.inside.output(&self.exec, false, offset).await?;
        while source.message().await?.is_some() {}
        Ok(())
    }

    /// What was said of a failure, as far as it comes in time: other programs of the sandbox may
    /// have the same stream open, and say more.
    async fn said(&self) -> Result<BytesMut, Status> {
        let until = inside::until(FAILURE_TOLD_MAX);
        let mut said = BytesMut::new();
        let mut errors = self.inside.output(&self.exec, true, 0).await?;
        while let Ok(message) = timeout_at(until, errors.message()).await {
            let Some(message) = message? else { break };
            said.extend_from_slice(&message.data);
            if said.len() > FAILURE_BYTES_MAX {
                break;
            }
        }
        Ok(said)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if !self.ended {
            tokio::spawn(self.work.clone().end_unless_followed());
        }
    }
}

impl Following {
    /// Begins where the last reader has stopped.
    pub(super) async fn begin(inside: Inside, exec: String) -> Result<Self, Refusal> {
        let work = Running { inside, exec };
        let source = match work.taken().await {
            Ok(taken) if taken.bytes > 0 && !work.is_watch() => {
                // What of it has reached the client nobody knows, and it would take it twice.
                let text = "the connection was lost while a file was read: read it again";
                return Err(Refusal::Conflict(text.into()));
            }
            Ok(taken) => work.inside.output(&work.exec, false, taken.bytes).await,
            Err(status) => Err(status),
        };
        let source = match source {
            Ok(source) => Some(source),
            Err(status) if work.inside.has_ended(&status).await? => None,
            Err(status) => return Err(status.into()),
        };
        let mut following = Self {
            work,
            source,
            ready: VecDeque::new(),
            lines: Lines::default(),
            sent: 0,
            done: false,
            ended: false,
        };
        if following.source.is_none() {
            following.lose();
        }
        Ok(following)
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
            let source = match &mut self.source {
                Some(source) if !self.done => source,
                _ => return Ok(None),
            };
            match self.lines.next() {
                Ok(Some(line)) => {
                    self.put(event(&line));
                    continue;
                }
                Ok(None) => {}
                Err(too_long) => {
                    self.fail(too_long.to_string());
                    continue;
                }
            }
            let message = tokio::select! {
                message = source.message() => message,
                () = self.work.inside.plane.closed() => return Ok(None),
            };
            match message {
                Ok(Some(message)) if self.work.is_watch() => self.lines.unread = message.data,
                Ok(Some(message)) => self.put(message.data),
                Ok(None) => match self.end().await {
                    Ok(true) => {}
                    Ok(false) => return Ok(None),
                    Err(status) => self.lose_for(status).await?,
                },
                Err(status) => self.lose_for(status).await?,
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
                let said = tokio::select! {
                    said = work.said() => said?,
                    () = work.inside.plane.closed() => return Ok(false),
                };
                Some(failure(code, &said))
            }
        };
        self.ended = true;
        self.finish(failure);
        Ok(true)
    }

    async fn lose_for(&mut self, status: Status) -> Result<(), Refusal> {
        if !self.work.inside.has_ended(&status).await? {
            return Err(status.into());
        }
        self.lose();
        Ok(())
    }

    fn lose(&mut self) {
        self.ended = true;
        self.fail("the sandbox has ended".into());
    }

    fn fail(&mut self, error_message: String) {
        let error_code = Errno::Unspecified.into();
        self.finish(Some(pb::SystemErrorMessage { error_code, error_message }));
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

/// What a watch says, by lines: each is an event, which clients want in a message of its own.
#[derive(Debug, Default)]
struct Lines {
    /// What came last, as far as it is not looked at.
    unread: Bytes,
    /// The beginning of a line whose end has not come.
    begun: BytesMut,
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("the watch says what is no event: it has more than {WATCH_LINE_BYTES_MAX} bytes")]
struct TooLong;

impl Lines {
    /// The next line without its end; nothing if that has not come.
    fn next(&mut self) -> Result<Option<BytesMut>, TooLong> {
        let end = self.unread.iter().position(|byte| *byte == b'\n');
        let more = self.unread.split_to(end.unwrap_or(self.unread.len()));
        if self.begun.len() + more.len() > WATCH_LINE_BYTES_MAX {
            return Err(TooLong);
        }
        self.begun.extend_from_slice(&more);
        if end.is_none() {
            return Ok(None);
        }
        self.unread.advance(1);
        Ok(Some(self.begun.split()))
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
    fn lines_are_put_together_from_their_pieces() {
        let mut lines = Lines::default();
        let mut check = |piece: &'static str, wanted: &[&str]| {
            lines.unread = Bytes::from_static(piece.as_bytes());
            for line in wanted {
                assert_eq!(lines.next().unwrap().as_deref(), Some(line.as_bytes()), "{piece:?}");
            }
            assert_eq!(lines.next(), Ok(None), "{piece:?}");
        };
        check("one\ntw", &["one"]);
        check("", &[]);
        check("o", &[]);
        check("\n\nthree\n", &["two", "", "three"]);
        check("rest", &[]);
    }

    /// What is not read costs nothing: hostile programs write what they like in a watch's place.
    #[test]
    fn a_line_without_an_end_is_an_error() {
        let mut lines = Lines::default();
        let piece = Bytes::from(vec![b'x'; WATCH_LINE_BYTES_MAX / 4]);
        for _ in 0..4 {
            lines.unread = piece.clone();
            assert_eq!(lines.next(), Ok(None));
        }
        lines.unread = Bytes::from_static(b"\n");
        assert_eq!(lines.next().unwrap().unwrap().len(), WATCH_LINE_BYTES_MAX);
        lines.unread = Bytes::from(vec![b'x'; WATCH_LINE_BYTES_MAX + 1]);
        assert_eq!(lines.next(), Err(TooLong));
        assert!(lines.begun.is_empty());
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
