//! Functions: announced, defined, found by name.

use bytes::Bytes;
use model::FunctionId;
use prost::Message;
use store::functions::{self, Function};
use store::images::Phase;
use store::{Tx, apps, images, inputs, mounts, secrets, tasks};
use wire::client::{self as pb, AppState};

use super::gate::{Cx, Member};
use super::refusal::Refusal;
use super::{apps as app_rows, definition, environments};

fn decode(function: &Function) -> Result<pb::Function, Refusal> {
    pb::Function::decode(function.definition.clone()).map_err(Refusal::internal)
}

/// What a client or a container must know of a function to call it.
pub(super) fn handle_metadata(function: &Function) -> Result<pb::FunctionHandleMetadata, Refusal> {
    let definition = decode(function)?;
    Ok(pb::FunctionHandleMetadata {
        function_name: definition.function_name,
        function_type: definition.function_type,
        definition_id: function.id.as_str().replacen("fu-", "de-", 1),
        function_schema: definition.function_schema,
        supported_input_formats: definition.supported_input_formats,
        supported_output_formats: definition.supported_output_formats,
        app_id: function.app.to_string(),
        ..pb::FunctionHandleMetadata::default()
    })
}

/// What the definition is told back as: the newest client wants it in this form (modal 1.6.4).
fn data(definition: pb::Function) -> pb::FunctionData {
    pb::FunctionData {
        module_name: definition.module_name.clone(),
        function_name: definition.function_name.clone(),
        function_type: definition.function_type,
        timeout_secs: definition.timeout_secs,
        untrusted: definition.untrusted,
        autoscaler_settings: definition.autoscaler_settings,
        function_schema: definition.function_schema.clone(),
        ranked_functions: vec![pb::function_data::RankedFunction {
            rank: 0,
            function: Some(definition),
        }],
        ..pb::FunctionData::default()
    }
}

/// The id that a definition gets: the one it was announced under, or the one of its name.
async fn settle_id(
    cx: &Cx<Member>,
    tx: &mut Tx,
    app: &model::AppId,
    existing: &str,
    name: &str,
) -> Result<FunctionId, Refusal> {
    if !existing.is_empty() {
        let id = FunctionId::parse(existing)?;
        let stored = functions::get(tx, cx.scope(), &id).await?;
        let own = stored.filter(|stored| stored.app == *app);
        return Ok(own.ok_or_else(|| Refusal::not_found("function", existing))?.id);
    }
    let stored = functions::by_name(tx, app, name).await?;
    Ok(stored.map_or_else(|| FunctionId::new(cx.plane.bits()), |stored| stored.id))
}

/// Announces a function: its id is settled before its image and files are.
pub(super) async fn precreate(
    cx: Cx<Member>,
    req: pb::FunctionPrecreateRequest,
) -> Result<pb::FunctionPrecreateResponse, Refusal> {
    if !req.method_definitions.is_empty() {
        let why = "classes are not served yet: use functions";
        return Err(Refusal::invalid("class", why));
    }
    if req.webhook_config.is_some() {
        return Err(Refusal::invalid("webhook_config", "web endpoints are not served yet"));
    }
    let mut tx = cx.plane.store.begin().await?;
    let app = app_rows::alive(&mut tx, cx.scope(), &req.app_id).await?;
    let name = &req.function_name;
    let id = settle_id(&cx, &mut tx, &app.id, &req.existing_function_id, name).await?;
    let stored = functions::get(&mut tx, cx.scope(), &id).await?;
    let function = match stored {
        Some(function) => function,
        None => {
            let definition = pb::Function {
                function_name: req.function_name.clone(),
                function_type: req.function_type,
                function_schema: req.function_schema,
                supported_input_formats: req.supported_input_formats,
                supported_output_formats: req.supported_output_formats,
                ..pb::Function::default()
            };
            let function = Function {
                id,
                workspace: app.workspace,
                app: app.id,
                name: req.function_name,
                definition: Bytes::from(definition.encode_to_vec()),
                spec: None,
                created_at: cx.now(),
            };
            functions::put(&mut tx, &function).await?;
            function
        }
    };
    tx.commit().await?;
    let handle_metadata = Some(handle_metadata(&function)?);
    Ok(pb::FunctionPrecreateResponse { function_id: function.id.into(), handle_metadata })
}

/// The one definition of a request. The other form, a list of alternatives with what they have in
/// common beside it, comes only with a list of GPUs (modal 1.6.4).
fn the_definition(req: &mut pb::FunctionCreateRequest) -> Result<pb::Function, Refusal> {
    if req.function_data.is_some() {
        let why = "alternatives are not served: no worker has a GPU, leave `gpu` out";
        return Err(Refusal::invalid("function_data", why));
    }
    req.function.take().ok_or_else(|| Refusal::invalid("function", "it is missing"))
}

/// Defines a function.
pub(super) async fn create(
    cx: Cx<Member>,
    mut req: pb::FunctionCreateRequest,
) -> Result<pb::FunctionCreateResponse, Refusal> {
    let definition = the_definition(&mut req)?;
    let spec = definition::spec(&definition, &cx.plane.fleet.largest())?;
    let mut tx = cx.plane.store.begin().await?;
    let app = app_rows::alive(&mut tx, cx.scope(), &req.app_id).await?;
    let deploys =
        app.state == AppState::Initializing as i32 || app.state == AppState::Deployed as i32;
    if deploys && (req.schedule.is_some() || definition.schedule.is_some()) {
        let why = "schedules are not served yet: deploy without one, and call the function";
        return Err(Refusal::invalid("schedule", why));
    }
    check_parts(&cx, &mut tx, &spec).await?;
    let name = &definition.function_name;
    let id = match spec.builds {
        // It is nobody's but its image's: the client calls it by no name, and another of that
        // name may be the app's.
        true => FunctionId::new(cx.plane.bits()),
        false => settle_id(&cx, &mut tx, &app.id, &req.existing_function_id, name).await?,
    };
    // What runs by an older definition, with its code and its walls, takes no input from now on.
    tasks::retire(&mut tx, &id, cx.now()).await?;
    let function = Function {
        id: id.clone(),
        workspace: app.workspace,
        app: app.id,
        name: match spec.builds {
            true => format!("{name} of {id}"),
            false => name.clone(),
        },
        definition: Bytes::from(definition.encode_to_vec()),
        spec: Some(spec),
        created_at: cx.now(),
    };
    functions::put(&mut tx, &function).await?;
    tx.ring(store::Hint::Schedule);
    tx.ring(store::Hint::Inputs(id.clone()));
    tx.commit().await?;
    cx.plane.functions.forget(&id);
    cx.plane.failures.reset(&id);
    let handle_metadata = Some(handle_metadata(&function)?);
    Ok(pb::FunctionCreateResponse {
        function_id: id.into(),
        function: Some(definition.clone()),
        function_data: Some(data(definition)),
        handle_metadata,
        ..pb::FunctionCreateResponse::default()
    })
}

/// Everything that a function is made of must be the caller's, and its image must be usable.
async fn check_parts(
    cx: &Cx<Member>,
    tx: &mut Tx,
    spec: &model::spec::FunctionSpec,
) -> Result<(), Refusal> {
    let image = images::get(tx, cx.scope(), &spec.image).await?;
    let image = image.ok_or_else(|| Refusal::not_found("image", &spec.image))?;
    if image.phase != Phase::Ready {
        let why = image.failure.unwrap_or_else(|| "wait for its build to end".to_owned());
        let text = format!("image `{}` is not built: {why}", spec.image);
        return Err(Refusal::Conflict(text));
    }
    if image.content.is_some_and(|content| content.python.is_none()) {
        let why = "a function needs an image with a `python` of 3.10 to 3.14 on its PATH, and this \
                   one has none: pass add_python= to from_registry, or take another base";
        return Err(Refusal::invalid("image", why));
    }
    for id in &spec.mounts {
        if mounts::get(tx, cx.scope(), id).await?.is_none() {
            return Err(Refusal::not_found("mount", id));
        }
    }
    for id in &spec.secrets {
        if secrets::get(tx, cx.scope(), id).await?.is_none() {
            return Err(Refusal::not_found("secret", id));
        }
    }
    Ok(())
}

/// Finds a function of a deployed app by its tag.
pub(super) async fn get(
    cx: Cx<Member>,
    req: pb::FunctionGetRequest,
) -> Result<pb::FunctionGetResponse, Refusal> {
    let unknown = || {
        let text = format!(
            "function `{}` of app `{}` not found: deploy the app first, and check both names",
            req.object_tag, req.app_name
        );
        Refusal::NotFound(text)
    };
    let mut db = cx.plane.store.read().await?;
    let environment = environments::find(&mut db, cx.scope(), &req.environment_name).await?;
    let app = apps::by_name(&mut db, cx.scope(), &environment.id, &req.app_name).await?;
    let app = app.filter(|app| app.deployed_at.is_some()).ok_or_else(unknown)?;
    let function = functions::by_name(&mut db, &app.id, &req.object_tag).await?;
    let function = function.filter(|function| function.spec.is_some()).ok_or_else(unknown)?;
    let handle_metadata = Some(handle_metadata(&function)?);
    let definition = decode(&function)?;
    Ok(pb::FunctionGetResponse {
        function_id: function.id.into(),
        handle_metadata,
        function: Some(data(definition)),
        ..pb::FunctionGetResponse::default()
    })
}

/// How busy a function is.
pub(super) async fn current_stats(
    cx: Cx<Member>,
    req: pb::FunctionGetCurrentStatsRequest,
) -> Result<pb::FunctionStats, Refusal> {
    let id = FunctionId::parse(&req.function_id)?;
    let mut db = cx.plane.store.read().await?;
    let function = functions::get(&mut db, cx.scope(), &id).await?;
    let function = function.ok_or_else(|| Refusal::not_found("function", &req.function_id))?;
    let (backlog, num_running_inputs) = inputs::counts(&mut db, &function.id, cx.now()).await?;
    let alive = tasks::alive_of_function(&mut db, &function.id).await?;
    let num_total_tasks = u32::try_from(alive.len()).unwrap_or(u32::MAX);
    Ok(pb::FunctionStats { backlog, num_total_tasks, num_running_inputs, ..Default::default() })
}
