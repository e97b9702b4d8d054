//! Queues: named or short-lived, each with partitions that are lists of their own.

pub mod claims;
pub mod items;

use model::{EnvironmentId, QueueId, Time};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::named::find_named;
use crate::row::{id, int, time, time_opt};
use crate::{Db, Result, Scope};

/// A queue.
#[derive(Debug, Clone)]
pub struct Queue {
    /// Its id.
    pub id: QueueId,
    /// Where it lives.
    pub environment: EnvironmentId,
    /// Its name; nothing where it lives by its heartbeats.
    pub name: Option<String>,
    /// When it was made.
    pub created_at: Time,
    /// When it was last heard of; nothing where it has a name.
    pub heartbeat_at: Option<Time>,
}

fn read(row: &SqliteRow) -> Result<Queue> {
    Ok(Queue {
        id: id(row, "id", QueueId::parse)?,
        environment: id(row, "environment_id", EnvironmentId::parse)?,
        name: row.try_get("name")?,
        created_at: time(row, "created_at")?,
        heartbeat_at: time_opt(row, "heartbeat_at")?,
    })
}

/// Makes a queue.
pub async fn insert(db: &mut Db, scope: &Scope, queue: &Queue) -> Result<()> {
    let sql = "INSERT INTO queues (id, workspace_id, environment_id, name, created_at, \
               heartbeat_at) VALUES ($1, $2, $3, $4, $5, $6)";
    sqlx::query(sql)
        .bind(queue.id.as_str())
        .bind(scope.workspace.as_str())
        .bind(queue.environment.as_str())
        .bind(&queue.name)
        .bind(int(queue.created_at.0))
        .bind(queue.heartbeat_at.map(|at| int(at.0)))
        .execute(db)
        .await?;
    Ok(())
}

find_named!("queue", "queues", Queue, QueueId);

/// The queue has been heard of. One with a name needs no heartbeats; nothing changes.
pub async fn beat(db: &mut Db, id: &QueueId, now: Time) -> Result<()> {
    let sql = "UPDATE queues SET heartbeat_at = $2 WHERE id = $1 AND heartbeat_at IS NOT NULL";
    sqlx::query(sql).bind(id.as_str()).bind(int(now.0)).execute(db).await?;
    Ok(())
}

/// Queues that live by their heartbeats and have not been heard of since `before`.
pub async fn silent(db: &mut Db, before: Time) -> Result<Vec<QueueId>> {
    let rows = sqlx::query("SELECT id FROM queues WHERE heartbeat_at < $1")
        .bind(int(before.0))
        .fetch_all(db)
        .await?;
    rows.iter().map(|row| id(row, "id", QueueId::parse)).collect()
}

/// Forgets a queue. Its items are swept away later.
pub async fn delete(db: &mut Db, id: &QueueId) -> Result<()> {
    items::clear(db, id, None).await?;
    sqlx::query("DELETE FROM queues WHERE id = $1").bind(id.as_str()).execute(db).await?;
    Ok(())
}
