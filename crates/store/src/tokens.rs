//! Workspaces and the tokens that open them. Only a token's hash is kept.

use model::{Time, WorkspaceId};
use sqlx::Row;

use crate::row::{id, int};
use crate::{Db, Result};

/// Makes a workspace.
pub async fn insert_workspace(
    db: &mut Db,
    workspace: &WorkspaceId,
    name: &str,
    now: Time,
) -> Result<()> {
    sqlx::query("INSERT INTO workspaces (id, name, created_at) VALUES ($1, $2, $3)")
        .bind(workspace.as_str())
        .bind(name)
        .bind(int(now.0))
        .execute(db)
        .await?;
    Ok(())
}

/// The workspace of a fresh server, if it was made before.
pub async fn first_workspace(db: &mut Db) -> Result<Option<WorkspaceId>> {
    let row = sqlx::query("SELECT id FROM workspaces ORDER BY created_at LIMIT 1")
        .fetch_optional(db)
        .await?;
    row.map(|row| id(&row, "id", WorkspaceId::parse)).transpose()
}

/// A workspace's name.
pub async fn workspace_name(db: &mut Db, workspace: &WorkspaceId) -> Result<String> {
    let row = sqlx::query("SELECT name FROM workspaces WHERE id = $1")
        .bind(workspace.as_str())
        .fetch_one(db)
        .await?;
    Ok(row.try_get("name")?)
}

/// Keeps a token: its id in clear, its secret as a SHA-256.
pub async fn insert(
    db: &mut Db,
    token_id: &str,
    workspace: &WorkspaceId,
    secret_sha256: &[u8],
    now: Time,
) -> Result<()> {
    let sql = "INSERT INTO tokens (id, workspace_id, secret_sha256, created_at) \
               VALUES ($1, $2, $3, $4)";
    sqlx::query(sql)
        .bind(token_id)
        .bind(workspace.as_str())
        .bind(secret_sha256)
        .bind(int(now.0))
        .execute(db)
        .await?;
    Ok(())
}

/// Forgets every token of a workspace.
pub async fn remove_all(db: &mut Db, workspace: &WorkspaceId) -> Result<()> {
    let sql = "DELETE FROM tokens WHERE workspace_id = $1";
    sqlx::query(sql).bind(workspace.as_str()).execute(db).await?;
    Ok(())
}

/// The workspace and the secret's SHA-256 of a token.
pub async fn get(db: &mut Db, token_id: &str) -> Result<Option<(WorkspaceId, Vec<u8>)>> {
    let row = sqlx::query("SELECT workspace_id, secret_sha256 FROM tokens WHERE id = $1")
        .bind(token_id)
        .fetch_optional(db)
        .await?;
    row.map(|row| {
        Ok((id(&row, "workspace_id", WorkspaceId::parse)?, row.try_get("secret_sha256")?))
    })
    .transpose()
}
