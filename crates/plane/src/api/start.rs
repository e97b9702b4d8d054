//! What a container is to be: from what is stored of its function to the worker's spec.

use bytes::Bytes;
use model::TaskId;
use model::spec::{ClientPackage, FunctionSpec, MountFile, Network, TaskSpec};
use prost::Message;
use store::functions::Function;
use store::{Db, Scope, apps, environments, images, mounts, secrets};
use wire::client as pb;

use super::identity::builder_version;
use super::refusal::Refusal;
use crate::Plane;

/// Everything that a worker needs to run a container of a function.
pub(crate) async fn task_spec(
    plane: &Plane,
    function: &Function,
    spec: &FunctionSpec,
    task: &TaskId,
) -> Result<TaskSpec, Refusal> {
    let scope = Scope { workspace: function.workspace.clone() };
    let mut db = plane.store.read().await?;
    let app = apps::get(&mut db, &scope, &function.app).await?;
    let app = app.ok_or_else(|| Refusal::not_found("app", &function.app))?;
    let environment = environments::get(&mut db, &scope, &app.environment).await?;
    let environment = environment.map(|environment| environment.name).unwrap_or_default();
    let image = images::get(&mut db, &scope, &spec.image).await?;
    let image = image.and_then(|image| image.content);
    let image = image.ok_or_else(|| Refusal::not_found("image", &spec.image))?;
    let mut files = Vec::<MountFile>::new();
    for id in &spec.mounts {
        let mount = mounts::get(&mut db, &scope, id).await?;
        files.extend(mount.ok_or_else(|| Refusal::not_found("mount", id))?);
    }
    let mut env = Vec::new();
    for id in &spec.secrets {
        let secret = secrets::get(&mut db, &scope, id).await?;
        env.extend(secret.ok_or_else(|| Refusal::not_found("secret", id))?.env);
    }
    env.push(("MODAL_TASK_ID".into(), task.to_string()));
    env.push(("MODAL_IMAGE_ID".into(), spec.image.to_string()));
    env.push(("MODAL_ENVIRONMENT".into(), environment.clone()));
    let arguments = arguments(&mut db, function, task, environment).await?;
    let machine = plane.fleet.largest();
    Ok(TaskSpec {
        task: task.clone(),
        app: app.id,
        function: function.id.clone(),
        image_id: spec.image.clone(),
        image,
        files,
        client: ClientPackage {
            builder_version: builder_version(&app.client_version).to_owned(),
            version: app.client_version,
        },
        env,
        arguments,
        network: if spec.block_network { Network::Blocked } else { Network::Open },
        limits: spec.resources.limits(&plane.config.defaults, &machine),
        keeps_files: spec.builds,
    })
}

/// The client's own description of the task. The layout must name every function of the app and
/// every object that the function depends on: the container refuses to start otherwise
/// (modal 1.6.4).
async fn arguments(
    db: &mut Db,
    function: &Function,
    task: &TaskId,
    environment_name: String,
) -> Result<Bytes, Refusal> {
    let definition =
        pb::Function::decode(function.definition.clone()).map_err(Refusal::internal)?;
    let mut layout = super::apps::layout(db, &function.app).await?;
    layout.function_ids.insert(function.name.clone(), function.id.to_string());
    for dependency in &definition.object_dependencies {
        let id = &dependency.object_id;
        if layout.objects.iter().all(|object| object.object_id != *id) {
            layout.objects.push(pb::Object { object_id: id.clone(), handle_metadata_oneof: None });
        }
    }
    let arguments = pb::ContainerArguments {
        task_id: task.to_string(),
        function_id: function.id.to_string(),
        app_id: function.app.to_string(),
        function_def: Some(definition),
        environment_name,
        app_layout: Some(layout),
        ..pb::ContainerArguments::default()
    };
    Ok(Bytes::from(arguments.encode_to_vec()))
}
