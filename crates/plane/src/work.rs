//! What a container gets that asks for work: inputs, a wait, or the word to go home.

use model::autoscale::keeps;
use model::{FunctionId, TaskId, Time};
use store::tasks::{self, Phase};
use store::{Hint, inputs};

use crate::Plane;

/// What there is for a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Inputs wait: it should try to take some.
    Waits,
    /// Nothing now.
    Nothing,
    /// Nothing more, ever: it is to end.
    GoHome,
}

impl Plane {
    /// Looks for work for a container that has been asking since `began`. One that has been idle
    /// for long enough, and is not kept, is sent home.
    pub async fn work(
        &self,
        task: &TaskId,
        function: &FunctionId,
        began: Time,
    ) -> Result<Work, store::Error> {
        let turn = tasks::turn(&mut *self.store.read().await?, task, self.now()).await?;
        let Some(turn) = turn else { return Ok(Work::GoHome) };
        if turn.task.phase > Phase::Ready || turn.task.is_spent() {
            return Ok(Work::GoHome);
        }
        if turn.waits {
            return Ok(Work::Waits);
        }
        let home = self.leaves(task, function, began).await?;
        Ok(if home { Work::GoHome } else { Work::Nothing })
    }

    /// Whether an idle container goes home now: its window is over and it is not kept. It is
    /// marked in the same transaction that counts, so that not all go at once.
    async fn leaves(
        &self,
        task: &TaskId,
        function: &FunctionId,
        began: Time,
    ) -> Result<bool, store::Error> {
        let now = self.now();
        let stored = {
            let mut db = self.store.read().await?;
            self.functions.get(&mut db, function).await?
        };
        let Some(spec) = stored.as_ref().and_then(|function| function.spec.as_ref()) else {
            return Ok(true);
        };
        if now.since(began) < spec.scaling.scaledown_window_ms {
            return Ok(false);
        }
        let mut tx = self.store.begin().await?;
        if inputs::held(&mut tx, task).await? > 0 {
            return Ok(false);
        }
        let mut ready = 0;
        let mut busy = 0;
        for other in tasks::alive_of_function(&mut tx, function).await? {
            if other.phase == Phase::Ready {
                ready += 1;
                busy += u32::from(inputs::held(&mut tx, &other.id).await? > 0);
            }
        }
        if keeps(ready, busy, &spec.scaling) {
            return Ok(false);
        }
        tasks::advance(&mut tx, task, Phase::Draining, now).await?;
        tx.ring(Hint::Schedule);
        tx.commit().await?;
        Ok(true)
    }
}
