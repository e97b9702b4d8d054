//! Queues through the protocol.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod world;

use std::time::{Duration, Instant};

use model::{Millis, QueueId};
use plane::expiry;
use tonic::Code;
use wire::client::{self as pb, ObjectCreationType as Wish};
use wire::rpc::client as names;
use world::{World, call, refused};

const LONG: Duration = Duration::from_secs(20);

fn named(name: &str, wish: Wish) -> pb::QueueGetOrCreateRequest {
    pb::QueueGetOrCreateRequest {
        deployment_name: name.into(),
        object_creation_type: wish.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn names_are_looked_up_and_made_as_asked_for() {
    let world = World::new().await;
    let api = world.api();
    let make = async |name: &str, wish, key: Option<&str>| {
        let answer = call::<names::QueueGetOrCreate>(&api, key, named(name, wish)).await;
        answer.map(|answer| answer.queue_id)
    };
    refused(make("q", Wish::Unspecified, None).await, Code::NotFound, "queue `q` not found");
    let id = make("q", Wish::CreateFailIfExists, Some("k")).await.unwrap();
    // The same call again, whose answer did not arrive.
    assert_eq!(make("q", Wish::CreateFailIfExists, Some("k")).await.unwrap(), id);
    let again = make("q", Wish::CreateFailIfExists, Some("l")).await;
    refused(again, Code::AlreadyExists, "exists already");
    assert_eq!(make("q", Wish::Unspecified, None).await.unwrap(), id);
    assert_eq!(make("q", Wish::CreateIfMissing, None).await.unwrap(), id);
    refused(make("a b", Wish::CreateIfMissing, None).await, Code::InvalidArgument, "is no name");
    let owned = make("", Wish::AnonymousOwnedByApp, None).await;
    refused(owned, Code::InvalidArgument, "object_creation_type");
    let (one, other) =
        (make("", Wish::Ephemeral, None).await, make("", Wish::Ephemeral, None).await);
    assert_ne!(one.unwrap(), other.unwrap());

    let list = pb::QueueListRequest::default();
    let listed = call::<names::QueueList>(&api, None, list.clone()).await.unwrap().queues;
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].name[..], &listed[0].queue_id), ("q", &id));
    let delete = pb::QueueDeleteRequest { queue_id: id.clone() };
    call::<names::QueueDelete>(&api, Some("d"), delete.clone()).await.unwrap();
    call::<names::QueueDelete>(&api, Some("d"), delete.clone()).await.unwrap();
    let again = call::<names::QueueDelete>(&api, None, delete).await;
    refused(again, Code::NotFound, "not found");
    assert!(call::<names::QueueList>(&api, None, list).await.unwrap().queues.is_empty());
}

#[tokio::test]
async fn nobody_else_finds_a_queue_and_restricted_containers_find_none() {
    let world = World::new().await;
    let mut queue = world.queue().await;
    queue.put(&["a"]).await;
    let by_id = pb::QueueGetByIdRequest { queue_id: queue.id.clone() };
    for (api, code, text) in [
        (world.api_of_another(), Code::NotFound, "not found"),
        (world.api_restricted(), Code::Unauthenticated, "restrict_modal_access"),
    ] {
        refused(call::<names::QueueGetById>(&api, None, by_id.clone()).await, code, text);
        let get = queue.get_request("", 1, LONG);
        refused(call::<names::QueueGet>(&api, None, get).await, code, text);
        queue.api = api;
        refused(queue.put_in("", &["b"]).await, code, text);
    }
    queue.api = world.api();
    assert_eq!(queue.peek().await, ["a"]);
}

#[tokio::test]
async fn a_wait_ends_with_an_item_or_with_its_time_or_with_the_queue() {
    let world = World::new().await;
    let queue = world.queue().await;
    let began = Instant::now();
    assert!(queue.get(None, 1, Duration::from_millis(100)).await.is_empty());
    assert!(began.elapsed() >= Duration::from_millis(100));
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.get(None, 5, LONG).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    queue.put(&["a", "b"]).await;
    assert_eq!(waiting.await.unwrap(), ["a", "b"]);
    // Woken, not found by looking from time to time.
    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
    let request = queue.get_request("", 1, LONG);
    let waiting = call::<names::QueueGet>(&queue.api, None, request);
    let delete = pb::QueueDeleteRequest { queue_id: queue.id.clone() };
    let deletion = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        call::<names::QueueDelete>(&queue.api, None, delete).await.unwrap();
    };
    let (answer, ()) = tokio::join!(waiting, deletion);
    refused(answer, Code::NotFound, "not found");
}

#[tokio::test]
async fn waiting_callers_are_served_in_the_order_in_which_they_came() {
    let world = World::new().await;
    let queue = world.queue().await;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let queue = queue.clone();
        waiting.push(tokio::spawn(async move { queue.get(None, 1, LONG).await }));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    queue.put(&["0", "1", "2", "3", "4"]).await;
    for (n, waiting) in waiting.into_iter().enumerate() {
        assert_eq!(waiting.await.unwrap(), [n.to_string()]);
    }
}

#[tokio::test]
async fn the_server_ending_ends_waits() {
    let world = World::new().await;
    let queue = world.queue().await;
    let began = Instant::now();
    let closing = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.plane.close();
    };
    let (first, second, ()) =
        tokio::join!(queue.get(None, 1, LONG), queue.get(None, 1, LONG), closing);
    assert!(first.is_empty() && second.is_empty());
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn the_same_call_asked_again_puts_once_and_takes_once() {
    let world = World::new().await;
    let queue = world.queue().await;
    let put = pb::QueuePutRequest {
        queue_id: queue.id.clone(),
        values: vec!["a".into(), "b".into(), "c".into()],
        ..Default::default()
    };
    call::<names::QueuePut>(&queue.api, Some("p"), put.clone()).await.unwrap();
    call::<names::QueuePut>(&queue.api, Some("p"), put).await.unwrap();
    assert_eq!(queue.peek().await, ["a", "b", "c"]);
    assert_eq!(queue.get(Some("k"), 2, LONG).await, ["a", "b"]);
    world.plane.settle().await.unwrap();
    assert_eq!(queue.get(Some("k"), 2, LONG).await, ["a", "b"]);
    assert_eq!(queue.get(Some("l"), 2, LONG).await, ["c"]);
    assert!(queue.get(Some("m"), 2, Duration::ZERO).await.is_empty());
    queue.put(&["d"]).await;
    // What found nothing may find something when it is asked again.
    assert_eq!(queue.get(Some("m"), 2, Duration::ZERO).await, ["d"]);
}

#[tokio::test]
async fn clearing_asked_again_leaves_what_came_between() {
    let world = World::new().await;
    let queue = world.queue().await;
    queue.put(&["a"]).await;
    let clear = pb::QueueClearRequest { queue_id: queue.id.clone(), ..Default::default() };
    call::<names::QueueClear>(&queue.api, Some("c"), clear.clone()).await.unwrap();
    assert_eq!(queue.len().await, 0);
    queue.put(&["b"]).await;
    call::<names::QueueClear>(&queue.api, Some("c"), clear).await.unwrap();
    assert_eq!(queue.peek().await, ["b"]);
}

#[tokio::test]
async fn what_does_not_fit_is_full_and_what_never_fits_is_wrong() {
    let world = World::new().await;
    let queue = world.queue().await;
    let item = "x".repeat(1 << 20);
    for _ in 0..4 {
        queue.put(&[&item[..]; 16]).await;
    }
    refused(queue.put_in("", &["x"]).await, Code::ResourceExhausted, "no room");
    queue.put_in("other", &["x"]).await.unwrap();
    assert!(queue.get_now(1).await == std::slice::from_ref(&item));
    queue.put(&["x"]).await;
    let larger = format!("{item}x");
    refused(queue.put_in("", &[&larger]).await, Code::InvalidArgument, "values");
    refused(queue.put_in("", &["x"; 5_001]).await, Code::InvalidArgument, "never fit");
    refused(queue.put_in(&"k".repeat(65), &["x"]).await, Code::InvalidArgument, "partition_key");
    let put = pb::QueuePutRequest {
        queue_id: queue.id.clone(),
        partition_ttl_seconds: 24 * 3_600 + 1,
        ..Default::default()
    };
    refused(call::<names::QueuePut>(&queue.api, None, put).await, Code::InvalidArgument, "ttl");
    let mut get = queue.get_request("", 0, LONG);
    let answer = call::<names::QueueGet>(&queue.api, None, get.clone()).await;
    refused(answer, Code::InvalidArgument, "n_values");
    get.queue_id = "qu-0".into();
    get.n_values = 1;
    let answer = call::<names::QueueGet>(&queue.api, None, get).await;
    refused(answer, Code::NotFound, "queue `qu-0` not found");
}

#[tokio::test]
async fn many_items_of_one_put_come_out_in_order() {
    let world = World::new().await;
    let queue = world.queue().await;
    let many: Vec<String> = (0..5_000).map(|n| n.to_string()).collect();
    queue.put(&many.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(queue.len().await, 5_000);
    refused(queue.put_in("", &["x"]).await, Code::ResourceExhausted, "5000 items");
    assert_eq!(queue.peek().await, many);
    let mut taken = queue.get_now(1_000).await;
    taken.extend(queue.get_now(i32::MAX).await);
    assert_eq!(taken, many);
}

#[tokio::test]
async fn a_reader_ahead_waits_for_the_next_item() {
    let world = World::new().await;
    let queue = world.queue().await;
    let request = pb::QueueNextItemsRequest {
        queue_id: queue.id.clone(),
        item_poll_timeout: 20.0,
        ..Default::default()
    };
    let waiting = call::<names::QueueNextItems>(&queue.api, None, request);
    let put = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        queue.put(&["a"]).await;
    };
    let (answer, ()) = tokio::join!(waiting, put);
    assert_eq!(answer.unwrap().items.len(), 1);
    assert_eq!(queue.len().await, 1);
    let request = pb::QueueNextItemsRequest {
        queue_id: queue.id.clone(),
        last_entry_id: "x".into(),
        ..Default::default()
    };
    let answer = call::<names::QueueNextItems>(&queue.api, None, request).await;
    refused(answer, Code::InvalidArgument, "last_entry_id");
}

#[tokio::test]
async fn a_short_lived_queue_goes_when_its_heartbeats_stop() {
    let world = World::new().await;
    let (kept, lost) = (world.queue().await, world.queue().await);
    let request = named("q", Wish::CreateIfMissing);
    let named = call::<names::QueueGetOrCreate>(&world.api(), None, request).await;
    let named = named.unwrap().queue_id;
    let long_ago = world.plane.now() - Millis::from_secs(16 * 60);
    let mut tx = world.plane.store.begin().await.unwrap();
    for id in [&kept.id, &lost.id, &named] {
        store::queues::beat(&mut tx, &QueueId::parse(id).unwrap(), long_ago).await.unwrap();
    }
    tx.commit().await.unwrap();
    let beat = pb::QueueHeartbeatRequest { queue_id: kept.id.clone() };
    call::<names::QueueHeartbeat>(&world.api(), None, beat).await.unwrap();
    expiry::sweep(&world.plane).await.unwrap();
    let find = async |id: &str| {
        let by_id = pb::QueueGetByIdRequest { queue_id: id.into() };
        call::<names::QueueGetById>(&world.api(), None, by_id).await
    };
    assert!(find(&kept.id).await.is_ok());
    assert!(find(&named).await.is_ok());
    refused(find(&lost.id).await, Code::NotFound, "not found");
}
