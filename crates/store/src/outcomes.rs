//! What became of inputs.

use bytes::Bytes;
use model::output::{Outcome, Status};
use model::{CallId, InputId, TaskId, Time};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::calls::{payload, payload_columns};
use crate::inputs::OpenInput;
use crate::row::{count, id, id_opt, int, number};
use crate::{Db, Error, Result};

/// An input that is done.
#[derive(Debug, Clone)]
pub struct DoneInput {
    /// Its id.
    pub id: InputId,
    /// Its place in the call, from 0.
    pub index: u32,
    /// Its place in the order of ending, from 1.
    pub done_seq: u64,
    /// Attempts that failed before.
    pub retry_count: u32,
    /// The container that answered.
    pub task: Option<TaskId>,
    /// What became of it.
    pub outcome: Outcome,
    /// Inputs of its call that were not done when it was read.
    pub unfinished: u32,
}

/// How a call stands once one of its inputs is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// The input's place in the order of ending, from 1.
    pub done_seq: u64,
    /// Inputs of the call that are not done.
    pub unfinished: u32,
}

/// Writes that an input is done, and by whom.
pub(crate) async fn finish(
    db: &mut Db,
    stored: &OpenInput,
    outcome: &Outcome,
    task: Option<&TaskId>,
    now: Time,
) -> Result<Finished> {
    let (blob, data) = outcome.data.as_ref().map(payload_columns).unwrap_or_default();
    // Three statements, one trip. What was carried is no longer needed.
    let sql = "UPDATE calls SET done_count = done_count + 1 WHERE id = $12 \
               RETURNING done_count, input_count - done_count AS unfinished; \
               UPDATE inputs SET state = 2, args = NULL, retry_count = $13, lost_count = $14, \
               done_seq = (SELECT done_count FROM calls WHERE id = $12) WHERE id = $1; \
               INSERT INTO outcomes (input_id, status, task_id, created_at, data_format, \
               exception, traceback, serialized_tb, tb_line_cache, data_blob, data) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    let rows = sqlx::query(sql)
        .bind(stored.id.as_str())
        .bind(status_number(outcome.status))
        .bind(task.map(TaskId::as_str))
        .bind(int(now.0))
        .bind(outcome.data_format)
        .bind(&outcome.exception)
        .bind(&outcome.traceback)
        .bind(&outcome.serialized_tb[..])
        .bind(&outcome.tb_line_cache[..])
        .bind(blob)
        .bind(data)
        .bind(stored.call.as_str())
        .bind(stored.input.retry_count)
        .bind(stored.input.lost_count)
        .fetch_all(db)
        .await?;
    let call = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok(Finished { done_seq: number(call, "done_count")?, unfinished: count(call, "unfinished")? })
}

/// Which done inputs of a call are wanted.
#[derive(Debug, Clone, Copy)]
pub enum Wanted {
    /// Those that ended after this place in the order of ending.
    After(u64),
    /// Those with an index in this range, both ends included.
    Indexes(u32, u32),
}

/// Done inputs of a call, at most `most`.
pub async fn done(db: &mut Db, call: &CallId, wanted: Wanted, most: u32) -> Result<Vec<DoneInput>> {
    let sql = match wanted {
        Wanted::After(_) => {
            "SELECT i.id, i.idx, i.done_seq, i.retry_count, o.*, \
             c.input_count - c.done_count AS unfinished FROM inputs i \
             JOIN outcomes o ON o.input_id = i.id JOIN calls c ON c.id = i.call_id \
             WHERE i.call_id = $1 AND i.state = 2 AND i.done_seq > $2 AND $3 = 0 \
             ORDER BY i.done_seq LIMIT $4"
        }
        Wanted::Indexes(..) => {
            "SELECT i.id, i.idx, i.done_seq, i.retry_count, o.*, \
             c.input_count - c.done_count AS unfinished FROM inputs i \
             JOIN outcomes o ON o.input_id = i.id JOIN calls c ON c.id = i.call_id \
             WHERE i.call_id = $1 AND i.state = 2 AND i.idx BETWEEN $2 AND $3 \
             ORDER BY i.idx LIMIT $4"
        }
    };
    let (low, high) = match wanted {
        Wanted::After(seq) => (int(seq), 0),
        Wanted::Indexes(low, high) => (i64::from(low), i64::from(high)),
    };
    let rows =
        sqlx::query(sql).bind(call.as_str()).bind(low).bind(high).bind(most).fetch_all(db).await?;
    rows.iter()
        .map(|row| {
            Ok(DoneInput {
                id: id(row, "id", InputId::parse)?,
                index: count(row, "idx")?,
                done_seq: number(row, "done_seq")?,
                retry_count: count(row, "retry_count")?,
                task: id_opt(row, "task_id", TaskId::parse)?,
                outcome: read_outcome(row)?,
                unfinished: count(row, "unfinished")?,
            })
        })
        .collect()
}

fn read_outcome(row: &SqliteRow) -> Result<Outcome> {
    Ok(Outcome {
        status: status(row.try_get("status")?)?,
        data: payload(row, "data_blob", "data")?,
        data_format: row.try_get("data_format")?,
        exception: row.try_get("exception")?,
        traceback: row.try_get("traceback")?,
        serialized_tb: Bytes::from(row.try_get::<Vec<u8>, _>("serialized_tb")?),
        tb_line_cache: Bytes::from(row.try_get::<Vec<u8>, _>("tb_line_cache")?),
    })
}

/// The wire's number of a status (`GenericResult.status`, modal 1.6.4).
pub fn status_number(status: Status) -> i32 {
    match status {
        Status::Success => 1,
        Status::Failure => 2,
        Status::Terminated => 3,
        Status::Timeout => 4,
        Status::InitFailure => 5,
        Status::InternalFailure => 6,
    }
}

/// The status of that number.
pub fn status(number: i32) -> Result<Status> {
    Ok(match number {
        1 => Status::Success,
        2 => Status::Failure,
        3 => Status::Terminated,
        4 => Status::Timeout,
        5 => Status::InitFailure,
        6 => Status::InternalFailure,
        other => {
            let reason = format!("{other} is no status");
            return Err(Error::Unreadable { what: "outcome", reason });
        }
    })
}
