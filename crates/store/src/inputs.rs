//! Inputs and their outcomes.

use model::call::{Input, State};
use model::output::Payload;
use model::{CallId, FunctionId, InputId, TaskId, Time};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use crate::calls::{payload, payload_columns};
use crate::outcomes::{self, Finished};
use crate::row::{count, id, int, time};
use crate::{Db, Error, Result};

/// What an input carries.
#[derive(Debug, Clone)]
pub struct Carried {
    /// The arguments.
    pub args: Payload,
    /// How they are encoded: the wire's `DataFormat`.
    pub data_format: i32,
    /// The method, of a class' service function.
    pub method_name: String,
}

/// An input that is not done.
#[derive(Debug, Clone)]
pub struct OpenInput {
    /// Its id.
    pub id: InputId,
    /// Its call.
    pub call: CallId,
    /// Its function.
    pub function: FunctionId,
    /// Its place in the call, from 0.
    pub index: u32,
    /// Where it is.
    pub input: Input,
}

/// An input that a container may take.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The input.
    pub open: OpenInput,
    /// What it carries.
    pub carried: Carried,
    /// How its call was made: the wire's `FunctionCallInvocationType`.
    pub invocation: i32,
}

fn read_open(row: &SqliteRow) -> Result<OpenInput> {
    let state: i32 = row.try_get("state")?;
    let state = match state {
        0 => State::Queued { not_before: time(row, "not_before")? },
        _ => State::Running {
            task: id(row, "task_id", TaskId::parse)?,
            started_at: time(row, "started_at")?,
            deadline: time(row, "deadline")?,
        },
    };
    Ok(OpenInput {
        id: id(row, "id", InputId::parse)?,
        call: id(row, "call_id", CallId::parse)?,
        function: id(row, "function_id", FunctionId::parse)?,
        index: count(row, "idx")?,
        input: Input {
            state,
            retry_count: count(row, "retry_count")?,
            lost_count: count(row, "lost_count")?,
        },
    })
}

/// Queues inputs of one call, of which `counted` are among its inputs so far already. Where the
/// call has one of that index already, nothing changes, and the id of the one that is there comes
/// back.
pub async fn insert(
    db: &mut Db,
    call: &CallId,
    placed: &[(OpenInput, Carried)],
    counted: u32,
) -> Result<Vec<InputId>> {
    let mut ids = Vec::with_capacity(placed.len());
    let mut more = -i64::from(counted);
    for rows in placed.chunks(ROWS_PER_INSERT) {
        let inserted = insert_rows(db, rows).await?;
        if inserted as usize == rows.len() {
            ids.extend(rows.iter().map(|(open, _)| open.id.clone()));
        } else {
            for (open, _) in rows {
                ids.push(id_at(db, call, open.index).await?);
            }
        }
        more += int(inserted);
    }
    if more != 0 {
        sqlx::query("UPDATE calls SET input_count = input_count + $2 WHERE id = $1")
            .bind(call.as_str())
            .bind(more)
            .execute(db)
            .await?;
    }
    Ok(ids)
}

/// SQLite takes at most 32,766 values in one statement.
const ROWS_PER_INSERT: usize = 1_000;

async fn insert_rows(db: &mut Db, rows: &[(OpenInput, Carried)]) -> Result<u64> {
    let mut sql = QueryBuilder::<Sqlite>::new(
        "INSERT INTO inputs (id, call_id, function_id, idx, state, not_before, data_format, \
         method_name, args_blob, args) ",
    );
    let mut queued = Vec::with_capacity(rows.len());
    for (open, carried) in rows {
        let State::Queued { not_before } = open.input.state else {
            return Err(Error::Unreadable { what: "input", reason: "it is not queued".into() });
        };
        queued.push((open, carried, not_before));
    }
    sql.push_values(queued, |mut row, (open, carried, not_before)| {
        let (blob, args) = payload_columns(&carried.args);
        row.push_bind(open.id.as_str())
            .push_bind(open.call.as_str())
            .push_bind(open.function.as_str())
            .push_bind(open.index)
            .push("0")
            .push_bind(int(not_before.0))
            .push_bind(carried.data_format)
            .push_bind(&carried.method_name)
            .push_bind(blob)
            .push_bind(args);
    });
    sql.push(" ON CONFLICT (call_id, idx) DO NOTHING");
    // A statement is kept at hand for the one number of rows that is common.
    let done = sql.build().persistent(rows.len() == 1).execute(db).await?;
    Ok(done.rows_affected())
}

async fn id_at(db: &mut Db, call: &CallId, index: u32) -> Result<InputId> {
    let row = sqlx::query("SELECT id FROM inputs WHERE call_id = $1 AND idx = $2")
        .bind(call.as_str())
        .bind(index)
        .fetch_one(db)
        .await?;
    id(&row, "id", InputId::parse)
}

/// The input of that id, unless it is done or not there.
pub async fn open(db: &mut Db, id: &InputId) -> Result<Option<OpenInput>> {
    let sql = "SELECT * FROM inputs WHERE id = $1 AND state < 2";
    let row = sqlx::query(sql).bind(id.as_str()).fetch_optional(db).await?;
    row.as_ref().map(read_open).transpose()
}

/// Inputs of a function that a container may take now, those first that could be taken first.
pub async fn ready(db: &mut Db, function: &FunctionId, now: Time, most: u32) -> Result<Vec<Ready>> {
    // In the order of the index: sorting in another would read all that wait.
    let sql = "SELECT inputs.*, calls.invocation FROM inputs JOIN calls ON \
               calls.id = inputs.call_id WHERE inputs.function_id = $1 AND state = 0 \
               AND not_before <= $2 ORDER BY not_before, seq LIMIT $3";
    let rows =
        sqlx::query(sql).bind(function.as_str()).bind(int(now.0)).bind(most).fetch_all(db).await?;
    rows.iter()
        .map(|row| {
            let args = payload(row, "args_blob", "args")?.unwrap_or_else(Payload::empty);
            let data_format = row.try_get("data_format")?;
            let method_name = row.try_get("method_name")?;
            Ok(Ready {
                open: read_open(row)?,
                carried: Carried { args, data_format, method_name },
                invocation: row.try_get("invocation")?,
            })
        })
        .collect()
}

/// Whether a function has an input that a container may take now.
pub async fn waits(db: &mut Db, function: &FunctionId, now: Time) -> Result<bool> {
    let sql = "SELECT 1 FROM inputs WHERE function_id = $1 AND state = 0 AND not_before <= $2 \
               LIMIT 1";
    let row = sqlx::query(sql).bind(function.as_str()).bind(int(now.0)).fetch_optional(db).await?;
    Ok(row.is_some())
}

/// The number of inputs that a container holds.
pub async fn held(db: &mut Db, task: &TaskId) -> Result<u32> {
    let sql = "SELECT count(*) AS held FROM inputs WHERE task_id = $1 AND state = 1";
    count(&sqlx::query(sql).bind(task.as_str()).fetch_one(db).await?, "held")
}

/// Functions with an input whose delay ended after `since`, and not after `now`.
pub async fn newly_due(db: &mut Db, since: Time, now: Time) -> Result<Vec<FunctionId>> {
    let sql = "SELECT DISTINCT function_id AS id FROM inputs WHERE state = 0 \
               AND not_before > $1 AND not_before <= $2";
    let rows = sqlx::query(sql).bind(int(since.0)).bind(int(now.0)).fetch_all(db).await?;
    rows.iter().map(|row| id(row, "id", FunctionId::parse)).collect()
}

/// Inputs that a container holds.
pub async fn of_task(db: &mut Db, task: &TaskId) -> Result<Vec<OpenInput>> {
    let sql = "SELECT * FROM inputs WHERE task_id = $1 AND state = 1";
    let rows = sqlx::query(sql).bind(task.as_str()).fetch_all(db).await?;
    rows.iter().map(read_open).collect()
}

/// Inputs of a call that are not done.
pub async fn open_of_call(db: &mut Db, call: &CallId) -> Result<Vec<OpenInput>> {
    let sql = "SELECT * FROM inputs WHERE call_id = $1 AND state < 2";
    let rows = sqlx::query(sql).bind(call.as_str()).fetch_all(db).await?;
    rows.iter().map(read_open).collect()
}

/// Inputs of a function that are not done.
pub async fn open_of_function(db: &mut Db, function: &FunctionId) -> Result<Vec<OpenInput>> {
    let sql = "SELECT * FROM inputs WHERE function_id = $1 AND state < 2";
    let rows = sqlx::query(sql).bind(function.as_str()).fetch_all(db).await?;
    rows.iter().map(read_open).collect()
}

/// Inputs of an app that are not done.
pub async fn open_of_app(db: &mut Db, app: &model::AppId) -> Result<Vec<OpenInput>> {
    let sql = "SELECT inputs.* FROM inputs JOIN calls ON calls.id = inputs.call_id \
               WHERE calls.app_id = $1 AND inputs.state < 2";
    let rows = sqlx::query(sql).bind(app.as_str()).fetch_all(db).await?;
    rows.iter().map(read_open).collect()
}

/// Whether an app has an input that is not done.
pub async fn app_has_open(db: &mut Db, app: &model::AppId) -> Result<bool> {
    let sql = "SELECT 1 FROM functions JOIN inputs ON inputs.function_id = functions.id \
               WHERE functions.app_id = $1 AND inputs.state = 0 UNION ALL \
               SELECT 1 FROM tasks JOIN inputs ON inputs.task_id = tasks.id \
               WHERE tasks.app_id = $1 AND inputs.state = 1 LIMIT 1";
    Ok(sqlx::query(sql).bind(app.as_str()).fetch_optional(db).await?.is_some())
}

/// Queued inputs of a function.
pub async fn queued(db: &mut Db, function: &FunctionId) -> Result<Vec<OpenInput>> {
    let sql = "SELECT * FROM inputs WHERE function_id = $1 AND state = 0";
    let rows = sqlx::query(sql).bind(function.as_str()).fetch_all(db).await?;
    rows.iter().map(read_open).collect()
}

/// Running inputs whose time is up.
pub async fn overdue(db: &mut Db, now: Time) -> Result<Vec<OpenInput>> {
    let sql = "SELECT * FROM inputs WHERE state = 1 AND deadline <= $1";
    let rows = sqlx::query(sql).bind(int(now.0)).fetch_all(db).await?;
    rows.iter().map(read_open).collect()
}

/// The next moment at which something is due by itself: a running input's deadline, or a queued
/// one's delay that ends after `now`.
pub async fn next_due(db: &mut Db, now: Time) -> Result<Option<Time>> {
    let sql = "SELECT min(due) AS due FROM (SELECT min(deadline) AS due FROM inputs \
               WHERE state = 1 UNION ALL SELECT min(not_before) FROM inputs WHERE state = 0 \
               AND not_before > $1)";
    let row = sqlx::query(sql).bind(int(now.0)).fetch_one(db).await?;
    crate::row::time_opt(&row, "due")
}

/// Numbers of one function's inputs: those that may be taken now, and those in containers.
pub async fn counts(db: &mut Db, function: &FunctionId, now: Time) -> Result<(u32, u32)> {
    let sql = "SELECT (SELECT count(*) FROM inputs WHERE function_id = $1 AND state = 0 \
               AND not_before <= $2) AS queued, (SELECT count(*) FROM inputs JOIN tasks ON \
               tasks.id = inputs.task_id WHERE inputs.state = 1 AND tasks.function_id = $1 \
               AND tasks.state < 4) AS running";
    let row = sqlx::query(sql).bind(function.as_str()).bind(int(now.0)).fetch_one(db).await?;
    Ok((count(&row, "queued")?, count(&row, "running")?))
}

/// Writes where an input is now, and its outcome if it is done: then it says how the call stands.
pub async fn save(
    db: &mut Db,
    stored: &OpenInput,
    task: Option<&TaskId>,
    now: Time,
) -> Result<Option<Finished>> {
    let input = &stored.input;
    match &input.state {
        State::Queued { not_before } => {
            let sql = "UPDATE inputs SET state = 0, not_before = $2, task_id = NULL, \
                       retry_count = $3, lost_count = $4 WHERE id = $1";
            sqlx::query(sql)
                .bind(stored.id.as_str())
                .bind(int(not_before.0))
                .bind(input.retry_count)
                .bind(input.lost_count)
                .execute(db)
                .await?;
        }
        State::Running { task, started_at, deadline } => {
            let sql = "UPDATE inputs SET state = 1, task_id = $2, started_at = $3, deadline = $4 \
                       WHERE id = $1";
            sqlx::query(sql)
                .bind(stored.id.as_str())
                .bind(task.as_str())
                .bind(int(started_at.0))
                .bind(int(deadline.0))
                .execute(db)
                .await?;
        }
        State::Done(outcome) => {
            return outcomes::finish(db, stored, outcome, task, now).await.map(Some);
        }
    }
    Ok(None)
}

/// Writes an input that a task has taken as it came, in one trip. Its call must not have one of
/// that index.
pub async fn insert_claimed(db: &mut Db, taken: &Ready, now: Time) -> Result<()> {
    let Ready { open, carried, .. } = taken;
    let State::Running { task, started_at, deadline } = &open.input.state else {
        return Err(Error::Unreadable { what: "input", reason: "nobody has taken it".into() });
    };
    let (blob, args) = payload_columns(&carried.args);
    let sql = "INSERT INTO inputs (id, call_id, function_id, idx, state, not_before, data_format, \
               method_name, args_blob, args, task_id, started_at, deadline) \
               VALUES ($1, $2, $3, $4, 1, $5, $6, $7, $8, $9, $10, $11, $12); \
               UPDATE tasks SET taken_count = taken_count + 1, heartbeat_at = $5 WHERE id = $10";
    sqlx::query(sql)
        .bind(open.id.as_str())
        .bind(open.call.as_str())
        .bind(open.function.as_str())
        .bind(open.index)
        .bind(int(now.0))
        .bind(carried.data_format)
        .bind(&carried.method_name)
        .bind(blob)
        .bind(args)
        .bind(task.as_str())
        .bind(int(started_at.0))
        .bind(int(deadline.0))
        .execute(db)
        .await?;
    Ok(())
}

/// Writes that a task has taken inputs, all of one function at one moment, in one trip.
pub async fn save_claimed(db: &mut Db, task: &TaskId, taken: &[Ready], now: Time) -> Result<()> {
    let Some(State::Running { started_at, deadline, .. }) =
        taken.first().map(|ready| &ready.open.input.state)
    else {
        return Ok(());
    };
    let mut sql = QueryBuilder::<Sqlite>::new("UPDATE tasks SET taken_count = taken_count + ");
    sql.push_bind(int(taken.len() as u64)).push(", heartbeat_at = ").push_bind(int(now.0));
    sql.push(" WHERE id = ").push_bind(task.as_str());
    sql.push("; UPDATE inputs SET state = 1, task_id = ").push_bind(task.as_str());
    sql.push(", started_at = ").push_bind(int(started_at.0));
    sql.push(", deadline = ").push_bind(int(deadline.0)).push(" WHERE id IN (");
    let mut ids = sql.separated(", ");
    for ready in taken {
        ids.push_bind(ready.open.id.as_str());
    }
    sql.push(")");
    sql.build().persistent(taken.len() == 1).execute(db).await?;
    Ok(())
}

/// Whether a container holds, or held, an input of this call: it may stream beside it.
pub async fn task_has_call(db: &mut Db, task: &TaskId, call: &CallId) -> Result<bool> {
    let sql = "SELECT 1 FROM inputs WHERE task_id = $1 AND call_id = $2 LIMIT 1";
    let row = sqlx::query(sql).bind(task.as_str()).bind(call.as_str()).fetch_optional(db).await?;
    Ok(row.is_some())
}

/// Whether a blob is among what a container's inputs carry, or streams beside their calls.
pub async fn task_has_blob(db: &mut Db, task: &TaskId, blob: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM inputs WHERE task_id = $1 AND args_blob = $2 UNION ALL \
               SELECT 1 FROM inputs JOIN data_chunks ON data_chunks.call_id = inputs.call_id \
               WHERE inputs.task_id = $1 AND data_chunks.data_blob = $2 LIMIT 1";
    let row = sqlx::query(sql).bind(task.as_str()).bind(blob).fetch_optional(db).await?;
    Ok(row.is_some())
}
