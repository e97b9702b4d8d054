//! Containers come and go: what is to end ends, whatever runs in it and whatever gets lost.

use std::time::Duration;

use bytes::Bytes;
use model::link::{End, Order, Report};
use model::output::{Outcome, Status};
use model::resources::ResourceWish;
use model::retry::RetryPolicy;
use model::spec::FunctionSpec;
use model::{ImageId, Millis, TaskId};
use plane::work::Work;
use plane::{reconcile, reports, scheduler};
use store::Hint;
use store::tasks::{self, Phase};

use crate::bench::{Bench, spec, success};

/// Containers that were told to end, in order.
fn stopped(bench: &mut Bench) -> Vec<TaskId> {
    let mut stopped = Vec::new();
    while let Ok(order) = bench.orders.try_recv() {
        if let Order::Stop { task, .. } = order {
            stopped.push(task);
        }
    }
    stopped
}

async fn look(bench: &Bench) {
    reconcile::deadlines(&bench.plane, bench.plane.now()).await.unwrap();
}

/// A heartbeat, so that a container does not pass for a silent one.
async fn beat(bench: &Bench, task: &TaskId) {
    let mut tx = bench.plane.store.begin().await.unwrap();
    tasks::beat(&mut tx, task, bench.plane.now()).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_container_that_does_not_leave_after_its_only_input_is_ended() {
    let mut bench = Bench::new(FunctionSpec { single_use: true, ..spec() }).await;
    bench.put(0..1).await;
    let task = bench.container(true).await;
    let input = bench.claim(&task, 1).await.remove(0).id;
    reconcile::sweep(&bench.plane).await.unwrap();
    bench.pass(5_000);
    beat(&bench, &task).await;
    look(&bench).await;
    assert_eq!(stopped(&mut bench), [], "it still works on its input");
    bench.plane.answer(&task, vec![(input, 0, success("done"))]).await.unwrap();
    let work = bench.plane.work(&task, &bench.function, bench.plane.now()).await.unwrap();
    assert_eq!(work, Work::GoHome);
    reconcile::sweep(&bench.plane).await.unwrap();
    look(&bench).await;
    assert_eq!(stopped(&mut bench), [], "it has a moment to leave");
    bench.pass(11_000);
    beat(&bench, &task).await;
    look(&bench).await;
    assert_eq!(stopped(&mut bench), std::slice::from_ref(&task));
    // It lives on, and beats: it is told again, but not without a pause.
    for _ in 0..20 {
        bench.pass(1_000);
        beat(&bench, &task).await;
        look(&bench).await;
    }
    assert_eq!(stopped(&mut bench), []);
    for _ in 0..15 {
        bench.pass(1_000);
        beat(&bench, &task).await;
        look(&bench).await;
    }
    assert_eq!(stopped(&mut bench), std::slice::from_ref(&task));
    reports::ended(&bench.plane, &task, End::Stopped).await.unwrap();
    assert_eq!(bench.plane.ends.next(), None);
}

#[tokio::test]
async fn a_container_that_keeps_a_cancelled_input_is_ended_once() {
    let mut bench = Bench::new(spec()).await;
    bench.put(0..1).await;
    let task = bench.container(false).await;
    bench.claim(&task, 1).await;
    bench.plane.cancel_call(&bench.call, false).await.unwrap();
    assert_eq!(bench.plane.cancels.untold(&task).len(), 1);
    assert_eq!(bench.plane.cancels.untold(&task).len(), 0, "it is told once");
    look(&bench).await;
    assert_eq!(stopped(&mut bench), []);
    bench.pass(5_001);
    for _ in 0..10 {
        look(&bench).await;
    }
    assert_eq!(stopped(&mut bench), std::slice::from_ref(&task));
}

#[tokio::test]
async fn a_container_that_gives_up_a_cancelled_input_lives_on() {
    let mut bench = Bench::new(spec()).await;
    bench.put(0..1).await;
    let task = bench.container(false).await;
    let input = bench.claim(&task, 1).await.remove(0).id;
    bench.plane.cancel_call(&bench.call, false).await.unwrap();
    let outcome = Outcome::without_data(Status::Terminated, "given up");
    bench.plane.answer(&task, vec![(input, 0, outcome)]).await.unwrap();
    bench.pass(6_000);
    look(&bench).await;
    assert_eq!(stopped(&mut bench), []);
}

/// An order that the worker did not take is given again soon.
#[tokio::test]
async fn an_end_that_could_not_be_ordered_is_ordered_again() {
    let mut bench = Bench::new(spec()).await;
    bench.put(0..1).await;
    let task = bench.container(false).await;
    bench.claim(&task, 1).await;
    bench.plane.fleet.leave(&bench.worker);
    bench.pass(10_001);
    look(&bench).await;
    let (sender, orders) = tokio::sync::mpsc::channel(8);
    bench.orders = orders;
    let capacity = model::resources::Capacity {
        cpu_millis: 1_000,
        memory_bytes: 1 << 30,
        disk_bytes: 1 << 40,
    };
    bench.plane.fleet.join(bench.worker.clone(), capacity, sender);
    bench.pass(1_001);
    look(&bench).await;
    assert_eq!(stopped(&mut bench), [task]);
}

#[tokio::test]
async fn a_worker_gets_nothing_before_what_it_runs_is_known() {
    let mut bench = Bench::new(spec()).await;
    bench.put(0..1).await;
    let (sender, orders) = tokio::sync::mpsc::channel(8);
    bench.orders = orders;
    let capacity = model::resources::Capacity {
        cpu_millis: 4_000,
        memory_bytes: 4 << 30,
        disk_bytes: 1 << 40,
    };
    bench.plane.fleet.join(bench.worker.clone(), capacity, sender);
    scheduler::tick(&bench.plane).await.unwrap();
    assert!(bench.orders.try_recv().is_err());
    let joined = Report::Joined { worker: bench.worker.clone(), capacity, running: Vec::new() };
    reports::take(&bench.plane, &[joined]).await;
    scheduler::tick(&bench.plane).await.unwrap();
    assert!(matches!(bench.orders.try_recv(), Ok(Order::Start(_))));
}

/// What a worker still runs, although the plane has given it up, is ended.
#[tokio::test]
async fn a_worker_that_comes_back_ends_what_was_given_up() {
    let mut bench = Bench::new(spec()).await;
    bench.put(0..2).await;
    let (known, lost) = (bench.container(false).await, bench.container(false).await);
    bench.claim(&known, 1).await;
    bench.claim(&lost, 1).await;
    bench.plane.fleet.leave(&bench.worker);
    reports::ended(&bench.plane, &lost, End::Lost).await.unwrap();
    let (sender, orders) = tokio::sync::mpsc::channel(8);
    bench.orders = orders;
    let capacity = model::resources::Capacity {
        cpu_millis: 4_000,
        memory_bytes: 4 << 30,
        disk_bytes: 1 << 40,
    };
    bench.plane.fleet.join(bench.worker.clone(), capacity, sender);
    let stranger = TaskId::new([7; 16]);
    let running = vec![known.clone(), lost.clone(), stranger.clone()];
    let joined = Report::Joined { worker: bench.worker.clone(), capacity, running };
    reports::take(&bench.plane, &[joined]).await;
    assert_eq!(stopped(&mut bench), [lost, stranger]);
    assert_eq!(bench.task(&known).await.phase, Phase::Ready);
}

#[tokio::test]
async fn containers_of_a_worker_that_stays_away_are_lost() {
    let bench = Bench::new(spec()).await;
    bench.put(0..1).await;
    let task = bench.container(false).await;
    bench.claim(&task, 1).await;
    bench.plane.fleet.leave(&bench.worker);
    reconcile::sweep(&bench.plane).await.unwrap();
    assert_eq!(bench.task(&task).await.phase, Phase::Ready);
    bench.pass(91_000);
    reconcile::sweep(&bench.plane).await.unwrap();
    assert_eq!(bench.task(&task).await.end, Some(End::Lost));
    bench.check(1).await;
}

/// A report that cannot be written does not take others with it.
#[tokio::test]
async fn one_bad_report_does_not_lose_the_others() {
    let bench = Bench::new(spec()).await;
    bench.put(0..1).await;
    let task = bench.container(false).await;
    bench.claim(&task, 1).await;
    let nowhere = ImageId::new([9; 16]);
    let bad = Report::BuildLog { image: nowhere, data: Bytes::from_static(b"to no image") };
    let end = Report::Ended { task: task.clone(), end: End::Lost };
    reports::take(&bench.plane, &[bad, end]).await;
    assert_eq!(bench.task(&task).await.phase, Phase::Ended);
    assert_eq!(bench.inputs().await.0.len(), 1);
}

/// When a retry's delay is over, whoever waits for inputs is woken.
#[tokio::test]
async fn the_end_of_a_delay_wakes_the_sleepers() {
    let retry = RetryPolicy { retries: 1, initial_delay_ms: Millis(700), ..spec().retry };
    let bench = Bench::new(FunctionSpec { retry, ..spec() }).await;
    bench.put(0..1).await;
    let task = bench.container(false).await;
    let input = bench.claim(&task, 1).await.remove(0).id;
    let failed = Outcome::without_data(Status::Failure, "it failed");
    bench.plane.answer(&task, vec![(input, 0, failed)]).await.unwrap();
    let before = bench.plane.now();
    let next = reconcile::deadlines(&bench.plane, before).await.unwrap();
    assert_eq!(next, Some(before + Millis(700)));
    assert_eq!(bench.claim(&task, 1).await.len(), 0, "its delay is not over");
    bench.pass(700);
    let hints = bench.plane.store.hints();
    let mut inputs = hints.listen(Hint::Inputs(bench.function.clone()));
    let mut schedule = hints.listen(Hint::Schedule);
    reconcile::deadlines(&bench.plane, before).await.unwrap();
    let long = Duration::from_secs(60);
    let both = async {
        inputs.wait(long).await;
        schedule.wait(long).await;
    };
    tokio::time::timeout(Duration::from_secs(5), both).await.expect("nobody was woken");
    assert_eq!(bench.claim(&task, 1).await.len(), 1);
}

/// A function that was defined anew while a container of it was about to be made.
#[tokio::test]
async fn no_container_starts_by_an_outdated_definition() {
    let mut bench = Bench::new(spec()).await;
    bench.put(0..1).await;
    // The plane looks at the function: it is at hand.
    let outdated = {
        let mut db = bench.plane.store.read().await.unwrap();
        bench.plane.functions.get(&mut db, &bench.function).await.unwrap().unwrap()
    };
    assert!(!outdated.spec.as_ref().unwrap().block_network);
    // Its definition changes in the store alone, as it is for a moment before it is forgotten.
    let changed = FunctionSpec { block_network: true, ..spec() };
    let mut tx = bench.plane.store.begin().await.unwrap();
    let mut function = (*outdated).clone();
    function.spec = Some(changed);
    store::functions::put(&mut tx, &function).await.unwrap();
    tx.commit().await.unwrap();
    scheduler::tick(&bench.plane).await.unwrap();
    assert!(bench.orders.try_recv().is_err(), "a container starts with the old walls");
    bench.plane.functions.forget(&bench.function);
    scheduler::tick(&bench.plane).await.unwrap();
    let Ok(Order::Start(spec)) = bench.orders.try_recv() else { panic!("nothing starts") };
    assert_eq!(spec.network, model::spec::Network::Blocked);
}

/// Starts that a worker does not take are not the function's fault.
#[tokio::test]
async fn a_worker_that_takes_no_orders_fails_nobody() {
    let mut bench = Bench::new(spec()).await;
    bench.put(0..1).await;
    bench.orders.close();
    for _ in 0..5 {
        scheduler::tick(&bench.plane).await.unwrap();
    }
    bench.check(1).await;
    assert_eq!(bench.inputs().await.0.len(), 1, "the input failed");
}

#[tokio::test]
async fn starts_that_fail_fail_the_inputs_after_a_few() {
    let mut bench = Bench::new(spec()).await;
    bench.put(0..2).await;
    let mut starts = 0;
    for _ in 0..10 {
        scheduler::tick(&bench.plane).await.unwrap();
        while let Ok(order) = bench.orders.try_recv() {
            let Order::Start(spec) = order else { continue };
            starts += 1;
            let end = End::NotStarted { reason: "no such file".into() };
            reports::ended(&bench.plane, &spec.task, end).await.unwrap();
        }
    }
    let (open, done) = bench.inputs().await;
    assert!(open.is_empty());
    assert!(done.iter().all(|done| done.outcome.status == Status::InitFailure));
    assert!(done[0].outcome.exception.contains("no such file"), "{:?}", done[0].outcome);
    assert!(starts <= 5, "{starts} starts");
}

#[tokio::test]
async fn idle_containers_go_home_after_their_window() {
    let bench = Bench::new(spec()).await;
    let task = bench.container(false).await;
    let began = bench.plane.now();
    let work = async || bench.plane.work(&task, &bench.function, began).await.unwrap();
    assert_eq!(work().await, Work::Nothing);
    bench.put(0..1).await;
    bench.pass(2_000);
    assert_eq!(work().await, Work::Waits, "work comes before leaving");
    let input = bench.claim(&task, 1).await.remove(0).id;
    assert_eq!(work().await, Work::Nothing, "it holds an input");
    bench.plane.answer(&task, vec![(input, 0, success(""))]).await.unwrap();
    assert_eq!(work().await, Work::GoHome);
    assert_eq!(bench.task(&task).await.phase, Phase::Draining);
    bench.put(1..2).await;
    assert_eq!(bench.claim(&task, 1).await.len(), 0, "it takes nothing once it was sent home");
}

/// A container that is kept ready makes room for inputs of another function, and does not come
/// back before they are served.
#[tokio::test]
async fn inputs_come_before_what_is_kept_ready() {
    let mut bench = Bench::new(FunctionSpec { resources: memory(3_000), ..spec() }).await;
    let mut kept = spec();
    kept.name = "kept".into();
    kept.scaling.min_containers = 1;
    kept.resources = memory(2_000);
    let kept = bench.add_function(kept).await;
    scheduler::tick(&bench.plane).await.unwrap();
    let Ok(Order::Start(spare)) = bench.orders.try_recv() else { panic!("nothing is kept ready") };
    assert_eq!(spare.function, kept);
    let mut tx = bench.plane.store.begin().await.unwrap();
    tasks::advance(&mut tx, &spare.task, Phase::Ready, bench.plane.now()).await.unwrap();
    tx.commit().await.unwrap();
    bench.put(0..1).await;
    scheduler::tick(&bench.plane).await.unwrap();
    assert_eq!(stopped(&mut bench), std::slice::from_ref(&spare.task));
    reports::ended(&bench.plane, &spare.task, End::Stopped).await.unwrap();
    scheduler::tick(&bench.plane).await.unwrap();
    let Ok(Order::Start(urgent)) = bench.orders.try_recv() else { panic!("nothing starts") };
    assert_eq!(urgent.function, bench.function);
    // There is no room for both, and nobody is sent home for what is only kept ready.
    for _ in 0..3 {
        scheduler::tick(&bench.plane).await.unwrap();
    }
    assert!(bench.orders.try_recv().is_err());
}

fn memory(mib: u64) -> ResourceWish {
    ResourceWish { memory_request_bytes: Some(mib << 20), ..ResourceWish::default() }
}
