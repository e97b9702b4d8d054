//! Fake workers: they take orders and report, but their containers are numbers.

use std::collections::{BTreeMap, VecDeque};

use model::link::{End, Order, Report};
use model::resources::Capacity;
use model::spec::{Network, TaskSpec};
use model::{CallId, FunctionId, InputId, TaskId, Time, WorkerId};
use tokio::sync::mpsc;

use crate::chance::Chance;

/// Orders that wait for a worker: few, so that runs see a full channel.
const ORDERS_MAX: usize = 6;

/// A machine.
#[derive(Debug)]
pub struct Worker {
    /// Who it is.
    pub id: WorkerId,
    /// What it has.
    pub capacity: Capacity,
    /// The way from the plane, while there is one.
    pub orders: Option<mpsc::Receiver<Order>>,
    /// What runs on it.
    pub containers: BTreeMap<TaskId, Container>,
    /// What the plane has not heard of yet: reports of one container keep their order, those of
    /// different containers do not.
    pub unsent: BTreeMap<TaskId, VecDeque<Report>>,
}

/// A container: what it was told, and what it is up to.
#[derive(Debug)]
pub struct Container {
    /// Its function.
    pub function: FunctionId,
    /// The walls that it was started with.
    pub network: Network,
    /// Where it is.
    pub stage: Stage,
    /// Inputs that it works on.
    pub held: Vec<Held>,
    /// It was told to end, and is killed at this moment.
    pub stop_at: Option<Time>,
    /// It dies by itself at this moment.
    pub dies_at: Option<(Time, End)>,
    /// It does not leave when it is sent home, and does not give up what is cancelled.
    pub stubborn: bool,
    /// It hangs: it asks for nothing and sends no heartbeats.
    pub hangs: bool,
}

/// Where a fake container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its program is not there before this moment.
    Starting(Time),
    /// It asks for work, since this moment.
    Asking(Time),
    /// It was sent home and did not go.
    Refusing,
}

/// An input in a container.
#[derive(Debug, Clone)]
pub struct Held {
    /// Which.
    pub input: InputId,
    /// Its call.
    pub call: CallId,
    /// Which attempt it is.
    pub retry_count: u32,
    /// When the container is done with it.
    pub until: Time,
    /// The container was asked to give it up.
    pub cancelled: bool,
}

impl Worker {
    /// A machine that is not connected yet.
    pub fn new(n: u8, capacity: Capacity) -> Self {
        Self {
            id: WorkerId::new([n; 16]),
            capacity,
            orders: None,
            containers: BTreeMap::new(),
            unsent: BTreeMap::new(),
        }
    }

    /// A way for orders; what was on the way before is lost.
    pub fn connect(&mut self) -> mpsc::Sender<Order> {
        let (sender, receiver) = mpsc::channel(ORDERS_MAX);
        self.orders = Some(receiver);
        sender
    }

    /// Takes what the plane has ordered. Returns what there was to build.
    pub fn take_orders(&mut self, chance: &mut Chance, now: Time) {
        let Some(orders) = &mut self.orders else { return };
        let mut taken = Vec::new();
        while let Ok(order) = orders.try_recv() {
            taken.push(order);
        }
        for order in taken {
            match order {
                Order::Start(spec) => self.start(*spec, chance, now),
                Order::Stop { task, grace_ms } => {
                    if let Some(container) = self.containers.get_mut(&task) {
                        let by = now + grace_ms;
                        container.stop_at = Some(container.stop_at.map_or(by, |at| at.min(by)));
                    }
                }
                Order::Build(_) | Order::Sandbox(_) => {}
            }
        }
    }

    fn start(&mut self, spec: TaskSpec, chance: &mut Chance, now: Time) {
        let after = |chance: &mut Chance, ms: u64| Time(now.0 + chance.within(1..ms));
        if chance.one_in(12) {
            let end = End::NotStarted { reason: "the simulation said so".into() };
            self.report(Report::Ended { task: spec.task, end });
            return;
        }
        let dies_at = match chance.within(0..12) {
            0 => Some(End::Exit { code: 1 }),
            1 => Some(End::Signal { signal: 9 }),
            2 => Some(End::OutOfMemory { limit_bytes: 1 }),
            _ => None,
        };
        let dies_at = dies_at.map(|end| (after(chance, 20_000), end));
        let slow = if chance.one_in(20) { 200_000 } else { 3_000 };
        let container = Container {
            function: spec.function,
            network: spec.network,
            stage: Stage::Starting(after(chance, slow)),
            held: Vec::new(),
            stop_at: None,
            dies_at,
            stubborn: chance.one_in(6),
            hangs: false,
        };
        self.containers.insert(spec.task, container);
    }

    /// Queues a report.
    pub fn report(&mut self, report: Report) {
        let task = match &report {
            Report::Started { task } | Report::Ended { task, .. } => task.clone(),
            Report::Log(line) => line.task.clone(),
            // These are sent at once, or not made here.
            Report::Joined { .. }
            | Report::BuildLog { .. }
            | Report::Built { .. }
            | Report::Kept { .. } => return,
        };
        self.unsent.entry(task).or_default().push_back(report);
    }

    /// Takes a report out, of a container that chance names.
    pub fn next_report(&mut self, chance: &mut Chance) -> Option<Report> {
        let tasks: Vec<_> = self.unsent.keys().cloned().collect();
        let task = chance.pick(&tasks)?;
        let reports = self.unsent.get_mut(task)?;
        let report = reports.pop_front();
        if reports.is_empty() {
            self.unsent.remove(task);
        }
        report
    }

    /// Ends a container; what it held comes back, for an answer that comes too late.
    pub fn end(&mut self, task: &TaskId, end: End) -> Vec<Held> {
        let Some(container) = self.containers.remove(task) else { return Vec::new() };
        self.report(Report::Ended { task: task.clone(), end });
        container.held
    }
}
