//! Room for containers that inputs wait for: idle ones go home.

use std::collections::HashMap;

use model::WorkerId;
use model::resources::Reservation;
use store::tasks::{self, Phase, Task};
use store::{Db, inputs, sandboxes};

use crate::Plane;
use crate::endings::Kills;
use crate::limits::STOP_GRACE;

/// What living containers reserve together, those of functions and sandboxes, by worker.
pub(crate) async fn reserved(
    db: &mut Db,
    alive: &[Task],
) -> Result<HashMap<WorkerId, Reservation>, store::Error> {
    let mut reserved: HashMap<_, _> = sandboxes::reserved(db).await?.into_iter().collect();
    for task in alive {
        let of_worker: &mut Reservation = reserved.entry(task.worker.clone()).or_default();
        of_worker.cpu_millis += task.reserved.cpu_millis;
        of_worker.memory_bytes += task.reserved.memory_bytes;
    }
    Ok(reserved)
}

impl Plane {
    /// Sends the container home that has been idle for longest, on a worker that could run the
    /// wished one: first one that is not kept, else one that is kept ready without inputs. One at
    /// a time; the next look may send another.
    pub(crate) async fn make_room(
        &self,
        alive: &[Task],
        wish: &Reservation,
    ) -> Result<(), store::Error> {
        let Some(task) = self.idle_longest(alive, wish).await? else { return Ok(()) };
        let mut tx = self.store.begin().await?;
        if inputs::held(&mut tx, &task.id).await? > 0 {
            // It has taken an input since it was looked at.
            return Ok(());
        }
        tasks::advance(&mut tx, &task.id, Phase::Draining, self.now()).await?;
        tx.commit().await?;
        tracing::debug!(task = %task.id, "an idle container makes room");
        let mut kills = Kills::default();
        kills.add(task.id.clone(), STOP_GRACE);
        self.end_tasks(kills).await
    }

    async fn idle_longest<'a>(
        &self,
        alive: &'a [Task],
        wish: &Reservation,
    ) -> Result<Option<&'a Task>, store::Error> {
        let mut db = self.store.read().await?;
        let mut idle: Option<(bool, &Task)> = None;
        for task in alive.iter().filter(|task| self.fleet.holds(&task.worker, wish)) {
            if inputs::held(&mut db, &task.id).await? > 0 {
                continue;
            }
            match task.phase {
                // One is leaving already.
                Phase::Draining => return Ok(None),
                Phase::Ready => {}
                Phase::Placed | Phase::Started | Phase::Ended => continue,
            }
            let function = self.functions.get(&mut db, &task.function).await?;
            let Some(spec) = function.as_ref().and_then(|function| function.spec.as_ref()) else {
                continue;
            };
            if inputs::waits(&mut db, &task.function, self.now()).await? {
                continue;
            }
            let of_function = alive.iter().filter(|other| other.function == task.function).count();
            let kept = of_function <= spec.scaling.min_containers as usize;
            let sooner =
                |other: &(bool, &Task)| (kept, task.ready_at) < (other.0, other.1.ready_at);
            if idle.as_ref().is_none_or(sooner) {
                idle = Some((kept, task));
            }
        }
        Ok(idle.map(|(_, task)| task))
    }
}
