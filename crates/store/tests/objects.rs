//! Queues and dicts against a real SQLite file.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use bytes::Bytes;
use model::*;
use store::dicts::entries::{self, Page};
use store::dicts::{self, Dict, NewDict};
use store::queues::claims::{self, AnswerId, Run, Taken, Wanted};
use store::queues::items::{self, Put, Room};
use store::queues::{self, Queue};
use store::*;

const ROOM: Room = Room { items_max: 10, partition_bytes_max: 1_000, partitions_max: 3 };
const DAY: Millis = Millis::from_secs(24 * 3_600);
const RUN: fn(u8) -> Run = |n| Run::new([n; 8]);

struct World {
    _dir: tempfile::TempDir,
    store: Store,
    scope: Scope,
    environment: EnvironmentId,
    queue: QueueId,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("palisade.db")).await.unwrap();
    let scope = Scope { workspace: WorkspaceId::new([1; 16]) };
    let environment = environments::Environment {
        id: EnvironmentId::new([1; 16]),
        name: "main".into(),
        created_at: Time(1),
    };
    let queue = QueueId::new([1; 16]);
    let mut tx = store.begin().await.unwrap();
    tokens::insert_workspace(&mut tx, &scope.workspace, "main", Time(1)).await.unwrap();
    environments::insert(&mut tx, &scope, &environment).await.unwrap();
    queues::insert(&mut tx, &scope, &named_queue(&environment.id, 1, "q")).await.unwrap();
    tx.commit().await.unwrap();
    World { _dir: dir, store, scope, environment: environment.id, queue }
}

fn named_queue(environment: &EnvironmentId, n: u8, name: &str) -> Queue {
    Queue {
        id: QueueId::new([n; 16]),
        environment: environment.clone(),
        name: Some(name.into()),
        created_at: Time(u64::from(n)),
        heartbeat_at: None,
    }
}

fn texts(values: &[Bytes]) -> Vec<&str> {
    values.iter().map(|value| std::str::from_utf8(value).unwrap()).collect()
}

fn values(texts: &[&str]) -> Vec<Bytes> {
    texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect()
}

impl World {
    async fn put(&self, key: &[u8], texts: &[&str], now: u64) -> Put {
        let mut tx = self.store.begin().await.unwrap();
        let values = values(texts);
        let put = items::put(&mut tx, &self.queue, key, &values, DAY, &ROOM, Time(now));
        let put = put.await.unwrap();
        tx.commit().await.unwrap();
        put
    }

    fn wanted(&self, items_max: u32, key: Option<&str>) -> Wanted {
        Wanted {
            queue: self.queue.clone(),
            partition: Bytes::new(),
            items_max,
            bytes_max: 1_000,
            key: key.map(str::to_owned),
        }
    }

    async fn take(&self, id: u8, items_max: u32, key: Option<&str>) -> Option<Taken> {
        let wanted = self.wanted(items_max, key);
        let mut tx = self.store.begin().await.unwrap();
        let available = claims::available(&mut tx, &self.scope, &wanted, Time(20)).await.unwrap();
        let id = AnswerId::new([id; 8]);
        let claim =
            claims::take(&mut tx, &self.scope, &wanted, id, RUN(1), Time(20)).await.unwrap();
        assert_eq!(available, claim.is_some());
        tx.commit().await.unwrap();
        claim
    }

    async fn settle(&self, taken: &Taken, delivered: bool) -> Option<QueueId> {
        let mut tx = self.store.begin().await.unwrap();
        let queue = claims::settle(&mut tx, taken.answer, delivered, Time(30)).await.unwrap();
        tx.commit().await.unwrap();
        queue
    }

    async fn peek(&self, key: &[u8], after: u64) -> Vec<items::Item> {
        let mut db = self.store.read().await.unwrap();
        items::after(&mut db, &self.queue, key, after, 100, 1_000, Time(20)).await.unwrap()
    }

    /// What a partition holds by its items and by its counter, which must agree.
    async fn left(&self, key: &[u8]) -> Vec<String> {
        let left: Vec<Bytes> = self.peek(key, 0).await.into_iter().map(|i| i.value).collect();
        let mut db = self.store.read().await.unwrap();
        let len = items::len(&mut db, &self.queue, key, Time(20)).await.unwrap();
        assert_eq!(len as usize, left.len());
        texts(&left).into_iter().map(str::to_owned).collect()
    }

    async fn sweep(&self, now: u64) {
        let mut tx = self.store.begin().await.unwrap();
        while items::sweep(&mut tx, 2, Time(now)).await.unwrap() {}
        assert!(!items::sweepable(&mut tx, Time(now)).await.unwrap());
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn items_leave_in_the_order_in_which_they_came() {
    let world = world().await;
    assert_eq!(world.put(b"", &["a", "b"], 10).await, Put::Done);
    assert_eq!(world.put(b"p", &["x"], 10).await, Put::Done);
    assert_eq!(world.put(b"", &["c"], 10).await, Put::Done);
    let claim = world.take(1, 2, None).await.unwrap();
    assert_eq!(texts(&claim.values), ["a", "b"]);
    assert!(world.settle(&claim, true).await.is_none());
    assert_eq!(world.left(b"").await, ["c"]);
    assert_eq!(world.left(b"p").await, ["x"]);
    assert_eq!(texts(&world.take(2, 9, None).await.unwrap().values), ["c"]);
    assert!(world.take(3, 9, None).await.is_none());
}

#[tokio::test]
async fn lost_answers_go_back_to_where_their_items_stood() {
    let world = world().await;
    world.put(b"", &["a", "b", "c", "d"], 10).await;
    let first = world.take(1, 2, None).await.unwrap();
    let second = world.take(2, 1, None).await.unwrap();
    world.put(b"", &["e"], 10).await;
    assert_eq!(world.settle(&first, false).await, Some(world.queue.clone()));
    assert_eq!(world.left(b"").await, ["a", "b", "d", "e"]);
    assert!(world.settle(&second, true).await.is_none());
    assert_eq!(world.left(b"").await, ["a", "b", "d", "e"]);
    // What is settled stays settled.
    assert!(world.settle(&second, false).await.is_none());
    assert!(world.settle(&first, false).await.is_none());
    assert_eq!(world.left(b"").await, ["a", "b", "d", "e"]);
}

#[tokio::test]
async fn the_same_key_gets_the_same_answer_and_only_the_last_one_settles() {
    let world = world().await;
    world.put(b"", &["a", "b", "c"], 10).await;
    let first = world.take(1, 2, Some("k")).await.unwrap();
    let again = world.take(2, 2, Some("k")).await.unwrap();
    assert_eq!(texts(&again.values), ["a", "b"]);
    // The first answer's end is heard of after the second was made: it means nothing any more.
    assert!(world.settle(&first, false).await.is_none());
    assert_eq!(world.left(b"").await, ["c"]);
    assert!(world.settle(&again, true).await.is_none());
    // The answer was sent, and its caller asks again all the same: his connection broke.
    let third = world.take(3, 2, Some("k")).await.unwrap();
    assert_eq!(texts(&third.values), ["a", "b"]);
    assert!(world.settle(&third, false).await.is_some());
    assert_eq!(world.left(b"").await, ["a", "b", "c"]);
    // Another workspace with the same key has no part in it.
    let other = Scope { workspace: WorkspaceId::new([2; 16]) };
    let fourth = world.take(4, 1, Some("k")).await.unwrap();
    let mut db = world.store.read().await.unwrap();
    let mut wanted = world.wanted(1, Some("k"));
    wanted.partition = Bytes::from_static(b"empty");
    assert!(claims::available(&mut db, &world.scope, &wanted, Time(20)).await.unwrap());
    assert!(!claims::available(&mut db, &other, &wanted, Time(20)).await.unwrap());
    assert_eq!(texts(&fourth.values), ["a"]);
}

#[tokio::test]
async fn delivered_claims_are_forgotten_in_time_and_orphans_come_back() {
    let world = world().await;
    world.put(b"", &["a", "b", "c"], 10).await;
    let delivered = world.take(1, 1, Some("k")).await.unwrap();
    world.settle(&delivered, true).await;
    let on_its_way = world.take(2, 1, Some("l")).await.unwrap();
    let mut tx = world.store.begin().await.unwrap();
    assert!(claims::delivered(&mut tx, Time(30), 9).await.unwrap().is_empty());
    let old = claims::delivered(&mut tx, Time(31), 9).await.unwrap();
    assert_eq!(old.len(), 1);
    claims::forget(&mut tx, old[0], Time(30)).await.unwrap();
    assert_eq!(claims::delivered(&mut tx, Time(31), 9).await.unwrap(), old);
    claims::forget(&mut tx, old[0], Time(31)).await.unwrap();
    assert!(claims::delivered(&mut tx, Time(31), 9).await.unwrap().is_empty());
    assert!(claims::orphans(&mut tx, RUN(1)).await.unwrap().is_empty());
    let orphans = claims::orphans(&mut tx, RUN(2)).await.unwrap();
    assert_eq!(orphans, [on_its_way.answer]);
    claims::settle(&mut tx, orphans[0], false, Time(40)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(world.left(b"").await, ["b", "c"]);
    assert_eq!(texts(&world.take(3, 9, Some("k")).await.unwrap().values), ["b", "c"]);
}

#[tokio::test]
async fn rooms_are_kept_and_a_put_is_whole_or_nothing() {
    let world = world().await;
    assert_eq!(world.put(b"", &["x"; 9], 10).await, Put::Done);
    assert_eq!(world.put(b"", &["y"; 2], 10).await, Put::NoRoom { items: 9, bytes: 9 });
    assert_eq!(world.left(b"").await.len(), 9);
    assert_eq!(world.put(b"", &["y"], 10).await, Put::Done);
    let large = "z".repeat(600);
    assert_eq!(world.put(b"p", &[&large], 10).await, Put::Done);
    assert_eq!(world.put(b"p", &[&large], 10).await, Put::NoRoom { items: 1, bytes: 600 });
    assert_eq!(world.put(b"q", &["x"], 10).await, Put::Done);
    assert_eq!(world.put(b"r", &["x"], 10).await, Put::TooManyPartitions);
    // What is taken makes room, in the partition and for other partitions.
    let claim = world.take(1, 10, None).await.unwrap();
    assert_eq!(world.put(b"r", &["x"], 10).await, Put::Done);
    assert_eq!(world.put(b"", &["x"; 10], 10).await, Put::Done);
    world.settle(&claim, false).await;
    assert_eq!(world.left(b"").await.len(), 20);
}

#[tokio::test]
async fn partitions_end_in_time_and_leave_nothing() {
    let world = world().await;
    world.put(b"", &["a", "b", "c", "d", "e"], 10).await;
    let claim = world.take(1, 1, None).await.unwrap();
    let late = 10 + DAY.0;
    let mut db = world.store.read().await.unwrap();
    assert_eq!(items::len(&mut db, &world.queue, b"", Time(late - 1)).await.unwrap(), 4);
    assert_eq!(items::len(&mut db, &world.queue, b"", Time(late)).await.unwrap(), 0);
    assert_eq!(items::totals(&mut db, &world.queue, Time(late)).await.unwrap(), (0, 0));
    drop(db);
    // A put after the end finds an empty partition, and counts its own time.
    assert_eq!(world.put(b"", &["new"], late).await, Put::Done);
    world.sweep(late + 1).await;
    let mut tx = world.store.begin().await.unwrap();
    let ended = claims::settle(&mut tx, claim.answer, false, Time(late + 1)).await;
    assert!(ended.unwrap().is_some());
    let left = items::after(&mut tx, &world.queue, b"", 0, 9, 9, Time(late + 1)).await.unwrap();
    assert_eq!(left.len(), 1);
    tx.commit().await.unwrap();
    world.sweep(late + DAY.0).await;
    assert_eq!(rows_of_queues(&world).await, 0);
}

/// Rows of all tables of queues but the queues themselves.
async fn rows_of_queues(world: &World) -> i64 {
    let sql = "SELECT (SELECT count(*) FROM queue_items) + (SELECT count(*) FROM queue_values) \
               + (SELECT count(*) FROM queue_partitions) + (SELECT count(*) FROM queue_claims)";
    let mut db = world.store.read().await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut *db).await.unwrap()
}

#[tokio::test]
async fn clearing_and_deleting_also_end_what_is_on_its_way() {
    let world = world().await;
    world.put(b"", &["a", "b"], 10).await;
    world.put(b"p", &["x"], 10).await;
    let claim = world.take(1, 1, None).await.unwrap();
    let mut tx = world.store.begin().await.unwrap();
    items::clear(&mut tx, &world.queue, Some(b"")).await.unwrap();
    tx.commit().await.unwrap();
    world.put(b"", &["c"], 10).await;
    world.settle(&claim, false).await;
    assert_eq!(world.left(b"").await, ["c"]);
    assert_eq!(world.left(b"p").await, ["x"]);
    let mut tx = world.store.begin().await.unwrap();
    items::clear(&mut tx, &world.queue, None).await.unwrap();
    assert_eq!(items::totals(&mut tx, &world.queue, Time(20)).await.unwrap(), (0, 0));
    tx.commit().await.unwrap();
    world.put(b"", &["d"], 10).await;
    let mut tx = world.store.begin().await.unwrap();
    queues::delete(&mut tx, &world.queue).await.unwrap();
    assert!(queues::get(&mut tx, &world.scope, &world.queue).await.unwrap().is_none());
    tx.commit().await.unwrap();
    world.sweep(20).await;
    assert_eq!(rows_of_queues(&world).await, 0);
}

#[tokio::test]
async fn reading_ahead_takes_nothing_and_goes_on_after_a_place() {
    let world = world().await;
    let many: Vec<String> = (0..9).map(|n| n.to_string().repeat(200)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for five in many.chunks(5) {
        world.put(b"", &five.iter().map(|text| &text[..100]).collect::<Vec<_>>(), 10).await;
    }
    let all = world.peek(b"", 0).await;
    assert_eq!(all.len(), 9);
    let rest = world.peek(b"", all[6].seq).await;
    assert_eq!(rest, all[7..]);
    let mut db = world.store.read().await.unwrap();
    let few = items::after(&mut db, &world.queue, b"", 0, 9, 150, Time(20)).await.unwrap();
    assert_eq!(few, all[..2]);
    assert_eq!(world.left(b"").await.len(), 9);
}

#[tokio::test]
async fn lists_go_back_in_time_and_miss_nothing_of_one_moment() {
    let world = world().await;
    let mut tx = world.store.begin().await.unwrap();
    for (n, at) in [(2u8, 5u64), (3, 5), (4, 5), (5, 9)] {
        let mut queue = named_queue(&world.environment, n, &format!("q{n}"));
        queue.created_at = Time(at);
        queues::insert(&mut tx, &world.scope, &queue).await.unwrap();
    }
    let mut quiet = named_queue(&world.environment, 6, "");
    (quiet.name, quiet.heartbeat_at) = (None, Some(Time(7)));
    queues::insert(&mut tx, &world.scope, &quiet).await.unwrap();
    let names = async |db: &mut Db, before: u64, most: u32| {
        let list = queues::list(db, &world.scope, &world.environment, Time(before), most).await;
        list.unwrap().into_iter().map(|queue| queue.name.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names(&mut tx, 99, 2).await, ["q5", "q2", "q3", "q4"]);
    assert_eq!(names(&mut tx, 5, 2).await, ["q"]);
    assert_eq!(names(&mut tx, 99, 99).await, ["q5", "q2", "q3", "q4", "q"]);
    let other = Scope { workspace: WorkspaceId::new([2; 16]) };
    assert!(queues::get(&mut tx, &other, &quiet.id).await.unwrap().is_none());
    assert!(queues::by_name(&mut tx, &other, &world.environment, "q").await.unwrap().is_none());
    assert_eq!(queues::silent(&mut tx, Time(8)).await.unwrap(), [quiet.id.clone()]);
    queues::beat(&mut tx, &quiet.id, Time(8)).await.unwrap();
    queues::beat(&mut tx, &world.queue, Time(8)).await.unwrap();
    assert!(queues::silent(&mut tx, Time(8)).await.unwrap().is_empty());
}

async fn new_dict(world: &World, db: &mut Db) -> Dict {
    let new = NewDict {
        id: DictId::new([1; 16]),
        environment: world.environment.clone(),
        name: Some("d".into()),
        created_at: Time(1),
    };
    dicts::insert(db, &world.scope, new).await.unwrap()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(Bytes, Bytes)> {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    pairs.iter().map(|(key, value)| (bytes(key), bytes(value))).collect()
}

#[tokio::test]
async fn entries_are_written_kept_taken_and_paged() {
    let world = world().await;
    let mut tx = world.store.begin().await.unwrap();
    let c = new_dict(&world, &mut tx).await.content;
    let db: &mut Db = &mut tx;
    let alive = Time(0);
    let two = pairs(&[("a", "1"), ("b", "2")]);
    assert!(entries::update(db, c, &two, false, alive, Time(10)).await.unwrap());
    assert!(!entries::update(db, c, &pairs(&[("a", "9")]), true, alive, Time(10)).await.unwrap());
    let mixed = pairs(&[("b", "9"), ("", "3")]);
    assert!(entries::update(db, c, &mixed, true, alive, Time(10)).await.unwrap());
    assert!(entries::update(db, c, &pairs(&[("a", "4")]), false, alive, Time(10)).await.unwrap());
    let value = entries::get(db, c, b"a", true, alive).await.unwrap().unwrap().value;
    assert_eq!(value, "4");
    assert_eq!(entries::get(db, c, b"a", false, alive).await.unwrap().unwrap().value, "");
    let page = Page { values: true, most: 2, bytes_max: 99 };
    let first = entries::page(db, c, None, page, alive).await.unwrap();
    assert_eq!(first.iter().map(|e| &e.key[..]).collect::<Vec<_>>(), [&b""[..], b"a"]);
    let rest = entries::page(db, c, Some(b"a"), page, alive).await.unwrap();
    assert_eq!((&rest[0].value[..], rest.len()), (&b"2"[..], 1));
    let small = Page { bytes_max: 1, ..page };
    assert_eq!(entries::page(db, c, None, small, alive).await.unwrap().len(), 1);
    assert_eq!(entries::len(db, c, 2, alive).await.unwrap(), 2);
    assert_eq!(entries::len(db, c, 9, alive).await.unwrap(), 3);
    assert_eq!(entries::pop(db, c, b"a", alive).await.unwrap().unwrap(), "4");
    assert!(entries::pop(db, c, b"a", alive).await.unwrap().is_none());
}

#[tokio::test]
async fn entries_that_nobody_uses_are_gone_and_reading_keeps_them() {
    let world = world().await;
    let mut tx = world.store.begin().await.unwrap();
    let c = new_dict(&world, &mut tx).await.content;
    let db: &mut Db = &mut tx;
    let two = pairs(&[("a", "1"), ("b", "2")]);
    entries::update(db, c, &two, false, Time(0), Time(10)).await.unwrap();
    entries::touch(db, c, b"a", b"a", Time(10), Time(20)).await.unwrap();
    assert_eq!(entries::get(db, c, b"a", false, Time(0)).await.unwrap().unwrap().used_at, Time(10));
    entries::touch(db, c, b"a", b"a", Time(11), Time(20)).await.unwrap();
    let alive = Time(10);
    assert!(entries::get(db, c, b"a", false, alive).await.unwrap().is_some());
    assert!(entries::get(db, c, b"b", false, alive).await.unwrap().is_none());
    assert_eq!(entries::len(db, c, 9, alive).await.unwrap(), 1);
    // What is gone does not keep its key.
    assert!(entries::update(db, c, &pairs(&[("b", "3")]), true, alive, Time(30)).await.unwrap());
    assert!(entries::sweepable(db, Time(20)).await.unwrap());
    assert!(!entries::sweep(db, 2, Time(20)).await.unwrap());
    assert!(!entries::sweepable(db, Time(20)).await.unwrap());
    assert_eq!(entries::len(db, c, 9, Time(0)).await.unwrap(), 1);
}

#[tokio::test]
async fn clearing_and_deleting_a_dict_are_swept_in_steps() {
    let world = world().await;
    let mut tx = world.store.begin().await.unwrap();
    let mut dict = new_dict(&world, &mut tx).await;
    let many: Vec<(Bytes, Bytes)> =
        (0..1_201).map(|n| (Bytes::from(n.to_string()), Bytes::from_static(b"v"))).collect();
    let db: &mut Db = &mut tx;
    entries::update(db, dict.content, &many, false, Time(0), Time(10)).await.unwrap();
    dicts::clear(db, &mut dict).await.unwrap();
    let stored = dicts::get(db, &world.scope, &dict.id).await.unwrap().unwrap();
    assert_eq!(stored.content, dict.content);
    assert_eq!(entries::len(db, dict.content, 9, Time(0)).await.unwrap(), 0);
    entries::update(db, dict.content, &many[..1], false, Time(0), Time(10)).await.unwrap();
    let mut rounds = 1;
    while entries::sweep(db, 500, Time(0)).await.unwrap() {
        rounds += 1;
    }
    assert_eq!((rounds, entries::len(db, dict.content, 9, Time(0)).await.unwrap()), (3, 1));
    dicts::delete(db, &dict).await.unwrap();
    assert!(dicts::by_name(db, &world.scope, &world.environment, "d").await.unwrap().is_none());
    entries::sweep(db, 500, Time(0)).await.unwrap();
    let sql = "SELECT (SELECT count(*) FROM dict_entries) + (SELECT count(*) FROM dict_contents)";
    let rows: i64 = sqlx::query_scalar(sql).fetch_one(db).await.unwrap();
    assert_eq!(rows, 0);
}
