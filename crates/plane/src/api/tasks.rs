//! Containers, of functions and of sandboxes alike.

use model::{AppId, Millis, TaskId};
use store::apps::App;
use store::sandboxes::{self as stored, Sandbox};
use store::tasks::{self, Phase, Task};
use store::{Db, Scope, apps};
use wire::client as pb;

use super::gate::{Cx, Member};
use super::refusal::Refusal;
use super::{environments, sandboxes};
use crate::endings::Kills;
use crate::limits::STOP_GRACE;

/// A container of either kind.
enum Container {
    Function(Box<Task>),
    Sandbox(Box<Sandbox>),
}

async fn find(db: &mut Db, scope: &Scope, id: &str) -> Result<Container, Refusal> {
    let task = TaskId::parse(id)?;
    if let Some(task) = tasks::get(db, scope, &task).await? {
        return Ok(Container::Function(Box::new(task)));
    }
    let sandbox = stored::by_task(db, scope, &task).await?;
    let sandbox = sandbox.map(|sandbox| Container::Sandbox(Box::new(sandbox)));
    sandbox.ok_or_else(|| Refusal::not_found("container", id))
}

/// The app of a container, and whether the container has ended.
pub(super) async fn standing(
    db: &mut Db,
    scope: &Scope,
    id: &str,
) -> Result<(AppId, bool), Refusal> {
    Ok(match find(db, scope, id).await? {
        Container::Function(task) => (task.app, task.phase == Phase::Ended),
        Container::Sandbox(sandbox) => (sandbox.app, sandbox.phase == stored::Phase::Ended),
    })
}

/// The living containers of an environment, or of one app.
pub(super) async fn list(
    cx: Cx<Member>,
    req: pb::TaskListRequest,
) -> Result<pb::TaskListResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let environment = environments::find(&mut db, cx.scope(), &req.environment_name).await?;
    let mut living = Vec::new();
    for task in tasks::alive(&mut db).await? {
        let started = (task.phase > Phase::Placed).then_some(task.created_at);
        living.push((task.id, task.app, started, task.created_at));
    }
    for sandbox in stored::alive(&mut db).await? {
        living.push((sandbox.task, sandbox.app, sandbox.started_at, sandbox.created_at));
    }
    let mut found = Vec::new();
    let mut known = std::collections::BTreeMap::<_, Option<App>>::new();
    for (task, app, started_at, created_at) in living {
        if !known.contains_key(&app) {
            known.insert(app.clone(), apps::get(&mut db, cx.scope(), &app).await?);
        }
        let Some(Some(app)) = known.get(&app) else { continue };
        let wanted = req.app_id.is_empty() || req.app_id == app.id.as_str();
        if app.environment != environment.id || !wanted {
            continue;
        }
        found.push(pb::TaskStats {
            task_id: task.into(),
            app_id: app.id.to_string(),
            app_description: app.description.clone(),
            started_at: started_at.map_or(0.0, |at| at.as_secs_f64()),
            enqueued_at: created_at.as_secs_f64(),
        });
    }
    Ok(pb::TaskListResponse { tasks: found })
}

/// What is known of a container.
pub(super) async fn info(
    cx: Cx<Member>,
    req: pb::TaskGetInfoRequest,
) -> Result<pb::TaskGetInfoResponse, Refusal> {
    let seconds = |at: Option<model::Time>| at.map_or(0.0, |at| at.as_secs_f64());
    let mut db = cx.plane.store.read().await?;
    let (app, info) = match find(&mut db, cx.scope(), &req.task_id).await? {
        Container::Function(task) => {
            let info = pb::TaskInfo {
                id: task.id.into(),
                started_at: seconds(task.ready_at),
                finished_at: seconds(task.ended_at),
                enqueued_at: task.created_at.as_secs_f64(),
                ..pb::TaskInfo::default()
            };
            (task.app, info)
        }
        Container::Sandbox(sandbox) => {
            let info = pb::TaskInfo {
                id: sandbox.task.to_string(),
                started_at: seconds(sandbox.started_at),
                finished_at: seconds(sandbox.ended_at),
                result: sandboxes::result(&sandbox),
                enqueued_at: sandbox.created_at.as_secs_f64(),
                sandbox_id: sandbox.id.to_string(),
                ..pb::TaskInfo::default()
            };
            (sandbox.app, info)
        }
    };
    Ok(pb::TaskGetInfoResponse { app_id: app.into(), info: Some(info) })
}

/// Ends a container. One of a function is asked to, where `graceful` is set: its program has a
/// moment, and what it works on is done again by another.
pub(super) async fn stop(
    cx: Cx<Member>,
    req: pb::ContainerStopRequest,
) -> Result<pb::ContainerStopResponse, Refusal> {
    let container = find(&mut *cx.plane.store.read().await?, cx.scope(), &req.task_id).await?;
    match container {
        Container::Function(task) => {
            let grace = if req.graceful { STOP_GRACE } else { Millis(0) };
            let mut kills = Kills::default();
            kills.add(task.id, grace);
            cx.plane.end_tasks(kills).await?;
        }
        Container::Sandbox(_) if req.graceful => {
            let why = "a sandbox has no inputs to finish: leave `--graceful` out";
            return Err(Refusal::invalid("graceful", why));
        }
        Container::Sandbox(sandbox) => {
            cx.plane.end_sandbox(&sandbox, &model::link::End::Stopped).await?;
        }
    }
    Ok(pb::ContainerStopResponse {})
}
