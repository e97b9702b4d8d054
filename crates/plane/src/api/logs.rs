//! What an app's containers print, as it is printed.

use std::time::Duration;

use futures::Stream;
use model::AppId;
use store::logs::{self, Entry};
use store::{Hint, apps};
use wire::client as pb;

use super::gate::{Cx, Member};
use super::poll::{self, Poll};
use super::refusal::Refusal;
use crate::Plane;
use crate::limits::{LOG_ENTRIES_MAX, POLL_MAX};

/// The place that an entry id names: the number before the dash, if there is one.
pub(super) fn place(entry_id: &str) -> u64 {
    entry_id.split('-').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Text of a piece of output: what is not UTF-8 is replaced, since the wire wants a string.
pub(super) fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

struct Follow {
    cx: Cx<Member>,
    app: AppId,
    req: pb::AppGetLogsRequest,
    /// Only the container is of interest: nothing follows its end.
    is_of_container: bool,
    after: u64,
    poll: Poll,
    done: bool,
}

/// Follows the output of an app, or of a container, from the entry after `last_entry_id`, until its
/// time is up or the app or the container is done.
pub(super) async fn get_logs(
    cx: Cx<Member>,
    req: pb::AppGetLogsRequest,
) -> Result<impl Stream<Item = Result<pb::TaskLogsBatch, Refusal>> + use<>, Refusal> {
    let is_of_container = req.app_id.is_empty() && !req.task_id.is_empty();
    let app = {
        let mut db = cx.plane.store.read().await?;
        if is_of_container {
            super::tasks::standing(&mut db, cx.scope(), &req.task_id).await?.0
        } else {
            let id = AppId::parse(&req.app_id)?;
            let app = apps::get(&mut db, cx.scope(), &id).await?;
            app.ok_or_else(|| Refusal::not_found("app", &req.app_id))?.id
        }
    };
    let wait = Duration::try_from_secs_f32(req.timeout).unwrap_or(POLL_MAX).min(POLL_MAX);
    let poll = Poll::begin(&cx.plane, Hint::Logs(app.clone()), wait);
    let after = place(&req.last_entry_id);
    Ok(poll::stream(Follow { cx, app, req, is_of_container, after, poll, done: false }))
}

impl poll::Follow for Follow {
    type Item = pb::TaskLogsBatch;

    fn is_done(&self) -> bool {
        self.done
    }

    fn poll(&mut self) -> (&mut Poll, &Plane) {
        (&mut self.poll, &self.cx.plane)
    }

    /// The next batch: entries of one container that follow each other, or the end.
    async fn look(&mut self) -> Result<Option<Self::Item>, Refusal> {
        let mut db = self.cx.plane.store.read().await?;
        // Read before the entries: what is printed last is written before it is set.
        let app = apps::get(&mut db, self.cx.scope(), &self.app).await?;
        let is_over = app.is_none_or(|app| app.logs_done)
            || self.is_of_container
                && super::tasks::standing(&mut db, self.cx.scope(), &self.req.task_id).await?.1;
        let entries = logs::after(&mut db, &self.app, self.after, LOG_ENTRIES_MAX).await?;
        let Some(first) = entries.first() else {
            if is_over {
                self.done = true;
                let entry_id = format!("{}-0", self.after);
                let end = pb::TaskLogsBatch { entry_id, app_done: true, ..Default::default() };
                return Ok(Some(end));
            }
            return Ok(None);
        };
        let task = first.task.clone();
        let run: Vec<Entry> = entries.into_iter().take_while(|entry| entry.task == task).collect();
        let Some(last) = run.last() else { return Ok(None) };
        self.after = last.seq;
        let mut batch = pb::TaskLogsBatch {
            entry_id: format!("{}-0", last.seq),
            task_id: last.task.to_string(),
            function_id: last.function.as_ref().map(ToString::to_string).unwrap_or_default(),
            ..pb::TaskLogsBatch::default()
        };
        batch.items = run.into_iter().filter(|entry| self.wants(entry)).map(item).collect();
        Ok(Some(batch))
    }
}

impl Follow {
    fn wants(&self, entry: &Entry) -> bool {
        let req = &self.req;
        let stream = req.file_descriptor == 0 || req.file_descriptor == entry.stream;
        let task = req.task_id.is_empty() || req.task_id == entry.task.as_str();
        let of = entry.function.as_ref().map(model::FunctionId::as_str);
        let function = req.function_id.is_empty() || of == Some(&req.function_id);
        let words = req.search_text.is_empty() || text(&entry.data).contains(&req.search_text);
        stream && task && function && words
    }
}

/// A piece of output in the wire's form.
pub(super) fn item(entry: Entry) -> pb::TaskLogs {
    pb::TaskLogs {
        data: text(&entry.data),
        timestamp: entry.at.as_secs_f64(),
        file_descriptor: entry.stream,
        ..pb::TaskLogs::default()
    }
}
