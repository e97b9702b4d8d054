//! Apps, and what they publish under which tag.

use model::{AppId, EnvironmentId, Time, WorkspaceId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::row::{from_json, id, int, json, time, time_opt};
use crate::{Db, Result, Scope};

/// An app.
#[derive(Debug, Clone)]
pub struct App {
    /// Its id.
    pub id: AppId,
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// Where it lives.
    pub environment: EnvironmentId,
    /// Its name, once it is deployed.
    pub name: Option<String>,
    /// What its author calls it.
    pub description: String,
    /// The wire's `AppState`.
    pub state: i32,
    /// Labels.
    pub tags: std::collections::BTreeMap<String, String>,
    /// Release of the client that made it.
    pub client_version: String,
    /// When it was made.
    pub created_at: Time,
    /// When its client was last heard of.
    pub heartbeat_at: Time,
    /// When it was last deployed.
    pub deployed_at: Option<Time>,
    /// When it ended.
    pub stopped_at: Option<Time>,
    /// No line will follow: its containers are gone.
    pub logs_done: bool,
}

/// A kind of object that an app publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A function.
    Function = 1,
    /// A class.
    Class = 2,
}

fn read(row: &SqliteRow) -> Result<App> {
    Ok(App {
        id: id(row, "id", AppId::parse)?,
        workspace: id(row, "workspace_id", WorkspaceId::parse)?,
        environment: id(row, "environment_id", EnvironmentId::parse)?,
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        state: row.try_get("state")?,
        tags: from_json("app's tags", row.try_get("tags")?)?,
        client_version: row.try_get("client_version")?,
        created_at: time(row, "created_at")?,
        heartbeat_at: time(row, "heartbeat_at")?,
        deployed_at: time_opt(row, "deployed_at")?,
        stopped_at: time_opt(row, "stopped_at")?,
        logs_done: row.try_get("logs_done")?,
    })
}

/// Makes an app. `key` is the client's idempotency key: the same key finds it again.
pub async fn insert(db: &mut Db, app: &App, key: Option<&str>) -> Result<()> {
    let sql = "INSERT INTO apps (id, workspace_id, environment_id, name, description, state, \
               tags, client_version, created_at, heartbeat_at, idempotency_key) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    sqlx::query(sql)
        .bind(app.id.as_str())
        .bind(app.workspace.as_str())
        .bind(app.environment.as_str())
        .bind(&app.name)
        .bind(&app.description)
        .bind(app.state)
        .bind(json("app's tags", &app.tags)?)
        .bind(&app.client_version)
        .bind(int(app.created_at.0))
        .bind(int(app.heartbeat_at.0))
        .bind(key)
        .execute(db)
        .await?;
    Ok(())
}

/// The app of that id.
pub async fn get(db: &mut Db, scope: &Scope, id: &AppId) -> Result<Option<App>> {
    let sql = "SELECT * FROM apps WHERE id = $1 AND workspace_id = $2";
    let row = sqlx::query(sql)
        .bind(id.as_str())
        .bind(scope.workspace.as_str())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The app that was made with this idempotency key.
pub async fn by_key(db: &mut Db, scope: &Scope, key: &str) -> Result<Option<App>> {
    let sql = "SELECT * FROM apps WHERE workspace_id = $1 AND idempotency_key = $2";
    let row = sqlx::query(sql).bind(scope.workspace.as_str()).bind(key).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// The app that is deployed, or about to be, under that name.
pub async fn by_name(
    db: &mut Db,
    scope: &Scope,
    environment: &EnvironmentId,
    name: &str,
) -> Result<Option<App>> {
    let sql = "SELECT * FROM apps WHERE workspace_id = $1 AND environment_id = $2 AND name = $3 \
               AND stopped_at IS NULL";
    let row = sqlx::query(sql)
        .bind(scope.workspace.as_str())
        .bind(environment.as_str())
        .bind(name)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The newest apps of an environment, at most `most`.
pub async fn list(
    db: &mut Db,
    scope: &Scope,
    environment: &EnvironmentId,
    most: u32,
) -> Result<Vec<App>> {
    let sql = "SELECT * FROM apps WHERE workspace_id = $1 AND environment_id = $2 \
               ORDER BY created_at DESC LIMIT $3";
    let rows = sqlx::query(sql)
        .bind(scope.workspace.as_str())
        .bind(environment.as_str())
        .bind(most)
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

/// Notes that the app's client lives.
pub async fn beat(db: &mut Db, id: &AppId, now: Time) -> Result<()> {
    sqlx::query("UPDATE apps SET heartbeat_at = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(int(now.0))
        .execute(db)
        .await?;
    Ok(())
}

/// Sets what publishing sets.
pub async fn publish(db: &mut Db, app: &App) -> Result<()> {
    let sql = "UPDATE apps SET state = $2, name = $3, tags = $4, deployed_at = $5 WHERE id = $1";
    sqlx::query(sql)
        .bind(app.id.as_str())
        .bind(app.state)
        .bind(&app.name)
        .bind(json("app's tags", &app.tags)?)
        .bind(app.deployed_at.map(|t| int(t.0)))
        .execute(db)
        .await?;
    Ok(())
}

/// Ends the app: its state and the moment.
pub async fn stop(db: &mut Db, id: &AppId, state: i32, now: Time) -> Result<()> {
    let sql = "UPDATE apps SET state = $2, stopped_at = $3 WHERE id = $1 AND stopped_at IS NULL";
    sqlx::query(sql).bind(id.as_str()).bind(state).bind(int(now.0)).execute(db).await?;
    Ok(())
}

/// Notes that no line will follow, if the app has ended and its containers are gone.
pub async fn finish_logs(db: &mut Db, id: &AppId) -> Result<()> {
    let sql = "UPDATE apps SET logs_done = 1 WHERE id = $1 AND stopped_at IS NOT NULL \
               AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.app_id = $1 AND tasks.state < 4) \
               AND NOT EXISTS (SELECT 1 FROM sandboxes WHERE sandboxes.app_id = $1 \
               AND sandboxes.state < 2)";
    sqlx::query(sql).bind(id.as_str()).execute(db).await?;
    Ok(())
}

/// Apps in one of `states` whose client has not been heard of since `before`.
pub async fn silent(db: &mut Db, states: [i32; 3], before: Time) -> Result<Vec<App>> {
    let sql = "SELECT * FROM apps WHERE stopped_at IS NULL AND state IN ($1, $2, $3) \
               AND heartbeat_at < $4";
    let mut query = sqlx::query(sql);
    for state in states {
        query = query.bind(state);
    }
    let rows = query.bind(int(before.0)).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// Replaces what the app publishes.
pub async fn set_objects(
    db: &mut Db,
    app: &AppId,
    objects: &[(ObjectKind, String, String)],
) -> Result<()> {
    sqlx::query("DELETE FROM app_objects WHERE app_id = $1")
        .bind(app.as_str())
        .execute(&mut *db)
        .await?;
    let sql = "INSERT INTO app_objects (app_id, kind, tag, object_id) VALUES ($1, $2, $3, $4)";
    for (kind, tag, object) in objects {
        sqlx::query(sql)
            .bind(app.as_str())
            .bind(*kind as i32)
            .bind(tag)
            .bind(object)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// Tags and ids that the app publishes, of one kind.
pub async fn objects(
    db: &mut Db,
    app: &AppId,
    kind: ObjectKind,
) -> Result<std::collections::BTreeMap<String, String>> {
    let rows =
        sqlx::query("SELECT tag, object_id FROM app_objects WHERE app_id = $1 AND kind = $2")
            .bind(app.as_str())
            .bind(kind as i32)
            .fetch_all(db)
            .await?;
    rows.iter().map(|row| Ok((row.try_get("tag")?, row.try_get("object_id")?))).collect()
}
