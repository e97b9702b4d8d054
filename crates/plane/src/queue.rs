//! The queue: inputs come in, containers take them, outcomes go out. Every change of an input is
//! `model::call::step` on what is stored, in one transaction.

use std::sync::atomic::Ordering;

use model::call::{Effect, Event, Rules, State, step};
use model::output::Outcome;
use model::{CallId, FunctionId, InputId, Millis, TaskId, Time};
use store::calls;
use store::inputs::{self, OpenInput, Ready};
use store::outcomes::{DoneInput, Finished};
use store::{Hint, Tx, tasks};

use crate::endings::Kills;
use crate::functions::rules;
use crate::limits::{SCAN_EVERY, STOP_GRACE};
use crate::{Plane, scheduler};

/// What came of an event.
#[derive(Debug)]
pub struct Applied {
    /// What follows from it.
    pub effects: Vec<Effect>,
    /// The call, and its input if that is done now.
    pub done: Option<(CallId, DoneInput)>,
}

/// Moves an input on, writes it, and rings for what follows.
pub async fn apply(
    tx: &mut Tx,
    mut open: OpenInput,
    event: Event,
    rules: &Rules,
    now: Time,
) -> Result<Applied, store::Error> {
    let answerer = match &event {
        Event::Answered { task, .. } => Some(task.clone()),
        Event::Claimed { .. }
        | Event::TimedOut
        | Event::ContainerEnded { .. }
        | Event::Cancelled { .. }
        | Event::Unstartable { .. } => None,
    };
    let before = open.input.state.clone();
    let (input, effects) = step(open.input, event, rules, now);
    open.input = input;
    let finished = match open.input.state == before {
        true => None,
        false => inputs::save(tx, &open, answerer.as_ref(), now).await?,
    };
    for effect in &effects {
        match effect {
            Effect::Answer => {
                tx.ring(Hint::Outputs(open.call.clone()));
                tx.ring(Hint::Data(open.call.clone()));
            }
            Effect::Offer { not_before } => {
                tx.ring(Hint::Inputs(open.function.clone()));
                tx.ring(Hint::Schedule);
                ring_if_soon(tx, not_before.since(now));
            }
            Effect::Kill { .. } => {}
        }
    }
    let done = match (finished, open.input.state) {
        (Some(Finished { done_seq, unfinished }), State::Done(outcome)) => {
            let OpenInput { id, index, .. } = open;
            let retry_count = open.input.retry_count;
            let task = answerer;
            let outcome = *outcome;
            Some(DoneInput { id, index, done_seq, retry_count, task, outcome, unfinished })
        }
        _ => None,
    };
    Ok(Applied { effects, done: done.map(|done| (open.call, done)) })
}

/// Whoever watches deadlines looks every `SCAN_EVERY`; what is due sooner must wake it.
pub(crate) fn ring_if_soon(tx: &mut Tx, due_in: Millis) {
    if due_in > Millis(0) && due_in.duration() < SCAN_EVERY {
        tx.ring(Hint::Deadlines);
    }
}

impl Plane {
    /// Gives a container up to `most` inputs. None if there are none, or if it may take none: it
    /// never holds more than its function lets one container work on.
    pub async fn claim(
        &self,
        task: &TaskId,
        function: &FunctionId,
        most: u32,
    ) -> Result<Vec<Ready>, store::Error> {
        self.claim_noting(task, function, most, |_| ()).await
    }

    /// As [`Plane::claim`]. This may be dropped at any moment, while it commits too: `note` hears
    /// before of what is taken.
    pub(crate) async fn claim_noting(
        &self,
        task: &TaskId,
        function: &FunctionId,
        most: u32,
        note: impl FnOnce(&[Ready]),
    ) -> Result<Vec<Ready>, store::Error> {
        let now = self.now();
        let mut tx = self.store.begin().await?;
        let Some(turn) = tasks::turn(&mut tx, task, now).await? else { return Ok(Vec::new()) };
        let row = turn.task;
        if row.phase != tasks::Phase::Ready || row.is_spent() || self.is_closing() {
            return Ok(Vec::new());
        }
        let Some(stored) = self.functions.get(&mut tx, function).await? else {
            return Ok(Vec::new());
        };
        let Some(spec) = &stored.spec else { return Ok(Vec::new()) };
        let room = match row.single_use {
            true => 1,
            false => spec.concurrency.room().saturating_sub(turn.held),
        };
        let most = most.min(spec.concurrency.batch_max.max(1)).min(room);
        let mut taken = Vec::new();
        for ready in inputs::ready(&mut tx, function, now, most).await? {
            let event = Event::Claimed { task: task.clone() };
            let (input, _) = step(ready.open.input, event, &rules(spec), now);
            if let State::Running { deadline, .. } = input.state {
                ring_if_soon(&mut tx, deadline.since(now));
                taken.push(Ready { open: OpenInput { input, ..ready.open }, ..ready });
            }
        }
        if !taken.is_empty() {
            inputs::save_claimed(&mut tx, task, &taken, now).await?;
            tx.ring(Hint::Schedule);
            note(&taken);
        }
        tx.commit().await?;
        Ok(taken)
    }

    /// Takes a container's answers. An answer to an input that the container does not hold changes
    /// nothing: it is late, sent twice, or forged.
    pub async fn answer(
        &self,
        task: &TaskId,
        answers: Vec<(InputId, u32, Outcome)>,
    ) -> Result<(), store::Error> {
        let now = self.now();
        let mut single_use = false;
        let mut all_done = Vec::with_capacity(answers.len());
        let mut tx = self.store.begin().await?;
        for (id, retry_count, outcome) in answers {
            self.cancels.given_up(task, &id);
            let Some(open) = inputs::open(&mut tx, &id).await? else { continue };
            if open.input.retry_count != retry_count {
                continue;
            }
            let Some(stored) = self.functions.get(&mut tx, &open.function).await? else { continue };
            let Some(spec) = &stored.spec else { continue };
            single_use |= spec.single_use;
            let rules = rules(spec);
            let event = Event::Answered { task: task.clone(), outcome: Box::new(outcome) };
            all_done.extend(apply(&mut tx, open, event, &rules, now).await?.done);
        }
        // A container that has nothing to do any more makes room, if somebody waits for some; one
        // that is used once is to be replaced.
        if single_use || self.starved.load(Ordering::Relaxed) {
            tx.ring(Hint::Schedule);
        }
        // Those who get it so need not look; it rings for all others.
        tx.commit_then(|| all_done.iter().for_each(|(call, done)| self.awaited.give(call, done)))
            .await
    }

    /// The rules of a function's inputs.
    pub async fn rules_of(
        &self,
        tx: &mut Tx,
        function: &FunctionId,
    ) -> Result<Option<Rules>, store::Error> {
        let function = self.functions.get(tx, function).await?;
        Ok(function.and_then(|function| function.spec.as_ref().map(rules)))
    }

    /// Ends every attempt whose time is up, and the containers that hold them.
    pub async fn end_overdue(&self) -> Result<(), store::Error> {
        let now = self.now();
        if inputs::overdue(&mut *self.store.read().await?, now).await?.is_empty() {
            return Ok(());
        }
        let mut kills = Kills::default();
        let mut tx = self.store.begin().await?;
        for open in inputs::overdue(&mut tx, now).await? {
            let Some(rules) = self.rules_of(&mut tx, &open.function).await? else { continue };
            let Applied { effects, .. } =
                apply(&mut tx, open, Event::TimedOut, &rules, now).await?;
            for effect in effects {
                if let Effect::Kill { task } = effect {
                    tasks::advance(&mut tx, &task, tasks::Phase::Draining, now).await?;
                    kills.add(task, Millis(0));
                }
            }
        }
        tx.commit().await?;
        self.end_tasks(kills).await
    }

    /// Cancels the open inputs of a call. Containers are asked to give up what they hold, or, if
    /// `terminate` is set, ended at once.
    pub async fn cancel_call(&self, call: &CallId, terminate: bool) -> Result<(), store::Error> {
        let now = self.now();
        let mut tx = self.store.begin().await?;
        calls::cancel(&mut tx, call, now).await?;
        let open = inputs::open_of_call(&mut tx, call).await?;
        let kills = self.cancel(&mut tx, open, "the call was cancelled", terminate, now).await?;
        tx.ring(Hint::Cancels);
        tx.commit().await?;
        self.end_tasks(kills).await
    }

    /// Cancels inputs.
    pub async fn cancel(
        &self,
        tx: &mut Tx,
        open: Vec<OpenInput>,
        why: &str,
        terminate: bool,
        now: Time,
    ) -> Result<Kills, store::Error> {
        let mut kills = Kills::default();
        for open in open {
            let Some(rules) = self.rules_of(tx, &open.function).await? else { continue };
            let id = open.id.clone();
            let event = Event::Cancelled { why: why.into() };
            let Applied { effects, .. } = apply(tx, open, event, &rules, now).await?;
            for effect in effects {
                match effect {
                    Effect::Kill { task } if terminate => kills.add(task, STOP_GRACE),
                    Effect::Kill { task } => self.cancels.add(&task, &id, now),
                    Effect::Answer | Effect::Offer { .. } => {}
                }
            }
        }
        Ok(kills)
    }

    /// Fails what waits for a function whose containers cannot start.
    pub async fn fail_queued(
        &self,
        function: &FunctionId,
        outcome: &Outcome,
    ) -> Result<(), store::Error> {
        let now = self.now();
        let mut tx = self.store.begin().await?;
        for open in inputs::queued(&mut tx, function).await? {
            let Some(rules) = self.rules_of(&mut tx, function).await? else { continue };
            let event = Event::Unstartable { outcome: Box::new(outcome.clone()) };
            apply(&mut tx, open, event, &rules, now).await?;
        }
        tx.commit().await?;
        self.failures.reset(function);
        Ok(())
    }
}

/// What a container's end means for the inputs it held, and for its function.
pub async fn container_ended(
    plane: &Plane,
    tx: &mut Tx,
    task: &tasks::Task,
    end: &model::link::End,
    now: Time,
) -> Result<(), store::Error> {
    plane.cancels.forget(&task.id);
    plane.ends.forget(&task.id);
    plane.streamed.forget(&task.id);
    for open in inputs::of_task(tx, &task.id).await? {
        let Some(rules) = plane.rules_of(tx, &open.function).await? else { continue };
        let event = Event::ContainerEnded { end: end.clone() };
        apply(tx, open, event, &rules, now).await?;
    }
    if task.ready_at.is_none() && scheduler::is_failure(end) {
        plane.failures.count(&task.function, end);
    }
    tx.ring(Hint::Schedule);
    Ok(())
}
