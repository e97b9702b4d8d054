//! Connect tokens: HTTP into a sandbox for whoever shows a token of it. Each sandbox has a port of
//! its own for that, so that what one serves is of another origin than what others serve. A token
//! comes in a header, in the query, or in a cookie; the program inside never sees it, but it is
//! told what the token's maker said of its holder.

mod credentials;
mod forward;
mod sessions;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Router, handler::Handler};
use futures::future::BoxFuture;
use http::{HeaderValue, StatusCode, header};
use model::TaskId;

use crate::host_ports::{Error, HostPorts, Purpose};
use crate::opening::Speech;
use crate::port::{Peer, Port};
use crate::visits::{Visit, Visits};
use credentials::{Credentials, Source};
use sessions::Sessions;

/// What a token gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The sandbox's container.
    pub task: TaskId,
    /// The port inside.
    pub port: u16,
    /// What is said of the holder, in the header `X-Verified-User-Data`.
    pub user_metadata: Option<String>,
}

/// Finds what a token gives. None: it never was, it has expired, or its sandbox has ended.
pub type Resolve = Arc<dyn Fn(String) -> BoxFuture<'static, Option<Grant>> + Send + Sync>;

/// The ports for connect tokens. Cheap to clone.
#[derive(Clone)]
pub struct Connects(Arc<Shared>);

struct Shared {
    visits: Visits,
    ports: HostPorts,
    speech: Speech,
    resolve: Resolve,
    sessions: Sessions,
}

impl std::fmt::Debug for Connects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connects").finish_non_exhaustive()
    }
}

impl Connects {
    /// None is open yet. `speech` is that of the server's own port.
    pub fn new(visits: Visits, ports: HostPorts, speech: Speech, resolve: Resolve) -> Self {
        let sessions = Sessions::default();
        Self(Arc::new(Shared { visits, ports, speech, resolve, sessions }))
    }

    /// Opens the port for the tokens of a sandbox that was begun ([`Visits::begin`]): the one that
    /// it had before, or a free one. Asked again, it answers the same.
    pub async fn open(&self, task: &TaskId, host_port: Option<u16>) -> Result<u16, Error> {
        let sandbox = self.0.visits.find(task).ok_or_else(|| Error::Ended(task.clone()))?;
        let (port, listener) = self.0.ports.take(&sandbox, Purpose::Connect, host_port).await?;
        let Some(listener) = listener else { return Ok(port) };
        let address = (self.0.ports.address, port).into();
        let served = Port::of_sandbox(listener, self.0.visits.clone(), sandbox.clone())
            .map_err(|source| Error::Listen { address, purpose: Purpose::Connect, source })?;
        let entrance = Entrance { shared: self.0.clone(), port };
        let routes = Router::new().fallback_service(answer.with_state(entrance));
        let (shared, ended) = (self.0.clone(), sandbox.ended.clone());
        sandbox.tasks.spawn(async move {
            served.serve(routes, &shared.speech, ended.cancelled()).await;
        });
        Ok(port)
    }
}

/// The port of one sandbox.
#[derive(Clone)]
struct Entrance {
    shared: Arc<Shared>,
    port: u16,
}

/// An answer of ours.
fn refuse(status: StatusCode, text: impl Into<String>) -> Response {
    let mut text: String = text.into();
    text.push('\n');
    let mut response = (status, text).into_response();
    if status == StatusCode::UNAUTHORIZED {
        let value = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

/// Answers one request: by the sandbox, if a token of it is shown.
async fn answer(
    State(entrance): State<Entrance>,
    Extension(peer): Extension<Peer>,
    Extension(visit): Extension<Arc<Visit>>,
    request: Request,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let mut credentials = Credentials::take(&mut parts, entrance.port);
    let Some((grant, source, token)) = entrance.find(&mut credentials, &peer, &visit).await else {
        return refuse(
            StatusCode::UNAUTHORIZED,
            "show a connect token of this sandbox (Sandbox.create_connect_token): as \
             `Authorization: Bearer TOKEN`, or as `?_modal_connect_token=TOKEN`",
        );
    };
    visit.use_it();
    credentials.give_back(&mut parts, source);
    let request = http::Request::from_parts(parts, body);
    let mut response = forward::forward(request, &grant, &peer, &visit).await;
    credentials::strip_cookies(response.headers_mut());
    if source == Source::Query {
        let session = entrance.shared.sessions.begin(token, peer.address.ip());
        let cookie = credentials::cookie(entrance.port, &session, peer.is_tls);
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

impl Entrance {
    /// The first token that gives something here. A token in the query is meant: no other is
    /// tried beside it.
    async fn find(
        &self,
        credentials: &mut Credentials,
        peer: &Peer,
        visit: &Visit,
    ) -> Option<(Grant, Source, String)> {
        let session = credentials.session.take();
        if let Some(token) =
            session.and_then(|id| self.shared.sessions.find(&id, peer.address.ip()))
        {
            credentials.tokens.push((Source::Session, token));
        }
        for (source, token) in std::mem::take(&mut credentials.tokens) {
            let grant = (self.shared.resolve)(token.clone()).await;
            if let Some(grant) = grant.filter(|grant| grant.task == *visit.task()) {
                return Some((grant, source, token));
            }
            if source == Source::Query {
                return None;
            }
        }
        None
    }
}

/// The body type of everything that is forwarded.
type Forwarded = http::Request<Body>;
