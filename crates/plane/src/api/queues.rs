//! Queues: lists in partitions that clients and containers share.

use std::time::Duration;

use bytes::Bytes;
use model::{Millis, QueueId, Time};
use store::queues::claims::Wanted;
use store::queues::items::{self, Put, Room};
use store::queues::{self, Queue};
use store::{Db, Hint, Scope};
use tokio::time::Instant;
use wire::client::{self as pb, ObjectCreationType as Wish};
use wire::rpc::client as rpc;

use super::environments;
use super::gate::{Cx, Member};
use super::objects::{creation_info, list_page, named};
use super::poll::Poll;
use super::receipt::Receipt;
use super::refusal::Refusal;
use super::replay;
use crate::limits::{
    QUEUE_ITEM_BYTES_MAX, QUEUE_ITEMS_MAX, QUEUE_NEXT_BYTES_MAX, QUEUE_NEXT_ITEMS_MAX,
    QUEUE_NEXT_POLL_MAX, QUEUE_PARTITION_BYTES_MAX, QUEUE_PARTITION_KEY_BYTES_MAX,
    QUEUE_PARTITION_TTL_MAX, QUEUE_PARTITIONS_MAX, QUEUE_POLL_MAX,
};

const ROOM: Room = Room {
    items_max: QUEUE_ITEMS_MAX,
    partition_bytes_max: QUEUE_PARTITION_BYTES_MAX,
    partitions_max: QUEUE_PARTITIONS_MAX,
};

/// Finds a queue of the caller's.
async fn find(db: &mut Db, scope: &Scope, id: &str) -> Result<Queue, Refusal> {
    let found = queues::get(db, scope, &QueueId::parse(id)?).await?;
    found.ok_or_else(|| Refusal::not_found("queue", id))
}

fn check_partition(key: &Bytes) -> Result<(), Refusal> {
    if key.len() <= QUEUE_PARTITION_KEY_BYTES_MAX {
        return Ok(());
    }
    let why = format!("it has {} bytes: use at most {QUEUE_PARTITION_KEY_BYTES_MAX}", key.len());
    Err(Refusal::invalid("partition_key", why))
}

fn metadata(queue: &Queue) -> pb::QueueMetadata {
    pb::QueueMetadata {
        name: queue.name.clone().unwrap_or_default(),
        creation_info: Some(creation_info(queue.created_at)),
    }
}

fn seconds(wait: f32, most: Duration) -> Duration {
    // The client's own subtraction may come out below zero; that is no wait at all.
    Duration::try_from_secs_f32(wait).unwrap_or_default().min(most)
}

/// The queue of a name, or a new one; an ephemeral one has no name.
pub(super) async fn get_or_create(
    cx: Cx<Member>,
    req: pb::QueueGetOrCreateRequest,
) -> Result<pb::QueueGetOrCreateResponse, Refusal> {
    let wish = req.object_creation_type();
    let name = named(wish, &req.deployment_name)?;
    let mut tx = cx.plane.store.begin().await?;
    if let Some(answer) = replay::find::<rpc::QueueGetOrCreate>(&cx, &mut tx).await? {
        return Ok(answer);
    }
    let environment = environments::find(&mut tx, cx.scope(), &req.environment_name).await?;
    let found = match &name {
        Some(name) => queues::by_name(&mut tx, cx.scope(), &environment.id, name).await?,
        None => None,
    };
    let queue = match (found, wish) {
        (Some(_), Wish::CreateFailIfExists) => {
            let text = format!("queue `{}` exists already", req.deployment_name);
            return Err(Refusal::Exists(text));
        }
        (Some(queue), Wish::CreateOverwriteIfExists) => {
            items::clear(&mut tx, &queue.id, None).await?;
            queue
        }
        (Some(queue), _) => queue,
        (None, Wish::Unspecified) => {
            return Err(Refusal::not_found("queue", &req.deployment_name));
        }
        (None, _) => {
            let now = cx.now();
            let heartbeat_at = name.is_none().then_some(now);
            let id = QueueId::new(cx.plane.bits());
            let environment = environment.id;
            let queue = Queue { id, environment, name, created_at: now, heartbeat_at };
            queues::insert(&mut tx, cx.scope(), &queue).await?;
            queue
        }
    };
    let metadata = Some(metadata(&queue));
    let answer = pb::QueueGetOrCreateResponse { queue_id: queue.id.into(), metadata };
    if wish != Wish::Unspecified {
        replay::keep::<rpc::QueueGetOrCreate>(&cx, &mut tx, &answer).await?;
    }
    tx.commit().await?;
    Ok(answer)
}

/// What is known of a queue.
pub(super) async fn get_by_id(
    cx: Cx<Member>,
    req: pb::QueueGetByIdRequest,
) -> Result<pb::QueueGetByIdResponse, Refusal> {
    let queue = find(&mut *cx.plane.store.read().await?, cx.scope(), &req.queue_id).await?;
    let metadata = Some(metadata(&queue));
    Ok(pb::QueueGetByIdResponse { queue_id: queue.id.into(), metadata })
}

/// An ephemeral queue's client lives.
pub(super) async fn heartbeat(
    cx: Cx<Member>,
    req: pb::QueueHeartbeatRequest,
) -> Result<(), Refusal> {
    let mut tx = cx.plane.store.begin().await?;
    let queue = find(&mut tx, cx.scope(), &req.queue_id).await?;
    queues::beat(&mut tx, &queue.id, cx.now()).await?;
    tx.commit().await?;
    Ok(())
}

/// The named queues of an environment, newest first.
pub(super) async fn list(
    cx: Cx<Member>,
    req: pb::QueueListRequest,
) -> Result<pb::QueueListResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let environment = environments::find(&mut db, cx.scope(), &req.environment_name).await?;
    let (before, most) = list_page(req.pagination.as_ref(), cx.now());
    let most_items = match u64::try_from(req.total_size_limit) {
        Ok(0) | Err(_) => u64::MAX,
        Ok(most) => most,
    };
    let mut infos = Vec::new();
    for queue in queues::list(&mut db, cx.scope(), &environment.id, before, most).await? {
        let (partitions, items) = items::totals(&mut db, &queue.id, cx.now()).await?;
        infos.push(pb::queue_list_response::QueueInfo {
            name: queue.name.clone().unwrap_or_default(),
            created_at: queue.created_at.as_secs_f64(),
            num_partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
            total_size: i32::try_from(items.min(most_items)).unwrap_or(i32::MAX),
            metadata: Some(metadata(&queue)),
            queue_id: queue.id.into(),
        });
    }
    Ok(pb::QueueListResponse { queues: infos, environment_name: environment.name })
}

/// Deletes a queue with all that is in it.
pub(super) async fn delete(cx: Cx<Member>, req: pb::QueueDeleteRequest) -> Result<(), Refusal> {
    let mut tx = cx.plane.store.begin().await?;
    if replay::find::<rpc::QueueDelete>(&cx, &mut tx).await?.is_some() {
        return Ok(());
    }
    let queue = find(&mut tx, cx.scope(), &req.queue_id).await?;
    queues::delete(&mut tx, &queue.id).await?;
    replay::keep::<rpc::QueueDelete>(&cx, &mut tx, &()).await?;
    tx.ring(Hint::Queue(queue.id));
    tx.commit().await?;
    Ok(())
}

/// How long a partition lives after this put.
fn ttl(seconds: i32) -> Result<Millis, Refusal> {
    match u64::try_from(seconds).map(Millis::from_secs) {
        Ok(Millis(0)) => Ok(QUEUE_PARTITION_TTL_MAX),
        Ok(ttl) if ttl <= QUEUE_PARTITION_TTL_MAX => Ok(ttl),
        _ => {
            let most = QUEUE_PARTITION_TTL_MAX.0 / 1_000;
            let why = format!("{seconds} is out of range: use 1 to {most} seconds");
            Err(Refusal::invalid("partition_ttl", why))
        }
    }
}

/// What can never fit is wrong, not full: the client would try again for ever.
fn check_values(values: &[Bytes]) -> Result<(), Refusal> {
    if let Some(large) = values.iter().find(|value| value.len() > QUEUE_ITEM_BYTES_MAX) {
        let why = format!(
            "an item has {} bytes, and an item may have {QUEUE_ITEM_BYTES_MAX}: put large data \
             elsewhere, and where it is into the queue",
            large.len()
        );
        return Err(Refusal::invalid("values", why));
    }
    let bytes: u64 = values.iter().map(|value| value.len() as u64).sum();
    if values.len() > QUEUE_ITEMS_MAX as usize || bytes > QUEUE_PARTITION_BYTES_MAX {
        let why = format!(
            "{} items of {bytes} bytes never fit: a partition holds {QUEUE_ITEMS_MAX} items and \
             {QUEUE_PARTITION_BYTES_MAX} bytes, so put fewer at a time",
            values.len()
        );
        return Err(Refusal::invalid("values", why));
    }
    Ok(())
}

/// Appends items to a partition: all of them or, if they do not fit, none.
pub(super) async fn put(cx: Cx<Member>, req: pb::QueuePutRequest) -> Result<(), Refusal> {
    check_partition(&req.partition_key)?;
    check_values(&req.values)?;
    let ttl = ttl(req.partition_ttl_seconds)?;
    let mut tx = cx.plane.store.begin().await?;
    let queue = find(&mut tx, cx.scope(), &req.queue_id).await?;
    if replay::find::<rpc::QueuePut>(&cx, &mut tx).await?.is_some() {
        return Ok(());
    }
    let (key, values) = (&req.partition_key, &req.values);
    match items::put(&mut tx, &queue.id, key, values, ttl, &ROOM, cx.now()).await? {
        Put::Done => {}
        Put::NoRoom { items, bytes } => {
            let text = format!(
                "the partition has no room for {} more items: it holds {items} items of {bytes} \
                 bytes, and may hold {QUEUE_ITEMS_MAX} items of {QUEUE_PARTITION_BYTES_MAX} bytes",
                values.len()
            );
            return Err(Refusal::Exhausted(text));
        }
        Put::TooManyPartitions => {
            let text = format!(
                "queue `{}` has {QUEUE_PARTITIONS_MAX} partitions that are not empty, which is its \
                 limit",
                queue.id
            );
            return Err(Refusal::Exhausted(text));
        }
    }
    replay::keep::<rpc::QueuePut>(&cx, &mut tx, &()).await?;
    tx.ring(Hint::Queue(queue.id));
    tx.commit().await?;
    Ok(())
}

/// Takes items out, waiting for the first. The receipt puts them back if the answer is lost; the
/// same key gets the same items again.
pub(super) async fn get(
    cx: Cx<Member>,
    req: pb::QueueGetRequest,
) -> Result<(pb::QueueGetResponse, Receipt), Refusal> {
    check_partition(&req.partition_key)?;
    let items_max = u32::try_from(req.n_values).unwrap_or_default();
    if items_max == 0 {
        let why = format!("{} is no number of items: ask for 1 or more", req.n_values);
        return Err(Refusal::invalid("n_values", why));
    }
    let wanted = Wanted {
        queue: QueueId::parse(&req.queue_id)?,
        partition: req.partition_key,
        items_max: items_max.min(QUEUE_ITEMS_MAX),
        bytes_max: QUEUE_PARTITION_BYTES_MAX,
        key: cx.replay_key().map(str::to_owned),
    };
    let until = Instant::now() + seconds(req.timeout, QUEUE_POLL_MAX);
    let none = || (pb::QueueGetResponse::default(), Receipt::none());
    find(&mut *cx.plane.store.read().await?, cx.scope(), &req.queue_id).await?;
    let place = cx.plane.claims.line_up(&wanted.queue, &wanted.partition);
    let _turn = tokio::select! {
        biased;
        turn = place.turn() => turn,
        () = tokio::time::sleep_until(until) => return Ok(none()),
        () = cx.plane.closed() => return Ok(none()),
    };
    let mut poll = Poll::until(&cx.plane, Hint::Queue(wanted.queue.clone()), until);
    loop {
        if let Some((values, receipt)) = cx.plane.take(cx.scope(), &wanted).await? {
            return Ok((pb::QueueGetResponse { values }, receipt));
        }
        if !poll.again(&cx.plane).await {
            return Ok(none());
        }
        // It may have been deleted.
        find(&mut *cx.plane.store.read().await?, cx.scope(), &req.queue_id).await?;
    }
}

/// Items after a place, which stay where they are; waits for the first.
pub(super) async fn next_items(
    cx: Cx<Member>,
    req: pb::QueueNextItemsRequest,
) -> Result<pb::QueueNextItemsResponse, Refusal> {
    check_partition(&req.partition_key)?;
    let after = match req.last_entry_id.as_str() {
        "" => 0,
        id => id.parse().map_err(|_| {
            Refusal::invalid("last_entry_id", "it does not come from an earlier answer")
        })?,
    };
    let most = seconds(req.item_poll_timeout, QUEUE_NEXT_POLL_MAX);
    let id = QueueId::parse(&req.queue_id)?;
    let mut poll = Poll::begin(&cx.plane, Hint::Queue(id.clone()), most);
    loop {
        let (key, now) = (&req.partition_key, cx.now());
        let found = {
            let mut db = cx.plane.store.read().await?;
            find(&mut db, cx.scope(), &req.queue_id).await?;
            let (most, bytes_max) = (QUEUE_NEXT_ITEMS_MAX, QUEUE_NEXT_BYTES_MAX);
            items::after(&mut db, &id, key, after, most, bytes_max, now).await?
        };
        if !found.is_empty() || !poll.again(&cx.plane).await {
            let item = |item: items::Item| pb::QueueItem {
                entry_id: item.seq.to_string(),
                value: item.value,
            };
            return Ok(pb::QueueNextItemsResponse { items: found.into_iter().map(item).collect() });
        }
    }
}

/// Items in a partition, or in all.
pub(super) async fn len(
    cx: Cx<Member>,
    req: pb::QueueLenRequest,
) -> Result<pb::QueueLenResponse, Refusal> {
    check_partition(&req.partition_key)?;
    both_or_one(req.total, &req.partition_key, "total")?;
    let mut db = cx.plane.store.read().await?;
    let queue = find(&mut db, cx.scope(), &req.queue_id).await?;
    let now: Time = cx.now();
    let len = match req.total {
        true => items::totals(&mut db, &queue.id, now).await?.1,
        false => u64::from(items::len(&mut db, &queue.id, &req.partition_key, now).await?),
    };
    Ok(pb::QueueLenResponse { len: i32::try_from(len).unwrap_or(i32::MAX) })
}

/// All partitions and one of them cannot be meant at once.
fn both_or_one(all: bool, key: &Bytes, field: &'static str) -> Result<(), Refusal> {
    if all && !key.is_empty() {
        return Err(Refusal::invalid(field, "leave out the partition, or this"));
    }
    Ok(())
}

/// Removes the items of a partition, or of all.
pub(super) async fn clear(cx: Cx<Member>, req: pb::QueueClearRequest) -> Result<(), Refusal> {
    check_partition(&req.partition_key)?;
    both_or_one(req.all_partitions, &req.partition_key, "all_partitions")?;
    let mut tx = cx.plane.store.begin().await?;
    let queue = find(&mut tx, cx.scope(), &req.queue_id).await?;
    if replay::find::<rpc::QueueClear>(&cx, &mut tx).await?.is_some() {
        return Ok(());
    }
    let key = (!req.all_partitions).then_some(&req.partition_key[..]);
    items::clear(&mut tx, &queue.id, key).await?;
    replay::keep::<rpc::QueueClear>(&cx, &mut tx, &()).await?;
    tx.commit().await?;
    Ok(())
}
