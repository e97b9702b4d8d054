//! Where a new sandbox goes.

use model::WorkerId;
use model::placement::{Unplaceable, place};
use model::resources::{Reservation, ResourceWish};
use store::{Db, tasks};

use crate::Plane;
use crate::limits::{SANDBOX_CPU_REQUEST_MILLIS_DEFAULT, SANDBOX_MEMORY_REQUEST_BYTES_DEFAULT};

impl Plane {
    /// What is reserved for a sandbox. One that asks for nothing is taken to be idle.
    pub(crate) fn sandbox_reservation(wish: &ResourceWish) -> Reservation {
        Reservation {
            cpu_millis: wish.cpu_request_millis.unwrap_or(SANDBOX_CPU_REQUEST_MILLIS_DEFAULT),
            memory_bytes: wish.memory_request_bytes.unwrap_or(SANDBOX_MEMORY_REQUEST_BYTES_DEFAULT),
        }
    }

    /// The worker that has room. Asked in the transaction that writes the sandbox down, it holds.
    pub(crate) async fn room_for(
        &self,
        db: &mut Db,
        wish: &Reservation,
    ) -> Result<Result<WorkerId, Unplaceable>, store::Error> {
        let alive = tasks::alive(db).await?;
        let reserved = crate::room::reserved(db, &alive).await?;
        Ok(place(&self.fleet.views(&reserved), wish))
    }

    /// Sends an idle container of a function home, if that could make room.
    pub(crate) async fn make_room_for(&self, wish: &Reservation) -> Result<(), store::Error> {
        let alive = tasks::alive(&mut *self.store.read().await?).await?;
        self.make_room(&alive, wish).await
    }
}
