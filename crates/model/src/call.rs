//! The life of one input: queued, running in a container, done.

use serde::{Deserialize, Serialize};

use crate::limits::LOST_MAX;
use crate::link::End;
use crate::output::{Outcome, Status};
use crate::retry::RetryPolicy;
use crate::{Millis, TaskId, Time};

/// Where an input is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum State {
    /// Waits for a container.
    Queued {
        /// Not before this moment (a retry's delay).
        not_before: Time,
    },
    /// A container works on it.
    Running {
        /// Which one.
        task: TaskId,
        /// Since when.
        started_at: Time,
        /// When the attempt's time is up.
        deadline: Time,
    },
    /// It has its outcome.
    Done(Box<Outcome>),
}

/// An input's state and its counters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Where it is.
    pub state: State,
    /// Attempts that failed so far.
    pub retry_count: u32,
    /// Containers that were lost under it through no fault of its own.
    pub lost_count: u32,
}

/// What can happen to an input.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A container takes it.
    Claimed {
        /// Which one.
        task: TaskId,
    },
    /// The container answers. Answers of other attempts are dropped.
    Answered {
        /// Which container.
        task: TaskId,
        /// With what.
        outcome: Box<Outcome>,
    },
    /// The attempt's time is up.
    TimedOut,
    /// The container ended without an answer.
    ContainerEnded {
        /// How.
        end: End,
    },
    /// The caller, or the end of its app, cancels it.
    Cancelled {
        /// The text its caller sees.
        why: String,
    },
    /// Its container cannot start; every attempt would fail in the same way.
    Unstartable {
        /// What its caller gets.
        outcome: Box<Outcome>,
    },
}

/// What must happen next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Somebody may be waiting for the outcome.
    Answer,
    /// A container may be waiting for the input.
    Offer {
        /// From when on.
        not_before: Time,
    },
    /// The container that works on it must be killed with all that it started.
    Kill {
        /// Which one.
        task: TaskId,
    },
}

/// The rules of the function that an input belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// How long one attempt may run.
    pub timeout_ms: Millis,
    /// What happens after a failure.
    pub retry: RetryPolicy,
}

impl Input {
    /// A new input, to be taken at once.
    pub fn new(now: Time) -> Self {
        Self { state: State::Queued { not_before: now }, retry_count: 0, lost_count: 0 }
    }

    fn failed(mut self, outcome: Outcome, rules: &Rules, now: Time) -> (Self, Vec<Effect>) {
        match rules.retry.delay_after(self.retry_count) {
            Some(delay) => {
                let not_before = now + delay;
                self.retry_count += 1;
                self.state = State::Queued { not_before };
                (self, vec![Effect::Offer { not_before }])
            }
            None => self.done(outcome),
        }
    }

    fn done(mut self, outcome: Outcome) -> (Self, Vec<Effect>) {
        self.state = State::Done(Box::new(outcome));
        (self, vec![Effect::Answer])
    }

    fn lost(mut self, now: Time) -> (Self, Vec<Effect>) {
        self.lost_count += 1;
        if self.lost_count > LOST_MAX {
            let text = format!("the input's container was lost {} times", self.lost_count);
            return self.done(Outcome::without_data(Status::InternalFailure, text));
        }
        self.state = State::Queued { not_before: now };
        (self, vec![Effect::Offer { not_before: now }])
    }
}

/// Decides what becomes of `input` when `event` happens at `now`.
///
/// Total: an event that no longer fits (a late answer, a second timeout) changes nothing and has
/// no effects, so the order in which reports arrive does not matter.
pub fn step(input: Input, event: Event, rules: &Rules, now: Time) -> (Input, Vec<Effect>) {
    match (&input.state, event) {
        (State::Queued { not_before }, Event::Claimed { task }) => {
            if *not_before > now {
                return (input, vec![]);
            }
            let deadline = now + rules.timeout_ms;
            let state = State::Running { task, started_at: now, deadline };
            (Input { state, ..input }, vec![])
        }
        (State::Running { task, .. }, Event::Answered { task: from, outcome }) => {
            if *task != from {
                return (input, vec![]);
            }
            match outcome.status {
                Status::Failure | Status::Timeout | Status::InitFailure => {
                    input.failed(*outcome, rules, now)
                }
                Status::Success | Status::Terminated | Status::InternalFailure => {
                    input.done(*outcome)
                }
            }
        }
        (State::Running { task, deadline, .. }, Event::TimedOut) => {
            if *deadline > now {
                return (input, vec![]);
            }
            let kill = Effect::Kill { task: task.clone() };
            let secs = rules.timeout_ms.0 as f64 / 1_000.0;
            let text = format!("the input ran longer than its timeout of {secs} s and was ended");
            let (input, mut effects) =
                input.failed(Outcome::without_data(Status::Timeout, text), rules, now);
            effects.push(kill);
            (input, effects)
        }
        (State::Running { .. }, Event::ContainerEnded { end }) => match end {
            End::Lost => input.lost(now),
            End::Stopped | End::TimedOut | End::Idle => input.lost(now),
            End::Exit { .. }
            | End::Signal { .. }
            | End::OutOfMemory { .. }
            | End::NotStarted { .. } => {
                let text = format!("the container ended before the input had a result: {end}");
                input.failed(Outcome::without_data(Status::Failure, text), rules, now)
            }
        },
        (State::Queued { .. }, Event::Cancelled { why }) => {
            input.done(Outcome::without_data(Status::Terminated, why))
        }
        (State::Running { task, .. }, Event::Cancelled { why }) => {
            let kill = Effect::Kill { task: task.clone() };
            let (input, mut effects) = input.done(Outcome::without_data(Status::Terminated, why));
            effects.push(kill);
            (input, effects)
        }
        (State::Queued { .. } | State::Running { .. }, Event::Unstartable { outcome }) => {
            input.done(*outcome)
        }
        (State::Queued { .. }, Event::Answered { .. } | Event::TimedOut)
        | (State::Queued { .. }, Event::ContainerEnded { .. })
        | (State::Running { .. }, Event::Claimed { .. })
        | (State::Done(_), _) => (input, vec![]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task(n: u8) -> TaskId {
        TaskId::new([n; 16])
    }

    fn rules(retries: u32) -> Rules {
        let retry = RetryPolicy { retries, ..RetryPolicy::default() };
        Rules { timeout_ms: Millis(1_000), retry }
    }

    fn answered(n: u8, status: Status) -> Event {
        let outcome = Box::new(Outcome::without_data(status, ""));
        Event::Answered { task: task(n), outcome }
    }

    #[test]
    fn a_late_answer_of_a_killed_container_is_dropped() {
        let r = rules(1);
        let (input, _) = step(Input::new(Time(0)), Event::Claimed { task: task(1) }, &r, Time(0));
        let (input, effects) = step(input, Event::TimedOut, &r, Time(1_000));
        assert!(effects.contains(&Effect::Kill { task: task(1) }));
        let (input, _) = step(input, Event::Claimed { task: task(2) }, &r, Time(2_000));
        let (input, effects) = step(input, answered(1, Status::Success), &r, Time(2_001));
        assert_eq!(effects, []);
        assert!(matches!(input.state, State::Running { .. }));
    }

    #[test]
    fn a_timeout_does_not_come_early() {
        let r = rules(0);
        let (input, _) = step(Input::new(Time(0)), Event::Claimed { task: task(1) }, &r, Time(0));
        let (input, effects) = step(input, Event::TimedOut, &r, Time(999));
        assert!(effects.is_empty());
        let (input, _) = step(input, Event::TimedOut, &r, Time(1_000));
        assert!(matches!(input.state, State::Done(o) if o.status == Status::Timeout));
    }

    fn events() -> impl Strategy<Value = Event> {
        let end = prop_oneof![
            Just(End::Lost),
            Just(End::Stopped),
            Just(End::Exit { code: 1 }),
            Just(End::OutOfMemory { limit_bytes: 1 }),
        ];
        prop_oneof![
            (0u8..3).prop_map(|n| Event::Claimed { task: task(n) }),
            (0u8..3).prop_map(|n| answered(n, Status::Success)),
            (0u8..3).prop_map(|n| answered(n, Status::Failure)),
            Just(Event::TimedOut),
            end.prop_map(|end| Event::ContainerEnded { end }),
        ]
    }

    proptest! {
        #[test]
        fn every_input_ends_once(
            events in prop::collection::vec(events(), 0..400), retries in 0u32..4,
        ) {
            let r = rules(retries);
            let mut input = Input::new(Time(0));
            let mut answers = 0;
            for (n, event) in events.into_iter().enumerate() {
                let was_done = matches!(input.state, State::Done(_));
                let before = input.clone();
                let (next, effects) = step(input, event, &r, Time(n as u64 * 700));
                if was_done {
                    prop_assert_eq!(&next, &before);
                    prop_assert!(effects.is_empty());
                }
                answers += effects.iter().filter(|e| **e == Effect::Answer).count();
                prop_assert!(next.retry_count <= retries);
                prop_assert!(next.lost_count <= LOST_MAX + 1);
                input = next;
            }
            prop_assert_eq!(answers, usize::from(matches!(input.state, State::Done(_))));
        }
    }
}
