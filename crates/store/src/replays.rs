//! Answers of calls that must not happen twice. The client sends the same idempotency key with
//! every attempt of one logical call (`x-idempotency-key`, modal 1.6.4).

use bytes::Bytes;
use model::Time;
use sqlx::Row;

use crate::row::int;
use crate::{Db, Result, Scope};

/// The answer that was given under this key.
pub async fn get(db: &mut Db, scope: &Scope, key: &str) -> Result<Option<Bytes>> {
    let row = sqlx::query("SELECT answer FROM replays WHERE workspace_id = $1 AND key = $2")
        .bind(scope.workspace.as_str())
        .bind(key)
        .fetch_optional(db)
        .await?;
    row.map(|row| Ok(Bytes::from(row.try_get::<Vec<u8>, _>("answer")?))).transpose()
}

/// Keeps an answer, in the transaction that did what it tells of.
pub async fn put(db: &mut Db, scope: &Scope, key: &str, answer: &[u8], now: Time) -> Result<()> {
    let sql = "INSERT INTO replays (workspace_id, key, answer, created_at) \
               VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
    sqlx::query(sql)
        .bind(scope.workspace.as_str())
        .bind(key)
        .bind(answer)
        .bind(int(now.0))
        .execute(db)
        .await?;
    Ok(())
}

/// Forgets answers older than `before`.
pub async fn forget(db: &mut Db, before: Time) -> Result<u64> {
    let done = sqlx::query("DELETE FROM replays WHERE created_at < $1")
        .bind(int(before.0))
        .execute(db)
        .await?;
    Ok(done.rows_affected())
}
