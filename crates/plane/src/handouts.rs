//! Inputs on their way to a container. Where the answer that carries them does not leave the
//! server, nobody works on them: they go back to the queue at once, not when their time is up.

use std::sync::Arc;

use model::call::{Event, State};
use model::link::End;
use model::{InputId, Millis, TaskId, Time};
use store::inputs::{self, Ready};
use store::{Hint, Tx, tasks};

use crate::Plane;
use crate::api::receipt::{Fate, Receipt};
use crate::endings::Kills;
use crate::queue::apply;
use crate::unwritten::Unwritten;

/// Answers that were lost: whose they were, and what they carried.
#[derive(Debug, Default)]
pub struct Handouts(Unwritten<(TaskId, Vec<InputId>)>);

impl Plane {
    /// The receipt of an answer that carries these inputs to a container.
    pub(crate) fn handout(self: &Arc<Self>, task: &TaskId, taken: &[Ready]) -> Receipt {
        let (plane, task) = (self.clone(), task.clone());
        let ids = taken.iter().map(|ready| ready.open.id.clone()).collect();
        Receipt::new(move |fate| {
            if fate == Fate::Lost {
                plane.handouts.0.add((task, ids));
                plane.store.hints().ring(&Hint::Deadlines);
            }
        })
    }

    /// Queues again what lost answers carried. Their containers are ended: a part of the answer
    /// may have reached them, and no input is worked on twice at the same time.
    pub async fn take_back(&self) -> Result<(), store::Error> {
        let Some(lost) = self.handouts.0.batch().await else { return Ok(()) };
        let now = self.now();
        let mut kills = Kills::default();
        let mut tx = self.store.begin().await?;
        for (task, ids) in lost.iter() {
            if self.take_back_of(&mut tx, task, ids, now).await? {
                kills.add(task.clone(), Millis(0));
            }
        }
        tx.commit().await?;
        lost.written();
        self.end_tasks(kills).await
    }

    /// Whether the container held one of them.
    async fn take_back_of(
        &self,
        tx: &mut Tx,
        task: &TaskId,
        ids: &[InputId],
        now: Time,
    ) -> Result<bool, store::Error> {
        let mut held = false;
        for id in ids {
            let Some(open) = inputs::open(tx, id).await? else { continue };
            if !matches!(&open.input.state, State::Running { task: holder, .. } if holder == task) {
                continue;
            }
            let Some(rules) = self.rules_of(tx, &open.function).await? else { continue };
            tasks::advance(tx, task, tasks::Phase::Draining, now).await?;
            apply(tx, open, Event::ContainerEnded { end: End::Lost }, &rules, now).await?;
            tracing::info!(%task, input = %id, "an input did not reach its container");
            held = true;
        }
        Ok(held)
    }
}
