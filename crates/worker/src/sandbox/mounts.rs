//! Images that are laid into a running sandbox. What is written there goes to the sandbox's own
//! disk space.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::spec::ImageContent;

use super::folder::{Mounted, Record};
use super::snapshots::{Error, blocking, layers};
use super::{Sandbox, lock};
use crate::limits::MOUNTED_IMAGES_MAX;
use crate::{Worker, roots};

/// The folder of all changes of mounted images, beside the root's.
const MOUNTS: &str = "mounts";

impl Sandbox {
    /// Lays an image on a path inside, where all programs see it from then on.
    pub(crate) async fn mount(
        self: &Arc<Self>,
        worker: &Arc<Worker>,
        path: PathBuf,
        image: ImageContent,
    ) -> Result<(), Error> {
        let _turn = self.files.turn().await.ok_or(Error::Ended)?;
        let (sandbox, worker) = (self.clone(), worker.clone());
        blocking(move || sandbox.lay(&worker, &path, &image)).await
    }

    /// Takes away what was laid on a path.
    pub(crate) async fn unmount(self: &Arc<Self>, path: PathBuf) -> Result<(), Error> {
        let _turn = self.files.turn().await.ok_or(Error::Ended)?;
        let sandbox = self.clone();
        blocking(move || {
            jail::detach(sandbox.pid(), &path)?;
            sandbox.clear_up()
        })
        .await
    }

    fn lay(&self, worker: &Worker, path: &Path, image: &ImageContent) -> Result<(), Error> {
        let count = lock(&self.record).mounted.len();
        if count >= MOUNTED_IMAGES_MAX {
            return Err(Error::TooMany(count));
        }
        let lease = worker.layers.lease(&roots::image(image)?.layers)?;
        let paths = layers(worker, &image.layers)?.1;
        let (folder, upper, work) = self.make_folders(paths.last())?;
        // Written down first: a worker that dies now is followed by one that keeps the layers.
        let mounted = Mounted { id: None, layers: image.layers.clone(), folder: folder.clone() };
        self.note(|record| record.mounted.push(mounted))?;
        if let Some(held) = lock(&self.held).as_mut() {
            held.mounted.insert(folder.clone(), lease);
        }
        let writable = jail::Writable { upper, work, volatile: true };
        let tree = jail::Tree { layers: paths, writable: Some(writable) };
        let attached = jail::attach(self.pid(), path, &tree);
        self.note(|record| {
            let id = attached.as_ref().ok().copied();
            record.mounted.iter_mut().filter(|image| image.folder == folder).for_each(|image| {
                image.id = id;
            });
        })?;
        if attached.is_err() {
            self.clear_up()?;
        }
        Ok(attached.map(drop)?)
    }

    /// Makes the folders of an image's changes; the upper one is what its root is seen as. Gives
    /// the name of both together, and each.
    fn make_folders(&self, top: Option<&PathBuf>) -> Result<(String, PathBuf, PathBuf), Error> {
        let all = self.changes().ok_or(Error::Ended)?;
        std::fs::create_dir_all(&all)?;
        let mut number = 0_u64;
        let folder = loop {
            let folder = all.join(number.to_string());
            match std::fs::create_dir(&folder) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                made => break made.map(|()| folder)?,
            }
        };
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        std::fs::create_dir(&upper)?;
        std::fs::create_dir(&work)?;
        if let Some(top) = top {
            let facts = std::fs::metadata(top)?;
            std::os::unix::fs::chown(&upper, Some(facts.uid()), Some(facts.gid()))?;
            let mode = std::fs::Permissions::from_mode(facts.mode() & 0o7777);
            std::fs::set_permissions(&upper, mode)?;
            std::fs::File::open(&upper)?.set_modified(facts.modified()?)?;
        }
        Ok((number.to_string(), upper, work))
    }

    /// Forgets images that lie nowhere any more, and removes their changes.
    fn clear_up(&self) -> Result<(), Error> {
        let record = lock(&self.record).clone();
        let there = self.mounted(&record)?;
        let is_there = |image: &Mounted| there.iter().any(|(other, _)| other == image);
        let gone: Vec<_> = record.mounted.iter().filter(|image| !is_there(image)).collect();
        for image in &gone {
            if let Some(held) = lock(&self.held).as_mut() {
                held.mounted.remove(&image.folder);
            }
            let all = self.changes().ok_or(Error::Ended)?;
            let removed = jail::Root::open_folder(&all)
                .and_then(|all| all.remove_all(Path::new(&image.folder)));
            if let Err(error) = removed {
                tracing::warn!(%error, "the changes of an unmounted image stay");
            }
        }
        self.note(|record| record.mounted.retain(|image| !gone.contains(&image)))
    }

    /// The images that lie in it now, and where, in the order in which they were laid there.
    pub(super) fn mounted(&self, record: &Record) -> Result<Vec<(Mounted, PathBuf)>, Error> {
        if record.mounted.is_empty() {
            return Ok(vec![]);
        }
        let attached = jail::attached(self.pid())?;
        let place = |image: &Mounted| attached.iter().find(|there| Some(there.id) == image.id);
        let there = record.mounted.iter().filter_map(|image| Some((image, place(image)?)));
        Ok(there.map(|(image, at)| (image.clone(), at.path.clone())).collect())
    }

    /// Where the changes of a mounted image go.
    pub(super) fn changes_of(&self, folder: &str) -> Option<PathBuf> {
        Some(self.changes()?.join(folder).join("upper"))
    }

    fn changes(&self) -> Option<PathBuf> {
        let held = lock(&self.held);
        Some(held.as_ref()?.scratch.upper.parent()?.join(MOUNTS))
    }

    fn note(&self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let mut record = lock(&self.record);
        change(&mut record);
        Ok(self.folder.write_record(&record)?)
    }
}
