//! Any sequence of what can happen to inputs.

use std::collections::BTreeMap;

use model::call::State;
use model::link::End;
use model::output::{Outcome, Status};
use model::retry::RetryPolicy;
use model::spec::FunctionSpec;
use model::{InputId, TaskId};
use proptest::prelude::*;

use crate::bench::{Bench, spec, success};

/// Containers that a walk has.
const CONTAINERS: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    /// Inputs from an index on; some may be there already.
    Put(u32),
    Claim(usize),
    /// The container answers what it took last, or took long ago.
    Answer {
        container: usize,
        back: usize,
        success: bool,
    },
    Pass(u64),
    End {
        container: usize,
        lost: bool,
    },
    Cancel,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let container = 0..CONTAINERS;
    let step = prop_oneof![
        3 => (0_u32..20).prop_map(Step::Put),
        6 => container.clone().prop_map(Step::Claim),
        6 => (container.clone(), 0_usize..3, prop::bool::weighted(0.7)).prop_map(
            |(container, back, success)| Step::Answer { container, back, success }
        ),
        3 => (1_u64..12_000).prop_map(Step::Pass),
        2 => (container, any::<bool>()).prop_map(|(container, lost)| Step::End { container, lost }),
        1 => Just(Step::Cancel),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..50)
}

struct Walk {
    bench: Bench,
    containers: Vec<TaskId>,
    /// What each container took, with the attempt.
    taken: BTreeMap<TaskId, Vec<(InputId, u32)>>,
    sent: BTreeMap<u32, InputId>,
    outcomes: BTreeMap<InputId, Outcome>,
    single_use: bool,
    cancelled: bool,
}

impl Walk {
    async fn new(single_use: bool, retries: u32) -> Self {
        let retry = RetryPolicy { retries, ..spec().retry };
        let bench = Bench::new(FunctionSpec { single_use, retry, ..spec() }).await;
        let mut containers = Vec::new();
        for _ in 0..CONTAINERS {
            containers.push(bench.container(single_use).await);
        }
        Self {
            bench,
            containers,
            taken: BTreeMap::new(),
            sent: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            single_use,
            cancelled: false,
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Put(_) if self.cancelled => {}
            Step::Put(from) => {
                for (index, id) in (from..).zip(self.bench.put(from..from + 3).await) {
                    let kept = self.sent.entry(index).or_insert_with(|| id.clone());
                    assert_eq!(*kept, id, "the input of index {index} was replaced");
                }
            }
            Step::Claim(n) => self.claim(n).await,
            Step::Answer { container, back, success } => {
                self.answer(container, back, success).await;
            }
            Step::Pass(time_ms) => {
                self.bench.pass(time_ms);
                self.bench.plane.end_overdue().await.unwrap();
                let (open, _) = self.bench.inputs().await;
                let now = self.bench.plane.now();
                for open in open {
                    if let State::Running { deadline, .. } = open.input.state {
                        assert!(deadline > now, "{} runs beyond its time", open.id);
                    }
                }
            }
            Step::End { container, lost } => {
                let end = if lost { End::Lost } else { End::Exit { code: 1 } };
                let task = self.containers[container].clone();
                plane::reports::ended(&self.bench.plane, &task, end).await.unwrap();
                self.containers[container] = self.bench.container(self.single_use).await;
            }
            Step::Cancel => {
                self.bench.plane.cancel_call(&self.bench.call, false).await.unwrap();
                self.cancelled = true;
                assert!(self.bench.inputs().await.0.is_empty(), "open after a cancel");
            }
            Step::Restart => self.bench.restart().await,
        }
    }

    async fn claim(&mut self, n: usize) {
        let task = self.containers[n].clone();
        for open in self.bench.claim(&task, 2).await {
            assert!(!self.outcomes.contains_key(&open.id), "{} was answered", open.id);
            self.taken.entry(task.clone()).or_default().push((open.id, open.input.retry_count));
        }
        let taken = self.taken.get(&task).map_or(0, Vec::len);
        assert!(!self.single_use || taken <= 1, "{task} took {taken} inputs");
    }

    async fn answer(&mut self, n: usize, back: usize, succeeds: bool) {
        let task = &self.containers[n];
        let Some(taken) = self.taken.get(task) else { return };
        let Some((input, retry_count)) = taken.iter().rev().nth(back).cloned() else { return };
        let outcome = match succeeds {
            true => success("result"),
            false => Outcome::without_data(Status::Failure, "it failed"),
        };
        let answers = vec![(input, retry_count, outcome)];
        self.bench.plane.answer(task, answers).await.unwrap();
    }

    async fn check(&mut self) {
        self.bench.check(self.sent.len()).await;
        for done in self.bench.inputs().await.1 {
            let kept = self.outcomes.entry(done.id.clone()).or_insert(done.outcome.clone());
            assert_eq!(*kept, done.outcome, "the outcome of {} changed", done.id);
        }
    }

    /// Everything ends: containers come, take, and answer.
    async fn finish(&mut self) {
        for _ in 0..400 {
            self.bench.pass(2_000);
            self.bench.plane.end_overdue().await.unwrap();
            for n in 0..CONTAINERS {
                let task = self.containers[n].clone();
                plane::reports::ended(&self.bench.plane, &task, End::Stopped).await.unwrap();
                self.containers[n] = self.bench.container(self.single_use).await;
                self.claim(n).await;
                self.answer(n, 0, true).await;
            }
            if self.bench.inputs().await.0.is_empty() {
                return;
            }
        }
        panic!("{:?} never end", self.bench.inputs().await.0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn no_input_is_lost_and_none_is_answered_twice(
        steps in steps(),
        single_use: bool,
        retries in 0_u32..3,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut walk = Walk::new(single_use, retries).await;
            for step in steps {
                walk.step(step).await;
                walk.check().await;
            }
            walk.finish().await;
            walk.check().await;
            assert_eq!(walk.bench.inputs().await.1.len(), walk.sent.len());
        });
    }
}
