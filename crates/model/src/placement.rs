//! Which worker takes a container.

use std::cmp::Reverse;

use crate::WorkerId;
use crate::resources::{Capacity, Reservation};

/// What is known of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    /// Who.
    pub worker: WorkerId,
    /// What it has.
    pub capacity: Capacity,
    /// What its containers reserve together.
    pub reserved: Reservation,
}

/// Why no worker takes a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unplaceable {
    /// Nothing will change by waiting.
    #[error(
        "no worker is large enough: it asks for {} MiB of memory and {} thousandths of a core",
        .0.memory_bytes >> 20, .0.cpu_millis
    )]
    TooLarge(Reservation),
    /// There will be room later.
    #[error("every worker is full")]
    Full,
    /// No worker is connected.
    #[error("no worker is connected")]
    NoWorker,
}

/// Chooses the worker with the most memory left; among equals the one with the lowest id.
pub fn place(workers: &[WorkerView], wish: &Reservation) -> Result<WorkerId, Unplaceable> {
    if workers.is_empty() {
        return Err(Unplaceable::NoWorker);
    }
    let large_enough = |w: &&WorkerView| {
        wish.cpu_millis <= w.capacity.cpu_millis && wish.memory_bytes <= w.capacity.memory_bytes
    };
    if !workers.iter().any(|w| large_enough(&w)) {
        return Err(Unplaceable::TooLarge(*wish));
    }
    let left = |w: &WorkerView| {
        let memory = w.capacity.memory_bytes.checked_sub(w.reserved.memory_bytes)?;
        let cpu = w.capacity.cpu_millis.checked_sub(w.reserved.cpu_millis)?;
        (memory >= wish.memory_bytes && cpu >= wish.cpu_millis).then_some((memory, cpu))
    };
    workers
        .iter()
        .filter_map(|w| left(w).map(|left| (left, Reverse(&w.worker))))
        .max()
        .map(|(_, Reverse(worker))| worker.clone())
        .ok_or(Unplaceable::Full)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view(n: u8, memory: u64, reserved: u64) -> WorkerView {
        WorkerView {
            worker: WorkerId::new([n; 16]),
            capacity: Capacity { cpu_millis: 2_000, memory_bytes: memory, disk_bytes: 0 },
            reserved: Reservation { cpu_millis: 0, memory_bytes: reserved },
        }
    }

    #[test]
    fn the_emptiest_worker_wins() {
        let wish = Reservation { cpu_millis: 100, memory_bytes: 10 };
        let workers = [view(1, 100, 50), view(2, 100, 20), view(3, 100, 95)];
        assert_eq!(place(&workers, &wish), Ok(WorkerId::new([2; 16])));
        assert_eq!(place(&[view(1, 100, 95)], &wish), Err(Unplaceable::Full));
        assert_eq!(place(&[view(1, 5, 0)], &wish), Err(Unplaceable::TooLarge(wish)));
        assert_eq!(place(&[], &wish), Err(Unplaceable::NoWorker));
    }

    proptest! {
        #[test]
        fn never_over_capacity(
            sizes in prop::collection::vec((1u64..50, 0u64..60), 1..6), ask in 1u64..50,
        ) {
            let workers: Vec<_> =
                sizes.iter().enumerate().map(|(n, (c, r))| view(n as u8, *c, *r)).collect();
            let wish = Reservation { cpu_millis: 1, memory_bytes: ask };
            if let Ok(chosen) = place(&workers, &wish) {
                let w = workers.iter().find(|w| w.worker == chosen).unwrap();
                prop_assert!(w.reserved.memory_bytes + ask <= w.capacity.memory_bytes);
            }
        }
    }
}
