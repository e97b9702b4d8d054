//! A plane with one app, one function and one call, whose clock a test moves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use model::link::Order;
use model::output::{Outcome, Payload, Status};
use model::resources::{Capacity, Defaults, Reservation, ResourceWish};
use model::retry::RetryPolicy;
use model::spec::{BuildSpec, Concurrency, FunctionSpec, ImageContent, Scaling};
use model::*;
use plane::{Plane, World};
use prost::Message;
use store::inputs::{Carried, OpenInput};
use store::outcomes::{self, Wanted};
use store::*;
use tokio::sync::mpsc;

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicU64);

impl World for Clock {
    fn now(&self) -> Time {
        Time(1_000_000 + self.0.load(Ordering::SeqCst))
    }

    fn bits(&self) -> [u8; 16] {
        rand::random()
    }
}

pub(crate) struct Bench {
    pub(crate) plane: Arc<Plane>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) scope: Scope,
    pub(crate) app: AppId,
    pub(crate) function: FunctionId,
    pub(crate) call: CallId,
    pub(crate) worker: WorkerId,
    pub(crate) orders: mpsc::Receiver<Order>,
    dir: tempfile::TempDir,
}

pub(crate) fn spec() -> FunctionSpec {
    FunctionSpec {
        name: "f".into(),
        generator: false,
        restricted: false,
        restrict_output: false,
        block_network: false,
        single_use: false,
        builds: false,
        image: ImageId::new([1; 16]),
        mounts: vec![],
        secrets: vec![],
        resources: ResourceWish::default(),
        timeout_ms: Millis(10_000),
        startup_timeout_ms: Millis(60_000),
        retry: RetryPolicy { initial_delay_ms: Millis(500), ..RetryPolicy::default() },
        scaling: Scaling {
            min_containers: 0,
            max_containers: 10,
            buffer_containers: 0,
            scaledown_window_ms: Millis(2_000),
        },
        concurrency: Concurrency::default(),
    }
}

async fn open(dir: &std::path::Path, clock: &Arc<Clock>) -> Arc<Plane> {
    let store = Store::open(&dir.join("palisade.db")).await.unwrap();
    let blobs = ::blobs::Local::open(dir.join("blobs")).await.unwrap();
    let config = plane::Config {
        gateway_url: "http://127.0.0.1:1".into(),
        blob_port_inside: 1,
        payload_bytes_max: 1 << 20,
        defaults: Defaults::default(),
        pythons: plane::Pythons::of(dir.join("pythons")),
        router_url: "https://127.0.0.1:1".into(),
        router_key: model::router_token::Key::new([5; 64]),
    };
    Plane::in_world(store, blobs, config, clock.clone())
}

impl Bench {
    pub(crate) async fn new(spec: FunctionSpec) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(Clock::default());
        let plane = open(dir.path(), &clock).await;
        let scope = Scope { workspace: WorkspaceId::new([1; 16]) };
        let (app, function, call) =
            (AppId::new([1; 16]), FunctionId::new([1; 16]), CallId::new([1; 16]));
        let (sender, orders) = mpsc::channel(64);
        let worker = WorkerId::new([1; 16]);
        let capacity = Capacity { cpu_millis: 4_000, memory_bytes: 4 << 30, disk_bytes: 1 << 40 };
        plane.fleet.join(worker.clone(), capacity, sender);
        plane.fleet.admit(&worker);
        let bench = Self { plane, clock, scope, app, function, call, worker, orders, dir };
        bench.furnish(spec).await;
        bench
    }

    async fn furnish(&self, spec: FunctionSpec) {
        let now = self.plane.now();
        let workspace = self.scope.workspace.clone();
        let mut tx = self.plane.store.begin().await.unwrap();
        tokens::insert_workspace(&mut tx, &workspace, "bench", now).await.unwrap();
        let environment = environments::Environment {
            id: EnvironmentId::new([1; 16]),
            name: "main".into(),
            created_at: now,
        };
        environments::insert(&mut tx, &self.scope, &environment).await.unwrap();
        let app = apps::App {
            id: self.app.clone(),
            workspace: workspace.clone(),
            environment: environment.id,
            name: Some("app".into()),
            description: String::new(),
            state: wire::client::AppState::Deployed as i32,
            tags: BTreeMap::new(),
            client_version: "1.6.4".into(),
            created_at: now,
            heartbeat_at: now,
            deployed_at: Some(now),
            stopped_at: None,
            logs_done: false,
        };
        apps::insert(&mut tx, &app, None).await.unwrap();
        insert_image(&mut tx, &workspace, &spec.image).await;
        tx.commit().await.unwrap();
        self.define(spec).await;
        let call = calls::Call {
            id: self.call.clone(),
            workspace,
            app: self.app.clone(),
            function: self.function.clone(),
            kind: 2,
            invocation: 4,
            created_at: now,
            input_count: 0,
            done_count: 0,
            cancelled_at: None,
        };
        let mut tx = self.plane.store.begin().await.unwrap();
        calls::insert(&mut tx, &call, None).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Gives the function a definition.
    pub(crate) async fn define(&self, spec: FunctionSpec) {
        self.put_function(&self.function, spec).await;
    }

    /// Another function of the app.
    pub(crate) async fn add_function(&self, spec: FunctionSpec) -> FunctionId {
        let id = FunctionId::new(self.plane.bits());
        self.put_function(&id, spec).await;
        id
    }

    async fn put_function(&self, id: &FunctionId, spec: FunctionSpec) {
        let definition = wire::client::Function {
            function_name: spec.name.clone(),
            ..wire::client::Function::default()
        };
        let function = functions::Function {
            id: id.clone(),
            workspace: self.scope.workspace.clone(),
            app: self.app.clone(),
            name: spec.name.clone(),
            definition: Bytes::from(definition.encode_to_vec()),
            spec: Some(spec),
            created_at: self.plane.now(),
        };
        let mut tx = self.plane.store.begin().await.unwrap();
        functions::put(&mut tx, &function).await.unwrap();
        tx.commit().await.unwrap();
        self.plane.functions.forget(id);
    }

    pub(crate) fn pass(&self, time_ms: u64) {
        self.clock.0.fetch_add(time_ms, Ordering::SeqCst);
    }

    /// Opens what is stored again, as a server does that starts again.
    pub(crate) async fn restart(&mut self) {
        self.plane.store.close().await;
        self.plane = open(self.dir.path(), &self.clock).await;
    }

    pub(crate) async fn put(&self, indexes: std::ops::Range<u32>) -> Vec<InputId> {
        let carried = |n: u32| Carried {
            args: Payload::Inline(Bytes::from(n.to_string())),
            data_format: 1,
            method_name: String::new(),
        };
        let wanted = indexes.map(|n| (n, carried(n))).collect();
        let mut tx = self.plane.store.begin().await.unwrap();
        let call = calls::get(&mut tx, &self.scope, &self.call).await.unwrap().unwrap();
        let submitted =
            self.plane.submit(&mut tx, &call, wanted, 0, self.plane.now()).await.unwrap();
        tx.commit().await.unwrap();
        submitted.deliver()
    }

    /// A container that can take inputs.
    pub(crate) async fn container(&self, single_use: bool) -> TaskId {
        let now = self.plane.now();
        let task = tasks::Task {
            id: TaskId::new(self.plane.bits()),
            workspace: self.scope.workspace.clone(),
            app: self.app.clone(),
            function: self.function.clone(),
            worker: self.worker.clone(),
            phase: tasks::Phase::Ready,
            restricted: false,
            single_use,
            taken_count: 0,
            reserved: Reservation::default(),
            created_at: now,
            ready_at: Some(now),
            heartbeat_at: now,
            ended_at: None,
            end: None,
        };
        let mut tx = self.plane.store.begin().await.unwrap();
        tasks::insert(&mut tx, &task).await.unwrap();
        tx.commit().await.unwrap();
        task.id
    }

    pub(crate) async fn claim(&self, task: &TaskId, most: u32) -> Vec<OpenInput> {
        let taken = self.plane.claim(task, &self.function, most).await.unwrap();
        taken.into_iter().map(|ready| ready.open).collect()
    }

    /// Inputs that are not done, and those that are, in the order of ending.
    pub(crate) async fn inputs(&self) -> (Vec<OpenInput>, Vec<outcomes::DoneInput>) {
        let mut db = self.plane.store.read().await.unwrap();
        let open = inputs::open_of_call(&mut db, &self.call).await.unwrap();
        let done = outcomes::done(&mut db, &self.call, Wanted::After(0), u32::MAX).await.unwrap();
        (open, done)
    }

    pub(crate) async fn task(&self, id: &TaskId) -> tasks::Task {
        let mut db = self.plane.store.read().await.unwrap();
        tasks::get_any(&mut db, id).await.unwrap().unwrap()
    }

    /// All inputs are there, each once, and what is done has no gap.
    pub(crate) async fn check(&self, sent: usize) {
        let (open, done) = self.inputs().await;
        assert_eq!(open.len() + done.len(), sent, "an input is lost, or there twice");
        let seqs: Vec<_> = done.iter().map(|done| done.done_seq).collect();
        assert_eq!(seqs, (1..=done.len() as u64).collect::<Vec<_>>(), "the order has a gap");
        let mut db = self.plane.store.read().await.unwrap();
        let call = calls::get(&mut db, &self.scope, &self.call).await.unwrap().unwrap();
        assert_eq!((call.input_count as usize, call.done_count as usize), (sent, done.len()));
    }
}

async fn insert_image(tx: &mut Tx, workspace: &WorkspaceId, id: &ImageId) {
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
        workspace: workspace.clone(),
        key: "image".into(),
        base: None,
        builder_version: "2025.06".into(),
        phase: images::Phase::Waiting,
        build,
        content: None,
        failure: None,
        call: None,
        finished_at: None,
        created_at: Time(1),
    };
    images::insert(tx, &image).await.unwrap();
    let content = ImageContent { layers: vec![], config: "{}".into(), python: Some((3, 11)) };
    images::finish(tx, id, &Ok(content), Time(1)).await.unwrap();
}

pub(crate) fn success(text: &str) -> Outcome {
    Outcome {
        data: Some(Payload::Inline(Bytes::from(text.to_owned()))),
        data_format: 1,
        ..Outcome::without_data(Status::Success, "")
    }
}
