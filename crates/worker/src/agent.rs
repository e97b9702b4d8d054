//! Takes orders until there are no more, then ends what runs but for sandboxes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::link::{End, Order, Report};
use model::sandbox::SandboxStart;
use model::spec::{BuildSpec, TaskSpec};
use model::{Millis, TaskId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::limits::CLOSE_MAX;
use crate::{Worker, build, sandbox, task};

/// Containers that live, each with the way to tell it to end.
type Living = Arc<Mutex<HashMap<TaskId, watch::Sender<Option<Duration>>>>>;

/// Runs a worker: joins, takes orders until the plane closes the way, ends its containers.
pub async fn run(worker: Arc<Worker>, mut orders: mpsc::Receiver<Order>) {
    let living = Living::default();
    let mut work = JoinSet::new();
    let running = sandbox::adopt::adopt_all(&worker, &mut work).await;
    worker
        .report(Report::Joined {
            worker: worker.config.id.clone(),
            capacity: worker.config.capacity,
            running,
        })
        .await;
    sandbox::spares::fill(&worker);
    while let Some(order) = orders.recv().await {
        match order {
            Order::Start(spec) => start(&worker, &living, &mut work, *spec),
            Order::Stop { task, .. } if worker.sandboxes.tell(&task, End::Stopped) => {}
            Order::Stop { task, grace_ms } => stop(&living, &task, grace_ms),
            Order::Sandbox(spec) => start_sandbox(&worker, &mut work, *spec),
            Order::Build(spec) => start_build(&worker, &mut work, *spec),
        }
        while work.try_join_next().is_some() {}
    }
    // Sandboxes go on without a worker.
    worker.sandboxes.close();
    worker.spares.close();
    end_all(&living, work).await;
}

fn start(worker: &Arc<Worker>, living: &Living, work: &mut JoinSet<()>, spec: TaskSpec) {
    let (tell, told) = watch::channel(None);
    let id = spec.task.clone();
    living.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), tell);
    let (worker, living) = (worker.clone(), living.clone());
    work.spawn(async move {
        let end = task::run(worker.clone(), spec, told).await;
        living.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        worker.report(Report::Ended { task: id, end }).await;
    });
}

fn stop(living: &Living, task: &TaskId, grace: Millis) {
    let living = living.lock().unwrap_or_else(PoisonError::into_inner);
    // One that has ended was reported.
    let Some(tell) = living.get(task) else { return };
    tell.send_modify(|told| {
        let grace = grace.duration();
        *told = Some(told.map_or(grace, |before| before.min(grace)));
    });
}

fn start_build(worker: &Arc<Worker>, work: &mut JoinSet<()>, spec: BuildSpec) {
    let worker = worker.clone();
    work.spawn(async move { build::run(worker, spec).await });
}

fn start_sandbox(worker: &Arc<Worker>, work: &mut JoinSet<()>, spec: SandboxStart) {
    // The same order again changes nothing.
    let Some(told) = worker.sandboxes.begin(&spec.task) else { return };
    work.spawn(sandbox::run(worker.clone(), spec, told));
}

/// Ends every container at once: the plane has told them before, with their time to end well.
async fn end_all(living: &Living, mut work: JoinSet<()>) {
    for tell in living.lock().unwrap_or_else(PoisonError::into_inner).values() {
        tell.send_replace(Some(Duration::ZERO));
    }
    let all = async { while work.join_next().await.is_some() {} };
    if tokio::time::timeout(CLOSE_MAX, all).await.is_err() {
        tracing::error!("some containers or builds did not end in time");
        work.abort_all();
    }
}
