//! Snapshots of sandboxes' files: images that no recipe can make again.

use model::spec::{BuildSpec, ImageContent};
use model::{ImageId, Millis, TaskId};
use store::images::{self, Image, Phase};
use store::sandboxes::{self, Sandbox};
use store::{Db, Scope};

use crate::Plane;

/// A snapshot that a worker has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What its client calls it: the same again is the same snapshot.
    pub name: String,
    /// What it holds.
    pub content: ImageContent,
    /// It stands on the sandbox's own image, as one of all its files does.
    pub has_base: bool,
    /// How long it is kept; none: until it is deleted.
    pub ttl: Option<Millis>,
}

/// The key of its image: no definition has one like that, so it is never built.
fn key(task: &TaskId, name: &str) -> String {
    format!("{}{task}:{name}", images::SNAPSHOT_KEY)
}

async fn sandbox(db: &mut Db, task: &TaskId) -> Result<Option<(Sandbox, Scope)>, store::Error> {
    let sandbox = sandboxes::by_task_any(db, task).await?;
    Ok(sandbox.map(|sandbox| {
        let scope = Scope { workspace: sandbox.workspace.clone() };
        (sandbox, scope)
    }))
}

impl Plane {
    /// The image of a snapshot that was taken before.
    pub async fn find_snapshot(
        &self,
        task: &TaskId,
        name: &str,
    ) -> Result<Option<ImageId>, store::Error> {
        let mut db = self.store.read().await?;
        let Some((_, scope)) = sandbox(&mut db, task).await? else { return Ok(None) };
        let image = images::by_key(&mut db, &scope, &key(task, name)).await?;
        Ok(image.map(|image| image.id))
    }

    /// Makes a snapshot an image of the sandbox's workspace; nothing if there is no such sandbox.
    pub async fn publish_snapshot(
        &self,
        task: &TaskId,
        snapshot: Snapshot,
    ) -> Result<Option<ImageId>, store::Error> {
        let mut tx = self.store.begin().await?;
        let Some((sandbox, scope)) = sandbox(&mut tx, task).await? else { return Ok(None) };
        let key = key(task, &snapshot.name);
        if let Some(known) = images::by_key(&mut tx, &scope, &key).await? {
            return Ok(Some(known.id));
        }
        let base = images::get(&mut tx, &scope, &sandbox.spec.image).await?;
        let (id, now) = (ImageId::new(self.bits()), self.now());
        let image = Image {
            id: id.clone(),
            workspace: scope.workspace,
            key,
            base: snapshot.has_base.then(|| sandbox.spec.image.clone()),
            builder_version: base.map(|base| base.builder_version).unwrap_or_default(),
            phase: Phase::Waiting,
            build: BuildSpec {
                image: id.clone(),
                base: None,
                commands: vec![],
                build_args: vec![],
                context: vec![],
                context_inline: vec![],
                secrets: vec![],
                secret_env: vec![],
                registry_secret: None,
                registry_auth: None,
                force: false,
                function: None,
            },
            content: None,
            failure: None,
            call: None,
            created_at: now,
            finished_at: None,
        };
        images::insert(&mut tx, &image).await?;
        images::finish(&mut tx, &id, &Ok(snapshot.content), now).await?;
        if let Some(ttl) = snapshot.ttl {
            images::expire(&mut tx, &id, now + ttl).await?;
        }
        tx.commit().await?;
        Ok(Some(id))
    }

    /// What an image holds that a sandbox is given; nothing if its workspace has no such image
    /// that is ready.
    pub async fn image_for(
        &self,
        task: &TaskId,
        image: &ImageId,
    ) -> Result<Option<ImageContent>, store::Error> {
        let mut tx = self.store.begin().await?;
        let Some((_, scope)) = sandbox(&mut tx, task).await? else { return Ok(None) };
        let found = images::get(&mut tx, &scope, image).await?;
        let ready = found.filter(|image| image.phase == Phase::Ready);
        let Some(image) = ready else { return Ok(None) };
        images::touch(&mut tx, &image.id, self.now()).await?;
        tx.commit().await?;
        Ok(image.content)
    }
}
