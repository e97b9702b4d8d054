//! Tokens that let their holders send HTTP requests to a sandbox. Their hashes are kept.

use model::{SandboxId, TaskId, Time};
use sqlx::Row;

use crate::row::{id, int, number, time};
use crate::{Db, Result};

/// What a token opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The container.
    pub task: TaskId,
    /// The port in it.
    pub port: u16,
    /// What the program is told of whoever connects.
    pub user_metadata: String,
    /// When the token ends.
    pub expires_at: Time,
}

/// Keeps a token's hash.
pub async fn insert(
    db: &mut Db,
    sha256: &[u8; 32],
    sandbox: &SandboxId,
    port: u16,
    user_metadata: &str,
    expires_at: Time,
) -> Result<()> {
    let sql = "INSERT INTO connect_tokens (sha256, sandbox_id, port, user_metadata, expires_at) \
               VALUES ($1, $2, $3, $4, $5)";
    sqlx::query(sql)
        .bind(&sha256[..])
        .bind(sandbox.as_str())
        .bind(i64::from(port))
        .bind(user_metadata)
        .bind(int(expires_at.0))
        .execute(db)
        .await?;
    Ok(())
}

/// How many tokens a sandbox has that are good at `now`; those that are not are forgotten.
pub async fn count(db: &mut Db, sandbox: &SandboxId, now: Time) -> Result<u64> {
    let sql = "DELETE FROM connect_tokens WHERE sandbox_id = $1 AND expires_at <= $2";
    sqlx::query(sql).bind(sandbox.as_str()).bind(int(now.0)).execute(&mut *db).await?;
    let sql = "SELECT count(*) AS tokens FROM connect_tokens WHERE sandbox_id = $1";
    let row = sqlx::query(sql).bind(sandbox.as_str()).fetch_one(db).await?;
    number(&row, "tokens")
}

/// What the token of this hash opens at `now`; nothing if its sandbox has ended.
pub async fn find(db: &mut Db, sha256: &[u8; 32], now: Time) -> Result<Option<Opened>> {
    let sql = "SELECT task_id, port, user_metadata, expires_at FROM connect_tokens \
               JOIN sandboxes ON sandboxes.id = sandbox_id \
               WHERE sha256 = $1 AND expires_at > $2 AND state < 2";
    let row = sqlx::query(sql).bind(&sha256[..]).bind(int(now.0)).fetch_optional(db).await?;
    let opened = |row: &sqlx::sqlite::SqliteRow| {
        Ok(Opened {
            task: id(row, "task_id", TaskId::parse)?,
            port: u16::try_from(number(row, "port")?).unwrap_or(0),
            user_metadata: row.try_get("user_metadata")?,
            expires_at: time(row, "expires_at")?,
        })
    };
    row.as_ref().map(opened).transpose()
}
