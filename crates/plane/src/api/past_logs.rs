//! Output of the past: of an app's containers, or of an image's build, which is asked for under
//! the image's id in the place of a container's.

use model::{AppId, Time};
use store::logs::{self, Entry, Span};
use store::{Db, apps, images};
use wire::client as pb;

use super::gate::{Cx, Member};
use super::images::{find, timestamp};
use super::logs::text;
use super::refusal::Refusal;
use super::sandboxes;
use crate::limits::{LOGS_COUNTED_MAX, LOGS_FETCHED_MAX};

/// A piece of output, whosever it is.
struct Piece {
    task: String,
    function: String,
    stream: i32,
    at: Time,
    data: String,
}

/// What both rpcs select by.
struct Filter {
    app: String,
    task: String,
    function: String,
    stream: i32,
    words: String,
    span: Span,
}

fn moment(at: Option<prost_types::Timestamp>, unset: Time) -> Time {
    let Some(at) = at else { return unset };
    // Rounded: the client makes it of seconds with a fraction, and milliseconds must be met.
    let ms = (i64::from(at.nanos) + 500_000) / 1_000_000;
    let ms = at.seconds.saturating_mul(1_000).saturating_add(ms);
    Time(u64::try_from(ms).unwrap_or(0))
}

impl Filter {
    /// What a request selects. What cannot be told apart here is refused.
    async fn read(cx: &Cx<Member>, req: pb::AppFetchLogsRequest) -> Result<Self, Refusal> {
        let by_call = "output is not kept by call: filter by function or container";
        let classes = "classes are not served yet";
        let unserved = [
            ("function_call_id", req.function_call_id, by_call),
            ("parametrized_function_id", req.parametrized_function_id, classes),
        ];
        for (field, value, why) in unserved {
            if !value.is_empty() {
                return Err(Refusal::invalid(field, why));
            }
        }
        Ok(Self {
            app: req.app_id,
            task: container(cx, req.task_id, &req.sandbox_id).await?,
            function: req.function_id,
            stream: req.source,
            words: req.search_text,
            span: Span { since: moment(req.since, Time(0)), until: moment(req.until, cx.now()) },
        })
    }

    /// Output that fits, newest first, at most `most` pieces.
    async fn look(&self, cx: &Cx<Member>, most: u32) -> Result<Vec<Piece>, Refusal> {
        let mut db = cx.plane.store.read().await?;
        let mut pieces = match self.task.starts_with("im-") {
            true => self.of_image(cx, &mut db, most).await?,
            false => self.of_app(cx, &mut db, most).await?,
        };
        pieces.retain(|piece| {
            (self.stream == 0 || self.stream == piece.stream) && piece.data.contains(&self.words)
        });
        Ok(pieces)
    }

    async fn of_image(
        &self,
        cx: &Cx<Member>,
        db: &mut Db,
        most: u32,
    ) -> Result<Vec<Piece>, Refusal> {
        let image = find(cx, db, &self.task).await?;
        let lines = images::past_logs(db, &image.id, self.span, most).await?;
        let piece = |(at, data): (Time, bytes::Bytes)| Piece {
            task: self.task.clone(),
            function: String::new(),
            stream: pb::FileDescriptor::Stdout as i32,
            at,
            data: text(&data),
        };
        Ok(lines.into_iter().map(piece).collect())
    }

    async fn of_app(&self, cx: &Cx<Member>, db: &mut Db, most: u32) -> Result<Vec<Piece>, Refusal> {
        let id = AppId::parse(&self.app)?;
        if apps::get(db, cx.scope(), &id).await?.is_none() {
            return Err(Refusal::not_found("app", &self.app));
        }
        let entries = logs::past(db, &id, &self.task, &self.function, self.span, most).await?;
        let piece = |entry: Entry| Piece {
            task: entry.task.into(),
            function: entry.function.map(String::from).unwrap_or_default(),
            stream: entry.stream,
            at: entry.at,
            data: text(&entry.data),
        };
        Ok(entries.into_iter().map(piece).collect())
    }
}

/// The container whose output is asked for: a sandbox has one.
async fn container(cx: &Cx<Member>, task: String, sandbox: &str) -> Result<String, Refusal> {
    if sandbox.is_empty() {
        return Ok(task);
    }
    let mut db = cx.plane.store.read().await?;
    Ok(sandboxes::find(&mut db, cx.scope(), sandbox).await?.task.into())
}

/// The newest output in a span of time, in its order.
pub(super) async fn fetch(
    cx: Cx<Member>,
    req: pb::AppFetchLogsRequest,
) -> Result<pb::AppFetchLogsResponse, Refusal> {
    let most = match req.limit {
        0 => LOGS_FETCHED_MAX,
        limit => limit.min(LOGS_FETCHED_MAX),
    };
    let filter = Filter::read(&cx, req).await?;
    let mut batches = Vec::<pb::TaskLogsBatch>::new();
    for piece in filter.look(&cx, most).await?.into_iter().rev() {
        if batches.last().is_none_or(|last| last.task_id != piece.task) {
            batches.push(pb::TaskLogsBatch {
                task_id: piece.task,
                function_id: piece.function,
                ..pb::TaskLogsBatch::default()
            });
        }
        let item = pb::TaskLogs {
            data: piece.data,
            timestamp: piece.at.as_secs_f64(),
            timestamp_ns: piece.at.0.saturating_mul(1_000_000),
            file_descriptor: piece.stream,
            ..pb::TaskLogs::default()
        };
        if let Some(last) = batches.last_mut() {
            last.items.push(item);
        }
    }
    Ok(pb::AppFetchLogsResponse { batches })
}

/// How much output there is in each part of a span of time.
pub(super) async fn count(
    cx: Cx<Member>,
    req: pb::AppCountLogsRequest,
) -> Result<pb::AppCountLogsResponse, Refusal> {
    let bucket_ms = u64::from(req.bucket_secs.max(1)) * 1_000;
    // It counts what a request to fetch would find.
    let counted = pb::AppFetchLogsRequest {
        app_id: req.app_id.clone(),
        since: req.since,
        until: req.until,
        limit: 0,
        source: req.source,
        function_id: req.function_id,
        function_call_id: req.function_call_id,
        task_id: req.task_id,
        sandbox_id: req.sandbox_id,
        search_text: req.search_text,
        parametrized_function_id: req.parametrized_function_id,
    };
    let filter = Filter::read(&cx, counted).await?;
    let mut buckets = std::collections::BTreeMap::<u64, [u64; 3]>::new();
    for piece in filter.look(&cx, LOGS_COUNTED_MAX).await? {
        let start = piece.at.0 / bucket_ms * bucket_ms;
        let counts = buckets.entry(start).or_default();
        let stream = usize::try_from(piece.stream - 1).unwrap_or(2).min(2);
        counts[stream] += 1;
    }
    let bucket = |(start, [stdout_logs, stderr_logs, system_logs]): (u64, [u64; 3])| {
        let bucket_start_at = Some(timestamp(start));
        pb::app_count_logs_response::LogBucket {
            bucket_start_at,
            stdout_logs,
            stderr_logs,
            system_logs,
        }
    };
    let buckets = buckets.into_iter().map(bucket).collect();
    Ok(pb::AppCountLogsResponse { app_id: req.app_id, buckets })
}
