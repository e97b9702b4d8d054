//! A plane, a worker that a test plays, and the protocol as a client meets it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use model::link::{End, LogLine, Order, Report, Stream};
use model::resources::Capacity;
use model::sandbox::SandboxStart;
use model::spec::{BuildSpec, ImageContent};
use model::*;
use plane::sandboxes::{Opening, Piece, Reach, Taken, Unreached};
use plane::{Api, reports};
use store::images;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;
use wire::client as pb;
use wire::rpc::client as names;

use crate::world::{World, call};

pub(crate) const AT_ONCE: Duration = Duration::from_secs(10);

/// How a worker that was told to start a sandbox answers.
pub(crate) type Answer = fn(&SandboxStart) -> Vec<Report>;

pub(crate) struct Bench {
    pub(crate) world: World,
    pub(crate) worker: WorkerId,
    pub(crate) image: String,
    pub(crate) app: String,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) reach: Arc<Ports>,
}

/// Opens ports by counting.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    pub(crate) opened: Mutex<Vec<Opening>>,
    pub(crate) closed: Mutex<Vec<TaskId>>,
    pub(crate) written: Mutex<Vec<Piece>>,
    /// Why streams are not reached.
    pub(crate) unreached: Mutex<Option<Unreached>>,
    /// What the command router answers.
    pub(crate) router: Mutex<Option<Status>>,
}

impl Reach for Ports {
    fn open(&self, wanted: Opening) -> BoxFuture<'_, std::io::Result<u16>> {
        let mut opened = self.opened.lock().unwrap();
        let port = wanted.host_port.unwrap_or(40_000 + opened.len() as u16);
        let refused = wanted.port.is_some_and(|open| open.port == 666);
        opened.push(wanted);
        async move {
            if refused {
                return Err(std::io::Error::other("no such port"));
            }
            Ok(port)
        }
        .boxed()
    }

    fn close(&self, task: &TaskId) {
        self.closed.lock().unwrap().push(task.clone());
    }

    fn write(&self, piece: Piece) -> BoxFuture<'_, Result<(), Unreached>> {
        let after_eof = self.written.lock().unwrap().iter().any(|before| before.eof);
        self.written.lock().unwrap().push(piece);
        let closed = after_eof.then(|| Unreached::Closed("stdin is closed".into()));
        let unreached = self.unreached.lock().unwrap().clone().or(closed);
        async move { unreached.map_or(Ok(()), Err) }.boxed()
    }

    fn ask(&self, _: http::Request<Body>) -> BoxFuture<'_, http::Response<Body>> {
        let nobody = || Status::unavailable("no sandbox runs here");
        let status = self.router.lock().unwrap().clone().unwrap_or_else(nobody);
        async { status.into_http() }.boxed()
    }

    fn taken(&self, _: TaskId, exec: String) -> BoxFuture<'_, Result<Taken, Unreached>> {
        async move { Err(Unreached::Closed(format!("no program {exec}"))) }.boxed()
    }
}

impl Bench {
    /// A world with a worker, an image and an app that is looked up.
    pub(crate) async fn new() -> Self {
        let world = World::new().await;
        let reach = Arc::new(Ports::default());
        world.plane.set_reach(reach.clone());
        let worker = WorkerId::new([9; 16]);
        let image = insert_image(&world).await;
        let app = lookup(&world.api(), "box").await;
        let (_, orders) = mpsc::channel(1);
        let mut bench = Self { world, worker, image, app, orders, reach };
        bench.join(64, &[]).await;
        bench
    }

    /// The worker is there, with room for orders, and runs this.
    pub(crate) async fn join(&mut self, room: usize, running: &[TaskId]) {
        let (order, orders) = mpsc::channel(room);
        let capacity = Capacity { cpu_millis: 4_000, memory_bytes: 4 << 30, disk_bytes: 1 << 40 };
        self.world.plane.fleet.join(self.worker.clone(), capacity, order);
        self.orders = orders;
        let (worker, running) = (self.worker.clone(), running.to_vec());
        self.report(Report::Joined { worker, capacity, running }).await;
    }

    pub(crate) fn leave(&self) {
        self.world.plane.fleet.leave(&self.worker);
    }

    pub(crate) async fn report(&self, report: Report) {
        reports::take(&self.world.plane, &[report]).await;
    }

    pub(crate) fn api(&self) -> Api {
        self.world.api()
    }

    pub(crate) fn request(&self) -> pb::SandboxCreateV2Request {
        let definition = pb::Sandbox {
            image_id: self.image.clone(),
            entrypoint_args: vec!["sleep".into(), "60".into()],
            timeout_secs: 300,
            ..pb::Sandbox::default()
        };
        pb::SandboxCreateV2Request {
            app_id: self.app.clone(),
            definition: Some(definition),
            ..pb::SandboxCreateV2Request::default()
        }
    }

    pub(crate) fn request_with(
        &self,
        change: impl FnOnce(&mut pb::Sandbox),
    ) -> pb::SandboxCreateV2Request {
        let mut request = self.request();
        change(request.definition.as_mut().unwrap());
        request
    }

    /// The next order to start a sandbox.
    pub(crate) async fn next_start(&mut self) -> SandboxStart {
        match tokio::time::timeout(AT_ONCE, self.orders.recv()).await.unwrap().unwrap() {
            Order::Sandbox(start) => *start,
            other => panic!("{other:?} is no start of a sandbox"),
        }
    }

    /// The next order, which is to end this container at once.
    pub(crate) async fn next_stop(&mut self, want: &TaskId) {
        match tokio::time::timeout(AT_ONCE, self.orders.recv()).await.unwrap().unwrap() {
            Order::Stop { task, grace_ms } => assert_eq!((&task, grace_ms), (want, Millis(0))),
            other => panic!("{other:?} is no stop"),
        }
    }

    pub(crate) fn no_order(&mut self) {
        let order = self.orders.try_recv();
        assert!(order.is_err(), "{order:?} was not expected");
    }

    /// Creates a sandbox; the worker answers its start so.
    pub(crate) async fn create_answered(
        &mut self,
        key: Option<&str>,
        request: pb::SandboxCreateV2Request,
        answer: Answer,
    ) -> Result<(pb::SandboxCreateV2Response, SandboxStart), Status> {
        let (api, key) = (self.api(), key.map(str::to_owned));
        let asked = tokio::spawn(async move {
            call::<names::SandboxCreateV2>(&api, key.as_deref(), request).await
        });
        tokio::pin!(asked);
        let start = tokio::select! {
            start = self.next_start() => start,
            answer = &mut asked => return Err(answer.unwrap().unwrap_err()),
        };
        for report in answer(&start) {
            self.report(report).await;
        }
        let answer = tokio::time::timeout(AT_ONCE, asked).await.unwrap().unwrap()?;
        Ok((answer, start))
    }

    /// Creates a sandbox that starts.
    pub(crate) async fn create(
        &mut self,
        request: pb::SandboxCreateV2Request,
    ) -> (String, SandboxStart) {
        let (answer, start) = self.create_answered(None, request, starts).await.unwrap();
        (answer.sandbox_id, start)
    }

    pub(crate) async fn create_plain(&mut self) -> (String, SandboxStart) {
        let request = self.request();
        self.create(request).await
    }

    /// How a sandbox has ended, as its client sees it at once: status and exit code.
    pub(crate) async fn ended(&self, id: &str) -> Option<(pb::generic_result::GenericStatus, i32)> {
        let request = pb::SandboxWaitRequest { sandbox_id: id.into(), timeout: 0.0 };
        let answer = call::<names::SandboxWaitV2>(&self.api(), None, request).await.unwrap();
        answer.result.map(|result| (result.status(), result.exitcode))
    }

    pub(crate) async fn terminate(&self, id: &str) -> Result<(), Status> {
        let request = pb::SandboxTerminateRequest { sandbox_id: id.into() };
        call::<names::SandboxTerminateV2>(&self.api(), None, request).await.map(|_| ())
    }

    /// The ids of what is listed.
    pub(crate) async fn listed(&self, request: pb::SandboxListRequest) -> Vec<String> {
        let answer = call::<names::SandboxListV2>(&self.api(), None, request).await.unwrap();
        answer.sandboxes.into_iter().map(|sandbox| sandbox.id).collect()
    }
}

pub(crate) fn starts(start: &SandboxStart) -> Vec<Report> {
    vec![Report::Started { task: start.task.clone() }]
}

pub(crate) fn ended(task: &TaskId, end: End) -> Report {
    Report::Ended { task: task.clone(), end }
}

pub(crate) fn line(task: &TaskId, text: &'static str) -> Report {
    let (stream, data) = (Stream::Stdout, bytes::Bytes::from_static(text.as_bytes()));
    Report::Log(LogLine { task: task.clone(), stream, at: Time(1), data })
}

pub(crate) async fn lookup(api: &Api, name: &str) -> String {
    let request = pb::AppGetOrCreateRequest {
        app_name: name.into(),
        object_creation_type: pb::ObjectCreationType::CreateIfMissing as i32,
        ..pb::AppGetOrCreateRequest::default()
    };
    call::<names::AppGetOrCreate>(api, None, request).await.unwrap().app_id
}

async fn insert_image(world: &World) -> String {
    let id = ImageId::new([3; 16]);
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
        workspace: world.scope.workspace.clone(),
        key: id.to_string(),
        base: None,
        builder_version: "2025.06".into(),
        phase: images::Phase::Waiting,
        build,
        content: None,
        failure: None,
        call: None,
        finished_at: None,
        created_at: world.plane.now(),
    };
    let mut tx = world.plane.store.begin().await.unwrap();
    images::insert(&mut tx, &image).await.unwrap();
    // An image without a Python: sandboxes need none.
    let content = ImageContent { layers: vec![], config: "{}".into(), python: None };
    images::finish(&mut tx, &id, &Ok(content), world.plane.now()).await.unwrap();
    tx.commit().await.unwrap();
    id.into()
}
