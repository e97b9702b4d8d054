//! Sandboxes end: told to, in time, with their app, and in whatever state they are.

use model::link::End;
use model::{Millis, SandboxId, Time};
use plane::reconcile;
use sqlx::query;
use tonic::Code;
use wire::client as pb;
use wire::client::generic_result::GenericStatus as Status;
use wire::rpc::client as names;

use crate::bench::{AT_ONCE, Bench, ended, starts};
use crate::world::{call, refused};

/// Moves a sandbox's moments back, as if so much time had passed.
async fn age(bench: &Bench, id: &str, by: Millis) {
    let mut tx = bench.world.plane.store.begin().await.unwrap();
    let sql = "UPDATE sandboxes SET created_at = created_at - $2, deadline = deadline - $2, \
               told_at = told_at - $2 WHERE id = $1";
    query(sql).bind(id).bind(by.0 as i64).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

async fn sweep(bench: &Bench) {
    reconcile::sweep(&bench.world.plane).await.unwrap();
}

#[tokio::test]
async fn terminate_answers_once_it_is_gone() {
    let mut bench = Bench::new().await;
    let (id, start) = bench.create_plain().await;
    let (api, wanted) = (bench.api(), pb::SandboxTerminateRequest { sandbox_id: id.clone() });
    let asked =
        tokio::spawn(async move { call::<names::SandboxTerminateV2>(&api, None, wanted).await });
    bench.next_stop(&start.task).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(!asked.is_finished(), "it lives");
    bench.report(ended(&start.task, End::Stopped)).await;
    let answer = tokio::time::timeout(AT_ONCE, asked).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.existing_result, None);
    assert_eq!(bench.ended(&id).await, Some((Status::Terminated, 137)));
    // Again: nothing is ordered, and how it had ended is told.
    let request = pb::SandboxTerminateRequest { sandbox_id: id.clone() };
    let again = call::<names::SandboxTerminateV2>(&bench.api(), None, request).await.unwrap();
    assert_eq!(again.existing_result.unwrap().status(), Status::Terminated);
    bench.no_order();
    assert_eq!(*bench.reach.closed.lock().unwrap(), [start.task]);
}

#[tokio::test]
async fn terminate_works_while_it_starts() {
    let mut bench = Bench::new().await;
    let (api, request) = (bench.api(), bench.request());
    let asked =
        tokio::spawn(async move { call::<names::SandboxCreateV2>(&api, None, request).await });
    let start = bench.next_start().await;
    let api = bench.api();
    let wanted = pb::SandboxTerminateRequest { sandbox_id: start.sandbox.to_string() };
    let told =
        tokio::spawn(async move { call::<names::SandboxTerminateV2>(&api, None, wanted).await });
    bench.next_stop(&start.task).await;
    bench.report(ended(&start.task, End::Stopped)).await;
    tokio::time::timeout(AT_ONCE, told).await.unwrap().unwrap().unwrap();
    let id = tokio::time::timeout(AT_ONCE, asked).await.unwrap().unwrap().unwrap().sandbox_id;
    assert_eq!(bench.ended(&id).await, Some((Status::Terminated, 137)));
}

#[tokio::test]
async fn terminate_works_without_its_worker_which_is_told_when_it_comes_back() {
    let mut bench = Bench::new().await;
    let (id, start) = bench.create_plain().await;
    bench.leave();
    bench.terminate(&id).await.unwrap();
    assert_eq!(bench.ended(&id).await, Some((Status::Terminated, 137)));
    bench.join(8, std::slice::from_ref(&start.task)).await;
    bench.next_stop(&start.task).await;
    // A late word of its start changes nothing, but it is told again.
    bench.report(model::link::Report::Started { task: start.task.clone() }).await;
    bench.next_stop(&start.task).await;
    assert_eq!(bench.ended(&id).await, Some((Status::Terminated, 137)));
}

#[tokio::test]
async fn a_worker_that_does_not_listen_is_told_again() {
    let mut bench = Bench::new().await;
    let (id, start) = bench.create_plain().await;
    // As a client that does not wait: the call is given up.
    let asked = tokio::time::timeout(std::time::Duration::from_millis(200), bench.terminate(&id));
    assert!(asked.await.is_err(), "it is not gone");
    bench.next_stop(&start.task).await;
    sweep(&bench).await;
    bench.no_order();
    age(&bench, &id, Millis(31_000)).await;
    sweep(&bench).await;
    bench.next_stop(&start.task).await;
    bench.report(ended(&start.task, End::Stopped)).await;
    assert_eq!(bench.ended(&id).await, Some((Status::Terminated, 137)));
}

#[tokio::test]
async fn its_time_is_over() {
    let mut bench = Bench::new().await;
    let (id, start) = bench.create_plain().await;
    age(&bench, &id, Millis(299_000)).await;
    sweep(&bench).await;
    bench.no_order();
    age(&bench, &id, Millis(5_000)).await;
    let next = reconcile::deadlines(&bench.world.plane, Time(0)).await.unwrap();
    assert_eq!(next, None, "nothing else is due");
    bench.next_stop(&start.task).await;
    // The worker says only that it was stopped; that it was for its time is known here.
    bench.report(ended(&start.task, End::Stopped)).await;
    assert_eq!(bench.ended(&id).await, Some((Status::Timeout, 124)));
}

#[tokio::test]
async fn its_time_is_over_without_its_worker() {
    let mut bench = Bench::new().await;
    let (id, start) = bench.create_plain().await;
    bench.leave();
    sweep(&bench).await;
    assert_eq!(bench.ended(&id).await, None, "its supervisor may keep it alive");
    age(&bench, &id, Millis(304_000)).await;
    sweep(&bench).await;
    assert_eq!(bench.ended(&id).await, Some((Status::Timeout, 124)));
    bench.join(8, std::slice::from_ref(&start.task)).await;
    bench.next_stop(&start.task).await;
}

#[tokio::test]
async fn one_that_never_starts_is_given_up() {
    let mut bench = Bench::new().await;
    let (api, request) = (bench.api(), bench.request());
    let asked =
        tokio::spawn(async move { call::<names::SandboxCreateV2>(&api, None, request).await });
    let start = bench.next_start().await;
    sweep(&bench).await;
    bench.no_order();
    age(&bench, start.sandbox.as_str(), Millis(121_000)).await;
    sweep(&bench).await;
    let answer = tokio::time::timeout(AT_ONCE, asked).await.unwrap().unwrap();
    refused(answer, Code::FailedPrecondition, "was not there within 120 s");
    bench.next_stop(&start.task).await;
    let id = start.sandbox.to_string();
    assert_eq!(bench.ended(&id).await, Some((Status::InitFailure, 1)));
}

#[tokio::test]
async fn an_app_takes_its_sandboxes_along() {
    let mut bench = Bench::new().await;
    let (id, start) = bench.create_plain().await;
    let list = pb::AppListRequest::default();
    let apps = call::<names::AppList>(&bench.api(), None, list).await.unwrap().apps;
    assert_eq!(apps[0].n_running_tasks, 1);
    let stop = pb::AppStopRequest { app_id: bench.app.clone(), ..Default::default() };
    call::<names::AppStop>(&bench.api(), None, stop).await.unwrap();
    bench.next_stop(&start.task).await;
    let done = |bench: &Bench| {
        let plane = bench.world.plane.clone();
        let (scope, app) = (bench.world.scope.clone(), start.app.clone());
        async move {
            let mut db = plane.store.read().await.unwrap();
            store::apps::get(&mut db, &scope, &app).await.unwrap().unwrap().logs_done
        }
    };
    assert!(!done(&bench).await, "a sandbox may print yet");
    bench.report(ended(&start.task, End::Stopped)).await;
    assert_eq!(bench.ended(&id).await, Some((Status::Terminated, 137)));
    assert!(done(&bench).await);
    let answer = call::<names::SandboxCreateV2>(&bench.api(), None, bench.request()).await;
    refused(answer, Code::FailedPrecondition, "has ended");
}

#[tokio::test]
async fn old_ones_are_forgotten() {
    let mut bench = Bench::new().await;
    let request = bench.request();
    let (answer, start) = bench.create_answered(None, request, starts).await.unwrap();
    bench.report(ended(&start.task, End::Exit { code: 0 })).await;
    let mut tx = bench.world.plane.store.begin().await.unwrap();
    let later = bench.world.plane.now() + Millis(1);
    store::retention::forget_output(&mut tx, later).await.unwrap();
    tx.commit().await.unwrap();
    let request = pb::SandboxWaitRequest { sandbox_id: answer.sandbox_id, timeout: 0.0 };
    let asked = call::<names::SandboxWaitV2>(&bench.api(), None, request).await;
    refused(asked, Code::NotFound, "not found");
    let unknown = SandboxId::new([0; 16]).to_string();
    let asked = bench.terminate(&unknown).await;
    refused(asked, Code::NotFound, &unknown);
}
