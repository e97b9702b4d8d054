//! Sandboxes are made: checked, placed, started.

use std::collections::BTreeMap;

use model::link::{End, Order};
use model::placement::Unplaceable;
use model::sandbox::{SandboxSpec, SandboxStart, SecretSource};
use model::spec::MountFile;
use model::{SandboxId, TaskId, Time};
use store::apps::App;
use store::images::Phase as ImagePhase;
use store::sandboxes::{self, Phase, Sandbox};
use store::{Hint, Tx, environments, images, mounts, secrets};
use wire::client as pb;
use wire::rpc::client as rpc;

use super::access::{router_token, router_url};
use super::{definition, find, outcome};
use crate::Plane;
use crate::api::apps;
use crate::api::gate::{Cx, Member};
use crate::api::poll::Poll;
use crate::api::refusal::Refusal;
use crate::api::replay;
use crate::limits::{SANDBOX_ROOM_WAIT, SANDBOX_START_MAX};

/// The answer that is kept for a client that asks again: with the ids alone.
type Kept = rpc::SandboxCreateV2;

/// A form of ids, which tells a client which rpcs to call: one letter more for newer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Older,
    V2,
}

impl Form {
    fn ids(self, plane: &Plane) -> Result<(SandboxId, TaskId), Refusal> {
        let (sandbox, task) = (SandboxId::new(plane.bits()), TaskId::new(plane.bits()));
        Ok(match self {
            Self::Older => (sandbox, task),
            Self::V2 => {
                (SandboxId::parse(&format!("{sandbox}V"))?, TaskId::parse(&format!("{task}V"))?)
            }
        })
    }
}

/// What is asked for.
struct Wish {
    app: String,
    spec: SandboxSpec,
    tags: BTreeMap<String, String>,
    form: Form,
}

/// Makes a sandbox. It answers once the container exists.
pub(in crate::api) async fn create_v2(
    cx: Cx<Member>,
    req: pb::SandboxCreateV2Request,
) -> Result<pb::SandboxCreateV2Response, Refusal> {
    let asked = defined(req.definition)?;
    if !req.cloud_bucket_mount_credentials.is_empty() {
        return Err(Refusal::invalid("volumes", "cloud bucket mounts are not served yet"));
    }
    let mut sources = Vec::new();
    if let Some(env) = req.ephemeral_secrets {
        sources.push(pb::SecretSource { source: Some(pb::secret_source::Source::Env(env)) });
    }
    sources.extend(req.secret_sources);
    let spec = definition::spec(&asked, sources, &cx.plane)?;
    let tags = definition::tags(&req.tags)?;
    let sandbox = make(&cx, Wish { app: req.app_id, spec, tags, form: Form::V2 }).await?;
    Ok(pb::SandboxCreateV2Response {
        sandbox_id: sandbox.id.to_string(),
        task_id: sandbox.task.to_string(),
        metadata: Some(outcome::metadata(&sandbox)),
        command_router_access: Some(pb::CommandRouterAccess {
            jwt: router_token(&cx.plane, &sandbox.task),
            url: router_url(&cx),
        }),
        ..pb::SandboxCreateV2Response::default()
    })
}

/// Makes a sandbox for a client that knows the older rpcs.
pub(in crate::api) async fn create(
    cx: Cx<Member>,
    req: pb::SandboxCreateRequest,
) -> Result<pb::SandboxCreateResponse, Refusal> {
    let spec = definition::spec(&defined(req.definition)?, Vec::new(), &cx.plane)?;
    if !req.environment_name.is_empty() {
        let mut db = cx.plane.store.read().await?;
        let app = apps::alive(&mut db, cx.scope(), &req.app_id).await?;
        let environment = environments::get(&mut db, cx.scope(), &app.environment).await?;
        if environment.is_none_or(|environment| environment.name != req.environment_name) {
            let why = format!("the app is not in `{}`: leave it out", req.environment_name);
            return Err(Refusal::invalid("environment_name", why));
        }
    }
    let tags = definition::tags(&req.tags)?;
    let sandbox = make(&cx, Wish { app: req.app_id, spec, tags, form: Form::Older }).await?;
    let metadata = Some(outcome::metadata(&sandbox));
    Ok(pb::SandboxCreateResponse { sandbox_id: sandbox.id.into(), metadata })
}

fn defined(definition: Option<pb::Sandbox>) -> Result<pb::Sandbox, Refusal> {
    definition.ok_or_else(|| Refusal::invalid("definition", "it is missing"))
}

/// Places a sandbox, waits for room if there is none, and then for its container.
async fn make(cx: &Cx<Member>, wish: Wish) -> Result<Sandbox, Refusal> {
    let reserved = Plane::sandbox_reservation(&wish.spec.resources);
    let mut room = Poll::begin(&cx.plane, Hint::Schedule, SANDBOX_ROOM_WAIT);
    let mut tried = false;
    loop {
        // Looked at without holding up others who write: it is asked again where it counts. The
        // first time it is tried in any case, since what can never be is refused there.
        let free = cx.plane.room_for(&mut *cx.plane.store.read().await?, &reserved).await?;
        let placed = match free {
            Err(why) if tried => Err(why),
            Ok(_) | Err(_) => place(cx, &wish).await?,
        };
        tried = true;
        match placed {
            Ok(id) => return started(cx, &id).await,
            Err(Unplaceable::Full) => cx.plane.make_room_for(&reserved).await?,
            Err(Unplaceable::NoWorker | Unplaceable::TooLarge(_)) => {}
        }
        if !room.again(&cx.plane).await {
            return Err(no_room(&reserved));
        }
    }
}

fn no_room(wish: &model::resources::Reservation) -> Refusal {
    Refusal::Exhausted(format!(
        "no worker had room for the sandbox within {} s: it reserves {} MiB of memory and {} \
         thousandths of a core; end others, or ask for less with memory= and cpu=",
        SANDBOX_ROOM_WAIT.as_secs(),
        wish.memory_bytes >> 20,
        wish.cpu_millis
    ))
}

async fn check_name_free(
    tx: &mut Tx,
    cx: &Cx<Member>,
    app: &App,
    spec: &SandboxSpec,
) -> Result<(), Refusal> {
    let Some(name) = &spec.name else { return Ok(()) };
    if let Some(other) = sandboxes::by_name(tx, cx.scope(), &app.id, name, false).await? {
        let text = format!(
            "sandbox `{}` of this app runs under the name `{name}`: terminate it first, or take \
             another name",
            other.id
        );
        return Err(Refusal::Exists(text));
    }
    Ok(())
}

/// Writes a sandbox down and orders its start, in one transaction with the look for room. A
/// client that asks again gets the one that it had.
async fn place(cx: &Cx<Member>, wish: &Wish) -> Result<Result<SandboxId, Unplaceable>, Refusal> {
    let plane = &cx.plane;
    let mut tx = plane.store.begin().await?;
    if let Some(kept) = replay::find::<Kept>(cx, &mut tx).await? {
        return Ok(Ok(SandboxId::parse(&kept.sandbox_id)?));
    }
    let app = apps::alive(&mut tx, cx.scope(), &wish.app).await?;
    check_name_free(&mut tx, cx, &app, &wish.spec).await?;
    let (id, task) = wish.form.ids(plane)?;
    let now = cx.now();
    let start = start(&mut tx, cx, &app, wish, (id.clone(), task.clone()), now).await?;
    let reserved = Plane::sandbox_reservation(&wish.spec.resources);
    let worker = match plane.room_for(&mut tx, &reserved).await? {
        Ok(worker) => worker,
        Err(why) => return Ok(Err(why)),
    };
    let sandbox = Sandbox {
        id: id.clone(),
        task: task.clone(),
        workspace: cx.scope().workspace.clone(),
        environment: app.environment,
        app: app.id,
        worker: worker.clone(),
        phase: Phase::Placed,
        name: wish.spec.name.clone(),
        spec: without_values(&wish.spec),
        tags: wish.tags.clone(),
        reserved,
        created_at: now,
        started_at: None,
        deadline: start.deadline,
        ended_at: None,
        wanted_end: None,
        told_at: None,
        end: None,
        tunnels: BTreeMap::new(),
        connect_port: None,
    };
    sandboxes::insert(&mut tx, &sandbox).await?;
    let kept = pb::SandboxCreateV2Response {
        sandbox_id: id.to_string(),
        task_id: task.to_string(),
        ..pb::SandboxCreateV2Response::default()
    };
    replay::keep::<Kept>(cx, &mut tx, &kept).await?;
    tx.ring(Hint::Deadlines);
    let mut ordered = Ok(());
    let order = Order::Sandbox(Box::new(start));
    tx.commit_then(|| ordered = plane.fleet.order(&worker, order)).await?;
    match ordered {
        Ok(()) => plane.tell_wanted(&id).await?,
        Err(error) => {
            tracing::warn!(%error, sandbox = %id, "a sandbox could not be started");
            plane.lose_sandbox(&id).await?;
        }
    }
    Ok(Ok(id))
}

/// A definition as it is kept: without the values of variables that came with it. They are in the
/// order to the worker alone, which is given once.
fn without_values(spec: &SandboxSpec) -> SandboxSpec {
    let mut kept = spec.clone();
    for source in &mut kept.secrets {
        if let SecretSource::Inline(env) = source {
            env.iter_mut().for_each(|(_, value)| value.clear());
        }
    }
    kept
}

/// Everything that a worker needs. What it is made of must be the caller's, and its image ready.
async fn start(
    tx: &mut Tx,
    cx: &Cx<Member>,
    app: &App,
    wish: &Wish,
    (sandbox, task): (SandboxId, TaskId),
    now: Time,
) -> Result<SandboxStart, Refusal> {
    let spec = &wish.spec;
    let image = images::get(tx, cx.scope(), &spec.image).await?;
    let image = image.ok_or_else(|| Refusal::not_found("image", &spec.image))?;
    let (ImagePhase::Ready, Some(content)) = (image.phase, image.content) else {
        let why = image.failure.unwrap_or_else(|| "wait for its build to end".to_owned());
        let text = format!("image `{}` is not built: {why}", spec.image);
        return Err(Refusal::Conflict(text));
    };
    let mut files = Vec::<MountFile>::new();
    for id in &spec.mounts {
        let mount = mounts::get(tx, cx.scope(), id).await?;
        files.extend(mount.ok_or_else(|| Refusal::not_found("mount", id))?);
    }
    let mut env = Vec::new();
    for source in &spec.secrets {
        match source {
            SecretSource::Named(id) => {
                let secret = secrets::get(tx, cx.scope(), id).await?;
                env.extend(secret.ok_or_else(|| Refusal::not_found("secret", id))?.env);
            }
            SecretSource::Inline(pairs) => env.extend(pairs.iter().cloned()),
        }
    }
    let environment = environments::get(tx, cx.scope(), &app.environment).await?;
    let environment = environment.map(|environment| environment.name).unwrap_or_default();
    env.push(("MODAL_SANDBOX_ID".into(), sandbox.to_string()));
    env.push(("MODAL_TASK_ID".into(), task.to_string()));
    env.push(("MODAL_IMAGE_ID".into(), spec.image.to_string()));
    env.push(("MODAL_ENVIRONMENT".into(), environment));
    let machine = cx.plane.fleet.largest();
    Ok(SandboxStart {
        task,
        sandbox,
        app: app.id.clone(),
        image_id: spec.image.clone(),
        image: content,
        files,
        env,
        entrypoint: spec.entrypoint.clone(),
        workdir: spec.workdir.clone(),
        limits: spec.resources.limits(&cx.plane.config.defaults, &machine),
        deadline: now + spec.timeout_ms,
        idle_timeout_ms: spec.idle_timeout_ms,
        network: spec.network.clone(),
        ports: spec.ports.clone(),
        probe: spec.probe.clone(),
        pty: spec.pty.clone(),
    })
}

/// Waits until the container of a sandbox exists, or never will.
async fn started(cx: &Cx<Member>, id: &SandboxId) -> Result<Sandbox, Refusal> {
    // A start that takes longer is given up by the plane, and that is heard here.
    let most = SANDBOX_START_MAX.duration() * 2;
    let mut poll = Poll::begin(&cx.plane, Hint::Sandbox(id.clone()), most);
    loop {
        let sandbox = {
            let mut db = cx.plane.store.read().await?;
            find(&mut db, cx.scope(), id.as_str()).await?
        };
        match (sandbox.phase, &sandbox.end) {
            (Phase::Ended, Some(End::NotStarted { reason })) => {
                let text = format!("sandbox `{id}` could not be started: {reason}");
                return Err(Refusal::Conflict(text));
            }
            (Phase::Ended, Some(End::Lost)) if sandbox.started_at.is_none() => {
                let text = format!("sandbox `{id}` was lost with its worker: try again");
                return Err(Refusal::Exhausted(text));
            }
            (Phase::Started | Phase::Ended, _) => return Ok(sandbox),
            (Phase::Placed, _) => {}
        }
        if !poll.again(&cx.plane).await {
            // The server ends: the sandbox does not, and its client can find it again.
            return Ok(sandbox);
        }
    }
}
