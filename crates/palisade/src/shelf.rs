//! The images and secrets of sandboxes' workspaces, as the worker asks the plane for them.

use std::sync::Arc;

use futures::future::BoxFuture;
use model::spec::ImageContent;
use model::{ImageId, TaskId};
use plane::Plane;
use plane::api::refusal::Refusal;
use tonic::Status;
use worker::router::{self, Snapshot};

/// See [`router::Shelf`].
pub(crate) struct Shelf(pub(crate) Arc<Plane>);

impl router::Shelf for Shelf {
    fn find(&self, task: TaskId, name: String) -> BoxFuture<'_, Result<Option<ImageId>, Status>> {
        Box::pin(
            async move { Ok(self.0.find_snapshot(&task, &name).await.map_err(Refusal::from)?) },
        )
    }

    fn publish(&self, task: TaskId, snapshot: Snapshot) -> BoxFuture<'_, Result<ImageId, Status>> {
        let Snapshot { name, content, is_whole, ttl } = snapshot;
        let snapshot = plane::snapshots::Snapshot { name, content, has_base: is_whole, ttl };
        Box::pin(async move {
            let image = self.0.publish_snapshot(&task, snapshot).await.map_err(Refusal::from)?;
            Ok(image.ok_or_else(|| Refusal::not_found("sandbox", task))?)
        })
    }

    fn content(&self, task: TaskId, image: ImageId) -> BoxFuture<'_, Result<ImageContent, Status>> {
        Box::pin(async move {
            let content = self.0.image_for(&task, &image).await.map_err(Refusal::from)?;
            content.ok_or_else(|| {
                Status::not_found(format!("image_id: no image `{image}` that is built is here"))
            })
        })
    }
}

/// How the command router looks up what `exec` is given by name.
pub(crate) fn secrets(plane: &Arc<Plane>) -> Arc<router::SecretsFn> {
    let plane = plane.clone();
    Arc::new(move |task, ids| {
        let plane = plane.clone();
        Box::pin(async move {
            let mut found = Vec::with_capacity(ids.len());
            for id in ids {
                // One at a time: what stands between them in the request is kept in its place.
                let secret = plane.secrets_for(&task, std::slice::from_ref(&id)).await;
                match secret.map_err(Refusal::from)? {
                    Some(Ok(variables)) => found.push(variables),
                    Some(Err(_)) | None => {
                        return Err(Refusal::not_found("secret", id).into());
                    }
                }
            }
            Ok(found)
        })
    })
}
