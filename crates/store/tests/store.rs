//! The store against a real SQLite file.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::time::Duration;

use bytes::Bytes;
use model::call::{Event, Input, Rules, State, step};
use model::output::{Outcome, Payload, Status};
use model::retry::RetryPolicy;
use model::*;
use store::*;

async fn open(dir: &std::path::Path) -> (Store, Scope) {
    let store = Store::open(&dir.join("palisade.db")).await.unwrap();
    let workspace = WorkspaceId::new([1; 16]);
    let scope = Scope { workspace: workspace.clone() };
    let mut tx = store.begin().await.unwrap();
    tokens::insert_workspace(&mut tx, &workspace, "main", Time(1)).await.unwrap();
    let environment = environments::Environment {
        id: EnvironmentId::new([1; 16]),
        name: "main".into(),
        created_at: Time(1),
    };
    environments::insert(&mut tx, &scope, &environment).await.unwrap();
    let app = apps::App {
        id: AppId::new([1; 16]),
        workspace: workspace.clone(),
        environment: environment.id,
        name: None,
        description: "test".into(),
        state: 1,
        tags: Default::default(),
        client_version: "1.6.4".into(),
        created_at: Time(1),
        heartbeat_at: Time(1),
        deployed_at: None,
        stopped_at: None,
        logs_done: false,
    };
    apps::insert(&mut tx, &app, Some("key")).await.unwrap();
    let function = functions::Function {
        id: FunctionId::new([1; 16]),
        workspace: workspace.clone(),
        app: app.id,
        name: "f".into(),
        definition: Bytes::from_static(b"definition"),
        spec: None,
        created_at: Time(1),
    };
    functions::put(&mut tx, &function).await.unwrap();
    let call = calls::Call {
        id: CallId::new([1; 16]),
        workspace,
        app: AppId::new([1; 16]),
        function: function.id,
        kind: 2,
        invocation: 4,
        created_at: Time(1),
        input_count: 0,
        done_count: 0,
        cancelled_at: None,
    };
    calls::insert(&mut tx, &call, None).await.unwrap();
    tx.commit().await.unwrap();
    (store, scope)
}

fn input(n: u8) -> inputs::OpenInput {
    inputs::OpenInput {
        id: InputId::new([n; 16]),
        call: CallId::new([1; 16]),
        function: FunctionId::new([1; 16]),
        index: u32::from(n),
        input: Input::new(Time(10)),
    }
}

fn carried(text: &'static str) -> inputs::Carried {
    let args = Payload::Inline(Bytes::from_static(text.as_bytes()));
    inputs::Carried { args, data_format: 1, method_name: String::new() }
}

#[tokio::test]
async fn an_input_goes_from_queue_to_outcome_and_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (store, scope) = open(dir.path()).await;
    let rules = Rules { timeout_ms: Millis(1_000), retry: RetryPolicy::default() };
    let task = TaskId::new([7; 16]);
    let call = CallId::new([1; 16]);
    let mut tx = store.begin().await.unwrap();
    let two = [(input(0), carried("args")), (input(1), carried("args"))];
    inputs::insert(&mut tx, &call, &two, 0).await.unwrap();
    // The same index again changes nothing, and names the input that is there.
    let mut again = input(9);
    again.index = 1;
    let more = [(again, carried("other")), (input(2), carried("args"))];
    let ids = inputs::insert(&mut tx, &call, &more, 0).await.unwrap();
    assert_eq!(ids, [InputId::new([1; 16]), InputId::new([2; 16])]);
    assert_eq!(calls::get(&mut tx, &scope, &call).await.unwrap().unwrap().input_count, 3);
    let ready = inputs::ready(&mut tx, &FunctionId::new([1; 16]), Time(10), 2).await.unwrap();
    assert_eq!(ready.iter().map(|ready| ready.open.index).collect::<Vec<_>>(), [0, 1]);
    assert!(ready.iter().all(|ready| ready.invocation == 4));
    for inputs::Ready { mut open, .. } in ready {
        let claimed = Event::Claimed { task: task.clone() };
        open.input = step(open.input, claimed, &rules, Time(20)).0;
        inputs::save(&mut tx, &open, None, Time(20)).await.unwrap();
    }
    tx.commit().await.unwrap();

    let mut tx = store.begin().await.unwrap();
    let mut held = inputs::of_task(&mut tx, &task).await.unwrap();
    assert_eq!(held.len(), 2);
    let mut first = held.remove(1);
    let outcome = Outcome {
        data: Some(Payload::Inline(Bytes::from_static(b"result"))),
        ..Outcome::without_data(Status::Success, "")
    };
    let answered = Event::Answered { task: task.clone(), outcome: Box::new(outcome.clone()) };
    first.input = step(first.input, answered, &rules, Time(30)).0;
    assert!(matches!(first.input.state, State::Done(_)));
    inputs::save(&mut tx, &first, Some(&task), Time(30)).await.unwrap();
    assert_eq!(inputs::overdue(&mut tx, Time(1_020)).await.unwrap().len(), 1);
    assert_eq!(inputs::next_due(&mut tx, Time(0)).await.unwrap(), Some(Time(10)));
    tx.commit().await.unwrap();
    store.close().await;

    let store = Store::open(&dir.path().join("palisade.db")).await.unwrap();
    let mut db = store.read().await.unwrap();
    let done = outcomes::done(&mut db, &call, outcomes::Wanted::After(0), 10).await.unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!((done[0].index, done[0].done_seq), (1, 1));
    assert_eq!(done[0].outcome, outcome);
    assert!(
        outcomes::done(&mut db, &call, outcomes::Wanted::Indexes(0, 0), 10)
            .await
            .unwrap()
            .is_empty()
    );
    let call = calls::get(&mut db, &scope, &call).await.unwrap().unwrap();
    assert_eq!((call.input_count, call.done_count), (3, 1));
}

#[tokio::test]
async fn another_workspace_finds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, scope) = open(dir.path()).await;
    let other = Scope { workspace: WorkspaceId::new([2; 16]) };
    let mut db = store.read().await.unwrap();
    assert!(apps::get(&mut db, &scope, &AppId::new([1; 16])).await.unwrap().is_some());
    assert!(apps::get(&mut db, &other, &AppId::new([1; 16])).await.unwrap().is_none());
    assert!(apps::by_key(&mut db, &scope, "key").await.unwrap().is_some());
    assert!(apps::by_key(&mut db, &other, "key").await.unwrap().is_none());
    assert!(functions::get(&mut db, &other, &FunctionId::new([1; 16])).await.unwrap().is_none());
    assert!(calls::get(&mut db, &other, &CallId::new([1; 16])).await.unwrap().is_none());
}

#[tokio::test]
async fn a_dropped_transaction_leaves_nothing_and_rings_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path()).await;
    let mut tx = store.begin().await.unwrap();
    let mut ear = store.hints().listen(Hint::Schedule);
    put(&mut tx, 1).await;
    tx.ring(Hint::Schedule);
    drop(tx);
    assert!(waiting(&mut store.read().await.unwrap()).await.is_empty());
    // The next one begins afresh.
    let mut tx = store.begin().await.unwrap();
    assert!(waiting(&mut tx).await.is_empty());
    put(&mut tx, 2).await;
    tx.commit().await.unwrap();
    assert_eq!(waiting(&mut store.read().await.unwrap()).await, [2]);
    let heard = tokio::time::timeout(Duration::from_millis(50), ear.wait(Duration::MAX)).await;
    assert!(heard.is_err());
}

#[tokio::test]
async fn a_checkpoint_brings_the_log_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path()).await;
    for n in 0..100 {
        let mut tx = store.begin().await.unwrap();
        put(&mut tx, n).await;
        tx.commit().await.unwrap();
    }
    let copy = |name: &str| {
        let path = dir.path().join(name);
        std::fs::copy(dir.path().join("palisade.db"), &path).unwrap();
        path
    };
    // Without its log, the file holds nothing of it yet: it may not even be one.
    if let Ok(before) = Store::open(&copy("before.db")).await {
        assert!(waiting(&mut before.read().await.unwrap()).await.is_empty());
    }
    store.checkpoint().await.unwrap();
    let after = Store::open(&copy("after.db")).await.unwrap();
    assert_eq!(waiting(&mut after.read().await.unwrap()).await.len(), 100);
}

/// A handler ends wherever its client goes away: also while its transaction begins or commits.
#[tokio::test]
async fn a_transaction_that_is_given_up_at_any_point_is_whole_or_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path()).await;
    let mut committed = 0;
    for n in 0..200_u8 {
        let (work, input) = (store.clone(), n + 1);
        let work = tokio::spawn(async move {
            let mut tx = work.begin().await.unwrap();
            put(&mut tx, input).await;
            tx.commit().await.unwrap();
        });
        for _ in 0..n % 23 {
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_micros(u64::from(n % 7) * 5));
        }
        work.abort();
        committed += usize::from(work.await.is_ok());
        let before = waiting(&mut store.read().await.unwrap()).await;
        let mut tx = store.begin().await.unwrap();
        // What was neither seen nor rolled back would show here.
        let during = waiting(&mut tx).await;
        assert!(during.len() >= before.len());
        tx.commit().await.unwrap();
        let call = CallId::new([1; 16]);
        let mut db = store.read().await.unwrap();
        let scope = Scope { workspace: WorkspaceId::new([1; 16]) };
        let count = calls::get(&mut db, &scope, &call).await.unwrap().unwrap().input_count;
        assert_eq!(count as usize, during.len(), "an input without its place in the call's count");
    }
    assert!(waiting(&mut store.read().await.unwrap()).await.len() >= committed);
}

async fn put(tx: &mut store::Tx, n: u8) {
    let placed = [(input(n), carried("args"))];
    inputs::insert(tx, &CallId::new([1; 16]), &placed, 0).await.unwrap();
}

async fn waiting(db: &mut store::Db) -> Vec<u32> {
    let ready = inputs::ready(db, &FunctionId::new([1; 16]), Time(99), 999).await.unwrap();
    ready.iter().map(|ready| ready.open.index).collect()
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("palisade.db");
    std::fs::write(&path, [b'x'; 8_192]).unwrap();
    let error = Store::open(&path).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("restore it from a backup"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), [b'x'; 8_192]);
}

#[tokio::test]
async fn only_what_is_old_done_and_unused_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (store, scope) = open(dir.path()).await;
    let call = CallId::new([1; 16]);
    let rules = Rules { timeout_ms: Millis(1_000), retry: RetryPolicy::default() };
    let task = TaskId::new([7; 16]);
    let mut tx = store.begin().await.unwrap();
    for (n, sha256) in [(1, "aa"), (2, "bb"), (3, "aa")] {
        let blob = blobs::Blob {
            id: BlobId::new([n; 16]),
            workspace: scope.workspace.clone(),
            task: None,
            token: format!("token-{n}"),
            size_bytes: 1,
            wanted_sha256: sha256.into(),
            sha256: None,
        };
        blobs::insert(&mut tx, &blob, Time(if n == 3 { 500 } else { 1 })).await.unwrap();
        blobs::complete(&mut tx, &blob.id, sha256).await.unwrap();
    }
    put(&mut tx, 0).await;
    // Open: neither the call nor anything of it goes.
    assert_eq!(retention::forget_calls(&mut tx, Time(100)).await.unwrap(), 0);
    let mut open = inputs::open(&mut tx, &InputId::new([0; 16])).await.unwrap().unwrap();
    for event in [
        Event::Claimed { task: task.clone() },
        Event::Answered {
            task: task.clone(),
            outcome: Box::new(Outcome {
                data: Some(Payload::Blob(BlobId::new([2; 16]))),
                ..Outcome::without_data(Status::Success, "")
            }),
        },
    ] {
        open.input = step(open.input, event, &rules, Time(20)).0;
        inputs::save(&mut tx, &open, Some(&task), Time(20)).await.unwrap();
    }
    // Blob 1 is unused, but 3 has the same bytes; 2 is a result.
    assert!(retention::forget_blobs(&mut tx, Time(100)).await.unwrap().is_empty());
    assert!(blobs::get(&mut tx, &scope, &BlobId::new([1; 16])).await.unwrap().is_none());
    assert!(blobs::get(&mut tx, &scope, &BlobId::new([2; 16])).await.unwrap().is_some());
    assert_eq!(retention::forget_calls(&mut tx, Time(1)).await.unwrap(), 0);
    assert_eq!(retention::forget_calls(&mut tx, Time(100)).await.unwrap(), 1);
    assert!(calls::get(&mut tx, &scope, &call).await.unwrap().is_none());
    assert_eq!(retention::forget_blobs(&mut tx, Time(100)).await.unwrap(), ["bb"]);
}
