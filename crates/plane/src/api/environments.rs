//! Environments.

use model::EnvironmentId;
use store::environments::{self, Environment};
use store::{Db, Scope};
use wire::client as pb;

use super::gate::{Cx, Member};
use super::identity::builder_version;
use super::refusal::Refusal;

/// The environment that is meant where none is named.
pub(super) const DEFAULT: &str = "main";

/// Finds an environment by the name that a request gives; nothing means the default one.
pub(super) async fn find(db: &mut Db, scope: &Scope, name: &str) -> Result<Environment, Refusal> {
    let name = if name.is_empty() { DEFAULT } else { name };
    environments::by_name(db, scope, name)
        .await?
        .ok_or_else(|| Refusal::not_found("environment", name))
}

/// Letters, digits, dash, underscore and dot; the client checks the same (modal 1.6.4).
pub(super) fn check_name(field: &'static str, name: &str) -> Result<(), Refusal> {
    let fits = !name.is_empty()
        && name.len() <= 64
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits {
        return Ok(());
    }
    let name: String = name.chars().take(80).collect();
    Err(Refusal::invalid(
        field,
        format!("`{name}` is no name: use 1 to 64 letters, digits, dashes, underscores and dots"),
    ))
}

/// The environment of that name, made if asked for.
pub(super) async fn get_or_create(
    cx: Cx<Member>,
    req: pb::EnvironmentGetOrCreateRequest,
) -> Result<pb::EnvironmentGetOrCreateResponse, Refusal> {
    let name = if req.deployment_name.is_empty() { DEFAULT } else { &req.deployment_name };
    let wish = req.object_creation_type();
    let mut tx = cx.plane.store.begin().await?;
    let found = environments::by_name(&mut tx, cx.scope(), name).await?;
    let environment = match (found, wish) {
        (Some(_), pb::ObjectCreationType::CreateFailIfExists) => {
            return Err(Refusal::Exists(format!("environment `{name}` exists already")));
        }
        (Some(environment), _) => environment,
        (None, pb::ObjectCreationType::Unspecified) => {
            return Err(Refusal::not_found("environment", name));
        }
        (None, _) => {
            check_name("deployment_name", name)?;
            let id = EnvironmentId::new(cx.plane.bits());
            let environment = Environment { id, name: name.to_owned(), created_at: cx.now() };
            environments::insert(&mut tx, cx.scope(), &environment).await?;
            environment
        }
    };
    tx.commit().await?;
    let settings = pb::EnvironmentSettings {
        image_builder_version: builder_version(&cx.meta.client_version).to_owned(),
        ..pb::EnvironmentSettings::default()
    };
    let metadata = pb::EnvironmentMetadata {
        name: environment.name,
        settings: Some(settings),
        ..pb::EnvironmentMetadata::default()
    };
    let environment_id = environment.id.into();
    Ok(pb::EnvironmentGetOrCreateResponse { environment_id, metadata: Some(metadata) })
}

/// All environments of the workspace.
pub(super) async fn list(cx: Cx<Member>, (): ()) -> Result<pb::EnvironmentListResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let all = environments::list(&mut db, cx.scope()).await?;
    let items = all.into_iter().map(|environment| pb::EnvironmentListItem {
        default: environment.name == DEFAULT,
        name: environment.name,
        created_at: environment.created_at.as_secs_f64(),
        environment_id: environment.id.into(),
        ..pb::EnvironmentListItem::default()
    });
    Ok(pb::EnvironmentListResponse { items: items.collect() })
}

/// Makes an environment.
pub(super) async fn create(
    cx: Cx<Member>,
    req: pb::EnvironmentCreateRequest,
) -> Result<(), Refusal> {
    check_name("name", &req.name)?;
    let mut tx = cx.plane.store.begin().await?;
    if environments::by_name(&mut tx, cx.scope(), &req.name).await?.is_some() {
        return Err(Refusal::Exists(format!("environment `{}` exists already", req.name)));
    }
    let id = EnvironmentId::new(cx.plane.bits());
    let environment = Environment { id, name: req.name, created_at: cx.now() };
    environments::insert(&mut tx, cx.scope(), &environment).await?;
    tx.commit().await?;
    Ok(())
}
