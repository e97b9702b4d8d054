//! Functions.

use bytes::Bytes;
use model::spec::FunctionSpec;
use model::{AppId, FunctionId, Time, WorkspaceId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::row::{from_json, id, int, json, time};
use crate::{Db, Result, Scope};

/// A function.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its id.
    pub id: FunctionId,
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// Its app.
    pub app: AppId,
    /// Its tag in the app.
    pub name: String,
    /// The client's own encoded `Function`, told again to its containers.
    pub definition: Bytes,
    /// What is enforced; nothing while the function is only announced.
    pub spec: Option<FunctionSpec>,
    /// When it was made.
    pub created_at: Time,
}

fn read(row: &SqliteRow) -> Result<Function> {
    let spec: Option<String> = row.try_get("spec")?;
    Ok(Function {
        id: id(row, "id", FunctionId::parse)?,
        workspace: id(row, "workspace_id", WorkspaceId::parse)?,
        app: id(row, "app_id", AppId::parse)?,
        name: row.try_get("name")?,
        definition: Bytes::from(row.try_get::<Vec<u8>, _>("definition")?),
        spec: spec.map(|text| from_json("function", &text)).transpose()?,
        created_at: time(row, "created_at")?,
    })
}

/// Makes a function, or gives the one of that id a new definition.
pub async fn put(db: &mut Db, function: &Function) -> Result<()> {
    let sql = "INSERT INTO functions (id, workspace_id, app_id, name, definition, spec, \
               created_at) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO UPDATE SET \
               definition = excluded.definition, spec = excluded.spec";
    let spec = function.spec.as_ref().map(|spec| json("function", spec)).transpose()?;
    sqlx::query(sql)
        .bind(function.id.as_str())
        .bind(function.workspace.as_str())
        .bind(function.app.as_str())
        .bind(&function.name)
        .bind(&function.definition[..])
        .bind(spec)
        .bind(int(function.created_at.0))
        .execute(db)
        .await?;
    Ok(())
}

/// The function of that id.
pub async fn get(db: &mut Db, scope: &Scope, id: &FunctionId) -> Result<Option<Function>> {
    let sql = "SELECT * FROM functions WHERE id = $1 AND workspace_id = $2";
    let row = sqlx::query(sql)
        .bind(id.as_str())
        .bind(scope.workspace.as_str())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The function of that id, whoever owns it: for the scheduler, which serves all.
pub async fn get_any(db: &mut Db, id: &FunctionId) -> Result<Option<Function>> {
    let sql = "SELECT * FROM functions WHERE id = $1";
    let row = sqlx::query(sql).bind(id.as_str()).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// The function of that tag in an app.
pub async fn by_name(db: &mut Db, app: &AppId, name: &str) -> Result<Option<Function>> {
    let sql = "SELECT * FROM functions WHERE app_id = $1 AND name = $2";
    let row = sqlx::query(sql).bind(app.as_str()).bind(name).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// All of an app.
pub async fn of_app(db: &mut Db, app: &AppId) -> Result<Vec<Function>> {
    let sql = "SELECT * FROM functions WHERE app_id = $1 ORDER BY name";
    let rows = sqlx::query(sql).bind(app.as_str()).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// Functions that the scheduler must look at: they have open inputs, living containers, or a
/// minimum of containers while their app lives.
pub async fn active(db: &mut Db) -> Result<Vec<FunctionId>> {
    let sql = "SELECT function_id AS id FROM inputs WHERE state = 0 \
               UNION SELECT function_id FROM tasks WHERE state < 4 \
               UNION SELECT functions.id FROM functions JOIN apps ON apps.id = functions.app_id \
               WHERE apps.stopped_at IS NULL AND spec IS NOT NULL \
               AND json_extract(spec, '$.scaling.min_containers') > 0";
    let rows = sqlx::query(sql).fetch_all(db).await?;
    rows.iter().map(|row| id(row, "id", FunctionId::parse)).collect()
}
