//! Apps: made by a client, kept alive by its heartbeats, published, ended.

use model::{AppId, ClassId, FunctionId};
use store::apps::{self, App, ObjectKind};
use store::{Db, Scope, functions, sandboxes, tasks};
use wire::client::{self as pb, AppState};

use super::environments;
use super::functions::handle_metadata;
use super::gate::{Cx, Member};
use super::refusal::Refusal;
use crate::reconcile::{end_detached, stop_app};

/// Apps in one list.
const LIST_MAX: u32 = 500;

/// Finds an app of the caller's that has not ended.
pub(super) async fn alive(db: &mut Db, scope: &Scope, id: &str) -> Result<App, Refusal> {
    let app = get(db, scope, id).await?;
    if app.stopped_at.is_some() {
        return Err(Refusal::Conflict(format!("app `{id}` has ended: start it again")));
    }
    Ok(app)
}

async fn get(db: &mut Db, scope: &Scope, id: &str) -> Result<App, Refusal> {
    apps::get(db, scope, &AppId::parse(id)?).await?.ok_or_else(|| Refusal::not_found("app", id))
}

fn new_app(
    cx: &Cx<Member>,
    environment: model::EnvironmentId,
    description: String,
    state: AppState,
) -> App {
    App {
        id: AppId::new(cx.plane.bits()),
        workspace: cx.scope().workspace.clone(),
        environment,
        name: None,
        description,
        state: state as i32,
        tags: Default::default(),
        client_version: cx.meta.client_version.clone(),
        created_at: cx.now(),
        heartbeat_at: cx.now(),
        deployed_at: None,
        stopped_at: None,
        logs_done: false,
    }
}

/// Makes an app. The same idempotency key answers with the same app.
pub(super) async fn create(
    cx: Cx<Member>,
    req: pb::AppCreateRequest,
) -> Result<pb::AppCreateResponse, Refusal> {
    let state = match req.app_state() {
        AppState::Unspecified | AppState::Ephemeral => AppState::Ephemeral,
        state @ (AppState::Detached | AppState::Initializing) => state,
        other => {
            let why = format!("an app cannot begin as {}", other.as_str_name());
            return Err(Refusal::invalid("app_state", why));
        }
    };
    let mut tx = cx.plane.store.begin().await?;
    let key = cx.replay_key();
    let known = match key {
        Some(key) => apps::by_key(&mut tx, cx.scope(), key).await?,
        None => None,
    };
    let app = match known {
        Some(app) => app,
        None => {
            let environment =
                environments::find(&mut tx, cx.scope(), &req.environment_name).await?;
            let mut app = new_app(&cx, environment.id, req.description, state);
            app.tags = req.tags;
            apps::insert(&mut tx, &app, key).await?;
            app
        }
    };
    tx.commit().await?;
    Ok(pb::AppCreateResponse { app_id: app.id.into(), ..pb::AppCreateResponse::default() })
}

/// The app of that name, made if asked for: it lives without a client.
pub(super) async fn get_or_create(
    cx: Cx<Member>,
    req: pb::AppGetOrCreateRequest,
) -> Result<pb::AppGetOrCreateResponse, Refusal> {
    environments::check_name("app_name", &req.app_name)?;
    let wish = req.object_creation_type();
    let mut tx = cx.plane.store.begin().await?;
    let environment = environments::find(&mut tx, cx.scope(), &req.environment_name).await?;
    let found = apps::by_name(&mut tx, cx.scope(), &environment.id, &req.app_name).await?;
    let app = match (found, wish) {
        (Some(_), pb::ObjectCreationType::CreateFailIfExists) => {
            return Err(Refusal::Exists(format!("app `{}` exists already", req.app_name)));
        }
        (Some(app), _) => app,
        (None, pb::ObjectCreationType::Unspecified) => {
            return Err(Refusal::not_found("app", &req.app_name));
        }
        (None, _) => {
            let name = req.app_name.clone();
            let mut app = new_app(&cx, environment.id, name, AppState::Deployed);
            app.name = Some(req.app_name);
            apps::insert(&mut tx, &app, None).await?;
            app
        }
    };
    tx.commit().await?;
    let app_id: String = app.id.into();
    let handle_metadata = pb::AppHandleMetadata {
        description: app.description,
        app_id: app_id.clone(),
        environment_name: environment.name,
        ..pb::AppHandleMetadata::default()
    };
    Ok(pb::AppGetOrCreateResponse { app_id, handle_metadata: Some(handle_metadata) })
}

/// The app's client lives.
pub(super) async fn heartbeat(cx: Cx<Member>, req: pb::AppHeartbeatRequest) -> Result<(), Refusal> {
    let mut tx = cx.plane.store.begin().await?;
    let app = alive(&mut tx, cx.scope(), &req.app_id).await?;
    apps::beat(&mut tx, &app.id, cx.now()).await?;
    tx.commit().await?;
    Ok(())
}

/// Publishes an app's functions and classes under their tags; deploys it if asked for.
pub(super) async fn publish(
    cx: Cx<Member>,
    req: pb::AppPublishRequest,
) -> Result<pb::AppPublishResponse, Refusal> {
    let wanted = req.app_state();
    let mut tx = cx.plane.store.begin().await?;
    let mut app = alive(&mut tx, cx.scope(), &req.app_id).await?;
    let mut objects = Vec::new();
    for (tag, id) in &req.function_ids {
        let function = FunctionId::parse(id)?;
        let stored = functions::get(&mut tx, cx.scope(), &function).await?;
        if stored.is_none_or(|stored| stored.app != app.id) {
            return Err(Refusal::not_found("function", id));
        }
        objects.push((ObjectKind::Function, tag.clone(), id.clone()));
    }
    for (tag, id) in &req.class_ids {
        objects.push((ObjectKind::Class, tag.clone(), ClassId::parse(id)?.into()));
    }
    apps::set_objects(&mut tx, &app.id, &objects).await?;
    match wanted {
        AppState::Deployed => {
            environments::check_name("name", &req.name)?;
            let other = apps::by_name(&mut tx, cx.scope(), &app.environment, &req.name).await?;
            if other.is_some_and(|other| other.id != app.id) {
                let text = format!("another app is deployed as `{}`: stop it first", req.name);
                return Err(Refusal::Conflict(text));
            }
            app.name = Some(req.name);
            app.state = AppState::Deployed as i32;
            app.deployed_at = Some(cx.now());
        }
        AppState::Ephemeral | AppState::Detached => app.state = wanted as i32,
        // Served again while it runs: it stays what it is (seen with `modal serve`, 1.6.4).
        _ => {}
    }
    if !req.tags.is_empty() {
        app.tags = req.tags;
    }
    apps::publish(&mut tx, &app).await?;
    tx.ring(store::Hint::Schedule);
    tx.commit().await?;
    let deployed_at = app.deployed_at.map_or(0.0, |at| at.as_secs_f64());
    Ok(pb::AppPublishResponse { deployed_at, ..pb::AppPublishResponse::default() })
}

/// The app's client leaves: what lives by it ends. A detached app stays for as long as it has work;
/// one that has none when its entry point is done ends at once, so that the client, which reads
/// the logs to their end, need not wait for a time-out (seen with `modal run -d`, 1.6.4).
pub(super) async fn client_disconnect(
    cx: Cx<Member>,
    req: pb::AppClientDisconnectRequest,
) -> Result<(), Refusal> {
    let app = get(&mut *cx.plane.store.read().await?, cx.scope(), &req.app_id).await?;
    let ends =
        app.state == AppState::Ephemeral as i32 || app.state == AppState::Initializing as i32;
    if app.stopped_at.is_some() {
        return Ok(());
    }
    if ends {
        return Ok(stop_app(&cx.plane, &app, "its client left").await?);
    }
    let completed = req.reason() == pb::AppDisconnectReason::EntrypointCompleted;
    if completed && app.state == AppState::Detached as i32 {
        end_detached(&cx.plane, &app).await?;
    }
    Ok(())
}

/// Ends an app.
pub(super) async fn stop(cx: Cx<Member>, req: pb::AppStopRequest) -> Result<(), Refusal> {
    let app = get(&mut *cx.plane.store.read().await?, cx.scope(), &req.app_id).await?;
    if app.stopped_at.is_none() {
        stop_app(&cx.plane, &app, "it was told to stop").await?;
    }
    Ok(())
}

/// The deployed app of a name; an empty id if there is none (modal 1.6.4 takes that as "new").
pub(super) async fn by_deployment_name(
    cx: Cx<Member>,
    req: pb::AppGetByDeploymentNameRequest,
) -> Result<pb::AppGetByDeploymentNameResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let environment = environments::find(&mut db, cx.scope(), &req.environment_name).await?;
    let app = apps::by_name(&mut db, cx.scope(), &environment.id, &req.name).await?;
    Ok(pb::AppGetByDeploymentNameResponse {
        app_id: app.map(|app| app.id.into()).unwrap_or_default(),
        environment_name: environment.name,
        ..pb::AppGetByDeploymentNameResponse::default()
    })
}

/// What an app publishes, with what a container must know of each object.
pub(super) async fn layout(db: &mut Db, app: &AppId) -> Result<pb::AppLayout, Refusal> {
    let function_ids = apps::objects(db, app, ObjectKind::Function).await?;
    let class_ids = apps::objects(db, app, ObjectKind::Class).await?;
    let mut objects = Vec::new();
    for function in functions::of_app(db, app).await? {
        let metadata = handle_metadata(&function)?;
        objects.push(pb::Object {
            object_id: function.id.into(),
            handle_metadata_oneof: Some(pb::object::HandleMetadataOneof::FunctionHandleMetadata(
                metadata,
            )),
        });
    }
    Ok(pb::AppLayout { objects, function_ids, class_ids })
}

/// What an app publishes.
pub(super) async fn get_layout(
    cx: Cx<Member>,
    req: pb::AppGetLayoutRequest,
) -> Result<pb::AppGetLayoutResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let app = get(&mut db, cx.scope(), &req.app_id).await?;
    let layout = layout(&mut db, &app.id).await?;
    Ok(pb::AppGetLayoutResponse { app_layout: Some(layout) })
}

/// The newest apps of an environment.
pub(super) async fn list(
    cx: Cx<Member>,
    req: pb::AppListRequest,
) -> Result<pb::AppListResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let environment = environments::find(&mut db, cx.scope(), &req.environment_name).await?;
    let mut items = Vec::new();
    for app in apps::list(&mut db, cx.scope(), &environment.id, LIST_MAX).await? {
        let running = tasks::alive_of_app(&mut db, &app.id).await?.len()
            + sandboxes::alive_of_app(&mut db, &app.id).await?.len();
        items.push(pb::app_list_response::AppListItem {
            app_id: app.id.into(),
            description: app.description,
            state: app.state,
            created_at: app.created_at.as_secs_f64(),
            stopped_at: app.stopped_at.map_or(0.0, |at| at.as_secs_f64()),
            n_running_tasks: i32::try_from(running).unwrap_or(i32::MAX),
            name: app.name.unwrap_or_default(),
            metadata: None,
        });
    }
    Ok(pb::AppListResponse { apps: items })
}
