//! Ways to a running sandbox: its command router, its ports, tokens to connect.

use model::router_token::mint;
use model::sandbox::TunnelKind;
use model::{SandboxId, TaskId};
use store::sandboxes::{self, Phase, Sandbox, connect_tokens};
use store::{Db, Hint, tasks};
use wire::client as pb;

use super::find;
use super::life::wait_of;
use crate::Plane;
use crate::api::gate::{Cx, Member, Scoped};
use crate::api::identity::is_loopback_name;
use crate::api::poll::Poll;
use crate::api::refusal::Refusal;
use crate::identity::secret_hash;
use crate::limits::{CONNECT_METADATA_BYTES_MAX, CONNECT_TOKENS_MAX, ROUTER_TOKEN_LIFE};
use crate::sandboxes::Unopened;

/// The port that a token to connect is for where none is named (modal 1.6.4).
const CONNECT_PORT_DEFAULT: u16 = 8_080;

/// A token for the command router of one container.
pub(super) fn router_token(plane: &Plane, task: &TaskId) -> String {
    mint(&plane.config.router_key, task, plane.now() + ROUTER_TOKEN_LIFE)
}

/// Where a client finds the command router. On loopback TLS keeps nothing from anybody; without it
/// the first command in a sandbox runs some 2 ms sooner, and the client has nothing to warn of.
pub(super) fn router_url<C>(cx: &Cx<C>) -> String {
    let url = cx.plane.config.router_url.clone();
    let is_plain = cx.plane.config.gateway_url.starts_with("http://");
    // The way to a server by a loopback name may be a tunnel, which the router's would not be.
    let stays_here = is_loopback_name(host(&cx.plane));
    if is_plain && stays_here && cx.meta.takes_plain_router {
        url.replacen("https://", "http://", 1)
    } else {
        url
    }
}

/// Finds a container of the caller's whose command router it may use: of a sandbox, also an ended
/// one, because what its program has printed is read there; or of a function, as long as it lives.
/// No container may run commands in those of functions: they hold what their callers sent them.
async fn open(db: &mut Db, caller: &Member, id: &str) -> Result<TaskId, Refusal> {
    let task = TaskId::parse(id)?;
    if let Some(sandbox) = sandboxes::by_task(db, caller.scope(), &task).await? {
        return Ok(sandbox.task);
    }
    let task = tasks::get(db, caller.scope(), &task).await?;
    let task = task.ok_or_else(|| Refusal::not_found("container", id))?;
    if matches!(caller, Member::Task(_)) {
        let text = format!(
            "`{id}` is a container of a function: only a client with a token may run commands in \
             it, not a container"
        );
        return Err(Refusal::Denied(text));
    }
    if task.phase == tasks::Phase::Ended {
        let text = format!("container `{id}` has ended: nothing more can be run in it");
        return Err(Refusal::NotFound(text));
    }
    Ok(task.id)
}

/// Access to the command router of a container.
pub(in crate::api) async fn router_access(
    cx: Cx<Member>,
    req: pb::SandboxGetCommandRouterAccessRequest,
) -> Result<pb::SandboxGetCommandRouterAccessResponse, Refusal> {
    use pb::sandbox_get_command_router_access_request::Target;
    let mut db = cx.plane.store.read().await?;
    let task = match &req.target {
        Some(Target::SandboxId(id)) => find(&mut db, cx.scope(), id).await?.task,
        Some(Target::TaskId(id)) => open(&mut db, &cx.caller, id).await?,
        None => return Err(Refusal::invalid("sandbox_id", "it is missing")),
    };
    Ok(pb::SandboxGetCommandRouterAccessResponse {
        jwt: router_token(&cx.plane, &task),
        url: router_url(&cx),
        worker_ipv4_address: String::new(),
    })
}

/// The same, by the container's id.
pub(in crate::api) async fn task_router_access(
    cx: Cx<Member>,
    req: pb::TaskGetCommandRouterAccessRequest,
) -> Result<pb::TaskGetCommandRouterAccessResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let task = open(&mut db, &cx.caller, &req.task_id).await?;
    let jwt = router_token(&cx.plane, &task);
    Ok(pb::TaskGetCommandRouterAccessResponse { jwt, url: router_url(&cx) })
}

/// The server's URL without its port.
fn origin(plane: &Plane) -> &str {
    let url = plane.config.gateway_url.as_str();
    url.rsplit_once(':').map_or(url, |(origin, _)| origin)
}

/// The name under which clients reach the server: that of its URL.
fn host(plane: &Plane) -> &str {
    let origin = origin(plane);
    let host = origin.split_once("://").map_or(origin, |(_, host)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Another port of the server, as its own is reached.
fn url(plane: &Plane, port: u16) -> String {
    format!("{}:{port}", origin(plane))
}

/// Where the open ports of a sandbox are reached.
pub(super) fn tunnel_list(plane: &Plane, sandbox: &Sandbox) -> Vec<pb::TunnelData> {
    let tunnel = |open: &model::sandbox::OpenPort| {
        let port = u32::from(*sandbox.tunnels.get(&open.port)?);
        let container_port = u32::from(open.port);
        Some(match open.kind {
            TunnelKind::Encrypted | TunnelKind::Http2 => pb::TunnelData {
                host: host(plane).to_owned(),
                port,
                container_port,
                ..pb::TunnelData::default()
            },
            TunnelKind::Plain => pb::TunnelData {
                unencrypted_host: Some(host(plane).to_owned()),
                unencrypted_port: Some(port),
                container_port,
                ..pb::TunnelData::default()
            },
        })
    };
    sandbox.spec.ports.iter().filter_map(tunnel).collect()
}

/// Where the ports of a sandbox are reached, once they are.
pub(in crate::api) async fn tunnels(
    cx: Cx<Member>,
    req: pb::SandboxGetTunnelsRequest,
) -> Result<pb::SandboxGetTunnelsResponse, Refusal> {
    let id = SandboxId::parse(&req.sandbox_id)?;
    let mut poll = Poll::begin(&cx.plane, Hint::Sandbox(id), wait_of(req.timeout));
    loop {
        let sandbox = {
            let mut db = cx.plane.store.read().await?;
            find(&mut db, cx.scope(), &req.sandbox_id).await?
        };
        if sandbox.phase == Phase::Ended {
            let text = format!("sandbox `{}` has ended: it has no ports any more", sandbox.id);
            return Err(Refusal::Conflict(text));
        }
        let tunnels = tunnel_list(&cx.plane, &sandbox);
        if tunnels.len() == sandbox.spec.ports.len() {
            return Ok(pb::SandboxGetTunnelsResponse { result: None, tunnels });
        }
        if !poll.again(&cx.plane).await {
            let status = pb::generic_result::GenericStatus::Timeout as i32;
            let exception = "the sandbox's ports were not open in time".to_owned();
            let result = pb::GenericResult { status, exception, ..pb::GenericResult::default() };
            return Ok(pb::SandboxGetTunnelsResponse { result: Some(result), tunnels });
        }
    }
}

/// A token that lets its holder send HTTP requests to a port of a sandbox, as long as that lives.
pub(in crate::api) async fn connect_token(
    cx: Cx<Member>,
    req: pb::SandboxCreateConnectTokenRequest,
) -> Result<pb::SandboxCreateConnectTokenResponse, Refusal> {
    let port = match req.port {
        Some(port) => super::network::port("port", port)?,
        None => CONNECT_PORT_DEFAULT,
    };
    let metadata = req.user_metadata;
    if metadata.len() > CONNECT_METADATA_BYTES_MAX || metadata.chars().any(char::is_control) {
        let why = format!(
            "it must have {CONNECT_METADATA_BYTES_MAX} bytes at most and no control characters: \
             it travels in a header"
        );
        return Err(Refusal::invalid("user_metadata", why));
    }
    let mut tx = cx.plane.store.begin().await?;
    let sandbox = find(&mut tx, cx.scope(), &req.sandbox_id).await?;
    if sandbox.phase == Phase::Ended {
        let text = format!("sandbox `{}` has ended: nobody can connect to it", sandbox.id);
        return Err(Refusal::Conflict(text));
    }
    if sandbox.spec.network == model::sandbox::NetworkRule::Blocked {
        let text = "nobody reaches a sandbox with block_network: make one without it";
        return Err(Refusal::Conflict(text.into()));
    }
    if connect_tokens::count(&mut tx, &sandbox.id, cx.now()).await? >= CONNECT_TOKENS_MAX {
        let text = format!("a sandbox has {CONNECT_TOKENS_MAX} tokens at most");
        return Err(Refusal::Exhausted(text));
    }
    let token = hex::encode(rand::random::<[u8; 32]>());
    let (hash, until) = (secret_hash(&token), sandbox.deadline);
    connect_tokens::insert(&mut tx, &hash, &sandbox.id, port, &metadata, until).await?;
    tx.commit().await?;
    let host_port = cx.plane.open_for_tokens(&sandbox).await.map_err(|error| match error {
        Unopened::Store(error) => Refusal::from(error),
        other => Refusal::Conflict(other.to_string()),
    })?;
    Ok(pb::SandboxCreateConnectTokenResponse { url: url(&cx.plane, host_port), token })
}
