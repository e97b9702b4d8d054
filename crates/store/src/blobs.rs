//! Blobs: payloads that travel over HTTP. Who holds a blob's token may send or fetch its bytes.

use model::{BlobId, TaskId, Time, WorkspaceId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::row::{id, id_opt, int, number};
use crate::{Db, Result, Scope};

/// A blob.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its id.
    pub id: BlobId,
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// The container that made it; nothing where a client did.
    pub task: Option<TaskId>,
    /// The capability in its URL.
    pub token: String,
    /// Its size, as announced.
    pub size_bytes: u64,
    /// SHA-256 of its bytes as announced, lower-case hex.
    pub wanted_sha256: String,
    /// SHA-256 of its bytes, once they are there.
    pub sha256: Option<String>,
}

fn read(row: &SqliteRow) -> Result<Blob> {
    Ok(Blob {
        id: id(row, "id", BlobId::parse)?,
        workspace: id(row, "workspace_id", WorkspaceId::parse)?,
        task: id_opt(row, "task_id", TaskId::parse)?,
        token: row.try_get("token")?,
        size_bytes: number(row, "size_bytes")?,
        wanted_sha256: row.try_get("wanted_sha256")?,
        sha256: row.try_get("sha256")?,
    })
}

/// Announces a blob.
pub async fn insert(db: &mut Db, blob: &Blob, now: Time) -> Result<()> {
    let sql = "INSERT INTO blobs (id, workspace_id, task_id, token, size_bytes, wanted_sha256, \
               created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    sqlx::query(sql)
        .bind(blob.id.as_str())
        .bind(blob.workspace.as_str())
        .bind(blob.task.as_ref().map(TaskId::as_str))
        .bind(&blob.token)
        .bind(int(blob.size_bytes))
        .bind(&blob.wanted_sha256)
        .bind(int(now.0))
        .execute(db)
        .await?;
    Ok(())
}

/// The blob of that id.
pub async fn get(db: &mut Db, scope: &Scope, id: &BlobId) -> Result<Option<Blob>> {
    let row = sqlx::query("SELECT * FROM blobs WHERE id = $1 AND workspace_id = $2")
        .bind(id.as_str())
        .bind(scope.workspace.as_str())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The blob that a token opens.
pub async fn by_token(db: &mut Db, token: &str) -> Result<Option<Blob>> {
    let row =
        sqlx::query("SELECT * FROM blobs WHERE token = $1").bind(token).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// Notes that a blob's bytes are there.
pub async fn complete(db: &mut Db, id: &BlobId, sha256: &str) -> Result<()> {
    sqlx::query("UPDATE blobs SET sha256 = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(sha256)
        .execute(db)
        .await?;
    Ok(())
}

/// Bytes of all blobs that a container announced; each counts for `least` at least.
pub async fn bytes_of_task(db: &mut Db, task: &TaskId, least: u64) -> Result<u64> {
    let sql = "SELECT coalesce(sum(max(size_bytes, $2)), 0) AS bytes FROM blobs WHERE task_id = $1";
    let row = sqlx::query(sql).bind(task.as_str()).bind(int(least)).fetch_one(db).await?;
    number(&row, "bytes")
}
