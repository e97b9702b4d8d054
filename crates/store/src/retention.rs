//! What is old enough to be forgotten.

use model::{AppId, Time};
use sqlx::Row;

use crate::row::{id, int};
use crate::{Db, Result, sandboxes};

/// Calls that are forgotten in one transaction.
const CALLS_PER_TURN: u32 = 200;

/// Forgets calls that were made before `before` and are done, with their inputs, outcomes and
/// chunks; at most a few hundred at a time. Answers how many.
pub async fn forget_calls(db: &mut Db, before: Time) -> Result<u64> {
    let sql = "SELECT id FROM calls WHERE created_at < $1 AND done_count = input_count LIMIT $2";
    let rows =
        sqlx::query(sql).bind(int(before.0)).bind(CALLS_PER_TURN).fetch_all(&mut *db).await?;
    for row in &rows {
        let call: String = row.try_get("id")?;
        for sql in [
            "DELETE FROM data_chunks WHERE call_id = $1",
            "DELETE FROM outcomes WHERE input_id IN (SELECT id FROM inputs WHERE call_id = $1)",
            "DELETE FROM inputs WHERE call_id = $1",
            "DELETE FROM calls WHERE id = $1",
        ] {
            sqlx::query(sql).bind(&call).execute(&mut *db).await?;
        }
    }
    Ok(rows.len() as u64)
}

/// Forgets ended tasks, ended sandboxes and the output of ended apps from before `before`.
pub async fn forget_output(db: &mut Db, before: Time) -> Result<u64> {
    let sql = "DELETE FROM logs WHERE at < $1 AND app_id IN \
               (SELECT id FROM apps WHERE stopped_at IS NOT NULL AND logs_done = 1)";
    let lines = sqlx::query(sql).bind(int(before.0)).execute(&mut *db).await?;
    let sql = "DELETE FROM tasks WHERE state = 4 AND ended_at < $1";
    let tasks = sqlx::query(sql).bind(int(before.0)).execute(&mut *db).await?;
    let sandboxes = sandboxes::forget(db, before).await?;
    Ok(lines.rows_affected() + tasks.rows_affected() + sandboxes)
}

/// Forgets payloads from before `before` that nothing carries any more, and answers the hashes
/// whose bytes nothing needs: neither another payload nor a file that a workspace has sent.
pub async fn forget_blobs(db: &mut Db, before: Time) -> Result<Vec<String>> {
    let sql = "DELETE FROM blobs WHERE created_at < $1 \
               AND NOT EXISTS (SELECT 1 FROM inputs WHERE args_blob = blobs.id AND state < 2) \
               AND NOT EXISTS (SELECT 1 FROM outcomes WHERE data_blob = blobs.id) \
               AND NOT EXISTS (SELECT 1 FROM data_chunks WHERE data_blob = blobs.id) \
               RETURNING sha256";
    let rows = sqlx::query(sql).bind(int(before.0)).fetch_all(&mut *db).await?;
    let mut free = Vec::new();
    for row in &rows {
        let Some(sha256) = row.try_get::<Option<String>, _>("sha256")? else { continue };
        let sql = "SELECT 1 FROM blobs WHERE sha256 = $1 UNION ALL \
                   SELECT 1 FROM files WHERE sha256 = $1 LIMIT 1";
        if sqlx::query(sql).bind(&sha256).fetch_optional(&mut *db).await?.is_none() {
            free.push(sha256);
        }
    }
    Ok(free)
}

/// Apps that ended before `before`: their own secrets are of no use to anybody.
pub async fn forget_app_secrets(db: &mut Db, before: Time) -> Result<Vec<AppId>> {
    let sql = "DELETE FROM secrets WHERE name IS NULL AND app_id IN \
               (SELECT id FROM apps WHERE stopped_at < $1) RETURNING app_id";
    let rows = sqlx::query(sql).bind(int(before.0)).fetch_all(db).await?;
    rows.iter().map(|row| id(row, "app_id", AppId::parse)).collect()
}
