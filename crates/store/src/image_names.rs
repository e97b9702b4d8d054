//! Names of images: `name:tag` in an environment. Each publication is kept; the newest counts.

use model::{EnvironmentId, ImageId, Time};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::row::{id, int, number, time};
use crate::{Db, Result, Scope};

/// One publication of a name.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Its place in the order of all publications; 0 until it is kept.
    pub seq: u64,
    /// Its id.
    pub revision: String,
    /// `name:tag`.
    pub name: String,
    /// The image.
    pub image: ImageId,
    /// When it was published.
    pub at: Time,
}

/// A name as it counts now.
#[derive(Debug, Clone)]
pub struct Named {
    /// Its newest publication.
    pub newest: Publication,
    /// When it was first published.
    pub first_at: Time,
}

fn read(row: &SqliteRow) -> Result<Publication> {
    Ok(Publication {
        seq: number(row, "seq")?,
        revision: row.try_get("revision_id")?,
        name: row.try_get("name")?,
        image: id(row, "image_id", ImageId::parse)?,
        at: time(row, "created_at")?,
    })
}

/// Gives an image a name; whichever had it before has it no more.
pub async fn publish(
    db: &mut Db,
    scope: &Scope,
    environment: &EnvironmentId,
    publication: &Publication,
) -> Result<()> {
    let sql = "INSERT INTO image_names (revision_id, workspace_id, environment_id, name, \
               image_id, created_at) VALUES ($1, $2, $3, $4, $5, $6)";
    sqlx::query(sql)
        .bind(&publication.revision)
        .bind(scope.workspace.as_str())
        .bind(environment.as_str())
        .bind(&publication.name)
        .bind(publication.image.as_str())
        .bind(int(publication.at.0))
        .execute(db)
        .await?;
    Ok(())
}

/// Publications of a name before place `before`, newest first, at most `most`.
pub async fn publications(
    db: &mut Db,
    scope: &Scope,
    environment: &EnvironmentId,
    name: &str,
    before: u64,
    most: u32,
) -> Result<Vec<Publication>> {
    let sql = "SELECT * FROM image_names WHERE environment_id = $1 AND workspace_id = $2 \
               AND name = $3 AND seq < $4 ORDER BY seq DESC LIMIT $5";
    let rows = sqlx::query(sql)
        .bind(environment.as_str())
        .bind(scope.workspace.as_str())
        .bind(name)
        .bind(int(before))
        .bind(most)
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

/// Which names are wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// They start so.
    pub prefix: String,
    /// They come after this one in their order.
    pub after: String,
    /// They name this image now; empty for any.
    pub image: String,
}

/// Names of an environment in their order, at most `most`.
pub async fn list(
    db: &mut Db,
    scope: &Scope,
    environment: &EnvironmentId,
    wanted: &Wanted,
    most: u32,
) -> Result<Vec<Named>> {
    let sql = "SELECT newest.*, first_at FROM (SELECT max(seq) AS last_seq, min(created_at) AS \
               first_at FROM image_names WHERE environment_id = $1 AND workspace_id = $2 \
               AND substr(name, 1, length($3)) = $3 AND name > $4 GROUP BY name) \
               JOIN image_names newest ON newest.seq = last_seq \
               WHERE $5 = '' OR newest.image_id = $5 ORDER BY newest.name LIMIT $6";
    let rows = sqlx::query(sql)
        .bind(environment.as_str())
        .bind(scope.workspace.as_str())
        .bind(&wanted.prefix)
        .bind(&wanted.after)
        .bind(&wanted.image)
        .bind(most)
        .fetch_all(db)
        .await?;
    let named =
        |row: &SqliteRow| Ok(Named { newest: read(row)?, first_at: time(row, "first_at")? });
    rows.iter().map(named).collect()
}

/// Forgets a name and all its publications. `false` if there was none.
pub async fn delete(
    db: &mut Db,
    scope: &Scope,
    environment: &EnvironmentId,
    name: &str,
) -> Result<bool> {
    let sql = "DELETE FROM image_names WHERE environment_id = $1 AND workspace_id = $2 \
               AND name = $3";
    let done = sqlx::query(sql)
        .bind(environment.as_str())
        .bind(scope.workspace.as_str())
        .bind(name)
        .execute(db)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Forgets the names of an image that is deleted.
pub async fn forget(db: &mut Db, image: &ImageId) -> Result<()> {
    let sql = "DELETE FROM image_names WHERE image_id = $1";
    sqlx::query(sql).bind(image.as_str()).execute(db).await?;
    Ok(())
}
