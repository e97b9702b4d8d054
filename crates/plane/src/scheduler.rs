//! The scheduler: how many containers each function should have, and where they go.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use model::autoscale::{Demand, starts};
use model::limits::START_FAILURES_MAX;
use model::link::{End, Order};
use model::output::{Outcome, Status};
use model::placement::{Unplaceable, place};
use model::spec::FunctionSpec;
use model::{FunctionId, Millis, TaskId};
use store::functions::Function;
use store::tasks::{Phase, Task};
use store::{Hint, Tx, functions, inputs, tasks};

use crate::Plane;
use crate::api::start::task_spec;
use crate::endings::Kills;
use crate::limits::{LOOK_EVERY, SCAN_EVERY};
use crate::room::reserved;

/// Starts that failed in a row, by function, with how the last one ended.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<FunctionId, (u32, String)>>);

impl Failures {
    /// A container ended before it was ready.
    pub fn count(&self, function: &FunctionId, end: &End) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = failures.entry(function.clone()).or_default();
        entry.0 += 1;
        entry.1 = end.to_string();
    }

    /// A container became ready, or the waiting inputs were told.
    pub fn reset(&self, function: &FunctionId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(function);
    }

    fn of(&self, function: &FunctionId) -> (u32, String) {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(function).cloned().unwrap_or_default()
    }
}

/// Whether an end before readiness says something about the function.
pub fn is_failure(end: &End) -> bool {
    match end {
        End::Exit { .. } | End::Signal { .. } | End::OutOfMemory { .. } => true,
        End::NotStarted { .. } => true,
        End::Stopped | End::TimedOut | End::Idle | End::Lost => false,
    }
}

/// Runs until the server ends. Under load every call rings; looks keep a distance all the same.
pub async fn run(plane: Arc<Plane>) {
    let mut ear = plane.store.hints().listen(Hint::Schedule);
    while !plane.is_closing() {
        let next = tokio::time::Instant::now() + LOOK_EVERY;
        if let Err(error) = tick(&plane).await {
            tracing::error!(%error, "the scheduler could not look at the functions");
        }
        tokio::select! {
            () = ear.wait(SCAN_EVERY) => tokio::time::sleep_until(next).await,
            () = plane.closed() => {}
        }
    }
}

/// Looks at every function that may need a container. Those with inputs come first; where there is
/// no room for all of theirs, nothing is started to be kept ready.
pub async fn tick(plane: &Arc<Plane>) -> Result<(), store::Error> {
    let active = functions::active(&mut *plane.store.read().await?).await?;
    let mut spares = Vec::new();
    let mut full = false;
    let mut starved = false;
    for id in active {
        let function = {
            let mut db = plane.store.read().await?;
            plane.functions.get(&mut db, &id).await?
        };
        let Some(function) = function else { continue };
        match look(plane, &function).await {
            Ok(Some(demand)) if demand.queued > 0 => {
                starved = true;
                full |= scale(plane, &function, &demand).await == Some(Started::Full);
            }
            Ok(Some(demand)) => spares.push((function, demand)),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(function = %id, %error, "a function could not be looked at");
            }
        }
    }
    plane.starved.store(starved, Ordering::Relaxed);
    for (function, demand) in spares {
        if full {
            break;
        }
        full |= scale(plane, &function, &demand).await == Some(Started::Full);
    }
    Ok(())
}

fn demand(tasks: &[Task], queued: u32, running: u32, failures: u32) -> Demand {
    let count = |wanted: &dyn Fn(&Task) -> bool| {
        u32::try_from(tasks.iter().filter(|task| wanted(task)).count()).unwrap_or(u32::MAX)
    };
    Demand {
        queued,
        running,
        starting: count(&|task| task.phase < Phase::Ready),
        ready: count(&|task| task.phase == Phase::Ready && !task.is_spent()),
        spent: count(&|task| task.phase == Phase::Draining || task.is_spent()),
        start_failures: failures,
    }
}

/// What a function needs; nothing where its app has ended, or where what waits has just failed.
async fn look(plane: &Plane, function: &Function) -> Result<Option<Demand>, store::Error> {
    let (alive, queued, running, stopped) = {
        let mut db = plane.store.read().await?;
        let alive = tasks::alive_of_function(&mut db, &function.id).await?;
        let (queued, running) = inputs::counts(&mut db, &function.id, plane.now()).await?;
        let scope = store::Scope { workspace: function.workspace.clone() };
        let app = store::apps::get(&mut db, &scope, &function.app).await?;
        (alive, queued, running, app.is_none_or(|app| app.stopped_at.is_some()))
    };
    if stopped {
        return Ok(None);
    }
    let (failures, last) = plane.failures.of(&function.id);
    if failures >= START_FAILURES_MAX && queued > 0 {
        let text = format!(
            "the function's containers ended {failures} times in a row before they were ready; \
             the last time {last}"
        );
        let outcome = Outcome::without_data(Status::InitFailure, text);
        plane.fail_queued(&function.id, &outcome).await?;
        return Ok(None);
    }
    Ok(Some(demand(&alive, queued, running, failures)))
}

/// What became of a wish for a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Started {
    /// It is started.
    Yes,
    /// It could not be started now.
    No,
    /// There is no room now.
    Full,
}

/// Starts what a function needs. Says how the last start went, if there was one.
async fn scale(plane: &Arc<Plane>, function: &Function, demand: &Demand) -> Option<Started> {
    let spec = function.spec.as_ref()?;
    let mut last = None;
    for _ in 0..starts(demand, &spec.scaling, &spec.concurrency, spec.single_use) {
        match start(plane, function, spec, demand.queued > 0).await {
            Ok(started) => last = Some(started),
            Err(error) => {
                tracing::error!(function = %function.id, %error, "a container was not started");
                last = Some(Started::No);
            }
        }
        if last != Some(Started::Yes) {
            break;
        }
    }
    last
}

/// Places and starts one container. `urgent`: inputs wait for it, so that idle ones make room.
async fn start(
    plane: &Arc<Plane>,
    function: &Function,
    spec: &FunctionSpec,
    urgent: bool,
) -> Result<Started, store::Error> {
    let now = plane.now();
    let wish = spec.resources.reservation();
    let worker = {
        let mut db = plane.store.read().await?;
        let alive = tasks::alive(&mut db).await?;
        let reserved = reserved(&mut db, &alive).await?;
        drop(db);
        match place(&plane.fleet.views(&reserved), &wish) {
            Ok(worker) => worker,
            Err(Unplaceable::NoWorker) => return Ok(Started::No),
            Err(Unplaceable::Full) => {
                if urgent {
                    plane.make_room(&alive, &wish).await?;
                }
                return Ok(Started::Full);
            }
            // The one that is large enough cannot take orders just now.
            Err(Unplaceable::TooLarge(_)) if plane.fleet.largest().holds(&wish) => {
                return Ok(Started::No);
            }
            Err(error @ Unplaceable::TooLarge(_)) => {
                let outcome = Outcome::without_data(Status::InitFailure, error.to_string());
                plane.fail_queued(&function.id, &outcome).await?;
                return Ok(Started::No);
            }
        }
    };
    let id = TaskId::new(plane.bits());
    let prepared = task_spec(plane, function, spec, &id).await;
    let mut tx = plane.store.begin().await?;
    if !is_current(&mut tx, function).await? {
        return Ok(Started::No);
    }
    let task = Task {
        id: id.clone(),
        workspace: function.workspace.clone(),
        app: function.app.clone(),
        function: function.id.clone(),
        worker: worker.clone(),
        phase: Phase::Placed,
        restricted: spec.restricted,
        single_use: spec.single_use,
        taken_count: 0,
        reserved: wish,
        created_at: now,
        ready_at: None,
        heartbeat_at: now,
        ended_at: None,
        end: None,
    };
    tasks::insert(&mut tx, &task).await?;
    tx.commit().await?;
    match prepared {
        Ok(spec) => hand_over(plane, &task, spec).await,
        Err(refusal) => {
            let end = End::NotStarted { reason: refusal.to_string() };
            crate::reports::ended(plane, &id, end).await?;
            Ok(Started::No)
        }
    }
}

/// Whether the function is still as it was when it was looked at, and its app lives. Whoever
/// changes either ends the containers that he finds in the same transaction: so a container is
/// ended, or never made.
async fn is_current(tx: &mut Tx, function: &Function) -> Result<bool, store::Error> {
    let scope = store::Scope { workspace: function.workspace.clone() };
    let app = store::apps::get(tx, &scope, &function.app).await?;
    if app.is_none_or(|app| app.stopped_at.is_some()) {
        return Ok(false);
    }
    let now = functions::get_any(tx, &function.id).await?;
    Ok(now.is_some_and(|now| now.spec == function.spec && now.definition == function.definition))
}

/// Tells the worker of a task to start it.
async fn hand_over(
    plane: &Arc<Plane>,
    task: &Task,
    spec: model::spec::TaskSpec,
) -> Result<Started, store::Error> {
    if let Err(error) = plane.fleet.order(&task.worker, Order::Start(Box::new(spec))) {
        // Its worker's fault, not the function's: no failed start.
        if plane.is_closing() {
            tracing::debug!(%error, task = %task.id, "a container is not started any more");
        } else {
            tracing::warn!(%error, task = %task.id, "a container could not be started");
        }
        crate::reports::ended(plane, &task.id, End::Lost).await?;
        return Ok(Started::No);
    }
    let row = tasks::get_any(&mut *plane.store.read().await?, &task.id).await?;
    if row.is_some_and(|row| row.phase == Phase::Draining) {
        // It was ended before its start was ordered: the worker knew nothing of it then.
        let mut kills = Kills::default();
        kills.add(task.id.clone(), Millis(0));
        plane.end_tasks(kills).await?;
    }
    Ok(Started::Yes)
}

/// Ends containers that did not become ready in their time.
pub async fn end_slow_starts(plane: &Plane) -> Result<(), store::Error> {
    let now = plane.now();
    let mut kills = Kills::default();
    let mut db = plane.store.read().await?;
    for task in tasks::alive(&mut db).await? {
        if task.phase >= Phase::Ready {
            continue;
        }
        let function = plane.functions.get(&mut db, &task.function).await?;
        let Some(spec) = function.as_ref().and_then(|function| function.spec.as_ref()) else {
            continue;
        };
        if now.since(task.created_at) > spec.startup_timeout_ms {
            let reason = format!(
                "it was not ready within its startup timeout of {} s",
                spec.startup_timeout_ms.0 / 1_000
            );
            plane.failures.count(&task.function, &End::NotStarted { reason });
            kills.add(task.id, Millis(0));
        }
    }
    drop(db);
    plane.end_tasks(kills).await
}
