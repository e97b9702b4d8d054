//! The command router: clients work in running containers through it. A token opens one task; what
//! is asked of a sandbox's programs and streams is passed on to its supervisor as it arrives, what
//! is asked of those in a function's container is answered here.

mod forward;
mod known;
mod network;
mod rows;
mod snapshots;
mod start;

use std::sync::{Arc, Weak};

use axum::Router;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, header};
use model::router_token::{Invalid, verify};
use model::spec::ImageContent;
use model::{ImageId, Millis, SecretId, TaskId};
use tonic::Status;
use tonic::body::Body;

use crate::Worker;
use crate::programs::container::Container;
use crate::sandbox::{ENDED, Found, STARTING, Sandbox};
use crate::task::{self, now};
use rows::Answer;

/// Variables of secrets, in the order in which the secrets were named.
pub type Variables = Vec<(String, String)>;

/// Looks secrets up for a task: those of its own workspace, by whoever wires worker and plane
/// together.
pub type SecretsFn = dyn Fn(TaskId, Vec<SecretId>) -> Looked + Send + Sync;

/// The variables of each secret, on their way.
pub type Looked = BoxFuture<'static, Result<Vec<Variables>, Status>>;

/// A snapshot of a sandbox's files that the worker has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What its client calls it: the same again is the same snapshot.
    pub name: String,
    /// What it holds.
    pub content: ImageContent,
    /// It is one of all files.
    pub is_whole: bool,
    /// How long it is kept; none: until it is deleted.
    pub ttl: Option<Millis>,
}

/// The images of a task's workspace, kept by whoever wires worker and plane together.
pub trait Shelf: Send + Sync {
    /// The image of a snapshot that was published before.
    fn find(&self, task: TaskId, name: String) -> BoxFuture<'_, Result<Option<ImageId>, Status>>;

    /// Makes a snapshot an image; the same name again is the same image.
    fn publish(&self, task: TaskId, snapshot: Snapshot) -> BoxFuture<'_, Result<ImageId, Status>>;

    /// What an image holds that is ready.
    fn content(&self, task: TaskId, image: ImageId) -> BoxFuture<'_, Result<ImageContent, Status>>;
}

/// Who has the programs of a container.
enum Holder {
    /// A supervisor.
    Sandbox(Arc<Sandbox>),
    /// This worker.
    Worker(Arc<Container>),
}

/// What answers. Streams that clients read do not keep the worker from ending.
#[derive(Clone)]
struct Desk {
    worker: Weak<Worker>,
    secrets: Arc<SecretsFn>,
    images: Arc<dyn Shelf>,
}

/// The routes of the command router, for the server's port.
pub fn service(worker: &Arc<Worker>, secrets: Arc<SecretsFn>, images: Arc<dyn Shelf>) -> Router {
    let desk = Desk { worker: Arc::downgrade(worker), secrets, images };
    let path = format!("/{}/{{rpc}}", wire::ROUTER_SERVICE);
    let answer = move |request: Request<axum::body::Body>| {
        let desk = desk.clone();
        async move { desk.answer(request.map(Body::new)).await.map(axum::body::Body::new) }
    };
    Router::new().route(&path, axum::routing::any(answer))
}

impl Desk {
    async fn answer(self, request: Request<Body>) -> Response<Body> {
        if let Some(status) = wire::rpc::no_grpc(&request) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            return response;
        }
        // Who may is settled before the body is read.
        let answered = match self.opened(request.headers()) {
            Ok(task) => self.row(task, request).await,
            Err(status) => Err(status),
        };
        answered.unwrap_or_else(Status::into_http)
    }

    /// The task that the caller's token opens.
    fn opened(&self, headers: &HeaderMap) -> Result<TaskId, Status> {
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer "));
        let token = token.ok_or_else(|| {
            Status::unauthenticated("the request has no token of the command router")
        })?;
        let worker = self.worker()?;
        verify(&worker.config.router_key, token, now()).map_err(|error| {
            Status::unauthenticated(match error {
                Invalid::Foreign => "the token of the command router is not one of this server",
                Invalid::Expired => "the token of the command router has expired: ask for another",
            })
        })
    }

    async fn row(&self, task: TaskId, request: Request<Body>) -> Result<Response<Body>, Status> {
        let path = request.uri().path().to_owned();
        let name = path.rsplit('/').next().unwrap_or_default();
        let answer = rows::of(name).ok_or_else(|| {
            let name: String = name.chars().take(100).collect();
            Status::unimplemented(format!("this server does not know the rpc {name}"))
        })?;
        let request = match answer {
            Answer::Start | Answer::Network | Answer::Files(_) => {
                known::check(name, request).await?
            }
            Answer::Passed | Answer::Output | Answer::Volumes | Answer::Declined(_) => request,
        };
        match answer {
            Answer::Passed => forward::pass(&self.holder_of(&task)?, request).await,
            Answer::Start => start::pass(self, &task, request).await,
            Answer::Output => match self.find(&task)? {
                Found::Ended(folder) => forward::ended_output(&task, &folder, request).await,
                Found::Running(sandbox) => forward::pass(&Holder::Sandbox(sandbox), request).await,
                Found::Starting => Err(starting()),
            },
            Answer::Network => network::set(self, &task, request).await,
            Answer::Volumes => network::reload_volumes(self, &task, request).await,
            Answer::Files(what) => snapshots::answer(self.clone(), task, what, request).await,
            Answer::Declined(why) => {
                Err(Status::unimplemented(format!("{name} is not served: {why}")))
            }
        }
    }

    fn worker(&self) -> Result<Arc<Worker>, Status> {
        self.worker.upgrade().ok_or_else(|| Status::unavailable("the server is ending"))
    }

    fn find(&self, task: &TaskId) -> Result<Found, Status> {
        let worker = self.worker()?;
        if worker.containers.find(task).is_some() {
            return Err(Status::unimplemented(format!(
                "`{task}` is a container of a function: this is served for sandboxes only"
            )));
        }
        let found = worker.sandboxes.find(task);
        found.ok_or_else(|| {
            Status::not_found(format!("no container `{task}` is here: it may have ended"))
        })
    }

    /// Who has the programs of a container.
    fn holder_of(&self, task: &TaskId) -> Result<Holder, Status> {
        match self.worker()?.containers.find(task) {
            Some(task::Found::Running(container)) => Ok(Holder::Worker(container)),
            Some(task::Found::Starting) => Err(starting()),
            Some(task::Found::Closed(why)) => Err(Status::failed_precondition(why)),
            None => self.running(task).map(Holder::Sandbox),
        }
    }

    fn running(&self, task: &TaskId) -> Result<Arc<Sandbox>, Status> {
        match self.find(task)? {
            Found::Running(sandbox) => Ok(sandbox),
            Found::Starting => Err(starting()),
            Found::Ended(_) => Err(ended()),
        }
    }
}

/// Clients try again.
fn starting() -> Status {
    Status::unavailable(STARTING)
}

fn ended() -> Status {
    Status::not_found(ENDED)
}

/// Whether a request is about the task that its token opens.
fn check_task(task: &TaskId, asked: &str) -> Result<(), Status> {
    if asked == task.as_str() {
        return Ok(());
    }
    Err(Status::not_found(format!("task_id: `{asked}` is not the task that the token opens")))
}
