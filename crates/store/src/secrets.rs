//! Secrets: sets of environment variables.

use std::collections::BTreeMap;

use model::{AppId, EnvironmentId, SecretId, Time};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::named::find_named;
use crate::row::{from_json, id, id_opt, int, json, time};
use crate::{Db, Result, Scope};

/// A secret. Its values never show in `Debug`.
#[derive(Clone)]
pub struct Secret {
    /// Its id.
    pub id: SecretId,
    /// Where it lives.
    pub environment: EnvironmentId,
    /// Its name; nothing where it belongs to one app.
    pub name: Option<String>,
    /// The app it belongs to.
    pub app: Option<AppId>,
    /// The variables.
    pub env: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("keys", &self.env.keys())
            .finish_non_exhaustive()
    }
}

fn read(row: &SqliteRow) -> Result<Secret> {
    Ok(Secret {
        id: id(row, "id", SecretId::parse)?,
        environment: id(row, "environment_id", EnvironmentId::parse)?,
        name: row.try_get("name")?,
        app: id_opt(row, "app_id", AppId::parse)?,
        env: from_json("secret", row.try_get("env")?)?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}

/// Makes a secret.
pub async fn insert(db: &mut Db, scope: &Scope, secret: &Secret) -> Result<()> {
    let sql = "INSERT INTO secrets (id, workspace_id, environment_id, name, app_id, env, \
               created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    sqlx::query(sql)
        .bind(secret.id.as_str())
        .bind(scope.workspace.as_str())
        .bind(secret.environment.as_str())
        .bind(&secret.name)
        .bind(secret.app.as_ref().map(AppId::as_str))
        .bind(json("secret", &secret.env)?)
        .bind(int(secret.created_at.0))
        .bind(int(secret.updated_at.0))
        .execute(db)
        .await?;
    Ok(())
}

find_named!("secret", "secrets", Secret, SecretId);

/// Replaces the variables.
pub async fn set_env(
    db: &mut Db,
    id: &SecretId,
    env: &BTreeMap<String, String>,
    now: Time,
) -> Result<()> {
    sqlx::query("UPDATE secrets SET env = $2, updated_at = $3 WHERE id = $1")
        .bind(id.as_str())
        .bind(json("secret", env)?)
        .bind(int(now.0))
        .execute(db)
        .await?;
    Ok(())
}

/// Forgets a secret.
pub async fn delete(db: &mut Db, scope: &Scope, id: &SecretId) -> Result<bool> {
    let done = sqlx::query("DELETE FROM secrets WHERE id = $1 AND workspace_id = $2")
        .bind(id.as_str())
        .bind(scope.workspace.as_str())
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Secrets from before `before` with neither a name nor an app: those of sandboxes and of scripts.
pub async fn unowned(db: &mut Db, before: Time) -> Result<Vec<SecretId>> {
    let sql = "SELECT id FROM secrets WHERE name IS NULL AND app_id IS NULL AND created_at < $1";
    let rows = sqlx::query(sql).bind(int(before.0)).fetch_all(db).await?;
    rows.iter().map(|row| id(row, "id", SecretId::parse)).collect()
}

/// Forgets a secret that nobody can want any more.
pub async fn forget(db: &mut Db, id: &SecretId) -> Result<()> {
    sqlx::query("DELETE FROM secrets WHERE id = $1").bind(id.as_str()).execute(db).await?;
    Ok(())
}
