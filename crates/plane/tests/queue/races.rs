//! Many at the same time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model::InputId;
use model::call::State;
use model::link::{End, Order};
use model::spec::{Concurrency, FunctionSpec};
use store::tasks::Phase;
use tokio::task::JoinSet;

use crate::bench::{Bench, spec, success};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_single_use_container_gets_one_input_however_often_it_asks() {
    let bench = Bench::new(FunctionSpec { single_use: true, ..spec() }).await;
    bench.put(0..40).await;
    let mut asking = JoinSet::new();
    for _ in 0..4 {
        let task = bench.container(true).await;
        for _ in 0..8 {
            let (plane, task) = (bench.plane.clone(), task.clone());
            let function = bench.function.clone();
            asking.spawn(async move { plane.claim(&task, &function, 5).await.unwrap().len() });
        }
    }
    let taken: usize = asking.join_all().await.into_iter().sum();
    assert_eq!(taken, 4, "4 containers have one input each");
    bench.check(40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_input_goes_to_one_container_and_none_holds_too_many() {
    let concurrency = Concurrency { max_inputs: 3, target_inputs: 3, ..Concurrency::default() };
    let bench = Bench::new(FunctionSpec { concurrency, ..spec() }).await;
    let sent: BTreeSet<InputId> = bench.put(0..60).await.into_iter().collect();
    let mut asking = JoinSet::new();
    for _ in 0..10 {
        let task = bench.container(false).await;
        for _ in 0..6 {
            let (plane, task) = (bench.plane.clone(), task.clone());
            let function = bench.function.clone();
            asking.spawn(async move {
                let taken = plane.claim(&task, &function, 4).await.unwrap();
                taken.into_iter().map(|ready| ready.open.id).collect::<Vec<_>>()
            });
        }
    }
    let taken: Vec<_> = asking.join_all().await.into_iter().flatten().collect();
    let once: BTreeSet<_> = taken.iter().cloned().collect();
    assert_eq!(taken.len(), once.len(), "an input went to two");
    assert_eq!(taken.len(), 30, "10 containers hold 3 each");
    assert!(once.is_subset(&sent));
    bench.check(60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_first_of_many_answers_counts() {
    let bench = Bench::new(spec()).await;
    bench.put(0..10).await;
    let mut answering = JoinSet::new();
    for n in 0..10 {
        let task = bench.container(false).await;
        let input = bench.claim(&task, 1).await.remove(0).id;
        for m in 0..4 {
            let (plane, task, input) = (bench.plane.clone(), task.clone(), input.clone());
            answering.spawn(async move {
                let outcome = success(&format!("{n} {m}"));
                plane.answer(&task, vec![(input, 0, outcome)]).await.unwrap();
            });
        }
    }
    answering.join_all().await;
    bench.check(10).await;
    assert_eq!(bench.inputs().await.1.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_and_the_containers_end_at_the_same_time() {
    let bench = Bench::new(spec()).await;
    bench.put(0..20).await;
    let mut both = JoinSet::new();
    for n in 0..20 {
        let task = bench.container(false).await;
        let input = bench.claim(&task, 1).await.remove(0).id;
        let (plane, of_task) = (bench.plane.clone(), task.clone());
        both.spawn(async move {
            plane.answer(&of_task, vec![(input, 0, success("done"))]).await.unwrap();
        });
        let plane = bench.plane.clone();
        both.spawn(async move {
            let end = if n % 2 == 0 { End::Lost } else { End::Stopped };
            plane::reports::ended(&plane, &task, end).await.unwrap();
        });
    }
    both.join_all().await;
    bench.check(20).await;
    // What was not answered waits again.
    let (open, _) = bench.inputs().await;
    assert!(open.iter().all(|open| matches!(open.input.state, State::Queued { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_taken_after_a_cancel() {
    let bench = Bench::new(spec()).await;
    bench.put(0..50).await;
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        let task = bench.container(false).await;
        let (plane, function) = (bench.plane.clone(), bench.function.clone());
        asking.spawn(async move {
            for _ in 0..3 {
                for store::inputs::Ready { open, .. } in
                    plane.claim(&task, &function, 1).await.unwrap()
                {
                    plane.answer(&task, vec![(open.id, 0, success(""))]).await.unwrap();
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    bench.plane.cancel_call(&bench.call, false).await.unwrap();
    let (open, _) = bench.inputs().await;
    assert!(open.is_empty(), "{open:?} can still be taken");
    asking.join_all().await;
    bench.check(50).await;
}

/// Requests that are given up half-way: what they had begun is undone, and the writer serves on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_that_are_given_up_leave_no_trace() {
    let bench = Bench::new(spec()).await;
    bench.put(0..30).await;
    for round in 0..60_u64 {
        let task = bench.container(false).await;
        let (plane, function) = (bench.plane.clone(), bench.function.clone());
        let work = tokio::spawn(async move {
            for store::inputs::Ready { open, .. } in plane.claim(&task, &function, 1).await.unwrap()
            {
                plane.answer(&task, vec![(open.id, 0, success(""))]).await.unwrap();
            }
        });
        tokio::time::sleep(Duration::from_micros(round * 37 % 1_500)).await;
        work.abort();
        let ended = tokio::time::timeout(Duration::from_secs(10), bench.plane.store.begin()).await;
        drop(ended.expect("the writer is stuck").expect("the writer is broken"));
    }
    bench.check(30).await;
    // All is well: the rest can be taken and answered, once what was held is given back.
    for open in bench.inputs().await.0 {
        if let State::Running { task, .. } = &open.input.state {
            plane::reports::ended(&bench.plane, task, End::Lost).await.unwrap();
        }
    }
    loop {
        let task = bench.container(false).await;
        let Some(open) = bench.claim(&task, 1).await.pop() else { break };
        let answers = vec![(open.id, open.input.retry_count, success(""))];
        bench.plane.answer(&task, answers).await.unwrap();
    }
    bench.check(30).await;
    assert_eq!(bench.inputs().await.1.len(), 30);
}

/// An app that ends while its function is given containers: none is left that nobody ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_app_ends_while_its_containers_start() {
    for round in 0..8_u64 {
        let mut bench = Bench::new(spec()).await;
        bench.put(0..6).await;
        let plane: Arc<_> = bench.plane.clone();
        let ticking = tokio::spawn(async move {
            plane::scheduler::tick(&plane).await.unwrap();
        });
        tokio::time::sleep(Duration::from_micros(round * 900)).await;
        let app = {
            let mut db = bench.plane.store.read().await.unwrap();
            store::apps::get(&mut db, &bench.scope, &bench.app).await.unwrap().unwrap()
        };
        plane::reconcile::stop_app(&bench.plane, &app, "the test says so").await.unwrap();
        ticking.await.unwrap();
        let mut started = Vec::new();
        let mut stopped = BTreeSet::new();
        while let Ok(order) = bench.orders.try_recv() {
            match order {
                Order::Start(spec) => started.push(spec.task),
                // One that comes before the start does not count: the worker knows nothing of it.
                Order::Stop { task, .. } if started.contains(&task) => {
                    stopped.insert(task);
                }
                Order::Stop { .. } | Order::Build(_) | Order::Sandbox(_) => {}
            }
        }
        for task in started {
            assert!(stopped.contains(&task), "round {round}: nobody ends {task}");
            assert!(bench.task(&task).await.phase >= Phase::Draining);
        }
        assert!(bench.inputs().await.0.is_empty());
    }
}
