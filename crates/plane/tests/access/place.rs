//! A plane with two workspaces. Each has one of everything, and three containers that hold an
//! input: an open one and two restricted ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use model::output::Payload;
use model::resources::{Capacity, Defaults, Reservation, ResourceWish};
use model::retry::RetryPolicy;
use model::sandbox::{NetworkRule, SandboxSpec};
use model::spec::{BuildSpec, Concurrency, FunctionSpec, ImageContent, MountFile, Scaling};
use model::*;
use plane::api::gate::Caller;
use plane::api::rows::client_rows;
use plane::api::table::RpcTable;
use plane::{Api, Plane, Transport};
use prost::Message;
use sha2::{Digest, Sha256};
use store::inputs::{Carried, OpenInput};
use store::*;

/// A plane and its two workspaces.
pub(crate) struct Place {
    pub(crate) plane: Arc<Plane>,
    pub(crate) tables: Arc<[RpcTable]>,
    pub(crate) ours: Tenant,
    pub(crate) theirs: Tenant,
    _dir: tempfile::TempDir,
}

/// A workspace with one of everything.
pub(crate) struct Tenant {
    pub(crate) scope: Scope,
    pub(crate) token: (String, String),
    /// The name of an environment that the other workspace does not have.
    pub(crate) environment: String,
    pub(crate) app: AppId,
    pub(crate) image: ImageId,
    pub(crate) mount: MountId,
    pub(crate) secret: SecretId,
    pub(crate) queue: QueueId,
    pub(crate) dict: DictId,
    pub(crate) sandbox: SandboxId,
    pub(crate) sandbox_task: TaskId,
    /// SHA-256 of a file that only this workspace has sent.
    pub(crate) file: String,
    /// A blob that a client made, with its bytes.
    pub(crate) blob: BlobId,
    /// An open container, then two restricted ones.
    pub(crate) cells: Vec<Cell>,
}

/// A container, and what it holds.
pub(crate) struct Cell {
    pub(crate) task: TaskId,
    pub(crate) function: FunctionId,
    pub(crate) call: CallId,
    pub(crate) input: InputId,
    /// The blob that its input carries.
    pub(crate) argument: BlobId,
    /// A blob that it made.
    pub(crate) result: BlobId,
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Nobody,
    User,
    Task,
    Restricted,
}

pub(crate) const EVERYBODY: [Who; 4] = [Who::Nobody, Who::User, Who::Task, Who::Restricted];

impl Place {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("palisade.db")).await.unwrap();
        let blobs = ::blobs::Local::open(dir.path().join("blobs")).await.unwrap();
        let config = plane::Config {
            gateway_url: "http://127.0.0.1:1".into(),
            blob_port_inside: 2,
            payload_bytes_max: 1 << 20,
            defaults: Defaults::default(),
            pythons: plane::Pythons::of(dir.path().join("pythons")),
            router_url: "https://127.0.0.1:1".into(),
            router_key: model::router_token::Key::new([5; 64]),
        };
        let plane = Plane::new(store, blobs, config);
        let (orders, _) = tokio::sync::mpsc::channel(1);
        let capacity = Capacity { cpu_millis: 4_000, memory_bytes: 4 << 30, disk_bytes: 1 << 40 };
        plane.fleet.join(WorkerId::new([9; 16]), capacity, orders);
        let ours = Tenant::new(&plane, "ours").await;
        let theirs = Tenant::new(&plane, "theirs").await;
        let tables = Arc::new([client_rows()]);
        Self { plane, tables, ours, theirs, _dir: dir }
    }

    /// The identity of one of our own.
    pub(crate) async fn caller(&self, who: Who) -> Caller {
        match who {
            Who::Nobody => Caller::Nobody("no token was sent"),
            Who::User => Caller::User(plane::api::gate::User { scope: self.ours.scope.clone() }),
            Who::Task => self.plane.identify_task(&self.ours.cells[0].task).await.unwrap(),
            Who::Restricted => self.plane.identify_task(&self.ours.cells[1].task).await.unwrap(),
        }
    }

    /// The service as one of our own meets it.
    pub(crate) async fn api(&self, who: Who) -> Api {
        let transport = match who {
            Who::Nobody | Who::User => Transport::Port,
            Who::Task | Who::Restricted => Transport::Door(Box::new(self.caller(who).await)),
        };
        Api::new(self.plane.clone(), self.tables.clone(), transport)
    }

    /// The headers that one of our own sends beside its request.
    pub(crate) fn headers(&self, who: Who) -> http::HeaderMap {
        let mut headers = http::HeaderMap::new();
        headers.insert("content-type", "application/grpc".parse().unwrap());
        if who == Who::User {
            headers.insert("x-modal-token-id", self.ours.token.0.parse().unwrap());
            headers.insert("x-modal-token-secret", self.ours.token.1.parse().unwrap());
        }
        headers
    }
}

fn spec(name: &str, image: &ImageId, restricted: bool) -> FunctionSpec {
    FunctionSpec {
        name: name.into(),
        generator: false,
        restricted,
        restrict_output: false,
        block_network: restricted,
        single_use: false,
        builds: false,
        image: image.clone(),
        mounts: vec![],
        secrets: vec![],
        resources: ResourceWish::default(),
        timeout_ms: Millis(300_000),
        startup_timeout_ms: Millis(300_000),
        retry: RetryPolicy::default(),
        scaling: Scaling {
            min_containers: 0,
            max_containers: 10,
            buffer_containers: 0,
            scaledown_window_ms: Millis(60_000),
        },
        concurrency: Concurrency::default(),
    }
}

/// The name of each workspace's image, in the environment that only it has.
pub(crate) const IMAGE_NAME: &str = "named:latest";

/// The name of each workspace's sandbox.
pub(crate) const SANDBOX_NAME: &str = "named";

impl Tenant {
    async fn new(plane: &Arc<Plane>, name: &str) -> Self {
        let now = plane.now();
        let scope = Scope { workspace: WorkspaceId::new(plane.bits()) };
        let mut tx = plane.store.begin().await.unwrap();
        let token = (format!("ak-{name}"), format!("as-{name}"));
        tokens::insert_workspace(&mut tx, &scope.workspace, name, now).await.unwrap();
        let hash = plane::identity::secret_hash(&token.1);
        tokens::insert(&mut tx, &token.0, &scope.workspace, &hash, now).await.unwrap();
        let mut app_id = AppId::new(plane.bits());
        for environment in ["main", name] {
            let id = EnvironmentId::new(plane.bits());
            let kept = environments::Environment {
                id: id.clone(),
                name: environment.into(),
                created_at: now,
            };
            environments::insert(&mut tx, &scope, &kept).await.unwrap();
            app_id = insert_app(&mut tx, &scope, id, environment, now).await;
        }
        let image = insert_image(&mut tx, plane, &scope).await;
        let publication = image_names::Publication {
            seq: 0,
            revision: format!("ir-{name}"),
            name: IMAGE_NAME.into(),
            image: image.clone(),
            at: now,
        };
        let named = environments::by_name(&mut tx, &scope, name).await.unwrap().unwrap().id;
        image_names::publish(&mut tx, &scope, &named, &publication).await.unwrap();
        let file = hex::encode(Sha256::digest(name));
        mounts::put_file(&mut tx, &scope, &file, 4).await.unwrap();
        let mount = MountId::new(plane.bits());
        let (path, sha256) = ("/root/a.py".into(), file.clone());
        let files = vec![MountFile { path, sha256, mode: None, tree: None }];
        mounts::insert(&mut tx, &scope, &mount, &files, now).await.unwrap();
        let secret = insert_secret(&mut tx, plane, &scope, name).await;
        let (queue, dict) = insert_objects(&mut tx, plane, &scope, name).await;
        let (sandbox, sandbox_task) =
            insert_sandbox(&mut tx, plane, &scope, (&named, &app_id), &image).await;
        tx.commit().await.unwrap();
        let blob = insert_blob(plane, &scope, None, name).await;
        let mut tenant = Self {
            scope,
            token,
            environment: name.into(),
            app: app_id,
            image,
            mount,
            secret,
            queue,
            dict,
            sandbox,
            sandbox_task,
            file,
            blob,
            cells: Vec::new(),
        };
        for (kind, restricted) in [("open", false), ("one", true), ("two", true)] {
            let cell = tenant.cell(plane, &format!("{name}-{kind}"), restricted).await;
            tenant.cells.push(cell);
        }
        tenant
    }

    async fn cell(&self, plane: &Arc<Plane>, name: &str, restricted: bool) -> Cell {
        let now = plane.now();
        let argument = insert_blob(plane, &self.scope, None, &format!("{name} argument")).await;
        let function = FunctionId::new(plane.bits());
        let task = TaskId::new(plane.bits());
        let call = CallId::new(plane.bits());
        let mut tx = plane.store.begin().await.unwrap();
        let definition = wire::client::Function {
            function_name: name.into(),
            ..wire::client::Function::default()
        };
        let kept = functions::Function {
            id: function.clone(),
            workspace: self.scope.workspace.clone(),
            app: self.app.clone(),
            name: name.into(),
            definition: Bytes::from(definition.encode_to_vec()),
            spec: Some(spec(name, &self.image, restricted)),
            created_at: now,
        };
        functions::put(&mut tx, &kept).await.unwrap();
        let kept = tasks::Task {
            id: task.clone(),
            workspace: self.scope.workspace.clone(),
            app: self.app.clone(),
            function: function.clone(),
            worker: WorkerId::new([9; 16]),
            phase: tasks::Phase::Ready,
            restricted,
            single_use: false,
            taken_count: 0,
            reserved: Reservation::default(),
            created_at: now,
            ready_at: Some(now),
            heartbeat_at: now,
            ended_at: None,
            end: None,
        };
        tasks::insert(&mut tx, &kept).await.unwrap();
        let input = insert_call(&mut tx, self, &call, &function, &argument, plane).await;
        tx.commit().await.unwrap();
        assert_eq!(plane.claim(&task, &function, 1).await.unwrap().len(), 1);
        let result = insert_blob(plane, &self.scope, Some(&task), &format!("{name} result")).await;
        Cell { task, function, call, input, argument, result }
    }
}

async fn insert_app(
    tx: &mut Tx,
    scope: &Scope,
    environment: EnvironmentId,
    name: &str,
    now: Time,
) -> AppId {
    let app = apps::App {
        id: AppId::new(rand::random()),
        workspace: scope.workspace.clone(),
        environment,
        name: Some(format!("app-{name}")),
        description: name.into(),
        state: wire::client::AppState::Deployed as i32,
        tags: BTreeMap::new(),
        client_version: "1.6.4".into(),
        created_at: now,
        heartbeat_at: now,
        deployed_at: Some(now),
        stopped_at: None,
        logs_done: false,
    };
    apps::insert(tx, &app, None).await.unwrap();
    apps::publish(tx, &app).await.unwrap();
    app.id
}

async fn insert_image(tx: &mut Tx, plane: &Plane, scope: &Scope) -> ImageId {
    let id = ImageId::new(plane.bits());
    let build = BuildSpec {
        image: id.clone(),
        base: None,
        commands: vec!["FROM scratch".into()],
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
        key: id.to_string(),
        base: None,
        builder_version: "2025.06".into(),
        phase: images::Phase::Waiting,
        build,
        content: None,
        failure: None,
        call: None,
        finished_at: None,
        created_at: plane.now(),
    };
    images::insert(tx, &image).await.unwrap();
    let content = ImageContent { layers: vec![], config: "{}".into(), python: Some((3, 11)) };
    images::finish(tx, &id, &Ok(content), plane.now()).await.unwrap();
    id
}

async fn insert_objects(
    tx: &mut Tx,
    plane: &Plane,
    scope: &Scope,
    name: &str,
) -> (QueueId, DictId) {
    let environment = environments::by_name(tx, scope, "main").await.unwrap().unwrap().id;
    let (queue, dict) = (QueueId::new(plane.bits()), DictId::new(plane.bits()));
    let new = store::queues::Queue {
        id: queue.clone(),
        environment: environment.clone(),
        name: Some(name.into()),
        created_at: plane.now(),
        heartbeat_at: None,
    };
    store::queues::insert(tx, scope, &new).await.unwrap();
    let new = store::dicts::NewDict {
        id: dict.clone(),
        environment,
        name: Some(name.into()),
        created_at: plane.now(),
    };
    store::dicts::insert(tx, scope, new).await.unwrap();
    (queue, dict)
}

async fn insert_sandbox(
    tx: &mut Tx,
    plane: &Plane,
    scope: &Scope,
    (environment, app): (&EnvironmentId, &AppId),
    image: &ImageId,
) -> (SandboxId, TaskId) {
    let spec = SandboxSpec {
        name: Some(SANDBOX_NAME.into()),
        image: image.clone(),
        mounts: vec![],
        secrets: vec![],
        entrypoint: vec!["sleep".into(), "60".into()],
        workdir: None,
        resources: ResourceWish::default(),
        timeout_ms: Millis(300_000),
        idle_timeout_ms: None,
        network: NetworkRule::Open,
        ports: vec![],
        inbound: vec![],
        probe: None,
        pty: None,
    };
    let (id, task) = (SandboxId::new(plane.bits()), TaskId::new(plane.bits()));
    let sandbox = sandboxes::Sandbox {
        id: id.clone(),
        task: task.clone(),
        workspace: scope.workspace.clone(),
        environment: environment.clone(),
        app: app.clone(),
        worker: WorkerId::new([9; 16]),
        phase: sandboxes::Phase::Placed,
        spec,
        name: Some(SANDBOX_NAME.into()),
        tags: BTreeMap::new(),
        reserved: Reservation::default(),
        created_at: plane.now(),
        started_at: None,
        deadline: plane.now() + Millis(300_000),
        ended_at: None,
        wanted_end: None,
        told_at: None,
        end: None,
        tunnels: BTreeMap::new(),
        connect_port: None,
    };
    sandboxes::insert(tx, &sandbox).await.unwrap();
    sandboxes::start(tx, &id, plane.now()).await.unwrap();
    (id, task)
}

async fn insert_secret(tx: &mut Tx, plane: &Plane, scope: &Scope, name: &str) -> SecretId {
    let environment = environments::by_name(tx, scope, "main").await.unwrap().unwrap();
    let secret = secrets::Secret {
        id: SecretId::new(plane.bits()),
        environment: environment.id,
        name: Some(name.into()),
        app: None,
        env: BTreeMap::from([("KEY".into(), name.into())]),
        created_at: plane.now(),
        updated_at: plane.now(),
    };
    secrets::insert(tx, scope, &secret).await.unwrap();
    secret.id
}

/// Announces a blob and sends its bytes.
pub(crate) async fn insert_blob(
    plane: &Plane,
    scope: &Scope,
    task: Option<&TaskId>,
    text: &str,
) -> BlobId {
    let blob = store::blobs::Blob {
        id: BlobId::new(plane.bits()),
        workspace: scope.workspace.clone(),
        task: task.cloned(),
        token: hex::encode(rand::random::<[u8; 32]>()),
        size_bytes: text.len() as u64,
        wanted_sha256: hex::encode(Sha256::digest(text)),
        sha256: None,
    };
    let mut tx = plane.store.begin().await.unwrap();
    store::blobs::insert(&mut tx, &blob, plane.now()).await.unwrap();
    tx.commit().await.unwrap();
    let body = futures::stream::iter([Ok(Bytes::from(text.to_owned()))]);
    let door = match task {
        Some(task) => plane::blobs::Door::Restricted(task.clone()),
        None => plane::blobs::Door::Port,
    };
    plane.upload(&blob.token, &door, body).await.unwrap();
    blob.id
}

async fn insert_call(
    tx: &mut Tx,
    tenant: &Tenant,
    call: &CallId,
    function: &FunctionId,
    argument: &BlobId,
    plane: &Plane,
) -> InputId {
    let kept = calls::Call {
        id: call.clone(),
        workspace: tenant.scope.workspace.clone(),
        app: tenant.app.clone(),
        function: function.clone(),
        kind: 1,
        invocation: 4,
        created_at: plane.now(),
        input_count: 0,
        done_count: 0,
        cancelled_at: None,
    };
    calls::insert(tx, &kept, None).await.unwrap();
    let open = OpenInput {
        id: InputId::new(plane.bits()),
        call: call.clone(),
        function: function.clone(),
        index: 0,
        input: call::Input::new(plane.now()),
    };
    let carried = Carried {
        args: Payload::Blob(argument.clone()),
        data_format: wire::client::DataFormat::Pickle as i32,
        method_name: String::new(),
    };
    inputs::insert(tx, call, &[(open, carried)], 0).await.unwrap().remove(0)
}
