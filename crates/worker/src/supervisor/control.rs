//! What the worker asks of a supervisor beside the client's requests.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use jail::Standby;
use model::link::End;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::body::Body;

use super::life::{Life, Standing};
use super::words::{
    Assignment, Built, CONNECTIONS, END, ENDED, EXEC_INPUT, ExecPiece, FREEZE, INPUT, PREPARE,
    Piece, STAND_BY, START, STATE, State, TAKEN, Taken,
};
use super::{rows, standstill};
use crate::limits::SUPERVISOR_ORDER_BYTES_MAX;

/// What a supervisor is beside.
#[derive(Default)]
enum Container {
    #[default]
    None,
    Standing(Box<Standing>),
}

/// What builds the container.
struct Ground {
    /// The supervisor is being moved to its control group.
    joining: Option<JoinHandle<()>>,
    /// It is being made ready.
    coming: Option<JoinHandle<Option<Standby>>>,
    /// It is ready; none when it could not be, or was used.
    ready: Option<Standby>,
}

impl Ground {
    async fn join(&mut self) {
        if let Some(joining) = &mut self.joining {
            let _ = joining.await;
            self.joining = None;
        }
    }

    async fn settle(&mut self) {
        if let Some(coming) = &mut self.coming {
            self.ready = coming.await.ok().flatten();
            self.coming = None;
        }
    }
}

/// One supervisor.
pub(crate) struct Supervisor {
    ground: Mutex<Ground>,
    container: Mutex<Container>,
    life: watch::Sender<Option<Arc<Life>>>,
    /// There never will be a container.
    over: watch::Sender<bool>,
    /// Somebody has connected.
    noticed: watch::Sender<bool>,
    /// The turn of who has the container stand still.
    standstill: Arc<Mutex<()>>,
}

/// Why something was not done; the text is for the worker, which tells it on.
struct Refused(StatusCode, String);

fn conflict(text: impl Into<String>) -> Refused {
    Refused(StatusCode::CONFLICT, text.into())
}

impl Supervisor {
    /// Beside no container yet. `standby` is what will build it; `joining` ends once this process
    /// is in its control group.
    pub(crate) fn new(standby: JoinHandle<Option<Standby>>, joining: JoinHandle<()>) -> Self {
        let (joining, coming) = (Some(joining), Some(standby));
        Self {
            ground: Mutex::new(Ground { joining, coming, ready: None }),
            container: Mutex::default(),
            life: watch::Sender::new(None),
            over: watch::Sender::new(false),
            noticed: watch::Sender::new(false),
            standstill: Arc::default(),
        }
    }

    fn life(&self) -> Option<Arc<Life>> {
        self.life.borrow().clone()
    }

    /// Waits until there is a container that runs; none if there never will be one.
    pub(crate) async fn begun(&self) -> Option<Arc<Life>> {
        let (mut life, mut over) = (self.life.subscribe(), self.over.subscribe());
        tokio::select! {
            life = life.wait_for(Option::is_some) => life.ok()?.clone(),
            _ = over.wait_for(|over| *over) => None,
        }
    }

    /// Takes note that the worker has connected.
    pub(crate) fn notice(&self) {
        self.noticed.send_replace(true);
    }

    /// Waits until the worker has connected.
    pub(crate) async fn noticed(&self) {
        let _ = self.noticed.subscribe().wait_for(|noticed| *noticed).await;
    }

    /// Answers a request of the worker's, or one of the client's that it passes on.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        if !request.uri().path().starts_with("/control/") {
            return match self.life() {
                Some(life) => rows::answer(life, request).await,
                None => Status::unavailable("the sandbox is being started").into_http(),
            };
        }
        match self.control(request).await {
            Ok(body) => Response::new(body),
            Err(Refused(status, text)) => {
                let mut response = Response::new(Body::new(http_body_util::Full::from(text)));
                *response.status_mut() = status;
                response
            }
        }
    }

    async fn control(&self, request: Request<Body>) -> Result<Body, Refused> {
        let path = request.uri().path().to_owned();
        let body = Limited::new(request.into_body(), SUPERVISOR_ORDER_BYTES_MAX);
        let body = body.collect().await;
        let body = body.map_err(|e| Refused(StatusCode::BAD_REQUEST, e.to_string()))?.to_bytes();
        let life = || self.life().ok_or_else(|| conflict("there is no container"));
        match path.as_str() {
            STAND_BY => {
                let mut ground = self.ground.lock().await;
                ground.settle().await;
                ground.join().await;
                json(&())
            }
            PREPARE => json(&self.prepare(parse(&body)?).await?),
            START => json(&self.start().await?),
            STATE => json(&self.state()),
            END => json(&self.end(parse(&body)?).await?),
            ENDED => json(&life()?.ended().await),
            CONNECTIONS => {
                life()?.container().activity().set_connections(parse(&body)?);
                json(&())
            }
            INPUT => json(&write(&life()?, parse(&body)?).await?),
            EXEC_INPUT => json(&write_exec(&life()?, parse(&body)?).await?),
            TAKEN => json(&taken(&life()?, parse(&body)?).await?),
            FREEZE => {
                let held =
                    standstill::hold(life()?.container().clone(), self.standstill.clone()).await;
                held.map_err(|status| conflict(status.message()))
            }
            _ => Err(Refused(StatusCode::NOT_FOUND, format!("there is no {path}"))),
        }
    }

    async fn prepare(&self, assignment: Assignment) -> Result<Built, Refused> {
        let mut container = self.container.lock().await;
        if self.life().is_some() || !matches!(*container, Container::None) {
            return Err(conflict("there is a container already"));
        }
        let standby = {
            let mut ground = self.ground.lock().await;
            ground.settle().await;
            ground.ready.take()
        };
        match Standing::build(standby, assignment).await {
            Ok(standing) => {
                let pid = standing.pid();
                *container = Container::Standing(Box::new(standing));
                Ok(Built { pid })
            }
            Err(text) => {
                self.over.send_replace(true);
                Err(conflict(text))
            }
        }
    }

    async fn start(&self) -> Result<(), Refused> {
        let mut container = self.container.lock().await;
        let Container::Standing(standing) = std::mem::take(&mut *container) else {
            return Err(conflict("there is no container that could be started"));
        };
        match standing.start().await {
            Ok(life) => {
                self.life.send_replace(Some(life));
                Ok(())
            }
            Err(text) => {
                self.over.send_replace(true);
                Err(conflict(text))
            }
        }
    }

    fn state(&self) -> State {
        match self.life() {
            None => State::Unstarted,
            Some(life) => match life.ending() {
                Some(ending) => State::Ended(ending),
                None => State::Running {
                    task: life.container().task().clone(),
                    pid: life.container().pid(),
                },
            },
        }
    }

    /// Ends the container, or does away with one that was not started.
    async fn end(&self, end: End) -> Result<State, Refused> {
        match self.life() {
            Some(life) => {
                life.end(end);
                Ok(State::Ended(life.ended().await))
            }
            None => {
                self.give_up().await;
                Ok(State::Unstarted)
            }
        }
    }

    /// Does away with a container that was not started, if there is one.
    pub(crate) async fn give_up(&self) {
        let mut container = self.container.lock().await;
        if self.life().is_some() {
            return;
        }
        let standing = std::mem::take(&mut *container);
        let mut ground = self.ground.lock().await;
        ground.settle().await;
        let standby = ground.ready.take();
        // Dropping them blocks.
        let _ = tokio::task::spawn_blocking(move || drop((standing, standby))).await;
        self.over.send_replace(true);
    }
}

async fn write(life: &Arc<Life>, piece: Piece) -> Result<(), Refused> {
    let _busy = life.container().activity().busy();
    let refused = |status: Status| conflict(status.message());
    life.own().stdin().map_err(refused)?.append(piece).await.map_err(refused)
}

async fn write_exec(life: &Arc<Life>, written: ExecPiece) -> Result<(), Refused> {
    let refused = |status: Status| conflict(status.message());
    let exec = life.container().execs().find(&written.exec).await.map_err(refused)?;
    exec.stdin.append(written.piece).await.map_err(refused)
}

async fn taken(life: &Arc<Life>, exec: String) -> Result<Taken, Refused> {
    let refused = |status: Status| conflict(status.message());
    let spool = life.container().execs().find(&exec).await.and_then(|exec| exec.output(false));
    let marks = spool.map_err(refused)?.map(|spool| spool.marks()).unwrap_or_default();
    Ok(Taken { bytes: marks.taken, readers: marks.readers })
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|e| Refused(StatusCode::BAD_REQUEST, e.to_string()))
}

fn json(value: &impl Serialize) -> Result<Body, Refused> {
    let text = serde_json::to_vec(value);
    let text = text.map_err(|e| Refused(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(Body::new(http_body_util::Full::from(text)))
}
