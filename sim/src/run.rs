//! One run: a plane, workers and clients, and a thousand moments of which chance names the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use model::link::Report;
use model::resources::{Capacity, Defaults};
use model::spec::{BuildSpec, ImageContent};
use model::{AppId, CallId, EnvironmentId, FunctionId, ImageId, Millis, TaskId, Time, WorkspaceId};
use plane::api::rows::client_rows;
use plane::api::table::RpcTable;
use plane::{Plane, reconcile, reports, scheduler};
use store::environments::Environment;
use store::inputs::OpenInput;
use store::{Scope, Store, environments, images, tokens};
use wire::client as pb;
use wire::rpc::client as rpc;

use crate::chance::Chance;
use crate::checks::{self, Seen};
use crate::client::{Asked, Kind};
use crate::worker::{Held, Stage, Worker};
use crate::world::Simulated;

/// Moments of a run until everything settles.
const MOMENTS: u32 = 400;

/// Lines of a run's story that a failure tells.
const STORY_LINES: usize = 80;

/// A run.
#[derive(Debug)]
pub struct Run {
    /// Where everything that is left open comes from.
    pub chance: Chance,
    /// The plane that serves just now.
    pub plane: Arc<Plane>,
    /// Its rows.
    pub tables: Arc<[RpcTable]>,
    /// The only workspace.
    pub scope: Scope,
    /// The only image.
    pub image: ImageId,
    /// Functions, as they were last defined.
    pub kinds: BTreeMap<FunctionId, Kind>,
    /// The machines.
    pub workers: Vec<Worker>,
    /// Calls.
    pub asked: BTreeMap<CallId, Asked>,
    /// Apps that have ended.
    pub stopped: BTreeSet<AppId>,
    /// What was seen so far.
    pub seen: Seen,
    /// Answers of containers that hold the input no more.
    pub ghosts: Vec<(TaskId, Held)>,
    /// Whether things happen at the same time.
    pub(crate) overlaps: bool,
    /// What containers took while something else happened.
    taken_meanwhile: Mutex<Vec<(usize, TaskId, Vec<OpenInput>)>>,
    pub(crate) apps: Vec<AppId>,
    pub(crate) world: Arc<Simulated>,
    looked_at: Time,
    dir: tempfile::TempDir,
    story: Vec<String>,
}

/// What a run has seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    /// Calls that were made.
    pub calls: usize,
    /// Inputs that were acknowledged, and answered.
    pub inputs: usize,
    /// Attempts to run them.
    pub attempts: u32,
}

async fn open_plane(dir: &std::path::Path, world: &Arc<Simulated>) -> Result<Arc<Plane>> {
    let store = Store::open(&dir.join("palisade.db")).await?;
    let blobs = blobs::Local::open(dir.join("blobs")).await?;
    let config = plane::Config {
        gateway_url: "http://127.0.0.1:1".into(),
        blob_port_inside: 1,
        payload_bytes_max: 1 << 20,
        defaults: Defaults::default(),
        pythons: plane::Pythons::of(dir.join("pythons")),
        router_url: "https://127.0.0.1:1".into(),
        router_key: model::router_token::Key::new([5; 64]),
    };
    Ok(Plane::in_world(store, blobs, config, world.clone()))
}

/// The workspace, and an image that is built.
async fn furnish(plane: &Plane) -> Result<(Scope, ImageId)> {
    let now = plane.now();
    let scope = Scope { workspace: WorkspaceId::new(plane.bits()) };
    let mut tx = plane.store.begin().await?;
    tokens::insert_workspace(&mut tx, &scope.workspace, "sim", now).await?;
    let environment =
        Environment { id: EnvironmentId::new(plane.bits()), name: "main".into(), created_at: now };
    environments::insert(&mut tx, &scope, &environment).await?;
    let id = ImageId::new(plane.bits());
    let build = BuildSpec {
        image: id.clone(),
        base: None,
        commands: vec![],
        build_args: vec![],
        context: vec![],
        context_inline: vec![],
        secrets: vec![],
        secret_env: vec![],
        function: None,
        registry_secret: None,
        registry_auth: None,
        force: false,
    };
    let image = images::Image {
        id: id.clone(),
        workspace: scope.workspace.clone(),
        key: "image".into(),
        base: None,
        builder_version: "2025.06".into(),
        phase: images::Phase::Waiting,
        build,
        content: None,
        failure: None,
        call: None,
        finished_at: None,
        created_at: now,
    };
    images::insert(&mut tx, &image).await?;
    let content = ImageContent { layers: vec![], config: "{}".into(), python: Some((3, 11)) };
    images::finish(&mut tx, &id, &Ok(content), now).await?;
    tx.commit().await?;
    Ok((scope, id))
}

/// Runs a seed. A check that fails is told with the end of the story that led there.
pub async fn run(seed: u64) -> Result<Summary> {
    let mut run = Run::new(seed).await?;
    let result = run.live_through().await;
    run.plane.store.close().await;
    let story = run.story.split_off(run.story.len().saturating_sub(STORY_LINES));
    result.with_context(|| format!("seed {seed}, after:\n  {}", story.join("\n  ")))
}

impl Run {
    async fn new(seed: u64) -> Result<Self> {
        let mut chance = Chance::new(seed);
        let world = Arc::new(Simulated::new(chance.bits()));
        let dir = tempfile::tempdir()?;
        let plane = open_plane(dir.path(), &world).await?;
        let (scope, image) = furnish(&plane).await?;
        let workers = (0..u8::try_from(chance.within(1..4))?).map(|n| {
            let memory_mib = chance.within(512..2_048);
            Worker::new(
                n,
                Capacity { cpu_millis: 2_000, memory_bytes: memory_mib << 20, disk_bytes: 1 << 40 },
            )
        });
        let workers = workers.collect();
        let mut run = Self {
            chance,
            looked_at: plane.now(),
            plane,
            tables: Arc::new([client_rows()]),
            scope,
            image,
            kinds: BTreeMap::new(),
            workers,
            asked: BTreeMap::new(),
            stopped: BTreeSet::new(),
            seen: Seen::default(),
            ghosts: Vec::new(),
            overlaps: seed % 2 == 1,
            taken_meanwhile: Mutex::default(),
            apps: Vec::new(),
            world,
            dir,
            story: Vec::new(),
        };
        for n in 0..run.workers.len() {
            run.connect(n).await;
        }
        for n in 0..2 {
            run.add_app(n).await?;
        }
        Ok(run)
    }

    async fn add_app(&mut self, n: u32) -> Result<()> {
        let request = pb::AppGetOrCreateRequest {
            app_name: format!("app{n}"),
            object_creation_type: pb::ObjectCreationType::CreateIfMissing as i32,
            ..Default::default()
        };
        let key = self.chance.bits();
        let app = self.call::<rpc::AppGetOrCreate>(key, request).await?;
        let app = AppId::parse(&app.app_id)?;
        self.apps.push(app.clone());
        for f in 0..2 {
            let kind = Kind::new(&mut self.chance, app.clone(), 2 * n + f);
            self.define(kind, None).await?;
        }
        Ok(())
    }

    /// Adds a line to the story.
    pub fn note(&mut self, line: String) {
        let now = self.plane.now().0 % 100_000_000;
        self.story.push(format!("{now:>8} {line}"));
    }

    /// What happens while a client is served, where a run overlaps: the loops look, containers
    /// take inputs. `chance` says which, and in which order.
    pub async fn meanwhile(&self, chance: u64) -> Result<()> {
        if !self.overlaps {
            return Ok(());
        }
        let mut chance = Chance::new(chance);
        for _ in 0..chance.within(0..4) {
            match chance.within(0..5) {
                0 | 1 => scheduler::tick(&self.plane).await?,
                2 => drop(reconcile::deadlines(&self.plane, self.looked_at).await?),
                3 => reconcile::sweep(&self.plane).await?,
                _ => self.take_meanwhile(&mut chance).await?,
            }
        }
        Ok(())
    }

    async fn take_meanwhile(&self, chance: &mut Chance) -> Result<()> {
        for (n, worker) in self.workers.iter().enumerate() {
            if worker.orders.is_none() {
                continue;
            }
            for (task, container) in &worker.containers {
                if !matches!(container.stage, Stage::Asking(_)) || !chance.one_in(2) {
                    continue;
                }
                let taken = self.plane.claim(task, &container.function, 1).await?;
                let taken = taken.into_iter().map(|ready| ready.open).collect();
                let mut all = self.taken_meanwhile.lock().unwrap_or_else(PoisonError::into_inner);
                all.push((n, task.clone(), taken));
            }
        }
        Ok(())
    }

    async fn live_through(&mut self) -> Result<Summary> {
        for moment in 0..MOMENTS {
            self.moment().await?;
            let taken = std::mem::take(&mut self.taken_meanwhile).into_inner();
            for (worker, task, taken) in taken.unwrap_or_else(PoisonError::into_inner) {
                self.hold(worker, &task, taken)?;
            }
            if moment % 8 == 0 {
                self.check().await?;
            }
        }
        self.settle().await?;
        self.check().await?;
        let inputs = self.asked.values().map(|asked| asked.inputs.len()).sum();
        let attempts = self.seen.taken.values().sum();
        Ok(Summary { calls: self.asked.len(), inputs, attempts })
    }

    async fn check(&mut self) -> Result<()> {
        checks::inputs_are_kept(&self.plane, &self.scope, &self.asked, &mut self.seen).await?;
        checks::holders_live(&self.plane, &self.kinds).await
    }

    async fn moment(&mut self) -> Result<()> {
        match self.chance.within(0..100) {
            0..28 => self.work(false).await,
            28..42 => self.schedule().await,
            42..54 => self.hear(false).await,
            54..64 => self.pass().await,
            64..72 => self.look_at_deadlines().await,
            72..76 => Ok(reconcile::sweep(&self.plane).await?),
            76..86 => self.begin_call().await,
            86..89 => self.add_inputs().await,
            89..91 => self.cancel_call().await,
            91..92 => self.redefine().await,
            92..94 => self.haunt().await,
            94..95 => self.lose_worker().await,
            95..97 => self.find_worker().await,
            97..98 => self.restart().await,
            98..99 => self.hang(),
            _ if self.chance.one_in(8) => {
                let app = self.chance.pick(&self.apps.clone()).cloned();
                self.stop_app(&app.context("a run has apps")?).await
            }
            _ => Ok(()),
        }
    }

    /// Workers take their orders, containers live on: some, or all.
    pub(crate) async fn work(&mut self, all: bool) -> Result<()> {
        let now = self.plane.now();
        for n in 0..self.workers.len() {
            if !all && self.chance.one_in(3) {
                continue;
            }
            self.workers[n].take_orders(&mut self.chance, now);
            let tasks: Vec<_> = self.workers[n].containers.keys().cloned().collect();
            for task in tasks {
                if all || !self.chance.one_in(3) {
                    self.live(n, &task).await?;
                }
            }
        }
        Ok(())
    }

    pub(crate) async fn schedule(&mut self) -> Result<()> {
        scheduler::tick(&self.plane).await?;
        checks::limits_hold(&self.plane, &self.workers, &self.kinds).await
    }

    /// The plane hears reports: one or two of a worker, or all of all.
    pub(crate) async fn hear(&mut self, all: bool) -> Result<()> {
        for n in 0..self.workers.len() {
            if self.workers[n].orders.is_none() || (!all && self.chance.one_in(2)) {
                continue;
            }
            let mut batch = Vec::new();
            while let Some(report) = self.workers[n].next_report(&mut self.chance) {
                batch.push(report);
                if !all && self.chance.one_in(2) {
                    break;
                }
            }
            reports::take(&self.plane, &batch).await;
        }
        Ok(())
    }

    async fn pass(&mut self) -> Result<()> {
        match self.chance.within(0..40) {
            0 => self.world.pass(Millis(self.chance.within(10_000..120_000))),
            1 => self.world.set_back(Millis(self.chance.within(1..3_000))),
            _ => self.world.pass(Millis(self.chance.within(1..2_000))),
        }
        Ok(())
    }

    pub(crate) async fn look_at_deadlines(&mut self) -> Result<()> {
        let now = self.plane.now();
        reconcile::deadlines(&self.plane, self.looked_at).await?;
        self.looked_at = now;
        checks::deadlines_hold(&self.plane, now).await
    }

    /// A container answers once more, or long after its end.
    async fn haunt(&mut self) -> Result<()> {
        if self.ghosts.is_empty() {
            return Ok(());
        }
        let n = usize::try_from(self.chance.within(0..self.ghosts.len() as u64))?;
        let (task, held) = self.ghosts.swap_remove(n);
        self.answer(&task, &held).await
    }

    /// A worker's connection breaks; or the whole machine is gone.
    async fn lose_worker(&mut self) -> Result<()> {
        let n = usize::try_from(self.chance.within(0..self.workers.len() as u64))?;
        let worker = &mut self.workers[n];
        worker.orders = None;
        self.plane.fleet.leave(&worker.id);
        if self.chance.one_in(2) {
            self.burn(n);
        }
        self.note(format!("lost worker {n}"));
        Ok(())
    }

    /// A machine loses all that it ran, without a word.
    fn burn(&mut self, n: usize) {
        let worker = &mut self.workers[n];
        worker.unsent.clear();
        for (task, container) in std::mem::take(&mut worker.containers) {
            self.ghosts.extend(container.held.into_iter().map(|held| (task.clone(), held)));
        }
    }

    pub(crate) async fn find_worker(&mut self) -> Result<()> {
        let away = |worker: &Worker| worker.orders.is_none();
        if let Some(n) = self.workers.iter().position(away) {
            self.connect(n).await;
        }
        Ok(())
    }

    /// A worker joins, and says what it runs. What it had to report is told by that.
    async fn connect(&mut self, n: usize) {
        let worker = &mut self.workers[n];
        let orders = worker.connect();
        worker.unsent.clear();
        let joined = Report::Joined {
            worker: worker.id.clone(),
            capacity: worker.capacity,
            running: worker.containers.keys().cloned().collect(),
        };
        let (id, capacity) = (worker.id.clone(), worker.capacity);
        self.note(format!("worker {n} joins"));
        self.plane.fleet.join(id, capacity, orders);
        if self.chance.one_in(2) {
            // The scheduler may look before the plane has heard it.
            if let Err(error) = scheduler::tick(&self.plane).await {
                self.note(format!("the scheduler failed: {error}"));
            }
        }
        reports::take(&self.plane, &[joined]).await;
    }

    /// The server ends and starts again on what it has stored.
    async fn restart(&mut self) -> Result<()> {
        self.note("the server starts again".into());
        self.plane.close();
        self.plane.store.close().await;
        self.plane = open_plane(self.dir.path(), &self.world).await?;
        self.looked_at = self.plane.now();
        let gone = self.chance.one_in(2);
        for n in 0..self.workers.len() {
            let there = self.workers[n].orders.take().is_some();
            if gone {
                self.burn(n);
            }
            if there {
                self.connect(n).await;
            }
        }
        Ok(())
    }

    fn hang(&mut self) -> Result<()> {
        let n = usize::try_from(self.chance.within(0..self.workers.len() as u64))?;
        let tasks: Vec<_> = self.workers[n].containers.keys().cloned().collect();
        if let Some(task) = self.chance.pick(&tasks)
            && let Some(container) = self.workers[n].containers.get_mut(task)
        {
            container.hangs = true;
            self.note(format!("{task} hangs"));
        }
        Ok(())
    }
}
