//! Entries of dicts. One that has been neither written nor read for long is not there any more.
//!
//! `alive` is the moment after which an entry must have been used to be there.

use bytes::Bytes;
use futures::TryStreamExt;
use model::Time;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::Content;
use crate::row::{count, int, time};
use crate::{Db, Result};

/// Rows that one statement writes.
const ROWS_PER_STATEMENT: usize = 500;

/// An entry, or what was asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Bytes,
    /// Its value; empty where it was not asked for.
    pub value: Bytes,
    /// When it was last written or read, within the precision with which readings are noted.
    pub used_at: Time,
}

fn read(row: &SqliteRow) -> Result<Entry> {
    Ok(Entry {
        key: Bytes::from(row.try_get::<Vec<u8>, _>("key")?),
        value: Bytes::from(row.try_get::<Vec<u8>, _>("value")?),
        used_at: time(row, "used_at")?,
    })
}

/// The entry of a key, without its value unless `with_value` is set.
pub async fn get(
    db: &mut Db,
    content: Content,
    key: &[u8],
    with_value: bool,
    alive: Time,
) -> Result<Option<Entry>> {
    let sql = "SELECT key, CASE WHEN $4 THEN value ELSE x'' END AS value, used_at \
               FROM dict_entries WHERE content_id = $1 AND key = $2 AND used_at > $3";
    let row = sqlx::query(sql)
        .bind(content.0)
        .bind(key)
        .bind(int(alive.0))
        .bind(with_value)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Notes that entries from one key up to another have been read, where the last note is older than
/// `before`.
pub async fn touch(
    db: &mut Db,
    content: Content,
    first: &[u8],
    last: &[u8],
    before: Time,
    now: Time,
) -> Result<()> {
    let sql = "UPDATE dict_entries SET used_at = $4 WHERE content_id = $1 AND key BETWEEN $2 \
               AND $3 AND used_at < $5";
    sqlx::query(sql)
        .bind(content.0)
        .bind(first)
        .bind(last)
        .bind(int(now.0))
        .bind(int(before.0))
        .execute(db)
        .await?;
    Ok(())
}

/// Writes entries; with `keep` set, only those whose key is not there. Whether one was written.
pub async fn update(
    db: &mut Db,
    content: Content,
    entries: &[(Bytes, Bytes)],
    keep: bool,
    alive: Time,
    now: Time,
) -> Result<bool> {
    let mut written = 0;
    for chunk in entries.chunks(ROWS_PER_STATEMENT) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO dict_entries (content_id, used_at, key, value) ",
        );
        query.push_values(chunk, |mut row, (key, value)| {
            row.push_bind(content.0)
                .push_bind(int(now.0))
                .push_bind(&key[..])
                .push_bind(&value[..]);
        });
        query.push(
            " ON CONFLICT (content_id, key) DO UPDATE SET value = excluded.value, \
             used_at = excluded.used_at",
        );
        if keep {
            query.push(" WHERE dict_entries.used_at <= ").push_bind(int(alive.0));
        }
        written += query.build().execute(&mut *db).await?.rows_affected();
    }
    Ok(written > 0)
}

/// Takes an entry out.
pub async fn pop(db: &mut Db, content: Content, key: &[u8], alive: Time) -> Result<Option<Bytes>> {
    let sql = "DELETE FROM dict_entries WHERE content_id = $1 AND key = $2 AND used_at > $3 \
               RETURNING value";
    let value: Option<Vec<u8>> = sqlx::query_scalar(sql)
        .bind(content.0)
        .bind(key)
        .bind(int(alive.0))
        .fetch_optional(db)
        .await?;
    Ok(value.map(Bytes::from))
}

/// Number of entries, counted no further than `most`.
pub async fn len(db: &mut Db, content: Content, most: u32, alive: Time) -> Result<u32> {
    let sql = "SELECT count(*) AS entries FROM (SELECT 1 FROM dict_entries WHERE content_id = $1 \
               AND used_at > $2 LIMIT $3)";
    let row = sqlx::query(sql).bind(content.0).bind(int(alive.0)).bind(most).fetch_one(db).await?;
    count(&row, "entries")
}

/// A page of entries, in the order of their keys.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Whether values are asked for.
    pub values: bool,
    /// Entries at most.
    pub most: u32,
    /// No further entry once they have so many bytes.
    pub bytes_max: u64,
}

/// Entries whose keys come after `after`; without it, from the first.
pub async fn page(
    db: &mut Db,
    content: Content,
    after: Option<&[u8]>,
    page: Page,
    alive: Time,
) -> Result<Vec<Entry>> {
    let sql = "SELECT key, CASE WHEN $5 THEN value ELSE x'' END AS value, used_at \
               FROM dict_entries WHERE content_id = $1 AND key >= $2 AND ($3 OR key > $2) \
               AND used_at > $4 ORDER BY key LIMIT $6";
    let mut rows = sqlx::query(sql)
        .bind(content.0)
        .bind(after.unwrap_or_default())
        .bind(after.is_none())
        .bind(int(alive.0))
        .bind(page.values)
        .bind(page.most)
        .fetch(db);
    let mut found = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        let entry = read(&row)?;
        bytes += (entry.key.len() + entry.value.len()) as u64;
        found.push(entry);
        if bytes >= page.bytes_max {
            break;
        }
    }
    Ok(found)
}

/// Whether there is something for [`sweep`] to do.
pub async fn sweepable(db: &mut Db, alive: Time) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM dict_contents WHERE ended = 1) \
               OR EXISTS (SELECT 1 FROM dict_entries WHERE used_at <= $1) AS something";
    let row = sqlx::query(sql).bind(int(alive.0)).fetch_one(db).await?;
    Ok(row.try_get("something")?)
}

/// Removes up to `most` entries of what has ended, and as many of those that nobody has used.
/// Whether some are left.
pub async fn sweep(db: &mut Db, most: u32, alive: Time) -> Result<bool> {
    let old = "DELETE FROM dict_entries WHERE id IN \
               (SELECT id FROM dict_entries WHERE used_at <= $1 LIMIT $2)";
    let old = sqlx::query(old).bind(int(alive.0)).bind(most).execute(&mut *db).await?;
    let ended = "DELETE FROM dict_entries WHERE id IN (SELECT dict_entries.id FROM dict_contents \
                 JOIN dict_entries ON content_id = dict_contents.id WHERE ended = 1 LIMIT $1)";
    let ended = sqlx::query(ended).bind(most).execute(&mut *db).await?;
    let most = u64::from(most);
    if ended.rows_affected() < most {
        sqlx::query("DELETE FROM dict_contents WHERE ended = 1").execute(db).await?;
    }
    Ok(ended.rows_affected() >= most || old.rows_affected() >= most)
}
