//! Sandboxes by what they have in common.

use std::collections::BTreeMap;

use model::resources::Reservation;
use model::{AppId, EnvironmentId, Time, WorkerId};
use sqlx::Row;

use super::{Sandbox, read};
use crate::row::{id, int, json, number};
use crate::{Db, Result, Scope};

/// Which sandboxes a list has.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Those of this app; nothing: of any.
    pub app: Option<AppId>,
    /// Those of this environment; nothing: of any.
    pub environment: Option<EnvironmentId>,
    /// Those that were made before.
    pub before: Time,
    /// Ended ones, too.
    pub ended: bool,
    /// Those that have all of these labels.
    pub tags: BTreeMap<String, String>,
}

/// Sandboxes that fit, newest first: `most` of them, and those that were made in the same moment
/// as the last, so that a next page can begin there.
pub async fn list(db: &mut Db, scope: &Scope, filter: &Filter, most: u32) -> Result<Vec<Sandbox>> {
    let sql = "WITH found AS (SELECT * FROM sandboxes WHERE workspace_id = $1 \
               AND ($2 = '' OR app_id = $2) AND ($3 = '' OR environment_id = $3) \
               AND created_at < $4 AND (state < 2 OR $5) \
               AND (SELECT count(*) FROM json_each($6) AS wish JOIN json_each(sandboxes.tags) \
               AS has ON has.key = wish.key AND has.value = wish.value) = $7) \
               SELECT * FROM found WHERE created_at >= coalesce((SELECT created_at FROM found \
               ORDER BY created_at DESC LIMIT 1 OFFSET $8), 0) ORDER BY created_at DESC, id";
    let rows = sqlx::query(sql)
        .bind(scope.workspace.as_str())
        .bind(filter.app.as_ref().map_or("", AppId::as_str))
        .bind(filter.environment.as_ref().map_or("", EnvironmentId::as_str))
        .bind(int(filter.before.0))
        .bind(filter.ended)
        .bind(json("sandbox's tags", &filter.tags)?)
        .bind(int(filter.tags.len() as u64))
        .bind(most.saturating_sub(1))
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

/// All living sandboxes.
pub async fn alive(db: &mut Db) -> Result<Vec<Sandbox>> {
    let rows = sqlx::query("SELECT * FROM sandboxes WHERE state < 2").fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// Living sandboxes of an app.
pub async fn alive_of_app(db: &mut Db, app: &AppId) -> Result<Vec<Sandbox>> {
    let rows = sqlx::query("SELECT * FROM sandboxes WHERE app_id = $1 AND state < 2")
        .bind(app.as_str())
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

/// Living sandboxes on a worker.
pub async fn alive_of_worker(db: &mut Db, worker: &WorkerId) -> Result<Vec<Sandbox>> {
    let rows = sqlx::query("SELECT * FROM sandboxes WHERE worker_id = $1 AND state < 2")
        .bind(worker.as_str())
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

/// Living sandboxes whose time is over, those that were told to end, and those that were placed
/// before `placed_before` and have not started.
pub async fn overdue(db: &mut Db, now: Time, placed_before: Time) -> Result<Vec<Sandbox>> {
    let sql = "SELECT * FROM sandboxes WHERE state < 2 AND (deadline <= $1 \
               OR wanted_end IS NOT NULL OR (state = 0 AND created_at < $2))";
    let rows = sqlx::query(sql).bind(int(now.0)).bind(int(placed_before.0)).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// The next deadline of a living sandbox that has not been told to end.
pub async fn next_due(db: &mut Db) -> Result<Option<Time>> {
    let sql = "SELECT min(deadline) AS next FROM sandboxes WHERE state < 2 AND wanted_end IS NULL";
    let row = sqlx::query(sql).fetch_one(db).await?;
    let next: Option<i64> = row.try_get("next")?;
    Ok(next.map(|next| Time(u64::try_from(next).unwrap_or(0))))
}

/// What the living sandboxes reserve together, by worker.
pub async fn reserved(db: &mut Db) -> Result<Vec<(WorkerId, Reservation)>> {
    let sql = "SELECT worker_id, sum(cpu_millis) AS cpu_millis, sum(memory_bytes) AS memory_bytes \
               FROM sandboxes WHERE state < 2 GROUP BY worker_id";
    let rows = sqlx::query(sql).fetch_all(db).await?;
    let sum = |row: &sqlx::sqlite::SqliteRow| {
        let cpu_millis = number(row, "cpu_millis")?;
        let memory_bytes = number(row, "memory_bytes")?;
        let worker = id(row, "worker_id", WorkerId::parse)?;
        Ok((worker, Reservation { cpu_millis, memory_bytes }))
    };
    rows.iter().map(sum).collect()
}
