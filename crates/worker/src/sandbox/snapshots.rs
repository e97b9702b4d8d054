//! Snapshots of a sandbox's files: layers that are made while it stands still, and share with the
//! one before what did not change.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use blobs::Digest;
use images::Copied;
use model::spec::ImageContent;
use rustix::fs::{Mode, OFlags};

use super::folder::Record;
use super::{Sandbox, inside, link, lock};
use crate::limits::{COPY_MAX, SNAPSHOT_LAYERS_MAX, SNAPSHOT_PLACES_MAX};
use crate::{Worker, roots};

/// Why nothing was done with a sandbox's files. The text goes to whoever asked for it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the sandbox has ended: nothing more can be done in it")]
    Ended,
    #[error("no folder is at {}: {source}", path.display())]
    Missing { path: PathBuf, source: jail::RootError },
    #[error("the sandbox cannot stand still while its files are copied: {0}")]
    Freeze(#[from] link::Error),
    #[error("the sandbox went on before its files were copied: try again")]
    Thawed,
    #[error(transparent)]
    Copy(#[from] images::SnapshotError),
    #[error(transparent)]
    Layers(#[from] images::LayerError),
    #[error("its files cannot be laid out: {0}")]
    View(#[from] jail::OverlayError),
    #[error(transparent)]
    Attach(#[from] jail::AttachError),
    #[error("the image: {0}")]
    Image(#[from] roots::Error),
    #[error("the sandbox has {0} mounted images, as many as it may: unmount one")]
    TooMany(usize),
    #[error("a file of the worker: {0}")]
    File(#[from] std::io::Error),
    #[error(
        "this server's disk limit (tmpfs on a kernel before 6.3) does not keep the owners of files \
        as they are inside, so that no snapshot can be taken"
    )]
    Owners,
    #[error("a thread of the worker died")]
    Thread,
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// All files of the sandbox, but not the images that are laid into it.
    Root,
    /// A folder as it is seen inside.
    Folder(PathBuf),
}

/// A snapshot whose layers are on the disk.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The image that it is.
    pub(crate) content: ImageContent,
    /// Its layers stay as long as this, until somebody else sees to that.
    pub(crate) _lease: images::Lease,
}

/// What is copied: a tree, and what it stands on.
struct Source {
    tree: OwnedFd,
    /// The layers below it; none: it is whole.
    below: Vec<Digest>,
    /// What the next snapshot of the same tree is called.
    name: String,
}

impl Sandbox {
    /// Takes a snapshot. The sandbox stands still while its files are copied.
    pub(crate) async fn keep(
        self: &Arc<Self>,
        worker: &Arc<Worker>,
        place: Place,
    ) -> Result<Kept, Error> {
        let _turn = self.files.turn().await.ok_or(Error::Ended)?;
        let mut frozen = self.link.freeze().await?;
        let until = Instant::now() + COPY_MAX;
        let (copied, below, name) = {
            let (sandbox, worker, place) = (self.clone(), worker.clone(), place.clone());
            blocking(move || sandbox.copy(&worker, &place, until)).await?
        };
        if !frozen.is_still() {
            return Err(Error::Thawed);
        }
        drop(frozen);
        let (sandbox, worker) = (self.clone(), worker.clone());
        blocking(move || sandbox.settle(&worker, &place, copied, below, name)).await
    }

    /// Copies while the sandbox stands still. Blocks.
    fn copy(
        &self,
        worker: &Worker,
        place: &Place,
        until: Instant,
    ) -> Result<(Copied, Vec<Digest>, String), Error> {
        let record = lock(&self.record).clone();
        let upper = self.upper().ok_or(Error::Ended)?;
        if std::fs::metadata(&upper)?.uid() == record.first_id {
            return Err(Error::Owners);
        }
        let Source { tree, below, name } = match place {
            Place::Root => root(worker, &record, &upper)?,
            Place::Folder(path) => self.folder_of(worker, &record, &upper, path)?,
        };
        let earlier = record.kept.get(&name).and_then(|layer| layer.parse().ok());
        let go_on = || Instant::now() < until && !self.files.is_over();
        let copied = worker.layers.copy(tree.as_fd(), earlier, &go_on);
        match copied {
            Err(images::SnapshotError::Late) if self.files.is_over() => Err(Error::Ended),
            copied => Ok((copied?, below, name)),
        }
    }

    /// What is at a path inside: the changes of a tree if that lies right there, else all that is
    /// seen below the path.
    fn folder_of(
        &self,
        worker: &Worker,
        record: &Record,
        upper: &Path,
        path: &Path,
    ) -> Result<Source, Error> {
        let mounted = self.mounted(record)?;
        let mut trees = vec![(PathBuf::from("/"), with(layers(worker, &record.layers)?.1, upper))];
        for (image, at) in &mounted {
            let upper = self.changes_of(&image.folder).ok_or(Error::Ended)?;
            trees.push((at.clone(), with(layers(worker, &image.layers)?.1, &upper)));
        }
        let all = jail::Root::of(jail::view(&trees)?);
        let missing = |source| Error::Missing { path: path.to_owned(), source };
        let folder = all.below(path).map_err(missing)?;
        let facts =
            |root: &jail::Root| rustix::fs::fstat(root.folder()).map_err(std::io::Error::from);
        let here = facts(&folder)?;
        let is_here = |at: &Path| {
            let there = all.below(at).ok().and_then(|there| facts(&there).ok());
            there.is_some_and(|there| (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino))
        };
        let on_top = mounted.iter().rev().find(|(_, at)| is_here(at));
        let holds_others =
            |at: &Path| mounted.iter().any(|(_, other)| other != at && other.starts_with(at));
        if let Some((image, _)) = on_top.filter(|(_, at)| !holds_others(at)) {
            let tree = open(&self.changes_of(&image.folder).ok_or(Error::Ended)?)?;
            let below = layers(worker, &image.layers)?.0;
            return Ok(Source { tree, below, name: format!("image {}", image.folder) });
        }
        if mounted.is_empty() && is_here(Path::new("/")) {
            return root(worker, record, upper);
        }
        let name = format!("folder {}", path.display());
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tree = rustix::fs::openat(folder.folder(), ".", flags, Mode::empty());
        Ok(Source { tree: tree.map_err(std::io::Error::from)?, below: vec![], name })
    }

    /// Makes an image of a copy. Blocks.
    fn settle(
        &self,
        worker: &Worker,
        place: &Place,
        copied: Copied,
        below: Vec<Digest>,
        name: String,
    ) -> Result<Kept, Error> {
        let record = lock(&self.record).clone();
        if matches!(place, Place::Root) {
            // Nothing of what the jail made is a file of the sandbox; whole, all of it lies here.
            let own = worker.layers.diffs(&below)?;
            inside::mount_points(&own).remove(&copied.upper());
        }
        let layer = worker.layers.keep(copied)?;
        let mut layers = below;
        layers.extend(layer);
        let lease = worker.layers.lease(&layers)?;
        let mut image = match place {
            Place::Root => roots::image(&record.start.image)?,
            Place::Folder(_) => images::Image::default(),
        };
        image.layers = layers;
        if let Some(layer) = layer {
            let mut record = lock(&self.record);
            if record.kept.len() < SNAPSHOT_PLACES_MAX || record.kept.contains_key(&name) {
                record.kept.insert(name, layer.to_string());
                self.folder.write_record(&record)?;
            }
        }
        Ok(Kept { content: roots::content(&image)?, _lease: lease })
    }

    /// Its writable layer, as long as it is there.
    fn upper(&self) -> Option<PathBuf> {
        lock(&self.held).as_ref().map(|held| held.scratch.upper.clone())
    }
}

/// The changes of a sandbox's root; all of its files where it stands on too many layers already.
fn root(worker: &Worker, record: &Record, upper: &Path) -> Result<Source, Error> {
    let (below, paths) = layers(worker, &record.layers)?;
    if below.len() < SNAPSHOT_LAYERS_MAX {
        return Ok(Source { tree: open(upper)?, below, name: "root".into() });
    }
    let tree = jail::view(&[("/".into(), with(paths, upper))])?;
    Ok(Source { tree, below: vec![], name: "root whole".into() })
}

/// Layers and their folders; an image of none is an empty folder.
pub(super) fn layers(
    worker: &Worker,
    names: &[String],
) -> Result<(Vec<Digest>, Vec<PathBuf>), Error> {
    let content = ImageContent { layers: names.to_vec(), ..ImageContent::default() };
    let digests = roots::image(&content)?.layers;
    let mut paths = worker.layers.diffs(&digests)?;
    if paths.is_empty() {
        paths.push(worker.empty_layer()?);
    }
    Ok((digests, paths))
}

fn with(mut layers: Vec<PathBuf>, upper: &Path) -> Vec<PathBuf> {
    layers.push(upper.to_owned());
    layers
}

fn open(folder: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(folder, flags, Mode::empty()).map_err(std::io::Error::from)?)
}

/// Runs what blocks.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Thread)?
}
