//! Environments: named spaces inside a workspace.

use model::{EnvironmentId, Time};
use sqlx::Row;

use crate::row::{id, int, time};
use crate::{Db, Result, Scope};

/// An environment.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Its id.
    pub id: EnvironmentId,
    /// Its name, unique in its workspace.
    pub name: String,
    /// When it was made.
    pub created_at: Time,
}

fn read(row: &sqlx::sqlite::SqliteRow) -> Result<Environment> {
    Ok(Environment {
        id: id(row, "id", EnvironmentId::parse)?,
        name: row.try_get("name")?,
        created_at: time(row, "created_at")?,
    })
}

/// Makes an environment.
pub async fn insert(db: &mut Db, scope: &Scope, environment: &Environment) -> Result<()> {
    let sql = "INSERT INTO environments (id, workspace_id, name, created_at) \
               VALUES ($1, $2, $3, $4)";
    sqlx::query(sql)
        .bind(environment.id.as_str())
        .bind(scope.workspace.as_str())
        .bind(&environment.name)
        .bind(int(environment.created_at.0))
        .execute(db)
        .await?;
    Ok(())
}

/// The environment of that name.
pub async fn by_name(db: &mut Db, scope: &Scope, name: &str) -> Result<Option<Environment>> {
    let sql = "SELECT * FROM environments WHERE workspace_id = $1 AND name = $2";
    let row = sqlx::query(sql).bind(scope.workspace.as_str()).bind(name).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// The environment of that id.
pub async fn get(db: &mut Db, scope: &Scope, id: &EnvironmentId) -> Result<Option<Environment>> {
    let sql = "SELECT * FROM environments WHERE workspace_id = $1 AND id = $2";
    let row = sqlx::query(sql)
        .bind(scope.workspace.as_str())
        .bind(id.as_str())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// All of a workspace, oldest first.
pub async fn list(db: &mut Db, scope: &Scope) -> Result<Vec<Environment>> {
    let sql = "SELECT * FROM environments WHERE workspace_id = $1 ORDER BY created_at, name";
    let rows = sqlx::query(sql).bind(scope.workspace.as_str()).fetch_all(db).await?;
    rows.iter().map(read).collect()
}
