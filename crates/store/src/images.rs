//! Images: what to build, what came of it, and what the build printed.

use bytes::Bytes;
use model::spec::{BuildSpec, ImageContent};
use model::{CallId, FunctionId, ImageId, Time, WorkspaceId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::logs::Span;
use crate::row::{from_json, id, id_opt, int, json, number, time, time_opt};
use crate::{Db, Result, Scope};

/// How the keys of snapshots begin: of images that no recipe can make again.
pub const SNAPSHOT_KEY: &str = "snapshot:";

/// Where a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its base is not ready, or no worker has it.
    Waiting = 0,
    /// A worker builds it.
    Building = 1,
    /// It can be used.
    Ready = 2,
    /// It failed; the next request builds again.
    Failed = 3,
}

/// An image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// Hash of all that decides its content.
    pub key: String,
    /// The image it builds on.
    pub base: Option<ImageId>,
    /// The builder version of its client.
    pub builder_version: String,
    /// Where its build is.
    pub phase: Phase,
    /// What to build; its `base`, `secret_env` and `registry_auth` are filled in when a worker
    /// gets it.
    pub build: BuildSpec,
    /// What came of it.
    pub content: Option<ImageContent>,
    /// Why it failed.
    pub failure: Option<String>,
    /// The call that makes it, where a function's run does.
    pub call: Option<CallId>,
    /// When it was first asked for.
    pub created_at: Time,
    /// When its build ended, in whichever way.
    pub finished_at: Option<Time>,
}

fn read(row: &SqliteRow) -> Result<Image> {
    let content: Option<String> = row.try_get("content")?;
    Ok(Image {
        id: id(row, "id", ImageId::parse)?,
        workspace: id(row, "workspace_id", WorkspaceId::parse)?,
        key: row.try_get("key")?,
        base: id_opt(row, "base_id", ImageId::parse)?,
        builder_version: row.try_get("builder_version")?,
        phase: match row.try_get::<i32, _>("state")? {
            0 => Phase::Waiting,
            1 => Phase::Building,
            2 => Phase::Ready,
            _ => Phase::Failed,
        },
        build: from_json("image", row.try_get("build")?)?,
        content: content.map(|text| from_json("image", &text)).transpose()?,
        failure: row.try_get("failure")?,
        call: id_opt(row, "call_id", CallId::parse)?,
        created_at: time(row, "created_at")?,
        finished_at: time_opt(row, "finished_at")?,
    })
}

/// Makes an image that waits to be built.
pub async fn insert(db: &mut Db, image: &Image) -> Result<()> {
    let sql = "INSERT INTO images (id, workspace_id, key, base_id, builder_version, state, build, \
               created_at, used_at, function_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9)";
    let function = image.build.function.as_ref().map(|build| build.function.as_str());
    sqlx::query(sql)
        .bind(image.id.as_str())
        .bind(image.workspace.as_str())
        .bind(&image.key)
        .bind(image.base.as_ref().map(ImageId::as_str))
        .bind(&image.builder_version)
        .bind(image.phase as i32)
        .bind(json("image", &image.build)?)
        .bind(int(image.created_at.0))
        .bind(function)
        .execute(db)
        .await?;
    Ok(())
}

/// The image of that id.
pub async fn get(db: &mut Db, scope: &Scope, id: &ImageId) -> Result<Option<Image>> {
    let row = sqlx::query("SELECT * FROM images WHERE id = $1 AND workspace_id = $2")
        .bind(id.as_str())
        .bind(scope.workspace.as_str())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The image of that id, whoever owns it: for the builder and the scheduler.
pub async fn get_any(db: &mut Db, id: &ImageId) -> Result<Option<Image>> {
    let row = sqlx::query("SELECT * FROM images WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The image that was made from the same things and did not fail.
pub async fn by_key(db: &mut Db, scope: &Scope, key: &str) -> Result<Option<Image>> {
    let sql = "SELECT * FROM images WHERE workspace_id = $1 AND key = $2 AND state < 3";
    let row = sqlx::query(sql).bind(scope.workspace.as_str()).bind(key).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// Makes the key free for a new build; what was built under it stays usable by its id.
pub async fn retire(db: &mut Db, scope: &Scope, key: &str) -> Result<()> {
    let sql = "UPDATE images SET key = key || ':' || id WHERE workspace_id = $1 AND key = $2";
    sqlx::query(sql).bind(scope.workspace.as_str()).bind(key).execute(db).await?;
    Ok(())
}

/// Images whose build could go on now: they wait, and their base is ready or failed.
pub async fn buildable(db: &mut Db) -> Result<Vec<Image>> {
    let sql = "SELECT images.* FROM images LEFT JOIN images base ON base.id = images.base_id \
               WHERE images.state = 0 AND (images.base_id IS NULL OR base.state >= 2) \
               ORDER BY images.created_at";
    let rows = sqlx::query(sql).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// All images, newest first, at most `most`.
pub async fn list(db: &mut Db, most: u32) -> Result<Vec<Image>> {
    let sql = "SELECT * FROM images ORDER BY created_at DESC LIMIT $1";
    let rows = sqlx::query(sql).bind(most).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// Hands the build to a worker, or takes it back (`Waiting`) when the worker is gone.
pub async fn set_phase(db: &mut Db, id: &ImageId, phase: Phase) -> Result<()> {
    sqlx::query("UPDATE images SET state = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(phase as i32)
        .execute(db)
        .await?;
    Ok(())
}

/// The image that a function's run makes now, if it makes one.
pub async fn built_by(db: &mut Db, function: &FunctionId) -> Result<Option<Image>> {
    let sql = "SELECT * FROM images WHERE function_id = $1 AND state = 1";
    let row = sqlx::query(sql).bind(function.as_str()).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// The functions whose runs make images now.
pub async fn function_builds(db: &mut Db) -> Result<Vec<FunctionId>> {
    let sql = "SELECT function_id FROM images WHERE state = 1 AND function_id IS NOT NULL";
    let rows = sqlx::query(sql).fetch_all(db).await?;
    rows.iter().map(|row| id(row, "function_id", FunctionId::parse)).collect()
}

/// Notes which call of which function makes the image.
pub async fn set_call(
    db: &mut Db,
    id: &ImageId,
    call: &CallId,
    function: &FunctionId,
) -> Result<()> {
    let sql = "UPDATE images SET call_id = $2, function_id = $3 WHERE id = $1";
    sqlx::query(sql)
        .bind(id.as_str())
        .bind(call.as_str())
        .bind(function.as_str())
        .execute(db)
        .await?;
    Ok(())
}

/// Changes what is to be built, for the next time that it is handed over.
pub async fn set_build(db: &mut Db, id: &ImageId, build: &BuildSpec) -> Result<()> {
    let sql = "UPDATE images SET build = $2 WHERE id = $1";
    sqlx::query(sql).bind(id.as_str()).bind(json("image", build)?).execute(db).await?;
    Ok(())
}

/// Builds that a worker had when it went away wait again.
pub async fn rewind_builds(db: &mut Db) -> Result<u64> {
    let sql = "UPDATE images SET state = 0 WHERE state = 1 AND function_id IS NULL";
    let done = sqlx::query(sql).execute(db).await?;
    Ok(done.rows_affected())
}

/// Notes what came of a build.
pub async fn finish(
    db: &mut Db,
    id: &ImageId,
    result: &std::result::Result<ImageContent, String>,
    now: Time,
) -> Result<()> {
    let (phase, content, failure) = match result {
        Ok(content) => (Phase::Ready, Some(json("image", content)?), None),
        Err(failure) => (Phase::Failed, None, Some(failure.as_str())),
    };
    let sql = "UPDATE images SET state = $2, content = $3, failure = $4, finished_at = $5 \
               WHERE id = $1";
    sqlx::query(sql)
        .bind(id.as_str())
        .bind(phase as i32)
        .bind(content)
        .bind(failure)
        .bind(int(now.0))
        .execute(db)
        .await?;
    Ok(())
}

/// Deletes an image, and says why: nothing starts with it any more, and the next request for the
/// same builds it again.
pub async fn delete(db: &mut Db, id: &ImageId, why: &str) -> Result<()> {
    let sql = "UPDATE images SET state = 3, content = NULL, failure = $2 WHERE id = $1";
    sqlx::query(sql).bind(id.as_str()).bind(why).execute(db).await?;
    Ok(())
}

/// Says when an image is to be forgotten.
pub async fn expire(db: &mut Db, id: &ImageId, at: Time) -> Result<()> {
    let sql = "UPDATE images SET expires_at = $2 WHERE id = $1";
    sqlx::query(sql).bind(id.as_str()).bind(int(at.0)).execute(db).await?;
    Ok(())
}

/// Images whose time is over, at most `most`.
pub async fn expired(db: &mut Db, now: Time, most: u32) -> Result<Vec<ImageId>> {
    let sql = "SELECT id FROM images WHERE expires_at <= $1 AND state = 2 LIMIT $2";
    let rows = sqlx::query(sql).bind(int(now.0)).bind(most).fetch_all(db).await?;
    rows.iter().map(|row| id(row, "id", ImageId::parse)).collect()
}

/// Notes that the image was used.
pub async fn touch(db: &mut Db, id: &ImageId, now: Time) -> Result<()> {
    sqlx::query("UPDATE images SET used_at = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(int(now.0))
        .execute(db)
        .await?;
    Ok(())
}

/// Keeps what a build printed.
pub async fn append_log(db: &mut Db, id: &ImageId, data: &[u8], now: Time) -> Result<()> {
    sqlx::query("INSERT INTO image_logs (image_id, data, at) VALUES ($1, $2, $3)")
        .bind(id.as_str())
        .bind(data)
        .bind(int(now.0))
        .execute(db)
        .await?;
    Ok(())
}

/// What a build printed after entry `after`: entries and their places.
pub async fn logs(db: &mut Db, id: &ImageId, after: u64, most: u32) -> Result<Vec<(u64, Bytes)>> {
    let sql = "SELECT seq, data FROM image_logs WHERE image_id = $1 AND seq > $2 \
               ORDER BY seq LIMIT $3";
    let rows = sqlx::query(sql).bind(id.as_str()).bind(int(after)).bind(most).fetch_all(db).await?;
    rows.iter()
        .map(|row| Ok((number(row, "seq")?, Bytes::from(row.try_get::<Vec<u8>, _>("data")?))))
        .collect()
}

/// What a build printed in a span of time, newest first, at most `most` pieces.
pub async fn past_logs(
    db: &mut Db,
    id: &ImageId,
    span: Span,
    most: u32,
) -> Result<Vec<(Time, Bytes)>> {
    let sql = "SELECT at, data FROM image_logs WHERE image_id = $1 AND at >= $2 AND at < $3 \
               ORDER BY seq DESC LIMIT $4";
    let rows = sqlx::query(sql)
        .bind(id.as_str())
        .bind(int(span.since.0))
        .bind(int(span.until.0))
        .bind(most)
        .fetch_all(db)
        .await?;
    rows.iter()
        .map(|row| Ok((time(row, "at")?, Bytes::from(row.try_get::<Vec<u8>, _>("data")?))))
        .collect()
}

/// Layers that must stay: of images that functions of living apps or living sandboxes run, that
/// have names, that others are being built on, or that are snapshots.
pub async fn kept_layers(db: &mut Db) -> Result<Vec<String>> {
    let sql = "SELECT content FROM images WHERE state = 2 AND id IN ( \
               SELECT json_extract(spec, '$.image') FROM functions JOIN apps ON \
               apps.id = functions.app_id WHERE spec IS NOT NULL AND (apps.stopped_at IS NULL \
               OR functions.id IN (SELECT function_id FROM tasks WHERE state < 4)) \
               UNION SELECT image_id FROM image_names \
               UNION SELECT json_extract(spec, '$.image') FROM sandboxes WHERE state < 2 \
               UNION SELECT base_id FROM images WHERE state < 2) OR (state = 2 AND key GLOB $1)";
    let snapshots = format!("{SNAPSHOT_KEY}*");
    let rows = sqlx::query(sql).bind(snapshots).fetch_all(db).await?;
    let mut layers = Vec::new();
    for row in &rows {
        let content: ImageContent = from_json("image", row.try_get("content")?)?;
        layers.extend(content.layers);
    }
    layers.sort();
    layers.dedup();
    Ok(layers)
}

/// Notes that layers are gone: images that have one of them are built again when they are next
/// asked for. Says how many.
pub async fn lose(db: &mut Db, layers: &[String]) -> Result<u32> {
    let sql = "SELECT id, content FROM images WHERE state = 2";
    let rows = sqlx::query(sql).fetch_all(&mut *db).await?;
    let mut lost = 0;
    for row in &rows {
        let content: ImageContent = from_json("image", row.try_get("content")?)?;
        if content.layers.iter().any(|layer| layers.contains(layer)) {
            let sql = "UPDATE images SET state = 3, content = NULL, \
                       failure = 'it was removed to make room: build it again' WHERE id = $1";
            let id: &str = row.try_get("id")?;
            sqlx::query(sql).bind(id).execute(&mut *db).await?;
            lost += 1;
        }
    }
    Ok(lost)
}
