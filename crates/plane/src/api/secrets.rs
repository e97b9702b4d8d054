//! Secrets: environment variables, by name or of one app.

use std::collections::BTreeMap;

use model::{AppId, SecretId};
use store::secrets::{self, Secret};
use store::{Db, Scope};
use wire::client as pb;
use wire::rpc::client as rpc;

use super::apps;
use super::environments;
use super::gate::{Cx, Member};
use super::objects::{creation_info, list_page};
use super::refusal::Refusal;
use super::replay;
use crate::limits::{SECRET_BYTES_MAX, SECRET_VARIABLE_BYTES_MAX};

/// Refuses variables that no program can be given.
pub(super) fn check_env(env: &BTreeMap<String, String>) -> Result<(), Refusal> {
    for (key, value) in env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            let key: String = key.chars().take(80).collect();
            let why = format!("`{key}` cannot be an environment variable");
            return Err(Refusal::invalid("env_dict", why));
        }
        if key.len() + value.len() > SECRET_VARIABLE_BYTES_MAX {
            let key: String = key.chars().take(80).collect();
            let why = format!(
                "`{key}` and its value have more than {SECRET_VARIABLE_BYTES_MAX} bytes, which no \
                 program can be given"
            );
            return Err(Refusal::invalid("env_dict", why));
        }
    }
    let bytes: usize = env.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > SECRET_BYTES_MAX {
        let why = format!("{bytes} bytes are too many: a secret holds {SECRET_BYTES_MAX}");
        return Err(Refusal::invalid("env_dict", why));
    }
    Ok(())
}

/// Finds a secret of the caller's.
async fn find(db: &mut Db, scope: &Scope, id: &str) -> Result<Secret, Refusal> {
    let found = secrets::get(db, scope, &SecretId::parse(id)?).await?;
    found.ok_or_else(|| Refusal::not_found("secret", id))
}

fn metadata(secret: &Secret, environment_name: String) -> pb::SecretMetadata {
    pb::SecretMetadata {
        name: secret.name.clone().unwrap_or_default(),
        creation_info: Some(creation_info(secret.created_at)),
        keys: secret.env.keys().cloned().collect(),
        environment_name,
        ..pb::SecretMetadata::default()
    }
}

/// The secret of a name, or a new one; an app's own has no name.
pub(super) async fn get_or_create(
    cx: Cx<Member>,
    req: pb::SecretGetOrCreateRequest,
) -> Result<pb::SecretGetOrCreateResponse, Refusal> {
    use pb::ObjectCreationType as Wish;
    let wish = req.object_creation_type();
    let mut tx = cx.plane.store.begin().await?;
    let environment = environments::find(&mut tx, cx.scope(), &req.environment_name).await?;
    check_env(&req.env_dict)?;
    let anonymous = matches!(wish, Wish::AnonymousOwnedByApp | Wish::Ephemeral);
    let name = (!anonymous).then(|| req.deployment_name.clone());
    let found = match &name {
        Some(name) => secrets::by_name(&mut tx, cx.scope(), &environment.id, name).await?,
        None => None,
    };
    let secret = match (found, wish) {
        (Some(_), Wish::CreateFailIfExists) => {
            let text = format!("secret `{}` exists already", req.deployment_name);
            return Err(Refusal::Exists(text));
        }
        (Some(mut secret), Wish::CreateOverwriteIfExists) => {
            secrets::set_env(&mut tx, &secret.id, &req.env_dict, cx.now()).await?;
            secret.env = req.env_dict;
            secret
        }
        (Some(secret), _) => secret,
        (None, Wish::Unspecified) => {
            return Err(Refusal::not_found("secret", &req.deployment_name));
        }
        (None, _) => {
            if let Some(name) = &name {
                environments::check_name("deployment_name", name)?;
            }
            let app = match req.app_id.as_str() {
                "" => None,
                id => Some(apps::alive(&mut tx, cx.scope(), id).await?.id),
            };
            let secret = new_secret(&cx, environment.id.clone(), name, app, req.env_dict);
            secrets::insert(&mut tx, cx.scope(), &secret).await?;
            secret
        }
    };
    let missing: Vec<_> =
        req.required_keys.iter().filter(|key| !secret.env.contains_key(*key)).collect();
    if !missing.is_empty() {
        let name = secret.name.as_deref().unwrap_or("of the app");
        let text = format!("secret `{name}` lacks the required keys {missing:?}");
        return Err(Refusal::NotFound(text));
    }
    tx.commit().await?;
    let metadata = metadata(&secret, environment.name);
    Ok(pb::SecretGetOrCreateResponse { secret_id: secret.id.into(), metadata: Some(metadata) })
}

fn new_secret(
    cx: &Cx<Member>,
    environment: model::EnvironmentId,
    name: Option<String>,
    app: Option<AppId>,
    env: BTreeMap<String, String>,
) -> Secret {
    let id = SecretId::new(cx.plane.bits());
    Secret { id, environment, name, app, env, created_at: cx.now(), updated_at: cx.now() }
}

/// Changes some variables; one without a value is removed.
pub(super) async fn update(cx: Cx<Member>, req: pb::SecretUpdateRequest) -> Result<(), Refusal> {
    let mut tx = cx.plane.store.begin().await?;
    let mut secret = find(&mut tx, cx.scope(), &req.secret_id).await?;
    if replay::find::<rpc::SecretUpdate>(&cx, &mut tx).await?.is_some() {
        return Ok(());
    }
    for update in req.updates {
        match update.value {
            Some(value) => secret.env.insert(update.key, value),
            None => secret.env.remove(&update.key),
        };
    }
    check_env(&secret.env)?;
    secrets::set_env(&mut tx, &secret.id, &secret.env, cx.now()).await?;
    replay::keep::<rpc::SecretUpdate>(&cx, &mut tx, &()).await?;
    tx.commit().await?;
    Ok(())
}

/// Deletes a secret. Containers that run keep what they were given; later ones of a function that
/// asks for it do not start.
pub(super) async fn delete(cx: Cx<Member>, req: pb::SecretDeleteRequest) -> Result<(), Refusal> {
    let mut tx = cx.plane.store.begin().await?;
    if replay::find::<rpc::SecretDelete>(&cx, &mut tx).await?.is_some() {
        return Ok(());
    }
    let secret = find(&mut tx, cx.scope(), &req.secret_id).await?;
    secrets::delete(&mut tx, cx.scope(), &secret.id).await?;
    replay::keep::<rpc::SecretDelete>(&cx, &mut tx, &()).await?;
    tx.commit().await?;
    Ok(())
}

/// The named secrets of an environment, newest first. Values are not shown.
pub(super) async fn list(
    cx: Cx<Member>,
    req: pb::SecretListRequest,
) -> Result<pb::SecretListResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let environment = environments::find(&mut db, cx.scope(), &req.environment_name).await?;
    let (before, most) = list_page(req.pagination.as_ref(), cx.now());
    let found = secrets::list(&mut db, cx.scope(), &environment.id, before, most).await?;
    let item = |secret: Secret| pb::SecretListItem {
        label: secret.name.clone().unwrap_or_default(),
        created_at: secret.created_at.as_secs_f64(),
        environment_name: environment.name.clone(),
        metadata: Some(metadata(&secret, environment.name.clone())),
        secret_id: secret.id.into(),
        ..pb::SecretListItem::default()
    };
    let items = found.into_iter().map(item).collect();
    Ok(pb::SecretListResponse { items, environment_name: environment.name })
}

/// What may be shown of a secret.
pub(super) async fn get_info(
    cx: Cx<Member>,
    req: pb::SecretGetInfoRequest,
) -> Result<pb::SecretGetInfoResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let secret = find(&mut db, cx.scope(), &req.secret_id).await?;
    let environment = store::environments::get(&mut db, cx.scope(), &secret.environment).await?;
    let environment_name = environment.map(|environment| environment.name).unwrap_or_default();
    Ok(pb::SecretGetInfoResponse { metadata: Some(metadata(&secret, environment_name)) })
}
