//! Inputs come in: to the queue, or straight to containers that wait for them.

use std::sync::Arc;

use model::call::{Event, Input, State, step};
use model::spec::FunctionSpec;
use model::{FunctionId, InputId, Time};
use store::calls::Call;
use store::inputs::{self, Carried, OpenInput, Ready};
use store::{Hint, Tx, tasks};

use crate::Plane;
use crate::functions::rules;
use crate::parked::{Handed, Waiter};
use crate::queue::ring_if_soon;

/// Inputs that a transaction has taken in.
#[derive(Debug)]
#[must_use = "inputs that are handed over must be delivered once they are committed"]
pub struct Submitted {
    ids: Vec<InputId>,
    handed: Vec<(Waiter, Handed)>,
}

impl Submitted {
    /// Gives what is handed over to those who wait. Call it once the transaction is committed; in
    /// one that fails this is dropped, and they look by themselves. Answers with the ids, in the
    /// order asked for.
    pub fn deliver(self) -> Vec<InputId> {
        for (waiter, handed) in self.handed {
            waiter.give(handed);
        }
        self.ids
    }
}

impl Plane {
    /// Takes in inputs of a call, of which it counts so many already; those whose index is there
    /// already stay as they are.
    pub async fn submit(
        self: &Arc<Self>,
        tx: &mut Tx,
        call: &Call,
        wanted: Vec<(u32, Carried)>,
        counted: u32,
        now: Time,
    ) -> Result<Submitted, store::Error> {
        let place = |(index, carried)| {
            let open = OpenInput {
                id: InputId::new(self.bits()),
                call: call.id.clone(),
                function: call.function.clone(),
                index,
                input: Input::new(now),
            };
            (open, carried)
        };
        let placed: Vec<_> = wanted.into_iter().map(place).collect();
        let function = self.functions.get(tx, &call.function).await?;
        let spec = function.as_ref().and_then(|function| function.spec.as_ref());
        let waiters = match spec {
            Some(spec) => self.waiters(tx, &call.function, spec, placed.len(), now).await?,
            None => Vec::new(),
        };
        // The only input of a new call is written as its container's: no other can be there.
        let at_once = counted == 1 && placed.len() == 1 && waiters.len() == 1;
        let ids = match at_once {
            true => placed.iter().map(|(open, _)| open.id.clone()).collect(),
            false => inputs::insert(tx, &call.id, &placed, counted).await?,
        };
        // One that was there already is somebody's, or done.
        let new = placed.into_iter().zip(&ids).filter(|((open, _), id)| open.id == **id);
        let mut new = new.map(|(new, _)| new);
        let mut handed = Vec::with_capacity(waiters.len());
        for waiter in waiters {
            let Some(input) = new.next() else { break };
            let Some(spec) = spec else { break };
            let ready = [claimed(call, spec, &waiter, input, now)];
            match at_once {
                true => inputs::insert_claimed(tx, &ready[0], now).await?,
                false => inputs::save_claimed(tx, &waiter.task, &ready, now).await?,
            }
            if let State::Running { deadline, .. } = ready[0].open.input.state {
                ring_if_soon(tx, deadline.since(now));
            }
            // Before the commit: whoever is dropped in the middle of it leaves word.
            let receipt = self.handout(&waiter.task, &ready);
            let [ready] = ready;
            handed.push((waiter, Handed { ready, receipt }));
        }
        let some_wait = new.next().is_some();
        if some_wait {
            tx.ring(Hint::Inputs(call.function.clone()));
        }
        // Those that are handed over have a container; more may be wanted beside them.
        if some_wait || spec.is_none_or(|spec| spec.scaling.buffer_containers > 0) {
            tx.ring(Hint::Schedule);
        }
        Ok(Submitted { ids, handed })
    }

    /// Containers that wait and may take an input each. None where inputs wait already: those come
    /// first.
    async fn waiters(
        &self,
        tx: &mut Tx,
        function: &FunctionId,
        spec: &FunctionSpec,
        most: usize,
        now: Time,
    ) -> Result<Vec<Waiter>, store::Error> {
        let mut waiters = Vec::new();
        while waiters.len() < most
            && !self.is_closing()
            && let Some(waiter) = self.parked.pop(function)
        {
            let Some(turn) = tasks::turn(tx, &waiter.task, now).await? else { continue };
            if turn.waits {
                return Ok(Vec::new());
            }
            let task = turn.task;
            let may = task.phase == tasks::Phase::Ready && task.function == *function;
            let has_room = match task.single_use {
                true => !task.is_spent(),
                false => turn.held < spec.concurrency.room(),
            };
            if may && has_room {
                waiters.push(waiter);
            }
        }
        Ok(waiters)
    }
}

/// An input that a waiting container takes.
fn claimed(
    call: &Call,
    spec: &FunctionSpec,
    waiter: &Waiter,
    (open, carried): (OpenInput, Carried),
    now: Time,
) -> Ready {
    let event = Event::Claimed { task: waiter.task.clone() };
    let (input, _) = step(open.input, event, &rules(spec), now);
    Ready { open: OpenInput { input, ..open }, carried, invocation: call.invocation }
}
