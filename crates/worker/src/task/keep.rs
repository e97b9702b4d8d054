//! Files that a container leaves and that become a layer over its image.

use std::sync::Arc;

use images::{Draft, Image, StepDirs};
use jail::Plan;
use model::spec::ImageContent;

use super::chain;
use crate::mount_points::MountPoints;
use crate::{Worker, roots};

/// A layer in the making under a living container.
pub(crate) struct Keeping {
    /// Nothing once it is committed.
    draft: Option<Draft>,
    dirs: StepDirs,
    image: Image,
    points: Option<MountPoints>,
}

impl Keeping {
    /// Makes room for a layer over `image`.
    pub(crate) fn begin(worker: &Worker, image: &Image) -> Result<Self, images::LayerError> {
        let draft = worker.layers.draft()?;
        let dirs = StepDirs { upper: draft.upper(), work: draft.work() };
        Ok(Self { draft: Some(draft), dirs, image: image.clone(), points: None })
    }

    /// Where the container's changes go.
    pub(crate) fn dirs(&self) -> StepDirs {
        self.dirs.clone()
    }

    /// Looks which mount points the jail will make: they are no part of what is kept.
    pub(crate) fn note_mount_points(&mut self, plan: &Plan) {
        self.points = Some(MountPoints::before(plan, &plan.layers));
    }

    /// Makes the layer of what is there. Call it once the container has ended.
    ///
    /// The files that were laid over the image, the user's source and the client package, are
    /// layers below and so no part of it.
    pub(crate) async fn commit(&mut self, worker: &Arc<Worker>) -> Result<ImageContent, String> {
        let Some(draft) = self.draft.take() else {
            return Err("the container's files are kept already".to_owned());
        };
        let (layers, points, image) =
            (worker.layers.clone(), self.points.take(), self.image.clone());
        let commit = move || {
            if let Some(points) = points {
                points.remove(&draft.upper());
            }
            let layer = layers.commit(draft).map_err(|error| chain(&error))?;
            let mut image = image;
            image.layers.extend(layer);
            roots::content(&image).map_err(|error| chain(&error))
        };
        let committed = tokio::task::spawn_blocking(commit).await;
        committed.map_err(|_| "a thread of the worker died".to_owned())?
    }
}
