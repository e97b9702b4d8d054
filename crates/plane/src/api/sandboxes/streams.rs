//! The entrypoint's streams for clients that know the older rpcs. Newer ones read and write at the
//! command router.

use futures::Stream;
use model::SandboxId;
use store::Hint;
use store::logs::{self, Entry};
use store::sandboxes::Phase;
use wire::client as pb;

use super::life::wait_of;
use super::{find, inside};
use crate::Plane;
use crate::api::gate::{Cx, Member};
use crate::api::logs::{item, place};
use crate::api::poll::{self, Poll};
use crate::api::refusal::Refusal;
use crate::limits::{LOG_ENTRIES_MAX, STDIN_BYTES_MAX};
use crate::sandboxes::Piece;

struct Follow {
    cx: Cx<Member>,
    req: pb::SandboxGetLogsRequest,
    after: u64,
    poll: Poll,
    done: bool,
}

/// Follows what a sandbox prints, from the entry after `last_entry_id`, until its time is up or
/// the sandbox has ended and all is told.
pub(in crate::api) async fn get_logs(
    cx: Cx<Member>,
    req: pb::SandboxGetLogsRequest,
) -> Result<impl Stream<Item = Result<pb::TaskLogsBatch, Refusal>> + use<>, Refusal> {
    let id = SandboxId::parse(&req.sandbox_id)?;
    let poll = Poll::begin(&cx.plane, Hint::Sandbox(id), wait_of(req.timeout));
    find(&mut *cx.plane.store.read().await?, cx.scope(), &req.sandbox_id).await?;
    let follow = Follow { after: place(&req.last_entry_id), cx, req, poll, done: false };
    Ok(poll::stream(follow))
}

impl poll::Follow for Follow {
    type Item = pb::TaskLogsBatch;

    fn is_done(&self) -> bool {
        self.done
    }

    fn poll(&mut self) -> (&mut Poll, &Plane) {
        (&mut self.poll, &self.cx.plane)
    }

    async fn look(&mut self) -> Result<Option<Self::Item>, Refusal> {
        let mut db = self.cx.plane.store.read().await?;
        // Read before the entries: what is printed last is written before it has ended.
        let sandbox = find(&mut db, self.cx.scope(), &self.req.sandbox_id).await?;
        let entries = logs::of_sandbox(&mut db, &sandbox.task, self.after, LOG_ENTRIES_MAX).await?;
        self.done = entries.is_empty() && sandbox.phase == Phase::Ended;
        if entries.is_empty() && !self.done {
            return Ok(None);
        }
        self.after = entries.last().map_or(self.after, |last| last.seq);
        let stream = self.req.file_descriptor;
        let wanted = |entry: &Entry| stream == 0 || stream == entry.stream;
        Ok(Some(pb::TaskLogsBatch {
            entry_id: format!("{}-0", self.after),
            task_id: sandbox.task.to_string(),
            sandbox_id: sandbox.id.to_string(),
            items: entries.into_iter().filter(wanted).map(item).collect(),
            eof: self.done,
            ..pb::TaskLogsBatch::default()
        }))
    }
}

/// Writes to a sandbox's standard input.
pub(in crate::api) async fn write_stdin(
    cx: Cx<Member>,
    req: pb::SandboxStdinWriteRequest,
) -> Result<pb::SandboxStdinWriteResponse, Refusal> {
    if req.input.len() > STDIN_BYTES_MAX {
        let why = format!("{} bytes are more than {STDIN_BYTES_MAX}", req.input.len());
        return Err(Refusal::invalid("input", why));
    }
    let sandbox = {
        let mut db = cx.plane.store.read().await?;
        find(&mut db, cx.scope(), &req.sandbox_id).await?
    };
    match sandbox.phase {
        Phase::Placed => {
            let text = format!("sandbox `{}` is being started: write to it again", sandbox.id);
            return Err(Refusal::Unavailable(text));
        }
        Phase::Started => {}
        Phase::Ended => {
            let text = format!("sandbox `{}` has ended: nothing reads its stdin", sandbox.id);
            return Err(Refusal::Conflict(text));
        }
    }
    let (index, data, eof) = (req.index, req.input, req.eof);
    let piece = Piece { task: sandbox.task, exec: None, index, data, eof };
    inside::write(&cx.plane, piece).await?;
    Ok(pb::SandboxStdinWriteResponse {})
}
