//! How many containers a function should have.

use crate::limits::{START_FAILURES_MAX, STARTING_MAX};
use crate::spec::{Concurrency, Scaling};

/// What is known of one function at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Inputs that a container could take now.
    pub queued: u32,
    /// Inputs in containers.
    pub running: u32,
    /// Containers that are not ready yet.
    pub starting: u32,
    /// Containers that are ready, busy or idle. Of a single-use function: those without an input.
    pub ready: u32,
    /// Containers that have taken their only input. Always 0 where containers are used again.
    pub spent: u32,
    /// Starts that failed in a row.
    pub start_failures: u32,
}

/// How many containers to start now. Idle ones end by themselves: a container asks for work and
/// is sent home when its window is over (`keeps`).
pub fn starts(demand: &Demand, scaling: &Scaling, concurrency: &Concurrency, single: bool) -> u32 {
    if demand.start_failures >= START_FAILURES_MAX {
        return 0;
    }
    let per_container = if single { 1 } else { concurrency.per_container() };
    let inputs = if single { demand.queued } else { demand.queued + demand.running };
    let buffer = if inputs + demand.spent > 0 { scaling.buffer_containers } else { 0 };
    let wanted = inputs.div_ceil(per_container).saturating_add(buffer).max(scaling.min_containers);
    let room = scaling.max_containers.saturating_sub(demand.spent);
    let have = demand.starting + demand.ready;
    wanted.min(room).saturating_sub(have).min(STARTING_MAX.saturating_sub(demand.starting))
}

/// Whether an idle container whose window is over stays all the same. `ready` counts the ready
/// containers, this one included, `busy` those that hold inputs.
pub fn keeps(ready: u32, busy: u32, scaling: &Scaling) -> bool {
    let buffer = if busy > 0 { scaling.buffer_containers } else { 0 };
    ready <= busy.saturating_add(buffer).max(scaling.min_containers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Millis;

    fn scaling(min: u32, max: u32, buffer: u32) -> Scaling {
        Scaling {
            min_containers: min,
            max_containers: max,
            buffer_containers: buffer,
            scaledown_window_ms: Millis(60_000),
        }
    }

    fn demand(queued: u32, running: u32, starting: u32, ready: u32, spent: u32) -> Demand {
        Demand { queued, running, starting, ready, spent, start_failures: 0 }
    }

    fn check(d: Demand, s: Scaling, single: bool, want: u32) {
        assert_eq!(starts(&d, &s, &Concurrency::default(), single), want, "{d:?} {s:?}");
    }

    #[test]
    fn containers_follow_inputs() {
        check(demand(0, 0, 0, 0, 0), scaling(0, 100, 0), false, 0);
        check(demand(3, 0, 0, 0, 0), scaling(0, 100, 0), false, 3);
        check(demand(3, 0, 1, 1, 0), scaling(0, 100, 0), false, 1);
        check(demand(3, 2, 0, 2, 0), scaling(0, 4, 0), false, 2);
        check(demand(0, 0, 0, 0, 0), scaling(2, 100, 0), false, 2);
        check(demand(1, 0, 0, 0, 0), scaling(0, 100, 2), false, 3);
        check(demand(5, 0, 0, 0, 2), scaling(0, 4, 0), true, 2);
        check(demand(1, 0, 0, 1, 7), scaling(0, 100, 0), true, 0);
        check(demand(500, 0, 0, 0, 0), scaling(0, 1_000, 0), false, STARTING_MAX);
    }

    #[test]
    fn idle_containers_leave_but_for_minimum_and_buffer() {
        assert!(!keeps(1, 0, &scaling(0, 10, 3)));
        assert!(keeps(1, 0, &scaling(1, 10, 0)));
        assert!(!keeps(3, 1, &scaling(0, 10, 1)));
        assert!(keeps(2, 1, &scaling(0, 10, 1)));
    }

    proptest! {
        #[test]
        fn never_more_than_the_maximum(
            queued in 0u32..5_000, running in 0u32..50, starting in 0u32..20, ready in 0u32..20,
            spent in 0u32..20, min in 0u32..10, max in 1u32..40, buffer in 0u32..10, single: bool,
        ) {
            let d = demand(queued, running, starting, ready, spent);
            let n = starts(&d, &scaling(min, max, buffer), &Concurrency::default(), single);
            prop_assert!(n == 0 || n + starting + ready + spent <= max.max(min));
        }
    }
}
