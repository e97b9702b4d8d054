//! Rows of sandboxes: names, labels, pages, ends, tokens.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::collections::BTreeMap;

use bytes::Bytes;
use model::link::End;
use model::resources::{Reservation, ResourceWish};
use model::sandbox::{NetworkRule, SandboxSpec};
use model::*;
use store::sandboxes::{Filter, Phase, Sandbox, connect_tokens};
use store::*;

struct World {
    _dir: tempfile::TempDir,
    store: Store,
    scope: Scope,
}

const TOKEN: [u8; 32] = [7; 32];

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("palisade.db")).await.unwrap();
    let scope = Scope { workspace: WorkspaceId::new([1; 16]) };
    let mut tx = store.begin().await.unwrap();
    tokens::insert_workspace(&mut tx, &scope.workspace, "main", Time(1)).await.unwrap();
    let environment = environments::Environment {
        id: EnvironmentId::new([1; 16]),
        name: "main".into(),
        created_at: Time(1),
    };
    environments::insert(&mut tx, &scope, &environment).await.unwrap();
    for n in [1, 2] {
        let app = apps::App {
            id: AppId::new([n; 16]),
            workspace: scope.workspace.clone(),
            environment: environment.id.clone(),
            name: None,
            description: "test".into(),
            state: 1,
            tags: BTreeMap::new(),
            client_version: "1.6.4".into(),
            created_at: Time(1),
            heartbeat_at: Time(1),
            deployed_at: None,
            stopped_at: None,
            logs_done: false,
        };
        apps::insert(&mut tx, &app, None).await.unwrap();
    }
    tx.commit().await.unwrap();
    World { _dir: dir, store, scope }
}

fn spec() -> SandboxSpec {
    SandboxSpec {
        name: None,
        image: ImageId::new([1; 16]),
        mounts: vec![],
        secrets: vec![],
        entrypoint: vec!["sleep".into(), "1".into()],
        workdir: None,
        resources: ResourceWish::default(),
        timeout_ms: Millis(1_000),
        idle_timeout_ms: None,
        network: NetworkRule::Blocked,
        ports: vec![],
        inbound: vec!["10.0.0.0/8".parse().unwrap()],
        probe: None,
        pty: None,
    }
}

fn sandbox(n: u8, app: u8, name: Option<&str>, created_at: u64) -> Sandbox {
    Sandbox {
        id: SandboxId::new([n; 16]),
        task: TaskId::new([n; 16]),
        workspace: WorkspaceId::new([1; 16]),
        environment: EnvironmentId::new([1; 16]),
        app: AppId::new([app; 16]),
        worker: WorkerId::new([9; 16]),
        phase: Phase::Placed,
        spec: spec(),
        name: name.map(str::to_owned),
        tags: BTreeMap::new(),
        reserved: Reservation { cpu_millis: 10, memory_bytes: 100 },
        created_at: Time(created_at),
        started_at: None,
        deadline: Time(created_at + 1_000),
        ended_at: None,
        wanted_end: None,
        told_at: None,
        end: None,
        tunnels: BTreeMap::new(),
        connect_port: None,
    }
}

fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

#[tokio::test]
async fn a_name_is_free_again_once_its_sandbox_has_ended() {
    let world = world().await;
    let mut tx = world.store.begin().await.unwrap();
    let first = sandbox(1, 1, Some("box"), 10);
    sandboxes::insert(&mut tx, &first).await.unwrap();
    sandboxes::insert(&mut tx, &sandbox(2, 2, Some("box"), 10)).await.unwrap();
    let twice = sandboxes::insert(&mut tx, &sandbox(3, 1, Some("box"), 11)).await;
    assert!(twice.is_err(), "two of one name live in one app");
    assert!(sandboxes::start(&mut tx, &first.id, Time(20)).await.unwrap());
    assert!(!sandboxes::start(&mut tx, &first.id, Time(21)).await.unwrap());
    let exit = End::Exit { code: 3 };
    assert!(sandboxes::end(&mut tx, &first.id, &exit, Time(30)).await.unwrap());
    assert!(!sandboxes::end(&mut tx, &first.id, &End::Stopped, Time(31)).await.unwrap());
    assert!(!sandboxes::start(&mut tx, &first.id, Time(32)).await.unwrap(), "it lives again");
    let app = AppId::new([1; 16]);
    let mut by_name = async |ended| {
        let found = sandboxes::by_name(&mut tx, &world.scope, &app, "box", ended).await.unwrap();
        found.map(|found| (found.id, found.end, found.started_at, found.ended_at))
    };
    assert_eq!(by_name(false).await, None);
    let was = (first.id.clone(), Some(exit), Some(Time(20)), Some(Time(30)));
    assert_eq!(by_name(true).await, Some(was));
    sandboxes::insert(&mut tx, &sandbox(3, 1, Some("box"), 11)).await.unwrap();
    let now = sandboxes::by_name(&mut tx, &world.scope, &app, "box", true).await.unwrap();
    assert_eq!(now.unwrap().id, SandboxId::new([3; 16]));
}

#[tokio::test]
async fn lists_have_pages_that_neither_lose_nor_repeat() {
    let world = world().await;
    let mut tx = world.store.begin().await.unwrap();
    for n in 1..=9 {
        // Three are made in each moment.
        let mut one = sandbox(n, 1 + n % 2, None, u64::from(n / 3));
        one.tags = match n {
            4 => tags(&[("a", "1"), ("b", "2")]),
            5 => tags(&[("a", "1"), ("b", "3")]),
            _ => BTreeMap::new(),
        };
        sandboxes::insert(&mut tx, &one).await.unwrap();
    }
    let all = Filter {
        app: None,
        environment: Some(EnvironmentId::new([1; 16])),
        before: Time(100),
        ended: false,
        tags: BTreeMap::new(),
    };
    let (mut seen, mut page) = (Vec::new(), all.clone());
    loop {
        let found = sandboxes::list(&mut tx, &world.scope, &page, 2).await.unwrap();
        let Some(last) = found.last() else { break };
        page.before = last.created_at;
        seen.extend(found.into_iter().map(|one| one.id));
    }
    let times = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((times, seen.len()), (9, 9));
    let mut ids = async |filter: Filter| {
        let found = sandboxes::list(&mut tx, &world.scope, &filter, 100).await.unwrap();
        found.into_iter().map(|one| one.id).collect::<Vec<_>>()
    };
    let id = |n: u8| SandboxId::new([n; 16]);
    let tagged = |pairs: &[(&str, &str)]| Filter { tags: tags(pairs), ..all.clone() };
    assert_eq!(ids(tagged(&[("a", "1")])).await, [id(4), id(5)]);
    assert_eq!(ids(tagged(&[("a", "1"), ("b", "3")])).await, [id(5)]);
    assert_eq!(ids(tagged(&[("b", "1")])).await, []);
    let of_app = Filter { app: Some(AppId::new([2; 16])), environment: None, ..all.clone() };
    assert_eq!(ids(of_app).await.len(), 5);
    let other = Scope { workspace: WorkspaceId::new([2; 16]) };
    assert!(sandboxes::list(&mut tx, &other, &all, 100).await.unwrap().is_empty());
    let reserved = sandboxes::reserved(&mut tx).await.unwrap();
    let sum = Reservation { cpu_millis: 90, memory_bytes: 900 };
    assert_eq!(reserved, [(WorkerId::new([9; 16]), sum)]);
}

#[tokio::test]
async fn only_a_loss_gives_way_to_a_better_word() {
    let world = world().await;
    let mut tx = world.store.begin().await.unwrap();
    let one = sandbox(1, 1, None, 10);
    sandboxes::insert(&mut tx, &one).await.unwrap();
    assert!(sandboxes::want_end(&mut tx, &one.id, &End::TimedOut).await.unwrap());
    assert!(sandboxes::want_end(&mut tx, &one.id, &End::Stopped).await.unwrap());
    let ending = sandboxes::overdue(&mut tx, Time(0), Time(0)).await.unwrap();
    assert_eq!(ending[0].wanted_end, Some(End::TimedOut), "what was said first holds");
    assert!(sandboxes::end(&mut tx, &one.id, &End::Lost, Time(30)).await.unwrap());
    assert!(!sandboxes::end(&mut tx, &one.id, &End::Lost, Time(31)).await.unwrap());
    let exit = End::Exit { code: 0 };
    assert!(sandboxes::end(&mut tx, &one.id, &exit, Time(32)).await.unwrap());
    assert!(!sandboxes::end(&mut tx, &one.id, &End::Lost, Time(33)).await.unwrap());
    let kept = sandboxes::get(&mut tx, &world.scope, &one.id).await.unwrap().unwrap();
    assert_eq!((kept.end, kept.ended_at), (Some(exit), Some(Time(30))));
}

#[tokio::test]
async fn what_is_due_is_found() {
    let world = world().await;
    let mut tx = world.store.begin().await.unwrap();
    for n in 1..=3 {
        let one = sandbox(n, 1, None, u64::from(n) * 100);
        sandboxes::insert(&mut tx, &one).await.unwrap();
    }
    sandboxes::start(&mut tx, &SandboxId::new([1; 16]), Time(110)).await.unwrap();
    assert_eq!(sandboxes::next_due(&mut tx).await.unwrap(), Some(Time(1_100)));
    let mut due = async |now, placed_before| {
        let found = sandboxes::overdue(&mut tx, Time(now), Time(placed_before)).await.unwrap();
        found.into_iter().map(|one| one.id).collect::<Vec<_>>()
    };
    let id = |n: u8| SandboxId::new([n; 16]);
    assert_eq!(due(1_099, 0).await, []);
    assert_eq!(due(1_100, 0).await, [id(1)]);
    assert_eq!(due(0, 201).await, [id(2)], "one that started is not late");
}

#[tokio::test]
async fn tokens_end_with_their_sandbox_and_in_time() {
    let world = world().await;
    let mut tx = world.store.begin().await.unwrap();
    let one = sandbox(1, 1, None, 10);
    sandboxes::insert(&mut tx, &one).await.unwrap();
    connect_tokens::insert(&mut tx, &TOKEN, &one.id, 8_080, "who", Time(100)).await.unwrap();
    let opened = connect_tokens::find(&mut tx, &TOKEN, Time(99)).await.unwrap().unwrap();
    assert_eq!((opened.task, opened.port), (one.task.clone(), 8_080));
    assert_eq!(opened.user_metadata, "who");
    assert_eq!(connect_tokens::find(&mut tx, &[8; 32], Time(99)).await.unwrap(), None);
    assert_eq!(connect_tokens::find(&mut tx, &TOKEN, Time(100)).await.unwrap(), None);
    assert_eq!(connect_tokens::count(&mut tx, &one.id, Time(99)).await.unwrap(), 1);
    sandboxes::end(&mut tx, &one.id, &End::Stopped, Time(50)).await.unwrap();
    assert_eq!(connect_tokens::find(&mut tx, &TOKEN, Time(99)).await.unwrap(), None);
    assert_eq!(connect_tokens::count(&mut tx, &one.id, Time(100)).await.unwrap(), 0);
}

#[tokio::test]
async fn ended_ones_are_forgotten_and_their_output_is_found_until_then() {
    let world = world().await;
    let mut tx = world.store.begin().await.unwrap();
    let one = sandbox(1, 1, None, 10);
    sandboxes::insert(&mut tx, &one).await.unwrap();
    connect_tokens::insert(&mut tx, &TOKEN, &one.id, 1, "", Time(100)).await.unwrap();
    let entry = logs::Entry {
        seq: 0,
        app: one.app.clone(),
        function: None,
        task: one.task.clone(),
        stream: 1,
        at: Time(11),
        data: Bytes::from_static(b"hello"),
    };
    logs::append(&mut tx, &entry).await.unwrap();
    let lines = logs::of_sandbox(&mut tx, &one.task, 0, 10).await.unwrap();
    assert_eq!((lines.len(), lines[0].function.as_ref()), (1, None));
    assert!(logs::of_sandbox(&mut tx, &one.task, lines[0].seq, 10).await.unwrap().is_empty());
    assert_eq!(sandboxes::forget(&mut tx, Time(1_000)).await.unwrap(), 0, "it lives");
    sandboxes::end(&mut tx, &one.id, &End::Stopped, Time(50)).await.unwrap();
    assert_eq!(sandboxes::forget(&mut tx, Time(50)).await.unwrap(), 0, "it is not old");
    assert_eq!(sandboxes::forget(&mut tx, Time(51)).await.unwrap(), 1);
    assert!(sandboxes::get(&mut tx, &world.scope, &one.id).await.unwrap().is_none());
}
