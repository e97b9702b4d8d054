//! Claims: items that were taken out of a queue, until it is certain that the taker has them.
//!
//! A claim hides its items. It is settled by what became of the answer that carries them: sent, and
//! they are gone; lost, and they stand in their partition again, where they stood before. Claims of
//! a run of the server that ended with answers on their way count as lost. A settled claim keeps
//! its items a while for a caller who asks again with the same key, whose connection broke: he gets
//! the same answer, which then is the one that settles the claim.

use bytes::Bytes;
use model::{QueueId, Time};
use sqlx::Row;

use super::items::partition;
use crate::row::{id, int, number};
use crate::{Db, Result, Scope};

/// Who takes, and how much.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The queue. That the taker may see it is settled before.
    pub queue: QueueId,
    /// The partition.
    pub partition: Bytes,
    /// Items at most.
    pub items_max: u32,
    /// No further item once they have so many bytes.
    pub bytes_max: u64,
    /// The key that all attempts of one call share.
    pub key: Option<String>,
}

/// Items that were taken.
#[derive(Debug)]
pub struct Taken {
    /// The answer that is to carry them.
    pub answer: AnswerId,
    /// The items, in their order.
    pub values: Vec<Bytes>,
}

/// An answer's id: random, so that one whose transaction failed cannot be taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnswerId(i64);

impl AnswerId {
    /// A new id from random bits of the caller's.
    pub fn new(bits: [u8; 8]) -> Self {
        // Zero stands for "no claim" in the items.
        Self((i64::from_be_bytes(bits) & i64::MAX).max(1))
    }
}

/// A claim's id: that of the first answer that was made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimId(i64);

/// The run of the server that makes an answer: random, and another one after each start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run(i64);

impl Run {
    /// A new run from random bits of the caller's.
    pub fn new(bits: [u8; 8]) -> Self {
        Self(i64::from_be_bytes(bits))
    }
}

/// Whether [`take`] would find something.
pub async fn available(db: &mut Db, scope: &Scope, wanted: &Wanted, now: Time) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM queue_partitions WHERE queue_id = $1 AND key = $2 \
               AND expires_at > $3 AND item_count > 0) OR EXISTS (SELECT 1 FROM queue_claims \
               WHERE workspace_id = $4 AND key = $5 AND queue_id = $1) AS something";
    let row = sqlx::query(sql)
        .bind(wanted.queue.as_str())
        .bind(&wanted.partition[..])
        .bind(int(now.0))
        .bind(scope.workspace.as_str())
        .bind(&wanted.key)
        .fetch_one(db)
        .await?;
    Ok(row.try_get("something")?)
}

/// Takes the first items of a partition, or, with a key that has taken some before, the same ones
/// again, to be carried by a new answer. Nothing if there is no item.
pub async fn take(
    db: &mut Db,
    scope: &Scope,
    wanted: &Wanted,
    answer: AnswerId,
    run: Run,
    now: Time,
) -> Result<Option<Taken>> {
    if let Some(claim) = take_over(db, scope, wanted, answer, run).await? {
        return Ok(Some(Taken { answer, values: values(db, claim).await? }));
    }
    let Some(partition) = partition(db, &wanted.queue, &wanted.partition, now).await? else {
        return Ok(None);
    };
    let sql = "SELECT seq, size_bytes FROM queue_items WHERE partition_id = $1 AND claim_id = 0 \
               ORDER BY seq LIMIT $2";
    let rows =
        sqlx::query(sql).bind(partition.id).bind(wanted.items_max).fetch_all(&mut *db).await?;
    let (mut items, mut bytes, mut last) = (0u32, 0u64, 0i64);
    for row in rows {
        if bytes >= wanted.bytes_max {
            break;
        }
        items += 1;
        bytes += number(&row, "size_bytes")?;
        last = row.try_get("seq")?;
    }
    if items == 0 {
        return Ok(None);
    }
    let sql = "INSERT INTO queue_claims (id, workspace_id, queue_id, partition_id, key, answer_id, \
               run) VALUES ($1, $2, $3, $4, $5, $1, $6)";
    sqlx::query(sql)
        .bind(answer.0)
        .bind(scope.workspace.as_str())
        .bind(wanted.queue.as_str())
        .bind(partition.id)
        .bind(&wanted.key)
        .bind(run.0)
        .execute(&mut *db)
        .await?;
    let sql = "UPDATE queue_items SET claim_id = $2 \
               WHERE partition_id = $1 AND claim_id = 0 AND seq <= $3";
    sqlx::query(sql).bind(partition.id).bind(answer.0).bind(last).execute(&mut *db).await?;
    let sql = "UPDATE queue_partitions SET item_count = item_count - $2, \
               size_bytes = size_bytes - $3 WHERE id = $1";
    sqlx::query(sql).bind(partition.id).bind(items).bind(int(bytes)).execute(&mut *db).await?;
    Ok(Some(Taken { answer, values: values(db, ClaimId(answer.0)).await? }))
}

/// The claim that was made with the same key: from now on this answer settles it.
async fn take_over(
    db: &mut Db,
    scope: &Scope,
    wanted: &Wanted,
    answer: AnswerId,
    run: Run,
) -> Result<Option<ClaimId>> {
    let Some(key) = &wanted.key else { return Ok(None) };
    let sql = "UPDATE queue_claims SET answer_id = $5, run = $4, delivered_at = NULL \
               WHERE workspace_id = $1 AND key = $2 AND queue_id = $3 RETURNING id";
    let claim: Option<i64> = sqlx::query_scalar(sql)
        .bind(scope.workspace.as_str())
        .bind(key)
        .bind(wanted.queue.as_str())
        .bind(run.0)
        .bind(answer.0)
        .fetch_optional(db)
        .await?;
    Ok(claim.map(ClaimId))
}

async fn values(db: &mut Db, claim: ClaimId) -> Result<Vec<Bytes>> {
    let sql = "SELECT value FROM queue_items AS items \
               JOIN queue_values ON queue_values.seq = items.seq \
               WHERE claim_id = $1 ORDER BY items.seq";
    let values: Vec<Vec<u8>> = sqlx::query_scalar(sql).bind(claim.0).fetch_all(db).await?;
    Ok(values.into_iter().map(Bytes::from).collect())
}

/// Settles a claim by what became of an answer that was made of it. If it was lost, and no later
/// one was made, the items go back; then the queue comes back too, for whoever waits for it.
pub async fn settle(
    db: &mut Db,
    answer: AnswerId,
    delivered: bool,
    now: Time,
) -> Result<Option<QueueId>> {
    let sql = "SELECT id, queue_id, key IS NULL AS keyless FROM queue_claims \
               WHERE answer_id = $1 AND delivered_at IS NULL";
    let row = sqlx::query(sql).bind(answer.0).fetch_optional(&mut *db).await?;
    let Some(row) = row else { return Ok(None) };
    let claim = ClaimId(row.try_get("id")?);
    match (delivered, row.try_get("keyless")?) {
        (false, _) => {
            give_back(db, claim, now).await?;
            return Ok(Some(id(&row, "queue_id", QueueId::parse)?));
        }
        // Nobody can ask for it again.
        (true, true) => remove(db, claim).await?,
        (true, false) => {
            let sql = "UPDATE queue_claims SET delivered_at = $2 WHERE id = $1";
            sqlx::query(sql).bind(claim.0).bind(int(now.0)).execute(db).await?;
        }
    }
    Ok(None)
}

/// Puts a claim's items back where they stood, unless their partition has ended meanwhile.
async fn give_back(db: &mut Db, claim: ClaimId, now: Time) -> Result<()> {
    let sql = "UPDATE queue_partitions SET \
               item_count = item_count + (SELECT count(*) FROM queue_items WHERE claim_id = $1), \
               size_bytes = size_bytes + \
               (SELECT coalesce(sum(size_bytes), 0) FROM queue_items WHERE claim_id = $1) \
               WHERE id = (SELECT partition_id FROM queue_claims WHERE id = $1) \
               AND queue_id IS NOT NULL AND expires_at > $2";
    let done = sqlx::query(sql).bind(claim.0).bind(int(now.0)).execute(&mut *db).await?;
    if done.rows_affected() == 0 {
        return remove(db, claim).await;
    }
    sqlx::query("UPDATE queue_items SET claim_id = 0 WHERE claim_id = $1")
        .bind(claim.0)
        .execute(&mut *db)
        .await?;
    forget_row(db, claim).await
}

async fn remove(db: &mut Db, claim: ClaimId) -> Result<()> {
    let sql = "DELETE FROM queue_values WHERE seq IN \
               (SELECT seq FROM queue_items WHERE claim_id = $1)";
    sqlx::query(sql).bind(claim.0).execute(&mut *db).await?;
    sqlx::query("DELETE FROM queue_items WHERE claim_id = $1")
        .bind(claim.0)
        .execute(&mut *db)
        .await?;
    forget_row(db, claim).await
}

async fn forget_row(db: &mut Db, claim: ClaimId) -> Result<()> {
    sqlx::query("DELETE FROM queue_claims WHERE id = $1").bind(claim.0).execute(db).await?;
    Ok(())
}

/// Answers of other runs that were on their way when the server ended.
pub async fn orphans(db: &mut Db, run: Run) -> Result<Vec<AnswerId>> {
    let sql = "SELECT answer_id FROM queue_claims WHERE delivered_at IS NULL AND run <> $1";
    let ids: Vec<i64> = sqlx::query_scalar(sql).bind(run.0).fetch_all(db).await?;
    Ok(ids.into_iter().map(AnswerId).collect())
}

/// Claims that were delivered before `before`, at most `most`.
pub async fn delivered(db: &mut Db, before: Time, most: u32) -> Result<Vec<ClaimId>> {
    let sql = "SELECT id FROM queue_claims WHERE delivered_at < $1 LIMIT $2";
    let ids: Vec<i64> =
        sqlx::query_scalar(sql).bind(int(before.0)).bind(most).fetch_all(db).await?;
    Ok(ids.into_iter().map(ClaimId).collect())
}

/// Forgets a claim that was delivered, with its items, unless it has been taken over since.
pub async fn forget(db: &mut Db, claim: ClaimId, before: Time) -> Result<()> {
    let sql = "SELECT 1 FROM queue_claims WHERE id = $1 AND delivered_at < $2";
    let row = sqlx::query(sql).bind(claim.0).bind(int(before.0)).fetch_optional(&mut *db).await?;
    match row {
        Some(_) => remove(db, claim).await,
        None => Ok(()),
    }
}
