//! Layers made of what a container has written, while it goes on living.
//!
//! A tree is copied as it lies on the disk: an overlay's upper folder with its whiteouts and opaque
//! folders, or a tree that was mounted for this. Whoever calls makes sure that nothing changes in
//! it meanwhile. Files that an earlier snapshot has, too, are not written again: they are further
//! names of that layer's files. No layer is ever written to, so neither notices the other but by a
//! file's count of names. Where tree and store lie on one file system that shares blocks, nothing
//! is written at all.
//!
//! Which content an earlier layer's files have stands in `DIR/layers/<digest>/contents`. Times tell
//! nothing about that: a program that writes through a mapping changes a file's content and leaves
//! its times as they are until the kernel writes the page back.

mod bytes;
mod copy;
mod known;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use blobs::Digest;
use rustix::io::Errno;

use crate::layer::{Draft, Error as LayerError, LayerStore};
use crate::lease::Lease;
use crate::limits::{LAYER_DEPTH_MAX, LAYER_ENTRIES_MAX, SNAPSHOT_BYTES_MAX};
use crate::listing::{Contents, Likeness};
use copy::Copier;
use known::Known;

/// Why no snapshot was taken. Paths are those inside the tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system failed.
    #[error("{action} {} fails: {source}", path.display())]
    File {
        /// What was done, as a verb.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A device node that is no whiteout.
    #[error("{} is a device, which no image can hold: remove it, then take the snapshot",
        .0.display())]
    Device(PathBuf),
    /// More files than a layer may have.
    #[error("there are more than {LAYER_ENTRIES_MAX} files, which one layer cannot hold")]
    TooMany,
    /// Folders nested deeper than a layer may have them.
    #[error("{} is nested more than {LAYER_DEPTH_MAX} folders deep", .0.display())]
    TooDeep(PathBuf),
    /// More bytes than a layer may have.
    #[error("the files have more than {} GiB, holes counted", SNAPSHOT_BYTES_MAX >> 30)]
    TooLarge,
    /// The caller stopped it.
    #[error(
        "copying the files takes longer than the sandbox may be stopped: remove files that \
        need not be kept, or keep one folder alone"
    )]
    Late,
    /// The store.
    #[error(transparent)]
    Layer(#[from] LayerError),
}

/// A tree that is copied, and is no layer yet. It goes away with this value unless it is kept.
#[derive(Debug)]
pub struct Copied {
    draft: Draft,
    contents: Contents,
    known: Known,
    /// The layer that files are shared with stays until this one has its name.
    _earlier: Option<Lease>,
}

impl Copied {
    /// The folder with the copy: what is no part of an image may be removed from it.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.draft.upper()
    }
}

impl LayerStore {
    /// Copies a tree in which nothing changes. Files that are the same in the layer `earlier`, if
    /// that is here, are shared with it. Sockets are left out: nobody could listen at them. It goes
    /// on as long as `go_on` says so, which is asked often.
    ///
    /// # Errors
    /// See [`Error`]; nothing is kept then.
    pub fn copy(
        &self,
        tree: BorrowedFd<'_>,
        earlier: Option<Digest>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Copied, Error> {
        let (lease, known) = match earlier.map(|digest| (digest, self.lease(&[digest]))) {
            Some((digest, Ok(lease))) => (Some(lease), self.known(digest)),
            Some((_, Err(_))) | None => (None, None),
        };
        let draft = self.draft()?;
        let copier = Copier::new(tree, &draft.upper(), known, go_on);
        let done = copier.and_then(Copier::run).map_err(|error| self.told(error))?;
        Ok(Copied { draft, contents: done.contents, known: done.known, _earlier: lease })
    }

    /// Makes a layer of a copy, which is on the disk then. `None` for a copy without files.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn keep(&self, copied: Copied) -> Result<Option<Digest>, Error> {
        let Copied { draft, contents, known, .. } = copied;
        let path = draft.dir.join(known::FILE);
        known.write(&path).map_err(|e| self.fail("writing", &path, e))?;
        let Some(prepared) = self.prepare(draft, contents, Likeness::Exact)? else {
            return Ok(None);
        };
        let digest = prepared.digest();
        self.settle([(None, prepared)])?;
        Ok(Some(digest))
    }

    /// What the files of a layer hold, where a snapshot made it, and where they are.
    fn known(&self, digest: Digest) -> Option<(Known, PathBuf)> {
        let path = self.layer_dir(digest).join(known::FILE);
        match Known::read(&path) {
            Ok(known) => Some((known, self.diff(digest))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "nothing is shared with a layer");
                None
            }
        }
    }

    /// A full disk is this store's, not the tree's.
    fn told(&self, error: Error) -> Error {
        match error {
            Error::File { source, .. } if is_full(&source) => {
                LayerError::Full { dir: self.dir.clone() }.into()
            }
            error => error,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Says of a failure what was done, as a verb, and to what.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
    let path = Path::new("/").join(path);
    move |errno| Error::File { action, path, source: errno.into() }
}

#[cfg(test)]
mod tests;
