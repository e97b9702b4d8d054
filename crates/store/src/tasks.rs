//! Tasks: one row for each container's life.

use model::link::End;
use model::resources::Reservation;
use model::{AppId, FunctionId, TaskId, Time, WorkerId, WorkspaceId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::row::{count, from_json, id, int, json, number, time, time_opt};
use crate::{Db, Result, Scope};

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// A worker was told to start it.
    Placed = 0,
    /// Its processes exist.
    Started = 1,
    /// It has said hello.
    Ready = 2,
    /// It was told to end, and takes no input any more.
    Draining = 3,
    /// It is gone.
    Ended = 4,
}

impl Phase {
    fn from_number(n: i32) -> Self {
        match n {
            0 => Self::Placed,
            1 => Self::Started,
            2 => Self::Ready,
            3 => Self::Draining,
            _ => Self::Ended,
        }
    }
}

/// A task.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// The app of its function.
    pub app: AppId,
    /// Its function.
    pub function: FunctionId,
    /// Where it runs.
    pub worker: WorkerId,
    /// Where it is in its life.
    pub phase: Phase,
    /// It reaches nothing but its own inputs and outputs.
    pub restricted: bool,
    /// It takes one input.
    pub single_use: bool,
    /// Inputs that it took.
    pub taken_count: u32,
    /// What it reserves.
    pub reserved: Reservation,
    /// When it was placed.
    pub created_at: Time,
    /// When it said hello.
    pub ready_at: Option<Time>,
    /// When it was last heard of.
    pub heartbeat_at: Time,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// How it ended.
    pub end: Option<End>,
}

impl Task {
    /// Whether it has taken the only input that it may take.
    pub fn is_spent(&self) -> bool {
        self.single_use && self.taken_count > 0
    }
}

fn read(row: &SqliteRow) -> Result<Task> {
    let end: Option<String> = row.try_get("ending")?;
    Ok(Task {
        id: id(row, "id", TaskId::parse)?,
        workspace: id(row, "workspace_id", WorkspaceId::parse)?,
        app: id(row, "app_id", AppId::parse)?,
        function: id(row, "function_id", FunctionId::parse)?,
        worker: id(row, "worker_id", WorkerId::parse)?,
        phase: Phase::from_number(row.try_get("state")?),
        restricted: row.try_get("restricted")?,
        single_use: row.try_get("single_use")?,
        taken_count: count(row, "taken_count")?,
        reserved: Reservation {
            cpu_millis: number(row, "cpu_millis")?,
            memory_bytes: number(row, "memory_bytes")?,
        },
        created_at: time(row, "created_at")?,
        ready_at: time_opt(row, "ready_at")?,
        heartbeat_at: time(row, "heartbeat_at")?,
        ended_at: time_opt(row, "ended_at")?,
        end: end.map(|text| from_json("task's end", &text)).transpose()?,
    })
}

/// Makes a task.
pub async fn insert(db: &mut Db, task: &Task) -> Result<()> {
    let sql = "INSERT INTO tasks (id, workspace_id, app_id, function_id, worker_id, state, \
               restricted, single_use, cpu_millis, memory_bytes, created_at, heartbeat_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    sqlx::query(sql)
        .bind(task.id.as_str())
        .bind(task.workspace.as_str())
        .bind(task.app.as_str())
        .bind(task.function.as_str())
        .bind(task.worker.as_str())
        .bind(task.phase as i32)
        .bind(task.restricted)
        .bind(task.single_use)
        .bind(int(task.reserved.cpu_millis))
        .bind(int(task.reserved.memory_bytes))
        .bind(int(task.created_at.0))
        .bind(int(task.heartbeat_at.0))
        .execute(db)
        .await?;
    Ok(())
}

/// The task of that id, whoever owns it: for the worker's reports and the door.
pub async fn get_any(db: &mut Db, id: &TaskId) -> Result<Option<Task>> {
    let row = sqlx::query("SELECT * FROM tasks WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// A task that asks for work, and what there is for it.
#[derive(Debug)]
pub struct Turn {
    /// The task.
    pub task: Task,
    /// Inputs that it holds.
    pub held: u32,
    /// Whether its function has an input that may be taken now.
    pub waits: bool,
}

/// The task of that id with what decides whether it gets an input, in one look.
pub async fn turn(db: &mut Db, id: &TaskId, now: Time) -> Result<Option<Turn>> {
    let sql = "SELECT *, (SELECT count(*) FROM inputs WHERE task_id = $1 AND state = 1) AS held, \
               EXISTS (SELECT 1 FROM inputs WHERE function_id = tasks.function_id AND state = 0 \
               AND not_before <= $2) AS waits FROM tasks WHERE id = $1";
    let row = sqlx::query(sql).bind(id.as_str()).bind(int(now.0)).fetch_optional(db).await?;
    let turn = |row: &SqliteRow| {
        Ok(Turn { task: read(row)?, held: count(row, "held")?, waits: row.try_get("waits")? })
    };
    row.as_ref().map(turn).transpose()
}

/// The task of that id.
pub async fn get(db: &mut Db, scope: &Scope, id: &TaskId) -> Result<Option<Task>> {
    let row = sqlx::query("SELECT * FROM tasks WHERE id = $1 AND workspace_id = $2")
        .bind(id.as_str())
        .bind(scope.workspace.as_str())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Living tasks of a function.
pub async fn alive_of_function(db: &mut Db, function: &FunctionId) -> Result<Vec<Task>> {
    let rows = sqlx::query("SELECT * FROM tasks WHERE function_id = $1 AND state < 4")
        .bind(function.as_str())
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

/// Living tasks of an app.
pub async fn alive_of_app(db: &mut Db, app: &AppId) -> Result<Vec<Task>> {
    let rows = sqlx::query("SELECT * FROM tasks WHERE app_id = $1 AND state < 4")
        .bind(app.as_str())
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

/// All living tasks.
pub async fn alive(db: &mut Db) -> Result<Vec<Task>> {
    let rows = sqlx::query("SELECT * FROM tasks WHERE state < 4").fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// Living tasks with nothing to do any more: they take no input, and hold none.
pub async fn leaving(db: &mut Db) -> Result<Vec<TaskId>> {
    let sql = "SELECT id FROM tasks WHERE state < 4 AND (state = 3 OR (single_use AND \
               taken_count > 0)) AND NOT EXISTS (SELECT 1 FROM inputs WHERE \
               inputs.task_id = tasks.id AND inputs.state = 1)";
    let rows = sqlx::query(sql).fetch_all(db).await?;
    rows.iter().map(|row| id(row, "id", TaskId::parse)).collect()
}

/// Living tasks of a function take no input from now on: what they run is outdated.
pub async fn retire(db: &mut Db, function: &FunctionId, now: Time) -> Result<u64> {
    let sql = "UPDATE tasks SET state = 3, heartbeat_at = $2 WHERE function_id = $1 AND state < 3";
    let done = sqlx::query(sql).bind(function.as_str()).bind(int(now.0)).execute(db).await?;
    Ok(done.rows_affected())
}

/// Moves a task forward in its life; never back.
pub async fn advance(db: &mut Db, id: &TaskId, phase: Phase, now: Time) -> Result<bool> {
    let sql = "UPDATE tasks SET state = $2, heartbeat_at = $3, \
               ready_at = CASE WHEN $2 = 2 THEN $3 ELSE ready_at END \
               WHERE id = $1 AND state < $2";
    let done =
        sqlx::query(sql).bind(id.as_str()).bind(phase as i32).bind(int(now.0)).execute(db).await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that the container lives.
pub async fn beat(db: &mut Db, id: &TaskId, now: Time) -> Result<()> {
    sqlx::query("UPDATE tasks SET heartbeat_at = $2 WHERE id = $1 AND state < 4")
        .bind(id.as_str())
        .bind(int(now.0))
        .execute(db)
        .await?;
    Ok(())
}

/// Ends a task. `false` if it had ended before.
pub async fn end(db: &mut Db, id: &TaskId, end: &End, now: Time) -> Result<bool> {
    let sql = "UPDATE tasks SET state = 4, ended_at = $2, ending = $3 WHERE id = $1 AND state < 4";
    let done = sqlx::query(sql)
        .bind(id.as_str())
        .bind(int(now.0))
        .bind(json("task's end", end)?)
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}
