//! The workers: what each has, and the way to tell it what to do.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use model::WorkerId;
use model::link::Order;
use model::placement::WorkerView;
use model::resources::{Capacity, Reservation};
use tokio::sync::mpsc;

/// The connected workers.
#[derive(Debug, Default)]
pub struct Fleet(Mutex<BTreeMap<WorkerId, Connected>>);

#[derive(Debug)]
struct Connected {
    capacity: Capacity,
    /// What it runs is known: it said so when it joined, and that is written down.
    admitted: bool,
    orders: mpsc::Sender<Order>,
}

/// An order could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The worker is not there.
    #[error("worker {0} is not connected")]
    Gone(WorkerId),
    /// It does not keep up.
    #[error("worker {0} has too many orders waiting")]
    Busy(WorkerId),
}

impl Fleet {
    /// A worker is there. It gets work once its report of what it runs is written down
    /// ([`Fleet::admit`]): what it is told to start before could be taken for lost.
    pub fn join(&self, worker: WorkerId, capacity: Capacity, orders: mpsc::Sender<Order>) {
        let mut fleet = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fleet.insert(worker, Connected { capacity, admitted: false, orders });
    }

    /// What the worker runs is known.
    pub fn admit(&self, worker: &WorkerId) {
        let mut fleet = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connected) = fleet.get_mut(worker) {
            connected.admitted = true;
        }
    }

    /// Whether the worker is there.
    pub fn has(&self, worker: &WorkerId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(worker)
    }

    /// A worker is gone.
    pub fn leave(&self, worker: &WorkerId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(worker);
    }

    /// Whether the worker is there, and a container of that size fits it.
    pub fn holds(&self, worker: &WorkerId, wish: &Reservation) -> bool {
        let fleet = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fleet.get(worker).is_some_and(|connected| connected.capacity.holds(wish))
    }

    /// Hands an order to a worker; never waits.
    pub fn order(&self, worker: &WorkerId, order: Order) -> Result<(), Error> {
        let fleet = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connected = fleet.get(worker).ok_or_else(|| Error::Gone(worker.clone()))?;
        connected.orders.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Busy(worker.clone()),
            mpsc::error::TrySendError::Closed(_) => Error::Gone(worker.clone()),
        })
    }

    /// The workers that can take an order, as placement sees them, given what each has reserved.
    pub fn views(&self, reserved: &HashMap<WorkerId, Reservation>) -> Vec<WorkerView> {
        let fleet = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fleet
            .iter()
            .filter(|(_, connected)| connected.admitted && connected.orders.capacity() > 0)
            .map(|(worker, connected)| WorkerView {
                worker: worker.clone(),
                capacity: connected.capacity,
                reserved: reserved.get(worker).copied().unwrap_or_default(),
            })
            .collect()
    }

    /// The largest worker: nothing larger can ever be placed.
    pub fn largest(&self) -> Capacity {
        let fleet = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fleet.values().fold(Capacity::default(), |most, connected| Capacity {
            cpu_millis: most.cpu_millis.max(connected.capacity.cpu_millis),
            memory_bytes: most.memory_bytes.max(connected.capacity.memory_bytes),
            disk_bytes: most.disk_bytes.max(connected.capacity.disk_bytes),
        })
    }
}
