//! What a container's root consists of: the image's layers, one layer with the files that its
//! function brings, and the client package. All are read-only; what the container writes goes to
//! a layer of its own, so that no write reaches another container or what the server keeps.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use blobs::Digest;
use images::{Entry, EntryKind, Image, Key, Lease, Source, StepDirs, StepRunner};
use model::spec::{ImageContent, MountFile, TaskSpec};
use sha2::{Digest as _, Sha256};

use crate::Worker;
use crate::steps::Steps;

/// The versions of Python that the client runs with.
const PYTHONS: RangeInclusive<(u8, u8)> = (3, 10)..=(3, 14);

/// A root cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The image's description cannot be read.
    #[error("the image's description cannot be read: {0}")]
    Image(String),
    /// A file is not here.
    #[error("the file {path} of the function is not stored here")]
    File {
        /// Its path inside.
        path: String,
    },
    /// A mount that is no set of files.
    #[error("the mount {tree} is for image builds: it cannot be given to a function")]
    Tree {
        /// Its name.
        tree: String,
    },
    /// A layer.
    #[error("a layer of the image: {0}")]
    Layers(#[from] images::LayerError),
    /// The function's files could not be laid over the image.
    #[error("laying the function's files over the image: {0}")]
    Write(#[from] images::RunError),
    /// The image has not what functions need.
    #[error("{0}")]
    Python(String),
    /// The client package could not be prepared.
    #[error("preparing the client package: {0}")]
    Client(String),
}

/// An image as the `images` crate has it.
pub(crate) fn image(content: &ImageContent) -> Result<Image, Error> {
    let unreadable = |error: &dyn std::fmt::Display| Error::Image(error.to_string());
    let layers = content
        .layers
        .iter()
        .map(|digest| digest.parse::<Digest>().map_err(|e| unreadable(&e)))
        .collect::<Result<_, _>>()?;
    let config = match content.config.as_str() {
        "" => images::Config::default(),
        text => serde_json::from_str(text).map_err(|e| unreadable(&e))?,
    };
    Ok(Image { layers, config, python: content.python })
}

/// An image as the plane has it.
pub(crate) fn content(image: &Image) -> Result<ImageContent, Error> {
    let config =
        serde_json::to_string(&image.config).map_err(|error| Error::Image(error.to_string()))?;
    let layers = image.layers.iter().map(ToString::to_string).collect();
    Ok(ImageContent { layers, config, python: image.python })
}

impl Worker {
    /// The folders of which a task's root consists, bottom first, and what keeps them here. Blocks;
    /// the first task of an image, a set of files or a client release takes longer.
    pub(crate) fn root(
        &self,
        spec: &TaskSpec,
        image: &Image,
    ) -> Result<(Vec<PathBuf>, Lease), Error> {
        let _image = self.layers.lease(&image.layers)?;
        let mut layers = image.layers.clone();
        layers.extend(self.client_layer(spec, image)?);
        layers.extend(self.files_layer(&spec.files, &layers)?);
        let lease = self.layers.lease(&layers)?;
        Ok((self.layers.diffs(&layers)?, lease))
    }

    /// The layers of a sandbox's root, bottom first, and what keeps them here: as those of a task,
    /// but without the client package. Blocks.
    pub(crate) fn sandbox_root(
        &self,
        files: &[MountFile],
        image: &Image,
    ) -> Result<(Vec<Digest>, Lease), Error> {
        let _image = self.layers.lease(&image.layers)?;
        let mut layers = image.layers.clone();
        layers.extend(self.files_layer(files, &layers)?);
        let lease = self.layers.lease(&layers)?;
        Ok((layers, lease))
    }

    fn client_layer(&self, spec: &TaskSpec, image: &Image) -> Result<Option<Digest>, Error> {
        let python = python(image)?;
        let runner = Steps::new(self, "client");
        // What is made once takes a while, and the caller waits for it: the first line, which says
        // so, is for the app's output; what pip says is for the server's log.
        let mut told = false;
        let mut log = |line: &[u8]| {
            tracing::debug!(line = %String::from_utf8_lossy(line).trim_end(), "client package");
            if !std::mem::replace(&mut told, true) {
                self.tell(&spec.task, line);
            }
        };
        let failed = |error: &dyn std::error::Error| Error::Client(crate::task::chain(error));
        let client = &spec.client;
        let client = images::Client::new(&client.version, &client.builder_version, python)
            .map_err(|error| failed(&error))?;
        // Never with the user's image: what it calls pip is the user's.
        let (major, minor) = python;
        let base = self.builder.base_at_hand(&format!("python:{major}.{minor}-slim"), &mut log);
        let base = base.map_err(|error| failed(&error))?;
        let layer = client.layer(&self.builder, &base, &runner, &mut log);
        layer.map(Some).map_err(|error| failed(&error))
    }

    /// The layer with a function's files: made once for each set of files and image.
    fn files_layer(&self, files: &[MountFile], below: &[Digest]) -> Result<Option<Digest>, Error> {
        if files.is_empty() {
            return Ok(None);
        }
        let mut files: Vec<_> = files.to_vec();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let key = Key(files_key(&files, below));
        let lock = self.layers.lock(key);
        let _alone = lock.hold();
        if let Some(image) = self.layers.recall(key)? {
            return Ok(image.layers.first().copied());
        }
        let entries = files.iter().map(|file| self.entry(file)).collect::<Result<Vec<_>, _>>()?;
        let draft = self.layers.draft()?;
        let dirs = StepDirs { upper: draft.upper(), work: draft.work() };
        Steps::new(self, "files").write(&self.layers.diffs(below)?, &dirs, &entries)?;
        let layer = self.layers.commit(draft)?;
        let layers = layer.into_iter().collect();
        self.layers.remember(key, &Image { layers, ..Image::default() })?;
        Ok(layer)
    }

    /// A file that the client sent, at its place.
    pub(crate) fn entry(&self, file: &MountFile) -> Result<Entry, Error> {
        if let Some(tree) = &file.tree {
            return Err(Error::Tree { tree: tree.clone() });
        }
        let missing = || Error::File { path: file.path.clone() };
        let digest = file.sha256.parse::<Digest>().map_err(|_| missing())?;
        Ok(Entry {
            path: PathBuf::from(&file.path),
            kind: EntryKind::File(Source::File(self.files.path(digest))),
            mode: file.mode.unwrap_or(0o644),
            owner: None,
            name_in_folder: None,
        })
    }
}

/// The Python with which a function of an image runs.
fn python(image: &Image) -> Result<(u8, u8), Error> {
    let why = match image.python {
        _ if image.config.is_musl => {
            "the programs of the function's image are linked to musl (Alpine), which the client's \
             packages do not run with; take a base with glibc, as debian_slim() or \
             python:3.11-slim"
        }
        Some(python) if PYTHONS.contains(&python) => return Ok(python),
        Some((major, minor)) => {
            let why = format!(
                "`python` in the function's image is Python {major}.{minor}; functions need Python \
                 3.10 to 3.14: take another base, or pass add_python="
            );
            return Err(Error::Python(why));
        }
        None => {
            "the function's image has no `python` on its PATH whose version its files tell; pass \
             add_python= to from_registry, or take a base with Python 3.10 to 3.14"
        }
    };
    Err(Error::Python(why.into()))
}

fn files_key(files: &[MountFile], below: &[Digest]) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(b"files\0");
    for layer in below {
        hasher.update(layer.as_bytes());
    }
    for file in files {
        hasher.update((file.path.len() as u64).to_be_bytes());
        hasher.update(file.path.as_bytes());
        hasher.update(file.sha256.as_bytes());
        hasher.update(file.mode.unwrap_or(0o644).to_be_bytes());
    }
    Digest::from_bytes(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_run_no_functions_are_refused_with_what_to_do() {
        let check = |version: Option<(u8, u8)>, is_musl: bool, wanted: &str| {
            let config = images::Config { is_musl, ..images::Config::default() };
            let image = Image { python: version, config, ..Image::default() };
            let error = python(&image).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        };
        check(None, false, "add_python=");
        check(Some((3, 9)), false, "is Python 3.9");
        check(Some((3, 15)), false, "is Python 3.15");
        check(Some((3, 12)), true, "musl");
        let image = Image { python: Some((3, 12)), ..Image::default() };
        assert_eq!(python(&image).unwrap(), (3, 12));
    }
}
