//! The end of a run: nothing fails any more, and everything comes to its end.

use anyhow::{Result, ensure};
use model::Millis;
use plane::reconcile;

use crate::checks;
use crate::run::Run;

/// Seconds after which everything must have settled.
const SETTLE_SECS: u32 = 6_000;

impl Run {
    /// Nothing fails any more: all calls get their answers, then all containers end.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        self.note("everything settles".into());
        self.overlaps = false;
        let mut open = usize::MAX;
        for second in 0..SETTLE_SECS {
            self.find_worker().await?;
            self.second(second).await?;
            if second % 4 == 3 {
                let before = std::mem::replace(&mut open, self.count_open().await?);
                if open != before {
                    self.note(format!("{open} inputs are open"));
                }
                if open == 0 {
                    break;
                }
            }
        }
        if open > 0 {
            self.tell_state().await?;
        }
        ensure!(open == 0, "end: {open} inputs have no answer");
        for app in self.apps.clone() {
            self.stop_app(&app).await?;
        }
        for second in 0..SETTLE_SECS {
            self.second(second).await?;
            if second % 4 == 3
                && checks::all_ended(&self.plane, &self.workers, &self.kinds).await.is_ok()
            {
                break;
            }
        }
        checks::all_ended(&self.plane, &self.workers, &self.kinds).await
    }

    /// Adds what is stored to the story.
    async fn tell_state(&mut self) -> Result<()> {
        let mut db = self.plane.store.read().await?;
        let mut lines = Vec::new();
        for (function, kind) in &self.kinds {
            let open = store::inputs::open_of_function(&mut db, function).await?;
            lines.push(format!("{function} has {} open inputs: {kind:?}", open.len()));
            lines.extend(open.first().map(|open| format!("  the first: {open:?}")));
        }
        for task in store::tasks::alive(&mut db).await? {
            lines.push(format!("{} of {} is {:?}", task.id, task.function, task.phase));
        }
        for worker in &self.workers {
            let there = worker.orders.is_some();
            let running = worker.containers.len();
            let capacity = worker.capacity;
            lines.push(format!("{} is there: {there}, runs {running}, {capacity:?}", worker.id));
        }
        lines.into_iter().for_each(|line| self.note(line));
        Ok(())
    }

    async fn count_open(&self) -> Result<usize> {
        let mut db = self.plane.store.read().await?;
        let mut open = 0;
        for function in self.kinds.keys() {
            open += store::inputs::open_of_function(&mut db, function).await?.len();
        }
        Ok(open)
    }

    async fn second(&mut self, second: u32) -> Result<()> {
        self.world.pass(Millis(1_000));
        self.work(true).await?;
        self.hear(true).await?;
        self.look_at_deadlines().await?;
        if second.is_multiple_of(2) {
            reconcile::sweep(&self.plane).await?;
        }
        self.schedule().await
    }
}
