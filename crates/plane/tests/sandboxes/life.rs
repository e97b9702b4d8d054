//! From their making to their end.

use std::collections::BTreeMap;

use model::Millis;
use model::link::{End, Report};
use store::{sandboxes, tasks};
use tonic::Code;
use wire::client as pb;
use wire::client::generic_result::GenericStatus as Status;
use wire::rpc::client as names;

use crate::bench::{Bench, ended, line, starts};
use crate::world::{call, refused};

#[tokio::test]
async fn it_is_answered_once_its_container_is_there() {
    let mut bench = Bench::new().await;
    let mut request = bench.request();
    let pairs = [("A", "1"), ("B", "2")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let env = pb::StringMap { contents: BTreeMap::from(pairs) };
    let source = pb::secret_source::Source::Env(env);
    request.secret_sources.push(pb::SecretSource { source: Some(source) });
    let before = bench.world.plane.now();
    let (answer, start) =
        bench.create_answered(Some("key"), request.clone(), starts).await.unwrap();
    assert_eq!((answer.sandbox_id.len(), answer.sandbox_id.ends_with('V')), (3 + 23, true));
    assert_eq!((answer.task_id.len(), answer.task_id.ends_with('V')), (3 + 23, true));
    assert_eq!(
        (start.sandbox.as_str(), start.task.as_str()),
        (&*answer.sandbox_id, &*answer.task_id)
    );
    assert!(start.deadline.since(before) >= Millis(300_000));
    let has = |name: &str, value: &str| start.env.contains(&(name.into(), value.into()));
    assert!(has("A", "1") && has("B", "2") && has("MODAL_SANDBOX_ID", &answer.sandbox_id));
    let access = answer.command_router_access.unwrap();
    let key = model::router_token::Key::new([5; 64]);
    let now = bench.world.plane.now();
    assert_eq!(model::router_token::verify(&key, &access.jwt, now), Ok(start.task.clone()));
    assert!(model::router_token::verify(&key, &access.jwt, now + Millis(3_602_000)).is_err());
    // The same call again is the same sandbox, and nothing is started.
    let api = bench.api();
    let again = call::<names::SandboxCreateV2>(&api, Some("key"), request).await.unwrap();
    assert_eq!((&again.sandbox_id, &again.task_id), (&answer.sandbox_id, &answer.task_id));
    bench.no_order();
    // What came with the definition is nowhere in the store.
    let mut db = bench.world.plane.store.read().await.unwrap();
    let row = sandboxes::by_task_any(&mut db, &start.task).await.unwrap().unwrap();
    let kept = format!("{:?}", row.spec.secrets);
    assert!(kept.contains("\"A\"") && !kept.contains("\"1\""), "{kept}");
}

#[tokio::test]
async fn older_clients_get_ids_that_they_know() {
    let mut bench = Bench::new().await;
    let V2 { app_id, definition } = bench.request().into();
    let request = pb::SandboxCreateRequest { app_id, definition, ..Default::default() };
    let api = bench.api();
    let asked =
        tokio::spawn(async move { call::<names::SandboxCreate>(&api, None, request).await });
    let start = bench.next_start().await;
    bench.report(Report::Started { task: start.task.clone() }).await;
    let id = asked.await.unwrap().unwrap().sandbox_id;
    assert_eq!(id.len(), 3 + 22);
    let request = pb::SandboxGetTaskIdRequest { sandbox_id: id.clone(), ..Default::default() };
    let task = call::<names::SandboxGetTaskId>(&bench.api(), None, request).await.unwrap();
    assert_eq!(task.task_id.as_deref(), Some(start.task.as_str()));
    // What it prints, from the store: to the end, once it has ended.
    bench.report(line(&start.task, "hello\n")).await;
    bench.report(ended(&start.task, End::Exit { code: 0 })).await;
    let mut text = String::new();
    let request = pb::SandboxGetLogsRequest { sandbox_id: id, timeout: 5.0, ..Default::default() };
    let metadata = crate::world::metadata(None);
    let stream = wire::rpc::stream::<names::SandboxGetLogs>(bench.api(), metadata, request).await;
    let mut stream = stream.unwrap().into_inner();
    let mut eof = false;
    while let Some(batch) = stream.message().await.unwrap() {
        text.extend(batch.items.into_iter().map(|item| item.data));
        eof |= batch.eof;
    }
    assert_eq!((text.as_str(), eof), ("hello\n", true));
}

struct V2 {
    app_id: String,
    definition: Option<pb::Sandbox>,
}

impl From<pb::SandboxCreateV2Request> for V2 {
    fn from(request: pb::SandboxCreateV2Request) -> Self {
        Self { app_id: request.app_id, definition: request.definition }
    }
}

#[tokio::test]
async fn ends_have_the_codes_that_clients_expect() {
    let mut bench = Bench::new().await;
    for (end, want) in [
        (End::Exit { code: 0 }, (Status::Success, 0)),
        (End::Exit { code: 7 }, (Status::Failure, 7)),
        (End::Signal { signal: 11 }, (Status::Failure, 139)),
        (End::OutOfMemory { limit_bytes: 1 << 20 }, (Status::KernelOomKill, 137)),
        (End::Stopped, (Status::Terminated, 137)),
        (End::TimedOut, (Status::Timeout, 124)),
        (End::Idle, (Status::IdleTimeout, 124)),
        (End::Lost, (Status::InternalFailure, 1)),
    ] {
        let (id, start) = bench.create_plain().await;
        assert_eq!(bench.ended(&id).await, None);
        bench.report(ended(&start.task, end.clone())).await;
        assert_eq!(bench.ended(&id).await, Some(want), "{end:?}");
    }
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let mut bench = Bench::new().await;
    let request = bench.request();
    let answer = bench
        .create_answered(None, request, |start| {
            let reason = "there is no program `sleep` in the image".into();
            vec![ended(&start.task, End::NotStarted { reason })]
        })
        .await;
    refused(answer, Code::FailedPrecondition, "no program `sleep`");
    // One that ends at once has started all the same.
    let request = bench.request();
    let answer = bench
        .create_answered(None, request, |start| vec![ended(&start.task, End::Exit { code: 3 })])
        .await;
    let id = answer.unwrap().0.sandbox_id;
    assert_eq!(bench.ended(&id).await, Some((Status::Failure, 3)));
    // A worker that takes no orders.
    let (order, orders) = tokio::sync::mpsc::channel(1);
    drop(orders);
    let capacity = model::resources::Capacity {
        cpu_millis: 4_000,
        memory_bytes: 4 << 30,
        disk_bytes: 1 << 40,
    };
    bench.world.plane.fleet.join(bench.worker.clone(), capacity, order);
    bench.world.plane.fleet.admit(&bench.worker);
    let answer = call::<names::SandboxCreateV2>(&bench.api(), None, bench.request()).await;
    refused(answer, Code::ResourceExhausted, "try again");
}

#[tokio::test]
async fn an_image_must_be_ready_and_known() {
    let bench = Bench::new().await;
    let unknown = bench.request_with(|sandbox| sandbox.image_id = "im-unknown".into());
    let answer = call::<names::SandboxCreateV2>(&bench.api(), None, unknown).await;
    refused(answer, Code::NotFound, "image `im-unknown` not found");
    let mut elsewhere = bench.request();
    elsewhere.app_id = "ap-unknown".into();
    let answer = call::<names::SandboxCreateV2>(&bench.api(), None, elsewhere).await;
    refused(answer, Code::NotFound, "app `ap-unknown` not found");
    let theirs = bench.world.api_of_another();
    let answer = call::<names::SandboxCreateV2>(&theirs, None, bench.request()).await;
    refused(answer, Code::NotFound, "not found");
}

#[tokio::test]
async fn names_are_unique_among_the_running() {
    let mut bench = Bench::new().await;
    let named = |bench: &Bench| bench.request_with(|sandbox| sandbox.name = Some("one".into()));
    let request = named(&bench);
    let (id, start) = bench.create(request).await;
    let answer = call::<names::SandboxCreateV2>(&bench.api(), None, named(&bench)).await;
    refused(answer, Code::AlreadyExists, &id);
    let from_name = |include_terminated| pb::SandboxGetFromNameRequest {
        sandbox_name: "one".into(),
        app_name: "box".into(),
        include_terminated,
        ..Default::default()
    };
    let api = bench.api();
    let find =
        async |ended| call::<names::SandboxGetFromNameV2>(&api, None, from_name(ended)).await;
    assert_eq!(find(false).await.unwrap().sandbox_id, id);
    bench.report(ended(&start.task, End::Exit { code: 0 })).await;
    refused(find(false).await, Code::NotFound, "`one`");
    assert_eq!(find(true).await.unwrap().sandbox_id, id);
    let request = named(&bench);
    let (next, _) = bench.create(request).await;
    assert_eq!(find(true).await.unwrap().sandbox_id, next);
    // A name that comes later.
    let (late, _) = bench.create_plain().await;
    let name = |id: &str, name: &str| pb::SandboxSetNameRequest {
        sandbox_id: id.into(),
        name: name.into(),
    };
    let set =
        async |id: &str, to: &str| call::<names::SandboxSetName>(&api, None, name(id, to)).await;
    refused(set(&late, "one").await, Code::AlreadyExists, "`one`");
    set(&late, "two").await.unwrap();
    set(&late, "two").await.unwrap();
    refused(set(&late, "three").await, Code::FailedPrecondition, "`two` already");
    refused(set(&id, "four").await, Code::FailedPrecondition, "has ended");
    refused(set(&late, "a b").await, Code::InvalidArgument, "name");
}

#[tokio::test]
async fn labels_and_pages() {
    let mut bench = Bench::new().await;
    let tag =
        |name: &str, value: &str| pb::SandboxTag { tag_name: name.into(), tag_value: value.into() };
    let mut ids = Vec::new();
    for n in 0..5 {
        let mut request = bench.request();
        request.tags = vec![tag("n", &n.to_string()), tag("all", "yes")];
        let (id, start) = bench.create(request).await;
        if n == 4 {
            bench.report(ended(&start.task, End::Exit { code: 0 })).await;
        }
        ids.push(id);
    }
    let of_app = pb::SandboxListRequest { app_id: bench.app.clone(), ..Default::default() };
    let mut running = bench.listed(of_app.clone()).await;
    running.sort();
    let mut want = ids[..4].to_vec();
    want.sort();
    assert_eq!(running, want);
    let all = pb::SandboxListRequest { include_finished: true, ..of_app.clone() };
    assert_eq!(bench.listed(all).await.len(), 5);
    let tagged = |tags| pb::SandboxListRequest { tags, ..of_app.clone() };
    assert_eq!(bench.listed(tagged(vec![tag("n", "2")])).await, [ids[2].clone()]);
    assert!(bench.listed(tagged(vec![tag("n", "2"), tag("all", "no")])).await.is_empty());
    // The environment that is meant where none is named.
    assert_eq!(bench.listed(pb::SandboxListRequest::default()).await.len(), 4);
    let set = pb::SandboxTagsSetRequest {
        sandbox_id: ids[0].clone(),
        tags: vec![tag("new", "tag")],
        ..Default::default()
    };
    call::<names::SandboxTagsSetV2>(&bench.api(), None, set).await.unwrap();
    let get = pb::SandboxTagsGetRequest { sandbox_id: ids[0].clone() };
    let tags = call::<names::SandboxTagsGetV2>(&bench.api(), None, get).await.unwrap().tags;
    assert_eq!(tags, [tag("new", "tag")]);
    let long = pb::SandboxTagsSetRequest {
        sandbox_id: ids[0].clone(),
        tags: vec![tag("x", &"y".repeat(64))],
        ..Default::default()
    };
    let answer = call::<names::SandboxTagsSetV2>(&bench.api(), None, long).await;
    refused(answer, Code::InvalidArgument, "tags");
}

#[tokio::test]
async fn what_sandboxes_reserve_counts() {
    let mut bench = Bench::new().await;
    let large = |bench: &Bench| {
        bench.request_with(|sandbox| {
            let resources = pb::Resources { memory_mb: 3_000, ..Default::default() };
            sandbox.resources = Some(resources);
        })
    };
    let request = large(&bench);
    let (_, start) = bench.create(request).await;
    let (api, request) = (bench.api(), large(&bench));
    let waits =
        tokio::spawn(async move { call::<names::SandboxCreateV2>(&api, None, request).await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    bench.no_order();
    bench.report(ended(&start.task, End::Exit { code: 0 })).await;
    let next = bench.next_start().await;
    bench.report(Report::Started { task: next.task }).await;
    waits.await.unwrap().unwrap();
    let mut db = bench.world.plane.store.read().await.unwrap();
    assert!(tasks::alive(&mut db).await.unwrap().is_empty());
}
