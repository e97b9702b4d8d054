//! What fake containers do: say hello, ask for work, answer, die, hang, refuse to leave.

use anyhow::{Result, ensure};
use model::call::State;
use model::limits::LOST_MAX;
use model::link::{End, Report};
use model::output::{Outcome, Payload, Status};
use model::spec::Network;
use model::{TaskId, Time};
use plane::api::gate::Caller;
use plane::work::Work;
use plane::{Api, Transport};
use store::{inputs, tasks};
use tonic::metadata::MetadataMap;
use wire::rpc::client as rpc;

use crate::run::Run;
use crate::worker::{Held, Stage};

impl Run {
    /// One moment in the life of a container.
    pub async fn live(&mut self, worker: usize, task: &TaskId) -> Result<()> {
        let now = self.plane.now();
        let Some(container) = self.workers[worker].containers.get(task) else { return Ok(()) };
        let died = container.dies_at.clone().filter(|(at, _)| *at <= now).map(|(_, end)| end);
        let killed = container.stop_at.is_some_and(|at| at <= now).then_some(End::Stopped);
        if let Some(end) = killed.or(died) {
            self.end(worker, task, end);
            return Ok(());
        }
        if self.workers[worker].orders.is_none() || container.hangs {
            return Ok(());
        }
        match container.stage {
            Stage::Starting(at) if at <= now => self.hello(worker, task).await,
            Stage::Starting(_) => Ok(()),
            Stage::Asking(began) => {
                self.beat(worker, task).await?;
                self.answer_done(worker, task).await?;
                self.ask(worker, task, began).await
            }
            Stage::Refusing => {
                self.beat(worker, task).await?;
                self.answer_done(worker, task).await
            }
        }
    }

    fn end(&mut self, worker: usize, task: &TaskId, end: End) {
        self.note(format!("{task} ends: {end}"));
        let held = self.workers[worker].end(task, end);
        self.ghosts.extend(held.into_iter().map(|held| (task.clone(), held)));
    }

    async fn hello(&mut self, worker: usize, task: &TaskId) -> Result<()> {
        let caller = self.plane.identify_task(task).await?;
        if matches!(caller, Caller::Nobody(_)) {
            let reason = format!("task {task} has ended already");
            self.end(worker, task, End::NotStarted { reason });
            return Ok(());
        }
        self.workers[worker].report(Report::Started { task: task.clone() });
        let door = Transport::Door(Box::new(caller));
        let api = Api::new(self.plane.clone(), self.tables.clone(), door);
        Box::pin(wire::rpc::call::<rpc::ContainerHello>(api, MetadataMap::new(), ())).await?;
        let now = self.plane.now();
        if let Some(container) = self.workers[worker].containers.get_mut(task) {
            container.stage = Stage::Asking(now);
        }
        Ok(())
    }

    /// The heartbeat, and what it brings: inputs to be given up.
    async fn beat(&mut self, worker: usize, task: &TaskId) -> Result<()> {
        let now = self.plane.now();
        let mut tx = self.plane.store.begin().await?;
        tasks::beat(&mut tx, task, now).await?;
        tx.commit().await?;
        let untold = self.plane.cancels.untold(task);
        let Some(container) = self.workers[worker].containers.get_mut(task) else { return Ok(()) };
        for held in container.held.iter_mut().filter(|held| untold.contains(&held.input)) {
            if !container.stubborn {
                held.cancelled = true;
                held.until = now;
            }
        }
        Ok(())
    }

    async fn answer_done(&mut self, worker: usize, task: &TaskId) -> Result<()> {
        let now = self.plane.now();
        let Some(container) = self.workers[worker].containers.get_mut(task) else { return Ok(()) };
        let done: Vec<_> = container.held.extract_if(.., |held| held.until <= now).collect();
        for held in done {
            self.answer(task, &held).await?;
            if self.chance.one_in(10) {
                // It was sent twice.
                self.ghosts.push((task.clone(), held));
            }
        }
        Ok(())
    }

    /// Answers an input, and sees that the answer counts if it may, and not if it may not.
    pub async fn answer(&mut self, task: &TaskId, held: &Held) -> Result<()> {
        let success = !self.chance.one_in(4);
        let token = format!("{task} {}", self.chance.bits());
        let status = match (held.cancelled, success) {
            (true, _) => Status::Terminated,
            (false, true) => Status::Success,
            (false, false) => Status::Failure,
        };
        let outcome = Outcome {
            data: Some(Payload::Inline(token.into())),
            data_format: 1,
            ..Outcome::without_data(status, "")
        };
        let before = inputs::open(&mut *self.plane.store.read().await?, &held.input).await?;
        let holds = before.as_ref().is_some_and(|open| {
            let holder = matches!(&open.input.state, State::Running { task: by, .. } if by == task);
            holder && open.input.retry_count == held.retry_count
        });
        let answers = vec![(held.input.clone(), held.retry_count, outcome)];
        self.plane.answer(task, answers).await?;
        self.note(format!("{task} answers {} ({holds})", held.input));
        let after = inputs::open(&mut *self.plane.store.read().await?, &held.input).await?;
        if !holds {
            let state = |open: Option<inputs::OpenInput>| open.map(|open| open.input);
            ensure!(state(before) == state(after), "late: {task} changed {}", held.input);
            return Ok(());
        }
        let again = after.is_none_or(|open| {
            let queued = matches!(open.input.state, State::Queued { .. });
            queued && open.input.retry_count == held.retry_count + 1
        });
        ensure!(again, "lost: the answer of {task} to {} did not count", held.input);
        Ok(())
    }

    async fn ask(&mut self, worker: usize, task: &TaskId, began: Time) -> Result<()> {
        let container = &self.workers[worker].containers[task];
        let function = container.function.clone();
        let busy = container.held.len();
        let kind = self.kinds[&function].clone();
        if busy >= kind.room() as usize && !self.chance.one_in(10) {
            return Ok(());
        }
        if self.chance.one_in(8) {
            // It takes what it can get, without a look at what it is told.
            return self.take(worker, task).await;
        }
        match self.plane.work(task, &function, began).await? {
            Work::Nothing => return Ok(()),
            Work::GoHome => {
                let stubborn = self.workers[worker].containers[task].stubborn;
                if busy == 0 && !stubborn {
                    self.end(worker, task, End::Exit { code: 0 });
                } else if let Some(container) = self.workers[worker].containers.get_mut(task) {
                    container.stage = Stage::Refusing;
                }
                return Ok(());
            }
            Work::Waits => {}
        }
        self.take(worker, task).await
    }

    async fn take(&mut self, worker: usize, task: &TaskId) -> Result<()> {
        let container = &self.workers[worker].containers[task];
        let (function, network) = (container.function.clone(), container.network);
        let kind = self.kinds[&function].clone();
        let most = u32::try_from(self.chance.within(1..5))?;
        let taken = self.plane.claim(task, &function, most).await?;
        for store::inputs::Ready { open, .. } in &taken {
            let blocked = network == Network::Blocked;
            ensure!(blocked == kind.blocked, "outdated: {task} takes {} by old rules", open.id);
            let asked = self.asked.get(&open.call);
            let cancelled = asked.is_none_or(|asked| asked.cancelled.is_some());
            ensure!(!cancelled, "cancel: {} runs after its call was cancelled", open.id);
        }
        self.hold(worker, task, taken.into_iter().map(|ready| ready.open).collect())
    }

    /// Remembers what a container has taken.
    pub fn hold(
        &mut self,
        worker: usize,
        task: &TaskId,
        taken: Vec<inputs::OpenInput>,
    ) -> Result<()> {
        let now = self.plane.now();
        for open in taken {
            self.check_claim(task, &open)?;
            let kind = &self.kinds[&open.function];
            let timeout_ms = u64::from(kind.timeout_secs) * 1_000;
            let time_ms = self.chance.within(1..timeout_ms + timeout_ms / 4);
            let held = Held {
                input: open.id,
                call: open.call,
                retry_count: open.input.retry_count,
                until: Time(now.0 + time_ms),
                cancelled: false,
            };
            self.note(format!("{task} takes {}", held.input));
            if let Some(container) = self.workers[worker].containers.get_mut(task) {
                container.stage = Stage::Asking(now);
                container.held.push(held);
            }
        }
        Ok(())
    }

    fn check_claim(&mut self, task: &TaskId, open: &inputs::OpenInput) -> Result<()> {
        let kind = &self.kinds[&open.function];
        let times = self.seen.taken.entry(open.id.clone()).or_default();
        *times += 1;
        let most = kind.retries + LOST_MAX + 1;
        ensure!(*times <= most, "attempts: {} was taken {times} times", open.id);
        let of_task = self.seen.taken_by.entry(task.clone()).or_default();
        of_task.insert(open.id.clone());
        ensure!(!kind.single_use || of_task.len() <= 1, "single use: {task} took {of_task:?}");
        Ok(())
    }
}
