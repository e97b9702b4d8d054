//! What must hold at every moment of a run. Each check has a name; a run that breaks one fails
//! with it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use model::call::State;
use model::output::Outcome;
use model::{CallId, FunctionId, InputId, TaskId, Time, WorkerId};
use plane::Plane;
use store::outcomes::{self, Wanted};
use store::tasks::Phase;
use store::{Scope, calls, inputs, tasks};

use crate::client::{Asked, Kind};
use crate::worker::Worker;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// Outcomes, as they were first seen.
    outcomes: BTreeMap<InputId, (u64, Outcome)>,
    /// How often each input was taken.
    pub taken: BTreeMap<InputId, u32>,
    /// Inputs that each container took.
    pub taken_by: BTreeMap<TaskId, BTreeSet<InputId>>,
}

/// No input is lost, none is answered twice: every acknowledged input is there, an outcome never
/// changes, and the counts and the order of ending have no gap.
pub async fn inputs_are_kept(
    plane: &Plane,
    scope: &Scope,
    asked: &BTreeMap<CallId, Asked>,
    seen: &mut Seen,
) -> Result<()> {
    let mut db = plane.store.read().await?;
    for (id, asked) in asked {
        let call = calls::get(&mut db, scope, id).await?;
        let call = call.ok_or_else(|| anyhow::anyhow!("lost: call {id} is gone"))?;
        let done = outcomes::done(&mut db, id, Wanted::After(0), u32::MAX).await?;
        let open = inputs::open_of_call(&mut db, id).await?;
        ensure!(call.input_count as usize == asked.inputs.len(), "lost: {id} counts wrongly");
        ensure!(call.done_count as usize == done.len(), "twice: {id} counts its answers wrongly");
        ensure!(done.len() + open.len() == asked.inputs.len(), "lost: {id} lost an input");
        for (n, done) in done.into_iter().enumerate() {
            let known = asked.inputs.get(&done.index) == Some(&done.id);
            ensure!(known, "lost: {id} has an input that nobody sent");
            ensure!(done.done_seq == n as u64 + 1, "order: {id} has a gap before {}", done.id);
            let now = (done.done_seq, done.outcome);
            let before = seen.outcomes.entry(done.id.clone()).or_insert_with(|| now.clone());
            ensure!(*before == now, "twice: the outcome of {} changed", done.id);
        }
        for open in open {
            let known = asked.inputs.get(&open.index) == Some(&open.id);
            ensure!(known, "lost: {id} has an input that nobody sent");
            ensure!(!seen.outcomes.contains_key(&open.id), "twice: {} runs again", open.id);
            ensure!(asked.cancelled.is_none(), "cancel: {} of {id} is open", open.id);
        }
    }
    Ok(())
}

/// Every running input is in a container that lives, and no container holds more than it may.
pub async fn holders_live(plane: &Plane, kinds: &BTreeMap<FunctionId, Kind>) -> Result<()> {
    let mut db = plane.store.read().await?;
    let mut held = BTreeMap::<TaskId, u32>::new();
    for function in kinds.keys() {
        for open in inputs::open_of_function(&mut db, function).await? {
            let State::Running { task, .. } = &open.input.state else { continue };
            let row = tasks::get_any(&mut db, task).await?;
            let lives = row.is_some_and(|row| row.phase < Phase::Ended);
            ensure!(lives, "lost: {} is held by {task}, which has ended", open.id);
            let held = held.entry(task.clone()).or_default();
            *held += 1;
            ensure!(*held <= kinds[function].room(), "room: {task} holds {held} inputs");
        }
    }
    Ok(())
}

/// No worker has more containers than it has room for, no function more than its maximum.
pub async fn limits_hold(
    plane: &Plane,
    workers: &[Worker],
    kinds: &BTreeMap<FunctionId, Kind>,
) -> Result<()> {
    let alive = tasks::alive(&mut *plane.store.read().await?).await?;
    let mut memory = BTreeMap::<WorkerId, u64>::new();
    let mut cpu = BTreeMap::<WorkerId, u64>::new();
    let mut counts = BTreeMap::<FunctionId, u32>::new();
    for task in &alive {
        *memory.entry(task.worker.clone()).or_default() += task.reserved.memory_bytes;
        *cpu.entry(task.worker.clone()).or_default() += task.reserved.cpu_millis;
        *counts.entry(task.function.clone()).or_default() += 1;
    }
    for worker in workers {
        let of = |sums: &BTreeMap<WorkerId, u64>| sums.get(&worker.id).copied().unwrap_or(0);
        ensure!(of(&memory) <= worker.capacity.memory_bytes, "capacity: {} is over", worker.id);
        ensure!(of(&cpu) <= worker.capacity.cpu_millis, "capacity: {} is over", worker.id);
    }
    for (function, kind) in kinds {
        let count = counts.get(function).copied().unwrap_or(0);
        ensure!(count <= kind.max_containers, "max_containers: {function} has {count}");
    }
    Ok(())
}

/// Once deadlines were looked at, nothing runs beyond its time.
pub async fn deadlines_hold(plane: &Plane, now: Time) -> Result<()> {
    let overdue = inputs::overdue(&mut *plane.store.read().await?, now).await?;
    ensure!(overdue.is_empty(), "timeout: {:?} runs beyond its time", overdue[0].id);
    Ok(())
}

/// At the end of a run all calls have their answers, and nothing is left of any container.
pub async fn all_ended(
    plane: &Plane,
    workers: &[Worker],
    kinds: &BTreeMap<FunctionId, Kind>,
) -> Result<()> {
    let mut db = plane.store.read().await?;
    for function in kinds.keys() {
        let open = inputs::open_of_function(&mut db, function).await?;
        ensure!(open.is_empty(), "end: {:?} has no answer", open[0]);
    }
    let alive = tasks::alive(&mut db).await?;
    ensure!(alive.is_empty(), "end: {:?} is left", alive[0]);
    for worker in workers {
        let left: Vec<_> = worker.containers.keys().collect();
        ensure!(left.is_empty(), "end: {left:?} run on {}", worker.id);
    }
    let expected = (plane.ends.next(), plane.cancels.next());
    ensure!(expected == (None, None), "end: the plane waits for what is gone: {expected:?}");
    Ok(())
}
