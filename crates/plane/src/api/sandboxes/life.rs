//! Sandboxes are found, waited for and ended.

use std::time::Duration;

use model::link::End;
use store::sandboxes::{self, Phase};
use store::{Hint, apps as stored_apps};
use wire::client as pb;

use super::{find, outcome};
use crate::api::environments;
use crate::api::gate::{Cx, Member};
use crate::api::poll::Poll;
use crate::api::refusal::Refusal;
use crate::limits::{POLL_MAX, SANDBOX_TERMINATE_POLL};

/// How long a caller wants to wait.
pub(super) fn wait_of(secs: f32) -> Duration {
    Duration::try_from_secs_f32(secs).unwrap_or(Duration::ZERO).min(POLL_MAX)
}

/// Waits for the end of a sandbox.
pub(in crate::api) async fn wait(
    cx: Cx<Member>,
    req: pb::SandboxWaitRequest,
) -> Result<pb::SandboxWaitResponse, Refusal> {
    let id = model::SandboxId::parse(&req.sandbox_id)?;
    let mut poll = Poll::begin(&cx.plane, Hint::Sandbox(id), wait_of(req.timeout));
    loop {
        let sandbox = {
            let mut db = cx.plane.store.read().await?;
            find(&mut db, cx.scope(), &req.sandbox_id).await?
        };
        if sandbox.phase == Phase::Ended || !poll.again(&cx.plane).await {
            let result = outcome::result(&sandbox);
            let metadata = Some(outcome::metadata(&sandbox));
            return Ok(pb::SandboxWaitResponse { result, metadata });
        }
    }
}

/// Ends a sandbox, in whatever state it is, and waits a moment for its end.
pub(in crate::api) async fn terminate(
    cx: Cx<Member>,
    req: pb::SandboxTerminateRequest,
) -> Result<pb::SandboxTerminateResponse, Refusal> {
    let sandbox = {
        let mut db = cx.plane.store.read().await?;
        find(&mut db, cx.scope(), &req.sandbox_id).await?
    };
    let existing_result = outcome::result(&sandbox);
    if sandbox.phase < Phase::Ended {
        let hint = Hint::Sandbox(sandbox.id.clone());
        let mut poll = Poll::begin(&cx.plane, hint, SANDBOX_TERMINATE_POLL);
        cx.plane.end_sandbox(&sandbox, &End::Stopped).await?;
        loop {
            let mut db = cx.plane.store.read().await?;
            let now = sandboxes::get_any(&mut db, &sandbox.id).await?;
            drop(db);
            let ended = now.is_none_or(|now| now.phase == Phase::Ended);
            // Where it takes longer, it is told again until it is gone.
            if ended || !poll.again(&cx.plane).await {
                break;
            }
        }
    }
    Ok(pb::SandboxTerminateResponse { existing_result })
}

/// The container of a sandbox.
pub(in crate::api) async fn task_id(
    cx: Cx<Member>,
    req: pb::SandboxGetTaskIdRequest,
) -> Result<pb::SandboxGetTaskIdResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let sandbox = find(&mut db, cx.scope(), &req.sandbox_id).await?;
    let task_result = outcome::result(&sandbox);
    Ok(pb::SandboxGetTaskIdResponse { task_id: Some(sandbox.task.into()), task_result })
}

/// The running sandbox of a name.
pub(in crate::api) async fn from_name(
    cx: Cx<Member>,
    req: pb::SandboxGetFromNameRequest,
) -> Result<pb::SandboxGetFromNameResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let environment = environments::find(&mut db, cx.scope(), &req.environment_name).await?;
    let app = stored_apps::by_name(&mut db, cx.scope(), &environment.id, &req.app_name).await?;
    let app = app.ok_or_else(|| Refusal::not_found("app", &req.app_name))?;
    let (name, ended) = (&req.sandbox_name, req.include_terminated);
    let found = sandboxes::by_name(&mut db, cx.scope(), &app.id, name, ended).await?;
    let sandbox = found.ok_or_else(|| {
        let text = format!("no sandbox of app `{}` runs under the name `{name}`", req.app_name);
        Refusal::NotFound(text)
    })?;
    let metadata = Some(outcome::metadata(&sandbox));
    Ok(pb::SandboxGetFromNameResponse { sandbox_id: sandbox.id.into(), metadata })
}
