//! A worker comes back, after a restart of the server or of its own.

use model::link::End;
use model::{Millis, TaskId};
use wire::client as pb;
use wire::client::generic_result::GenericStatus as Status;
use wire::rpc::client as names;

use crate::bench::{Bench, ended, line};
use crate::world::call;

#[tokio::test]
async fn what_lives_is_kept_what_is_missing_is_lost_and_strays_are_ended() {
    let mut bench = Bench::new().await;
    let (kept, first) = bench.create_plain().await;
    let (lost, second) = bench.create_plain().await;
    let stray = TaskId::new([77; 16]);
    bench.join(8, &[first.task.clone(), stray.clone()]).await;
    bench.next_stop(&stray).await;
    bench.no_order();
    assert_eq!(bench.ended(&kept).await, None);
    assert_eq!(bench.ended(&lost).await, Some((Status::InternalFailure, 1)));
    // The worker learns later how it ended, and says so.
    bench.report(ended(&second.task, End::Exit { code: 5 })).await;
    assert_eq!(bench.ended(&lost).await, Some((Status::Failure, 5)));
    bench.report(ended(&first.task, End::Exit { code: 0 })).await;
    assert_eq!(bench.ended(&kept).await, Some((Status::Success, 0)));
}

#[tokio::test]
async fn one_whose_start_was_not_heard_of_has_started() {
    let mut bench = Bench::new().await;
    let (api, request) = (bench.api(), bench.request());
    let asked =
        tokio::spawn(async move { call::<names::SandboxCreateV2>(&api, None, request).await });
    let start = bench.next_start().await;
    bench.join(8, std::slice::from_ref(&start.task)).await;
    asked.await.unwrap().unwrap();
    assert_eq!(bench.ended(start.sandbox.as_str()).await, None);
}

#[tokio::test]
async fn one_that_was_to_end_is_told_so() {
    let mut bench = Bench::new().await;
    let (id, start) = bench.create_plain().await;
    let asked = tokio::time::timeout(std::time::Duration::from_millis(200), bench.terminate(&id));
    assert!(asked.await.is_err(), "it is not gone");
    bench.next_stop(&start.task).await;
    bench.join(8, std::slice::from_ref(&start.task)).await;
    bench.next_stop(&start.task).await;
    // A worker that does not know it any more: it is gone, as was wanted.
    bench.join(8, &[]).await;
    assert_eq!(bench.ended(&id).await, Some((Status::Terminated, 137)));
}

#[tokio::test]
async fn lost_after_its_time_is_a_timeout() {
    let mut bench = Bench::new().await;
    let request = bench.request_with(|sandbox| sandbox.timeout_secs = 1);
    let (id, start) = bench.create(request).await;
    bench.leave();
    let plane = &bench.world.plane;
    let left = (start.deadline + Millis(50)).since(plane.now());
    tokio::time::sleep(left.duration()).await;
    bench.join(8, &[]).await;
    assert_eq!(bench.ended(&id).await, Some((Status::Timeout, 124)));
}

#[tokio::test]
async fn everything_is_found_again_after_a_restart() {
    let mut bench = Bench::new().await;
    let request = bench.request_with(|sandbox| sandbox.name = Some("kept".into()));
    let (id, start) = bench.create(request).await;
    bench.report(line(&start.task, "before\n")).await;
    let after = Bench { world: bench.world.restarted().await, ..bench };
    let mut after = after;
    after.join(8, std::slice::from_ref(&start.task)).await;
    after.no_order();
    let request = pb::SandboxGetFromNameRequest {
        sandbox_name: "kept".into(),
        app_name: "box".into(),
        ..Default::default()
    };
    let found = call::<names::SandboxGetFromNameV2>(&after.api(), None, request).await.unwrap();
    assert_eq!(found.sandbox_id, id);
    after.report(line(&start.task, "after\n")).await;
    let request = pb::AppFetchLogsRequest {
        app_id: after.app.clone(),
        sandbox_id: id.clone(),
        ..Default::default()
    };
    let lines = call::<names::AppFetchLogs>(&after.api(), None, request).await.unwrap();
    let texts: Vec<_> =
        lines.batches.into_iter().flat_map(|batch| batch.items).map(|item| item.data).collect();
    assert_eq!(texts, ["before\n", "after\n"]);
    after.report(ended(&start.task, End::Exit { code: 0 })).await;
    assert_eq!(after.ended(&id).await, Some((Status::Success, 0)));
}
