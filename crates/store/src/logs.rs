//! What containers print.

use bytes::Bytes;
use model::{AppId, FunctionId, TaskId, Time};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::row::{id, int, number, time};
use crate::{Db, Result};

/// A piece of a container's output.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its place in the order of all output; 0 until it is kept.
    pub seq: u64,
    /// The app.
    pub app: AppId,
    /// The function; nothing where a sandbox printed it.
    pub function: Option<FunctionId>,
    /// The container.
    pub task: TaskId,
    /// The stream: the wire's `FileDescriptor`.
    pub stream: i32,
    /// When it was printed.
    pub at: Time,
    /// What was printed.
    pub data: Bytes,
}

/// A span of time: from `since`, up to but without `until`.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Its begin.
    pub since: Time,
    /// Its end.
    pub until: Time,
}

/// Keeps a piece of output.
pub async fn append(db: &mut Db, entry: &Entry) -> Result<()> {
    let sql = "INSERT INTO logs (app_id, function_id, task_id, stream, at, data) \
               VALUES ($1, $2, $3, $4, $5, $6)";
    sqlx::query(sql)
        .bind(entry.app.as_str())
        .bind(entry.function.as_ref().map_or("", FunctionId::as_str))
        .bind(entry.task.as_str())
        .bind(entry.stream)
        .bind(int(entry.at.0))
        .bind(&entry.data[..])
        .execute(db)
        .await?;
    Ok(())
}

/// Output of a sandbox's container after place `after`, in order, at most `most` pieces.
pub async fn of_sandbox(db: &mut Db, task: &TaskId, after: u64, most: u32) -> Result<Vec<Entry>> {
    let sql = "SELECT * FROM logs WHERE task_id = $1 AND function_id = '' AND seq > $2 \
               ORDER BY seq LIMIT $3";
    let rows =
        sqlx::query(sql).bind(task.as_str()).bind(int(after)).bind(most).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// Output of an app after place `after`, in order, at most `most` pieces.
pub async fn after(db: &mut Db, app: &AppId, after: u64, most: u32) -> Result<Vec<Entry>> {
    let sql = "SELECT * FROM logs WHERE app_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    let rows =
        sqlx::query(sql).bind(app.as_str()).bind(int(after)).bind(most).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

fn read(row: &SqliteRow) -> Result<Entry> {
    Ok(Entry {
        seq: number(row, "seq")?,
        app: id(row, "app_id", AppId::parse)?,
        function: match row.try_get::<&str, _>("function_id")? {
            "" => None,
            _ => Some(id(row, "function_id", FunctionId::parse)?),
        },
        task: id(row, "task_id", TaskId::parse)?,
        stream: row.try_get("stream")?,
        at: time(row, "at")?,
        data: Bytes::from(row.try_get::<Vec<u8>, _>("data")?),
    })
}

/// Output of an app in a span of time, newest first, at most `most` pieces; of one container or
/// one function where these are not empty.
pub async fn past(
    db: &mut Db,
    app: &AppId,
    task: &str,
    function: &str,
    span: Span,
    most: u32,
) -> Result<Vec<Entry>> {
    let sql = "SELECT * FROM logs WHERE app_id = $1 AND ($2 = '' OR task_id = $2) \
               AND ($3 = '' OR function_id = $3) AND at >= $4 AND at < $5 \
               ORDER BY seq DESC LIMIT $6";
    let rows = sqlx::query(sql)
        .bind(app.as_str())
        .bind(task)
        .bind(function)
        .bind(int(span.since.0))
        .bind(int(span.until.0))
        .bind(most)
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

/// Drops the oldest output of an app beyond `keep` bytes. Where it was, `marker` stands. Says
/// whether something was dropped.
pub async fn trim(db: &mut Db, app: &AppId, keep: u64, marker: &str, stream: i32) -> Result<bool> {
    let sql = "SELECT max(seq) AS cut FROM (SELECT seq, sum(length(data)) OVER (ORDER BY seq DESC) \
               AS bytes FROM logs WHERE app_id = $1) WHERE bytes > $2";
    let row = sqlx::query(sql).bind(app.as_str()).bind(int(keep)).fetch_one(&mut *db).await?;
    let Some(cut) = row.try_get::<Option<i64>, _>("cut")? else { return Ok(false) };
    sqlx::query("DELETE FROM logs WHERE app_id = $1 AND seq < $2")
        .bind(app.as_str())
        .bind(cut)
        .execute(&mut *db)
        .await?;
    sqlx::query("UPDATE logs SET data = $2, stream = $3 WHERE seq = $1")
        .bind(cut)
        .bind(marker.as_bytes())
        .bind(stream)
        .execute(db)
        .await?;
    Ok(true)
}
