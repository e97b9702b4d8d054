//! Sandboxes: one row for each one's life.

pub mod connect_tokens;
mod lists;

use std::collections::BTreeMap;

use model::link::End;
use model::resources::Reservation;
use model::sandbox::SandboxSpec;
use model::{AppId, EnvironmentId, SandboxId, TaskId, Time, WorkerId, WorkspaceId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::row::{from_json, id, int, json, number, time, time_opt};
use crate::{Db, Result, Scope};

pub use lists::{Filter, alive, alive_of_app, alive_of_worker, list, next_due, overdue, reserved};

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// A worker was told to start it.
    Placed = 0,
    /// Its container exists.
    Started = 1,
    /// It is gone.
    Ended = 2,
}

/// A sandbox.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// Its container.
    pub task: TaskId,
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// Where it lives.
    pub environment: EnvironmentId,
    /// The app it belongs to.
    pub app: AppId,
    /// Where it runs.
    pub worker: WorkerId,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its definition; the values of variables that came with it are not kept.
    pub spec: SandboxSpec,
    /// Unique among the living ones of its app.
    pub name: Option<String>,
    /// Labels.
    pub tags: BTreeMap<String, String>,
    /// What it reserves.
    pub reserved: Reservation,
    /// When it was placed.
    pub created_at: Time,
    /// When its container was there.
    pub started_at: Option<Time>,
    /// When it ends at the latest.
    pub deadline: Time,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// It was told to end, and this is what its end is called then.
    pub wanted_end: Option<End>,
    /// When its worker was last told.
    pub told_at: Option<Time>,
    /// How it ended.
    pub end: Option<End>,
    /// Ports that are open: the container's, and the machine's.
    pub tunnels: BTreeMap<u16, u16>,
    /// The machine's port for its connect tokens, once it has one.
    pub connect_port: Option<u16>,
}

fn phase(n: i32) -> Phase {
    match n {
        0 => Phase::Placed,
        1 => Phase::Started,
        _ => Phase::Ended,
    }
}

fn end_opt(row: &SqliteRow, column: &str) -> Result<Option<End>> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| from_json("sandbox's end", &text)).transpose()
}

fn read(row: &SqliteRow) -> Result<Sandbox> {
    Ok(Sandbox {
        id: id(row, "id", SandboxId::parse)?,
        task: id(row, "task_id", TaskId::parse)?,
        workspace: id(row, "workspace_id", WorkspaceId::parse)?,
        environment: id(row, "environment_id", EnvironmentId::parse)?,
        app: id(row, "app_id", AppId::parse)?,
        worker: id(row, "worker_id", WorkerId::parse)?,
        phase: phase(row.try_get("state")?),
        spec: from_json("sandbox", row.try_get("spec")?)?,
        name: row.try_get("name")?,
        tags: from_json("sandbox's tags", row.try_get("tags")?)?,
        reserved: Reservation {
            cpu_millis: number(row, "cpu_millis")?,
            memory_bytes: number(row, "memory_bytes")?,
        },
        created_at: time(row, "created_at")?,
        started_at: time_opt(row, "started_at")?,
        deadline: time(row, "deadline")?,
        ended_at: time_opt(row, "ended_at")?,
        wanted_end: end_opt(row, "wanted_end")?,
        told_at: time_opt(row, "told_at")?,
        end: end_opt(row, "ending")?,
        tunnels: from_json("sandbox's tunnels", row.try_get("tunnels")?)?,
        connect_port: row.try_get("connect_port")?,
    })
}

/// Makes a sandbox that is placed.
pub async fn insert(db: &mut Db, sandbox: &Sandbox) -> Result<()> {
    let sql = "INSERT INTO sandboxes (id, task_id, workspace_id, environment_id, app_id, \
               worker_id, state, spec, name, tags, cpu_millis, memory_bytes, created_at, deadline) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
    sqlx::query(sql)
        .bind(sandbox.id.as_str())
        .bind(sandbox.task.as_str())
        .bind(sandbox.workspace.as_str())
        .bind(sandbox.environment.as_str())
        .bind(sandbox.app.as_str())
        .bind(sandbox.worker.as_str())
        .bind(Phase::Placed as i32)
        .bind(json("sandbox", &sandbox.spec)?)
        .bind(&sandbox.name)
        .bind(json("sandbox's tags", &sandbox.tags)?)
        .bind(int(sandbox.reserved.cpu_millis))
        .bind(int(sandbox.reserved.memory_bytes))
        .bind(int(sandbox.created_at.0))
        .bind(int(sandbox.deadline.0))
        .execute(db)
        .await?;
    Ok(())
}

/// The sandbox of that id.
pub async fn get(db: &mut Db, scope: &Scope, id: &SandboxId) -> Result<Option<Sandbox>> {
    let row = sqlx::query("SELECT * FROM sandboxes WHERE id = $1 AND workspace_id = $2")
        .bind(id.as_str())
        .bind(scope.workspace.as_str())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The sandbox of that id, whoever owns it: for what happens because time passes.
pub async fn get_any(db: &mut Db, id: &SandboxId) -> Result<Option<Sandbox>> {
    let row = sqlx::query("SELECT * FROM sandboxes WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The sandbox of that container.
pub async fn by_task(db: &mut Db, scope: &Scope, task: &TaskId) -> Result<Option<Sandbox>> {
    let sandbox = by_task_any(db, task).await?;
    Ok(sandbox.filter(|sandbox| sandbox.workspace == scope.workspace))
}

/// The sandbox of that container, whoever owns it: for the worker's reports.
pub async fn by_task_any(db: &mut Db, task: &TaskId) -> Result<Option<Sandbox>> {
    let row = sqlx::query("SELECT * FROM sandboxes WHERE task_id = $1")
        .bind(task.as_str())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The living sandbox of that name; with `ended`, where none lives, the one that had it last.
pub async fn by_name(
    db: &mut Db,
    scope: &Scope,
    app: &AppId,
    name: &str,
    ended: bool,
) -> Result<Option<Sandbox>> {
    let sql = "SELECT * FROM sandboxes WHERE workspace_id = $1 AND app_id = $2 AND name = $3 \
               AND (state < 2 OR $4) ORDER BY state < 2 DESC, created_at DESC LIMIT 1";
    let row = sqlx::query(sql)
        .bind(scope.workspace.as_str())
        .bind(app.as_str())
        .bind(name)
        .bind(ended)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Replaces the labels.
pub async fn set_tags(db: &mut Db, id: &SandboxId, tags: &BTreeMap<String, String>) -> Result<()> {
    sqlx::query("UPDATE sandboxes SET tags = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(json("sandbox's tags", tags)?)
        .execute(db)
        .await?;
    Ok(())
}

/// Names a sandbox.
pub async fn set_name(db: &mut Db, id: &SandboxId, name: &str) -> Result<()> {
    sqlx::query("UPDATE sandboxes SET name = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(name)
        .execute(db)
        .await?;
    Ok(())
}

/// Notes which ports are open: the container's, and the machine's.
pub async fn set_tunnels(db: &mut Db, id: &SandboxId, tunnels: &BTreeMap<u16, u16>) -> Result<()> {
    sqlx::query("UPDATE sandboxes SET tunnels = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(json("sandbox's tunnels", tunnels)?)
        .execute(db)
        .await?;
    Ok(())
}

/// Notes the machine's port for connect tokens.
pub async fn set_connect_port(db: &mut Db, id: &SandboxId, port: u16) -> Result<()> {
    sqlx::query("UPDATE sandboxes SET connect_port = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(port)
        .execute(db)
        .await?;
    Ok(())
}

/// Its container is there. `false` if that was known, or it has ended.
pub async fn start(db: &mut Db, id: &SandboxId, now: Time) -> Result<bool> {
    let sql = "UPDATE sandboxes SET state = 1, started_at = $2 WHERE id = $1 AND state = 0";
    let done = sqlx::query(sql).bind(id.as_str()).bind(int(now.0)).execute(db).await?;
    Ok(done.rows_affected() == 1)
}

/// It is to end, and its end is to be called so. What was said first holds. `false` if it has
/// ended.
pub async fn want_end(db: &mut Db, id: &SandboxId, end: &End) -> Result<bool> {
    let sql = "UPDATE sandboxes SET wanted_end = coalesce(wanted_end, $2) \
               WHERE id = $1 AND state < 2";
    let done =
        sqlx::query(sql).bind(id.as_str()).bind(json("sandbox's end", end)?).execute(db).await?;
    Ok(done.rows_affected() == 1)
}

/// Its worker was told to end it.
pub async fn told(db: &mut Db, id: &SandboxId, now: Time) -> Result<()> {
    sqlx::query("UPDATE sandboxes SET told_at = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(int(now.0))
        .execute(db)
        .await?;
    Ok(())
}

/// Ends a sandbox. `false` if it had ended before. One that was only taken for lost gets the end
/// that its worker knows of.
pub async fn end(db: &mut Db, id: &SandboxId, end: &End, now: Time) -> Result<bool> {
    let sql = "UPDATE sandboxes SET state = 2, ended_at = coalesce(ended_at, $2), ending = $3 \
               WHERE id = $1 AND (state < 2 OR (ending = $4 AND $3 <> $4))";
    let done = sqlx::query(sql)
        .bind(id.as_str())
        .bind(int(now.0))
        .bind(json("sandbox's end", end)?)
        .bind(json("sandbox's end", &End::Lost)?)
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets sandboxes that ended before `before`, with their tokens. Answers how many.
pub async fn forget(db: &mut Db, before: Time) -> Result<u64> {
    let sql = "DELETE FROM connect_tokens WHERE sandbox_id IN \
               (SELECT id FROM sandboxes WHERE state = 2 AND ended_at < $1)";
    sqlx::query(sql).bind(int(before.0)).execute(&mut *db).await?;
    let sql = "DELETE FROM sandboxes WHERE state = 2 AND ended_at < $1";
    Ok(sqlx::query(sql).bind(int(before.0)).execute(db).await?.rows_affected())
}
