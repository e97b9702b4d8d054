//! The builder: hands waiting images to workers, each once its base is ready.

use std::sync::Arc;

use model::Time;
use model::link::Order;
use model::spec::RegistryAuth;
use store::images::{self, Image, Phase};
use store::secrets::Secret;
use store::{Hint, Scope, Tx, secrets};

use crate::Plane;
use crate::limits::SCAN_EVERY;

/// Where a secret has the user's name at a registry (modal 1.6.4).
pub(crate) const REGISTRY_USERNAME: &str = "REGISTRY_USERNAME";

/// Where a secret has the password at a registry (modal 1.6.4).
pub(crate) const REGISTRY_PASSWORD: &str = "REGISTRY_PASSWORD";

/// Runs until the server ends.
pub async fn run(plane: Arc<Plane>) {
    let mut ear = plane.store.hints().listen(Hint::Builds);
    while !plane.is_closing() {
        if let Err(error) = tick(&plane).await {
            tracing::error!(%error, "the builder could not look at the images");
        }
        tokio::select! {
            () = ear.wait(SCAN_EVERY) => {}
            () = plane.closed() => {}
        }
    }
}

/// Looks at every image that waits.
pub async fn tick(plane: &Arc<Plane>) -> Result<(), store::Error> {
    plane.settle_function_builds().await?;
    let waiting = images::buildable(&mut *plane.store.read().await?).await?;
    for image in waiting {
        hand_over(plane, image).await?;
    }
    Ok(())
}

/// What of a secret opens a registry.
pub(crate) fn registry_auth(mut secret: Secret) -> Option<RegistryAuth> {
    let username = secret.env.remove(REGISTRY_USERNAME)?;
    let password = secret.env.remove(REGISTRY_PASSWORD)?;
    Some(RegistryAuth { username, password })
}

async fn hand_over(plane: &Arc<Plane>, image: Image) -> Result<(), store::Error> {
    let mut tx = plane.store.begin().await?;
    let scope = Scope { workspace: image.workspace.clone() };
    let mut build = image.build.clone();
    if let Some(base) = &image.base {
        let base = images::get(&mut tx, &scope, base).await?;
        match base {
            Some(base) if base.phase == Phase::Ready => build.base = base.content,
            Some(Image { failure: Some(failure), .. }) => {
                let failure = format!("the image it builds on failed: {failure}");
                return fail(tx, image, failure, plane.now()).await;
            }
            Some(_) | None => {
                let failure = "the image it builds on is gone: build it again".to_owned();
                return fail(tx, image, failure, plane.now()).await;
            }
        }
    }
    if let Some(function) = &image.build.function {
        return match plane.begin_function_build(&mut tx, &image, function).await? {
            Ok(begun) => {
                tx.commit().await?;
                plane.go_on(begun).await
            }
            Err(failure) => fail(tx, image, failure, plane.now()).await,
        };
    }
    for id in &image.build.secrets {
        let Some(secret) = secrets::get(&mut tx, &scope, id).await? else {
            let failure = format!("the secret `{id}` is gone: build it again");
            return fail(tx, image, failure, plane.now()).await;
        };
        build.secret_env.extend(secret.env);
    }
    if let Some(id) = &image.build.registry_secret {
        let secret = secrets::get(&mut tx, &scope, id).await?;
        let Some(auth) = secret.and_then(registry_auth) else {
            let failure = "the secret that opens its registry is gone: build it again".to_owned();
            return fail(tx, image, failure, plane.now()).await;
        };
        build.registry_auth = Some(auth);
    }
    let views = plane.fleet.views(&std::collections::HashMap::new());
    let Some(worker) = views.iter().map(|view| &view.worker).min() else { return Ok(()) };
    match plane.fleet.order(worker, Order::Build(Box::new(build))) {
        Ok(()) => {
            images::set_phase(&mut tx, &image.id, Phase::Building).await?;
            tx.commit().await
        }
        Err(error) => {
            tracing::warn!(%error, image = %image.id, "an image waits for a worker");
            Ok(())
        }
    }
}

async fn fail(mut tx: Tx, image: Image, failure: String, now: Time) -> Result<(), store::Error> {
    images::finish(&mut tx, &image.id, &Err(failure), now).await?;
    tx.ring(Hint::Image(image.id));
    tx.ring(Hint::Builds);
    tx.commit().await
}
