//! Lists of sandboxes.

use model::AppId;
use model::sandbox::{Probe, ProbeCheck};
use store::sandboxes::{self, Filter, Sandbox};
use store::{Scope, apps};
use wire::client as pb;

use super::access::tunnel_list;
use super::labels::tag_list;
use super::{definition, outcome};
use crate::Plane;
use crate::api::environments;
use crate::api::gate::{Cx, Member};
use crate::api::objects::moment;
use crate::api::refusal::Refusal;
use crate::limits::OBJECTS_LISTED_MAX;

/// Sandboxes of an app, or of an environment, newest first.
pub(in crate::api) async fn list(
    cx: Cx<Member>,
    req: pb::SandboxListRequest,
) -> Result<pb::SandboxListResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let environment = match (req.app_id.as_str(), req.environment_name.as_str()) {
        (_, "") if !req.app_id.is_empty() => None,
        (_, name) => Some(environments::find(&mut db, cx.scope(), name).await?.id),
    };
    let filter = Filter {
        app: match req.app_id.as_str() {
            "" => None,
            id => Some(known_app(&mut db, cx.scope(), id).await?),
        },
        environment,
        // What is being made at this moment belongs to the list, too.
        before: moment(req.before_timestamp).unwrap_or(model::Time(cx.now().0 + 1)),
        ended: req.include_finished,
        tags: definition::tags(&req.tags)?,
    };
    let found = sandboxes::list(&mut db, cx.scope(), &filter, OBJECTS_LISTED_MAX).await?;
    let sandboxes = found.iter().map(|sandbox| info(&cx.plane, sandbox)).collect();
    Ok(pb::SandboxListResponse { sandboxes })
}

async fn known_app(db: &mut store::Db, scope: &Scope, id: &str) -> Result<AppId, Refusal> {
    let app = apps::get(db, scope, &AppId::parse(id)?).await?;
    Ok(app.ok_or_else(|| Refusal::not_found("app", id))?.id)
}

fn secs(ms: model::Millis) -> u32 {
    u32::try_from(ms.0 / 1_000).unwrap_or(u32::MAX)
}

fn info(plane: &Plane, sandbox: &Sandbox) -> pb::SandboxInfo {
    let seconds = |at: Option<model::Time>| at.map_or(0.0, |at| at.as_secs_f64());
    let task_info = pb::TaskInfo {
        id: sandbox.task.to_string(),
        started_at: seconds(sandbox.started_at),
        finished_at: seconds(sandbox.ended_at),
        result: outcome::result(sandbox),
        enqueued_at: sandbox.created_at.as_secs_f64(),
        sandbox_id: sandbox.id.to_string(),
        ..pb::TaskInfo::default()
    };
    pb::SandboxInfo {
        id: sandbox.id.to_string(),
        created_at: sandbox.created_at.as_secs_f64(),
        task_info: Some(task_info),
        app_id: sandbox.app.to_string(),
        tags: tag_list(&sandbox.tags),
        name: sandbox.name.clone().unwrap_or_default(),
        image_id: sandbox.spec.image.to_string(),
        resource_info: Some(resource_info(sandbox)),
        regions: Vec::new(),
        timeout_secs: secs(sandbox.spec.timeout_ms),
        idle_timeout_secs: sandbox.spec.idle_timeout_ms.map(secs),
        ready_at: None,
        readiness_probe: sandbox.spec.probe.as_ref().map(probe),
        tunnels: tunnel_list(plane, sandbox),
        metadata: Some(outcome::metadata(sandbox)),
    }
}

fn probe(probe: &Probe) -> pb::Probe {
    let check = match &probe.check {
        ProbeCheck::Tcp(port) => pb::probe::ProbeOneof::TcpPort(u32::from(*port)),
        ProbeCheck::Exec(argv) => {
            pb::probe::ProbeOneof::ExecCommand(pb::probe::ExecCommand { argv: argv.clone() })
        }
    };
    let interval_ms = Some(u32::try_from(probe.interval_ms.0).unwrap_or(u32::MAX));
    pb::Probe { probe_oneof: Some(check), interval_ms }
}

fn resource_info(sandbox: &Sandbox) -> pb::ResourceInfo {
    let wish = &sandbox.spec.resources;
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let value = |asked: Option<u64>, reserved: u64| pb::resource_info::ResourceValue {
        value: narrow(reserved),
        is_default: asked.is_none(),
    };
    pb::ResourceInfo {
        memory_mb: Some(value(wish.memory_request_bytes, sandbox.reserved.memory_bytes >> 20)),
        milli_cpu: Some(value(wish.cpu_request_millis, sandbox.reserved.cpu_millis)),
        memory_mb_max: narrow(wish.memory_limit_bytes.unwrap_or(0) >> 20),
        milli_cpu_max: narrow(wish.cpu_limit_millis.unwrap_or(0)),
        ephemeral_disk_mb: narrow(wish.disk_bytes.unwrap_or(0) >> 20),
        ..pb::ResourceInfo::default()
    }
}
