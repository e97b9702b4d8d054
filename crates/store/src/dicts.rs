//! Dicts: named or short-lived maps from bytes to bytes.

pub mod entries;

use model::{DictId, EnvironmentId, Time};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::named::find_named;
use crate::row::{id, int, time, time_opt};
use crate::{Db, Result, Scope};

/// What a dict holds from one clearing to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content(i64);

/// A new dict.
#[derive(Debug, Clone)]
pub struct NewDict {
    /// Its id.
    pub id: DictId,
    /// Where it lives.
    pub environment: EnvironmentId,
    /// Its name; without one it lives by its heartbeats.
    pub name: Option<String>,
    /// When it was made.
    pub created_at: Time,
}

/// A dict.
#[derive(Debug, Clone)]
pub struct Dict {
    /// Its id.
    pub id: DictId,
    /// Where it lives.
    pub environment: EnvironmentId,
    /// Its name; nothing where it lives by its heartbeats.
    pub name: Option<String>,
    /// What it holds.
    pub content: Content,
    /// When it was made.
    pub created_at: Time,
    /// When it was last heard of; nothing where it has a name.
    pub heartbeat_at: Option<Time>,
}

fn read(row: &SqliteRow) -> Result<Dict> {
    Ok(Dict {
        id: id(row, "id", DictId::parse)?,
        environment: id(row, "environment_id", EnvironmentId::parse)?,
        name: row.try_get("name")?,
        content: Content(row.try_get("content_id")?),
        created_at: time(row, "created_at")?,
        heartbeat_at: time_opt(row, "heartbeat_at")?,
    })
}

/// Makes a dict, with nothing in it.
pub async fn insert(db: &mut Db, scope: &Scope, new: NewDict) -> Result<Dict> {
    let heartbeat_at = new.name.is_none().then_some(new.created_at);
    let NewDict { id, environment, name, created_at } = new;
    let content = new_content(db).await?;
    let dict = Dict { id, environment, name, content, created_at, heartbeat_at };
    let sql = "INSERT INTO dicts (id, workspace_id, environment_id, name, content_id, created_at, \
               heartbeat_at) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    sqlx::query(sql)
        .bind(dict.id.as_str())
        .bind(scope.workspace.as_str())
        .bind(dict.environment.as_str())
        .bind(&dict.name)
        .bind(dict.content.0)
        .bind(int(dict.created_at.0))
        .bind(dict.heartbeat_at.map(|at| int(at.0)))
        .execute(db)
        .await?;
    Ok(dict)
}

async fn new_content(db: &mut Db) -> Result<Content> {
    let done = sqlx::query("INSERT INTO dict_contents (ended) VALUES (0)").execute(db).await?;
    Ok(Content(done.last_insert_rowid()))
}

find_named!("dict", "dicts", Dict, DictId);

/// The dict has been heard of. One with a name needs no heartbeats; nothing changes.
pub async fn beat(db: &mut Db, id: &DictId, now: Time) -> Result<()> {
    let sql = "UPDATE dicts SET heartbeat_at = $2 WHERE id = $1 AND heartbeat_at IS NOT NULL";
    sqlx::query(sql).bind(id.as_str()).bind(int(now.0)).execute(db).await?;
    Ok(())
}

/// Dicts that live by their heartbeats and have not been heard of since `before`.
pub async fn silent(db: &mut Db, before: Time) -> Result<Vec<Dict>> {
    let rows = sqlx::query("SELECT * FROM dicts WHERE heartbeat_at < $1")
        .bind(int(before.0))
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

/// Removes all entries. They are swept away later, so that this takes no longer for a full dict.
pub async fn clear(db: &mut Db, dict: &mut Dict) -> Result<()> {
    let content = new_content(db).await?;
    sqlx::query("UPDATE dicts SET content_id = $2 WHERE id = $1")
        .bind(dict.id.as_str())
        .bind(content.0)
        .execute(&mut *db)
        .await?;
    end(db, dict.content).await?;
    dict.content = content;
    Ok(())
}

/// Forgets a dict. Its entries are swept away later.
pub async fn delete(db: &mut Db, dict: &Dict) -> Result<()> {
    let sql = "DELETE FROM dicts WHERE id = $1";
    sqlx::query(sql).bind(dict.id.as_str()).execute(&mut *db).await?;
    end(db, dict.content).await
}

async fn end(db: &mut Db, content: Content) -> Result<()> {
    sqlx::query("UPDATE dict_contents SET ended = 1 WHERE id = $1")
        .bind(content.0)
        .execute(db)
        .await?;
    Ok(())
}
