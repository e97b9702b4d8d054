//! Secrets: environment variables, by name or of one app.

use std::collections::BTreeMap;

use model::{AppId, SecretId};
use store::secrets::{self, Secret};
use wire::client as pb;

use super::apps;
use super::environments;
use super::gate::{Cx, Member};
use super::refusal::Refusal;

fn check_env(env: &BTreeMap<String, String>) -> Result<(), Refusal> {
    for (key, value) in env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            let key: String = key.chars().take(80).collect();
            let why = format!("`{key}` cannot be an environment variable");
            return Err(Refusal::invalid("env_dict", why));
        }
    }
    Ok(())
}

fn metadata(secret: &Secret, environment_name: String) -> pb::SecretMetadata {
    pb::SecretMetadata {
        name: secret.name.clone().unwrap_or_default(),
        creation_info: Some(pb::CreationInfo {
            created_at: secret.created_at.as_secs_f64(),
            ..pb::CreationInfo::default()
        }),
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
