//! The ends of sandboxes: they are told to end until they are gone, whatever they do and wherever
//! their worker is.

use model::link::{End, Order};
use model::{Millis, SandboxId, Time};
use store::sandboxes::{self, Phase, Sandbox};
use store::{Db, Tx};

use super::reported::finish;
use crate::Plane;
use crate::limits::{SANDBOX_OVERDUE_MAX, SANDBOX_START_MAX, TELL_AGAIN, UNDELIVERED_RETRY};

impl Plane {
    /// Ends a sandbox. Its end is called `end`, unless it ends otherwise first.
    pub(crate) async fn end_sandbox(
        &self,
        sandbox: &Sandbox,
        end: &End,
    ) -> Result<(), store::Error> {
        let mut tx = self.store.begin().await?;
        sandboxes::want_end(&mut tx, &sandbox.id, end).await?;
        tx.commit().await?;
        self.tell_to_end(&sandbox.id).await
    }

    /// Wants the sandboxes of an app to end. Tell them once the transaction is committed.
    pub(crate) async fn want_app_sandboxes_to_end(
        tx: &mut Tx,
        app: &model::AppId,
    ) -> Result<Vec<SandboxId>, store::Error> {
        let mut wanted = Vec::new();
        for sandbox in sandboxes::alive_of_app(tx, app).await? {
            sandboxes::want_end(tx, &sandbox.id, &End::Stopped).await?;
            wanted.push(sandbox.id);
        }
        Ok(wanted)
    }

    /// A sandbox whose start could not be ordered has ended.
    pub(crate) async fn lose_sandbox(&self, id: &SandboxId) -> Result<(), store::Error> {
        let mut tx = self.store.begin().await?;
        if let Some(sandbox) = sandboxes::get_any(&mut tx, id).await? {
            finish(self, &mut tx, &sandbox, &End::Lost).await?;
        }
        tx.commit().await
    }

    /// Its start was ordered. Should it have been wanted to end before that, the worker knew
    /// nothing of it then, and is told again.
    pub(crate) async fn tell_wanted(&self, id: &SandboxId) -> Result<(), store::Error> {
        let row = sandboxes::get_any(&mut *self.store.read().await?, id).await?;
        if row.is_some_and(|row| row.phase < Phase::Ended && row.wanted_end.is_some()) {
            self.tell_to_end(id).await?;
        }
        Ok(())
    }

    /// Tells the worker of a sandbox that is wanted to end. Where the worker is not there, the
    /// sandbox counts as ended, and the worker is told when it comes back with it.
    pub(crate) async fn tell_to_end(&self, id: &SandboxId) -> Result<(), store::Error> {
        let mut tx = self.store.begin().await?;
        let Some(sandbox) = sandboxes::get_any(&mut tx, id).await? else { return Ok(()) };
        let Some(wanted) = sandbox.wanted_end.clone() else { return Ok(()) };
        if sandbox.phase == Phase::Ended {
            return Ok(());
        }
        if !self.fleet.has(&sandbox.worker) {
            tracing::info!(sandbox = %id, worker = %sandbox.worker, "a sandbox's worker is gone");
            finish(self, &mut tx, &sandbox, &wanted).await?;
            return tx.commit().await;
        }
        let order = Order::Stop { task: sandbox.task.clone(), grace_ms: Millis(0) };
        match self.fleet.order(&sandbox.worker, order) {
            Ok(()) => sandboxes::told(&mut tx, id, self.now()).await?,
            Err(error) => {
                tracing::warn!(%error, sandbox = %id, "a sandbox could not be stopped yet");
                let soon = self.now() + UNDELIVERED_RETRY;
                sandboxes::told(&mut tx, id, soon - TELL_AGAIN).await?;
            }
        }
        tx.commit().await
    }

    /// Ends what is late: sandboxes whose time is over, and those that did not start in time; and
    /// tells those again that should be gone.
    pub(crate) async fn end_late_sandboxes(&self, now: Time) -> Result<(), store::Error> {
        let (over, placed) = (now - SANDBOX_OVERDUE_MAX, now - SANDBOX_START_MAX);
        let late = sandboxes::overdue(&mut *self.store.read().await?, over, placed).await?;
        for sandbox in late {
            if sandbox.wanted_end.is_some() {
                if sandbox.told_at.is_none_or(|told| now.since(told) >= TELL_AGAIN) {
                    self.tell_to_end(&sandbox.id).await?;
                }
            } else if sandbox.deadline <= over {
                tracing::info!(sandbox = %sandbox.id, "a sandbox's time is over");
                self.end_sandbox(&sandbox, &End::TimedOut).await?;
            } else {
                self.give_up_start(&sandbox).await?;
            }
        }
        Ok(())
    }

    /// A sandbox that did not start in time has ended. Should it start all the same, it is ended.
    async fn give_up_start(&self, sandbox: &Sandbox) -> Result<(), store::Error> {
        let secs = SANDBOX_START_MAX.0 / 1_000;
        let reason = format!("its container was not there within {secs} s");
        let mut tx = self.store.begin().await?;
        finish(self, &mut tx, sandbox, &End::NotStarted { reason }).await?;
        tx.commit().await?;
        self.stop_stray(sandbox);
        Ok(())
    }

    /// Tells a worker to end what has ended for us.
    pub(crate) fn stop_stray(&self, sandbox: &Sandbox) {
        let order = Order::Stop { task: sandbox.task.clone(), grace_ms: Millis(0) };
        if let Err(error) = self.fleet.order(&sandbox.worker, order) {
            tracing::warn!(%error, sandbox = %sandbox.id, "an ended sandbox could not be stopped");
        }
    }

    /// When a sandbox is overdue next.
    pub(crate) async fn next_late_sandbox(db: &mut Db) -> Result<Option<Time>, store::Error> {
        let next = sandboxes::next_due(db).await?;
        Ok(next.map(|next| next + SANDBOX_OVERDUE_MAX))
    }
}
