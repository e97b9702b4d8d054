//! Ending containers: who is to give up an input, who is to be gone, and by when.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use model::link::Order;
use model::{InputId, Millis, TaskId, Time};
use store::{Hint, tasks};

use crate::Plane;
use crate::limits::{CANCEL_GRACE, LEAVE_GRACE, TELL_AGAIN, UNDELIVERED_RETRY};

/// Inputs that containers are asked to give up: by container, with the moment after which the
/// container is killed for it.
#[derive(Debug, Default)]
pub struct Cancels(Mutex<BTreeMap<TaskId, BTreeMap<InputId, Wish>>>);

#[derive(Debug, Clone, Copy)]
struct Wish {
    told: bool,
    kill_at: Time,
}

impl Cancels {
    /// Asks a container to give up an input.
    pub(crate) fn add(&self, task: &TaskId, input: &InputId, now: Time) {
        let mut wishes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wish = Wish { told: false, kill_at: now + CANCEL_GRACE };
        wishes.entry(task.clone()).or_default().insert(input.clone(), wish);
    }

    /// Inputs that the container has not been told of yet.
    pub fn untold(&self, task: &TaskId) -> Vec<InputId> {
        let mut wishes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(wishes) = wishes.get_mut(task) else { return Vec::new() };
        let untold = wishes.iter_mut().filter(|(_, wish)| !wish.told);
        untold
            .map(|(input, wish)| {
                wish.told = true;
                input.clone()
            })
            .collect()
    }

    /// The container has given up an input.
    pub fn given_up(&self, task: &TaskId, input: &InputId) {
        let mut wishes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_task) = wishes.get_mut(task) {
            of_task.remove(input);
            if of_task.is_empty() {
                wishes.remove(task);
            }
        }
    }

    /// The container is gone.
    pub fn forget(&self, task: &TaskId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(task);
    }

    /// Takes out the containers that did not give up in time: they are to be ended.
    pub fn take_overdue(&self, now: Time) -> Vec<TaskId> {
        let mut wishes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let overdue = wishes.extract_if(.., |_, wishes| wishes.values().any(|w| w.kill_at <= now));
        overdue.map(|(task, _)| task).collect()
    }

    /// The next moment at which a container is overdue.
    pub fn next(&self) -> Option<Time> {
        let wishes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.values().flat_map(|wishes| wishes.values()).map(|wish| wish.kill_at).min()
    }
}

/// Containers that are to be gone, with the moment at which they are told (again) to end.
#[derive(Debug, Default)]
pub struct Ends(Mutex<BTreeMap<TaskId, Time>>);

impl Ends {
    fn set(&self, task: TaskId, by: Time) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(task, by);
    }

    /// Expects a container to be gone by then, unless it is expected already.
    pub fn expect(&self, task: &TaskId, by: Time) {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ends.entry(task.clone()).or_insert(by);
    }

    /// Expects a container to be gone by then at the latest.
    pub(crate) fn hasten(&self, task: &TaskId, by: Time) {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = ends.entry(task.clone()).or_insert(by);
        *kept = (*kept).min(by);
    }

    /// The container is gone.
    pub fn forget(&self, task: &TaskId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(task);
    }

    /// Containers that should be gone by now.
    pub fn overdue(&self, now: Time) -> Vec<TaskId> {
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ends.iter().filter(|(_, by)| **by <= now).map(|(task, _)| task.clone()).collect()
    }

    /// The next moment at which a container should be gone.
    pub fn next(&self) -> Option<Time> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().min().copied()
    }
}

/// Containers to be ended once a transaction is committed.
#[derive(Debug, Default)]
pub struct Kills(BTreeMap<TaskId, Millis>);

impl Kills {
    /// Adds one; of two times that it may take to end by itself, the shorter holds.
    pub fn add(&mut self, task: TaskId, grace: Millis) {
        let kept = self.0.entry(task).or_insert(grace);
        *kept = (*kept).min(grace);
    }

    /// Whether it is among them.
    pub fn contains(&self, task: &TaskId) -> bool {
        self.0.contains_key(task)
    }
}

impl Plane {
    /// Ends containers: from here on they take no input, and their worker is told. It is told
    /// again until they are gone.
    pub async fn end_tasks(&self, kills: Kills) -> Result<(), store::Error> {
        if kills.0.is_empty() {
            return Ok(());
        }
        let now = self.now();
        let mut tx = self.store.begin().await?;
        let mut orders = Vec::new();
        for (id, grace_ms) in kills.0 {
            match tasks::get_any(&mut tx, &id).await? {
                Some(task) if task.phase < tasks::Phase::Ended => {
                    tasks::advance(&mut tx, &id, tasks::Phase::Draining, now).await?;
                    orders.push((task, grace_ms));
                }
                Some(_) | None => self.ends.forget(&id),
            }
        }
        for (task, _) in &orders {
            tx.ring(Hint::Inputs(task.function.clone()));
        }
        tx.ring(Hint::Schedule);
        tx.commit().await?;
        for (task, grace_ms) in orders {
            let order = Order::Stop { task: task.id.clone(), grace_ms };
            match self.fleet.order(&task.worker, order) {
                Ok(()) => self.ends.set(task.id, now + grace_ms + TELL_AGAIN),
                Err(error) => {
                    tracing::warn!(%error, task = %task.id, "a container could not be stopped yet");
                    self.ends.set(task.id, now + UNDELIVERED_RETRY);
                    self.store.hints().ring(&Hint::Deadlines);
                }
            }
        }
        Ok(())
    }

    /// Expects what has nothing to do any more to be gone: containers that were sent home, and
    /// those that have had their only input. They should leave by themselves; what runs in them
    /// may not want to.
    pub(crate) async fn expect_leavers(&self, now: Time) -> Result<(), store::Error> {
        for task in tasks::leaving(&mut *self.store.read().await?).await? {
            self.ends.expect(&task, now + LEAVE_GRACE);
        }
        Ok(())
    }

    /// Ends the containers that did not give up an input in time, and those that should be gone.
    pub(crate) async fn end_late(&self, now: Time) -> Result<(), store::Error> {
        let mut kills = Kills::default();
        for task in self.cancels.take_overdue(now).into_iter().chain(self.ends.overdue(now)) {
            kills.add(task, Millis(0));
        }
        self.end_tasks(kills).await
    }
}
