//! Mounts: sets of files, and which files a workspace has sent.

use model::spec::MountFile;
use model::{MountId, Time};
use sqlx::Row;

use crate::row::{from_json, int, json};
use crate::{Db, Result, Scope};

/// Keeps a mount.
pub async fn insert(
    db: &mut Db,
    scope: &Scope,
    id: &MountId,
    files: &[MountFile],
    now: Time,
) -> Result<()> {
    let sql = "INSERT INTO mounts (id, workspace_id, files, created_at) VALUES ($1, $2, $3, $4)";
    sqlx::query(sql)
        .bind(id.as_str())
        .bind(scope.workspace.as_str())
        .bind(json("mount", &files)?)
        .bind(int(now.0))
        .execute(db)
        .await?;
    Ok(())
}

/// The files of a mount.
pub async fn get(db: &mut Db, scope: &Scope, id: &MountId) -> Result<Option<Vec<MountFile>>> {
    let row = sqlx::query("SELECT files FROM mounts WHERE id = $1 AND workspace_id = $2")
        .bind(id.as_str())
        .bind(scope.workspace.as_str())
        .fetch_optional(db)
        .await?;
    row.map(|row| from_json("mount", row.try_get("files")?)).transpose()
}

/// Notes that the workspace has sent a file.
pub async fn put_file(db: &mut Db, scope: &Scope, sha256: &str, size_bytes: u64) -> Result<()> {
    let sql = "INSERT INTO files (workspace_id, sha256, size_bytes) VALUES ($1, $2, $3) \
               ON CONFLICT DO NOTHING";
    sqlx::query(sql)
        .bind(scope.workspace.as_str())
        .bind(sha256)
        .bind(int(size_bytes))
        .execute(db)
        .await?;
    Ok(())
}

/// Whether the workspace has sent a file.
pub async fn has_file(db: &mut Db, scope: &Scope, sha256: &str) -> Result<bool> {
    let row = sqlx::query("SELECT 1 FROM files WHERE workspace_id = $1 AND sha256 = $2")
        .bind(scope.workspace.as_str())
        .bind(sha256)
        .fetch_optional(db)
        .await?;
    Ok(row.is_some())
}
