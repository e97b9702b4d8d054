//! Calls, and the chunks that stream beside them.

use bytes::Bytes;
use model::output::Payload;
use model::{AppId, BlobId, CallId, FunctionId, Time, WorkspaceId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::row::{count, id, id_opt, int, time, time_opt};
use crate::{Db, Result, Scope};

/// A call.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its id.
    pub id: CallId,
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// The app of its function.
    pub app: AppId,
    /// Its function.
    pub function: FunctionId,
    /// The wire's `FunctionCallType`.
    pub kind: i32,
    /// The wire's `FunctionCallInvocationType`.
    pub invocation: i32,
    /// When it was made.
    pub created_at: Time,
    /// Inputs so far.
    pub input_count: u32,
    /// Inputs that are done.
    pub done_count: u32,
    /// When it was cancelled.
    pub cancelled_at: Option<Time>,
}

fn read(row: &SqliteRow) -> Result<Call> {
    Ok(Call {
        id: id(row, "id", CallId::parse)?,
        workspace: id(row, "workspace_id", WorkspaceId::parse)?,
        app: id(row, "app_id", AppId::parse)?,
        function: id(row, "function_id", FunctionId::parse)?,
        kind: row.try_get("kind")?,
        invocation: row.try_get("invocation")?,
        created_at: time(row, "created_at")?,
        input_count: count(row, "input_count")?,
        done_count: count(row, "done_count")?,
        cancelled_at: time_opt(row, "cancelled_at")?,
    })
}

/// Makes a call. `key` is the client's idempotency key: the same key finds it again. `false` if
/// there is one with that key already, or its app has ended.
pub async fn insert(db: &mut Db, call: &Call, key: Option<&str>) -> Result<bool> {
    let sql = "INSERT INTO calls (id, workspace_id, app_id, function_id, kind, invocation, \
               created_at, idempotency_key, input_count) \
               SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 WHERE EXISTS \
               (SELECT 1 FROM apps WHERE id = $3 AND workspace_id = $2 AND stopped_at IS NULL) \
               ON CONFLICT (workspace_id, idempotency_key) WHERE idempotency_key IS NOT NULL \
               DO NOTHING";
    let done = sqlx::query(sql)
        .bind(call.id.as_str())
        .bind(call.workspace.as_str())
        .bind(call.app.as_str())
        .bind(call.function.as_str())
        .bind(call.kind)
        .bind(call.invocation)
        .bind(int(call.created_at.0))
        .bind(key)
        .bind(call.input_count)
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// The call of that id.
pub async fn get(db: &mut Db, scope: &Scope, id: &CallId) -> Result<Option<Call>> {
    let sql = "SELECT * FROM calls WHERE id = $1 AND workspace_id = $2";
    let row = sqlx::query(sql)
        .bind(id.as_str())
        .bind(scope.workspace.as_str())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The call that was made with this idempotency key.
pub async fn by_key(db: &mut Db, scope: &Scope, key: &str) -> Result<Option<Call>> {
    let sql = "SELECT * FROM calls WHERE workspace_id = $1 AND idempotency_key = $2";
    let row = sqlx::query(sql).bind(scope.workspace.as_str()).bind(key).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// Notes that the call is cancelled.
pub async fn cancel(db: &mut Db, id: &CallId, now: Time) -> Result<()> {
    sqlx::query("UPDATE calls SET cancelled_at = $2 WHERE id = $1 AND cancelled_at IS NULL")
        .bind(id.as_str())
        .bind(int(now.0))
        .execute(db)
        .await?;
    Ok(())
}

/// Which way a chunk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Towards the container.
    In = 1,
    /// Towards the caller.
    Out = 2,
}

/// A chunk beside a call.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Its place, from 1.
    pub index: u64,
    /// The wire's `DataFormat`.
    pub data_format: i32,
    /// What it holds.
    pub data: Payload,
}

/// A payload as two columns: a blob's id, or the bytes.
pub(crate) fn payload_columns(payload: &Payload) -> (Option<&str>, Option<&[u8]>) {
    match payload {
        Payload::Inline(bytes) => (None, Some(bytes)),
        Payload::Blob(blob) => (Some(blob.as_str()), None),
    }
}

/// A payload from two columns; nothing where both are null.
pub(crate) fn payload(row: &SqliteRow, blob: &str, data: &str) -> Result<Option<Payload>> {
    if let Some(blob) = id_opt(row, blob, BlobId::parse)? {
        return Ok(Some(Payload::Blob(blob)));
    }
    let data: Option<Vec<u8>> = row.try_get(data)?;
    Ok(data.map(|data| Payload::Inline(Bytes::from(data))))
}

/// Keeps a chunk; one of that place that is already there stays as it is.
pub async fn put_chunk(
    db: &mut Db,
    call: &CallId,
    direction: Direction,
    chunk: &Chunk,
) -> Result<()> {
    let sql = "INSERT INTO data_chunks (call_id, direction, idx, data_format, data_blob, data) \
               VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    let (blob, data) = payload_columns(&chunk.data);
    sqlx::query(sql)
        .bind(call.as_str())
        .bind(direction as i32)
        .bind(int(chunk.index))
        .bind(chunk.data_format)
        .bind(blob)
        .bind(data)
        .execute(db)
        .await?;
    Ok(())
}

/// Chunks after place `after`, in order and without a gap, at most `most`.
pub async fn chunks(
    db: &mut Db,
    call: &CallId,
    direction: Direction,
    after: u64,
    most: u32,
) -> Result<Vec<Chunk>> {
    let sql = "SELECT * FROM data_chunks WHERE call_id = $1 AND direction = $2 AND idx > $3 \
               ORDER BY idx LIMIT $4";
    let rows = sqlx::query(sql)
        .bind(call.as_str())
        .bind(direction as i32)
        .bind(int(after))
        .bind(most)
        .fetch_all(db)
        .await?;
    let mut chunks = Vec::with_capacity(rows.len());
    for row in &rows {
        let index = crate::row::number(row, "idx")?;
        if index != after + 1 + chunks.len() as u64 {
            break;
        }
        let data = payload(row, "data_blob", "data")?.unwrap_or_else(Payload::empty);
        chunks.push(Chunk { index, data_format: row.try_get("data_format")?, data });
    }
    Ok(chunks)
}
