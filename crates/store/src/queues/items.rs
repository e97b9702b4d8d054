//! Items of queues that nobody has taken: in partitions, each in the order in which they were put.

use bytes::Bytes;
use futures::TryStreamExt;
use model::{Millis, QueueId, Time};
use sqlx::{QueryBuilder, Row, Sqlite};

use crate::row::{count, int, number};
use crate::{Db, Result};

/// Rows that one statement writes.
const ROWS_PER_STATEMENT: usize = 500;

/// How much may be kept.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Items of one partition.
    pub items_max: u32,
    /// Bytes of the items of one partition.
    pub partition_bytes_max: u64,
    /// Partitions of one queue that are not empty.
    pub partitions_max: u32,
}

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// All items are in.
    Done,
    /// The partition holds so many items, and has no room for all of these: none is in.
    NoRoom {
        /// Items that it holds.
        items: u32,
        /// Bytes of them.
        bytes: u64,
    },
    /// The queue has as many partitions as it may have: none is in.
    TooManyPartitions,
}

/// An item that is still in its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its place in the order of all puts.
    pub seq: u64,
    /// What was put.
    pub value: Bytes,
}

/// A partition that has not ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partition {
    pub(super) id: i64,
    items: u32,
    bytes: u64,
}

/// The partition of that key, unless its time is over.
pub(super) async fn partition(
    db: &mut Db,
    queue: &QueueId,
    key: &[u8],
    now: Time,
) -> Result<Option<Partition>> {
    let sql = "SELECT id, item_count, size_bytes FROM queue_partitions \
               WHERE queue_id = $1 AND key = $2 AND expires_at > $3";
    let row =
        sqlx::query(sql).bind(queue.as_str()).bind(key).bind(int(now.0)).fetch_optional(db).await?;
    row.map(|row| {
        let (items, bytes) = (count(&row, "item_count")?, number(&row, "size_bytes")?);
        Ok(Partition { id: row.try_get("id")?, items, bytes })
    })
    .transpose()
}

/// Appends items to a partition: all of them or, if they do not fit, none. The partition ends
/// `ttl` after the last put.
pub async fn put(
    db: &mut Db,
    queue: &QueueId,
    key: &[u8],
    values: &[Bytes],
    ttl: Millis,
    room: &Room,
    now: Time,
) -> Result<Put> {
    let Some(partition) = partition_to_fill(db, queue, key, ttl, room, now).await? else {
        return Ok(Put::TooManyPartitions);
    };
    let new_bytes: u64 = values.iter().map(|value| value.len() as u64).sum();
    let fits = u64::from(partition.items) + values.len() as u64 <= u64::from(room.items_max)
        && partition.bytes + new_bytes <= room.partition_bytes_max;
    if !fits {
        return Ok(Put::NoRoom { items: partition.items, bytes: partition.bytes });
    }
    append(db, partition.id, values).await?;
    let sql = "UPDATE queue_partitions SET item_count = item_count + $2, \
               size_bytes = size_bytes + $3, expires_at = $4 WHERE id = $1";
    sqlx::query(sql)
        .bind(partition.id)
        .bind(int(values.len() as u64))
        .bind(int(new_bytes))
        .bind(int((now + ttl).0))
        .execute(db)
        .await?;
    Ok(Put::Done)
}

/// The partition of that key; a new one in the place of one whose time is over, or where there is
/// none. Nothing if the queue may have no further one.
async fn partition_to_fill(
    db: &mut Db,
    queue: &QueueId,
    key: &[u8],
    ttl: Millis,
    room: &Room,
    now: Time,
) -> Result<Option<Partition>> {
    if let Some(partition) = partition(db, queue, key, now).await? {
        return Ok(Some(partition));
    }
    // One that stands there still has ended.
    clear(db, queue, Some(key)).await?;
    let (partitions, _) = totals(db, queue, now).await?;
    if partitions >= room.partitions_max {
        return Ok(None);
    }
    let sql = "INSERT INTO queue_partitions (queue_id, key, item_count, size_bytes, expires_at) \
               VALUES ($1, $2, 0, 0, $3)";
    let done = sqlx::query(sql)
        .bind(queue.as_str())
        .bind(key)
        .bind(int((now + ttl).0))
        .execute(db)
        .await?;
    Ok(Some(Partition { id: done.last_insert_rowid(), items: 0, bytes: 0 }))
}

/// Writes items behind all others. Their places are given out here: there is one writer.
async fn append(db: &mut Db, partition: i64, values: &[Bytes]) -> Result<()> {
    let sql = "SELECT coalesce(max(seq), 0) AS seq FROM sqlite_sequence WHERE name = 'queue_items'";
    let mut next: i64 = sqlx::query(sql).fetch_one(&mut *db).await?.try_get("seq")?;
    for chunk in values.chunks(ROWS_PER_STATEMENT) {
        let places: Vec<i64> = (next + 1..).take(chunk.len()).collect();
        next += places.len() as i64;
        let mut items =
            QueryBuilder::<Sqlite>::new("INSERT INTO queue_items (seq, partition_id, size_bytes) ");
        items.push_values(places.iter().zip(chunk), |mut row, (seq, value)| {
            row.push_bind(seq).push_bind(partition).push_bind(int(value.len() as u64));
        });
        items.build().execute(&mut *db).await?;
        let mut bodies = QueryBuilder::<Sqlite>::new("INSERT INTO queue_values (seq, value) ");
        bodies.push_values(places.iter().zip(chunk), |mut row, (seq, value)| {
            row.push_bind(seq).push_bind(&value[..]);
        });
        bodies.build().execute(&mut *db).await?;
    }
    Ok(())
}

/// Items after place `after`, in order: at most `most` of them, and no further one once they have
/// `bytes_max` bytes. They stay where they are.
pub async fn after(
    db: &mut Db,
    queue: &QueueId,
    key: &[u8],
    after: u64,
    most: u32,
    bytes_max: u64,
    now: Time,
) -> Result<Vec<Item>> {
    let Some(partition) = partition(db, queue, key, now).await? else { return Ok(Vec::new()) };
    let sql = "SELECT items.seq, value FROM queue_items AS items \
               JOIN queue_values ON queue_values.seq = items.seq \
               WHERE partition_id = $1 AND claim_id = 0 AND items.seq > $2 \
               ORDER BY items.seq LIMIT $3";
    let mut rows = sqlx::query(sql).bind(partition.id).bind(int(after)).bind(most).fetch(db);
    let mut found = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        let value = Bytes::from(row.try_get::<Vec<u8>, _>("value")?);
        bytes += value.len() as u64;
        found.push(Item { seq: number(&row, "seq")?, value });
        if bytes >= bytes_max {
            break;
        }
    }
    Ok(found)
}

/// Items in a partition.
pub async fn len(db: &mut Db, queue: &QueueId, key: &[u8], now: Time) -> Result<u32> {
    Ok(partition(db, queue, key, now).await?.map_or(0, |partition| partition.items))
}

/// Partitions of a queue that are not empty, and items in all of them.
pub async fn totals(db: &mut Db, queue: &QueueId, now: Time) -> Result<(u32, u64)> {
    let sql = "SELECT count(*) AS partitions, coalesce(sum(item_count), 0) AS items \
               FROM queue_partitions WHERE queue_id = $1 AND item_count > 0 AND expires_at > $2";
    let row = sqlx::query(sql).bind(queue.as_str()).bind(int(now.0)).fetch_one(db).await?;
    Ok((count(&row, "partitions")?, number(&row, "items")?))
}

/// Ends one partition of a queue, or all of them. What is in them is swept away later, so that
/// this takes no longer for full ones.
pub async fn clear(db: &mut Db, queue: &QueueId, key: Option<&[u8]>) -> Result<()> {
    let sql = "UPDATE queue_partitions SET queue_id = NULL \
               WHERE queue_id = $1 AND ($2 IS NULL OR key = $2)";
    sqlx::query(sql).bind(queue.as_str()).bind(key).execute(db).await?;
    Ok(())
}

/// Whether there is something for [`sweep`] to do.
pub async fn sweepable(db: &mut Db, now: Time) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM queue_partitions WHERE queue_id IS NULL) \
               OR EXISTS (SELECT 1 FROM queue_partitions WHERE queue_id IS NOT NULL \
               AND expires_at <= $1) \
               OR EXISTS (SELECT 1 FROM queue_partitions WHERE item_count = 0 AND id NOT IN \
               (SELECT partition_id FROM queue_claims WHERE delivered_at IS NULL)) AS something";
    let row = sqlx::query(sql).bind(int(now.0)).fetch_one(db).await?;
    Ok(row.try_get("something")?)
}

/// Ends partitions whose time is over, forgets empty ones, and removes up to `most` items of
/// partitions that have ended. Whether some are left.
pub async fn sweep(db: &mut Db, most: u32, now: Time) -> Result<bool> {
    let sql = "UPDATE queue_partitions SET queue_id = NULL WHERE queue_id IS NOT NULL \
               AND expires_at <= $1";
    sqlx::query(sql).bind(int(now.0)).execute(&mut *db).await?;
    // An open claim may still give its items back to the partition.
    let sql = "DELETE FROM queue_partitions WHERE item_count = 0 AND id NOT IN \
               (SELECT partition_id FROM queue_claims WHERE delivered_at IS NULL)";
    sqlx::query(sql).execute(&mut *db).await?;
    let ended = "SELECT items.seq FROM queue_partitions \
                 JOIN queue_items AS items ON partition_id = queue_partitions.id \
                 WHERE queue_id IS NULL AND claim_id = 0 LIMIT $1";
    let places: Vec<i64> = sqlx::query_scalar(ended).bind(most).fetch_all(&mut *db).await?;
    for chunk in places.chunks(ROWS_PER_STATEMENT) {
        remove(db, chunk).await?;
    }
    if places.len() == most as usize {
        return Ok(true);
    }
    sqlx::query("DELETE FROM queue_partitions WHERE queue_id IS NULL").execute(db).await?;
    Ok(false)
}

async fn remove(db: &mut Db, places: &[i64]) -> Result<()> {
    for table in ["queue_values", "queue_items"] {
        let mut query = QueryBuilder::<Sqlite>::new("DELETE FROM ");
        query.push(table).push(" WHERE seq IN (");
        let mut list = query.separated(", ");
        for place in places {
            list.push_bind(place);
        }
        query.push(")");
        query.build().execute(&mut *db).await?;
    }
    Ok(())
}
