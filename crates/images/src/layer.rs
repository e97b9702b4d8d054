//! Layers on the disk, and what was built from what.
//!
//! ```text
//! DIR/layers/<digest>/diff          the files of one layer, as an overlay's lower directory
//! DIR/layers/<digest>/summary.json  its size, and what its name stands for
//! DIR/layers/<digest>/contents      what a snapshot's files hold
//! DIR/keys/<key>                    the image that a build key led to, as JSON
//! DIR/names/<hash of the name>      an image that was imported, and its name, as JSON
//! DIR/tmp/<random>/{diff,work}      layers in the making; emptied when the store is opened
//! DIR/salt                          32 random bytes that go into keys that cover secrets
//! ```
//! A layer is whole and on the disk before it gets its name, so what `kill -9` or a power cut
//! interrupts is only ever in `tmp`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blobs::Digest;
use serde::{Deserialize, Serialize};

use crate::image::Image;
use crate::key_lock::{KeyLock, KeyLocks};
use crate::lease::Leases;
use crate::listing::{Contents, Likeness, ListError, Strays, summarize};
use crate::tree::{remove_all, sync_dir};

/// Why the store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system failed.
    #[error("{action} {} fails", path.display())]
    File {
        /// What was done, as a verb.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The disk is full.
    #[error("no space is left for layers in {}; free some or give the data directory a larger \
        disk", dir.display())]
    Full {
        /// The store's directory.
        dir: PathBuf,
    },
    /// A tree cannot become a layer.
    #[error("the files of a layer cannot be listed")]
    List(#[from] ListError),
    /// There is no such layer.
    #[error("no layer {digest} is stored here")]
    NotFound {
        /// The layer that was asked for.
        digest: Digest,
    },
    /// A layer's files are not those that its name says.
    #[error(
        "layer {digest} was changed: its files have the digest {found}; remove it, and build \
        the image again"
    )]
    Changed {
        /// The layer's name.
        digest: Digest,
        /// What its files say.
        found: Digest,
    },
    /// What stands in a file of the store is not what the store wrote.
    #[error("{} is not readable; remove it, and build the image again", path.display())]
    Garbled {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl Error {
    /// Says of a failure what was done, as a verb, and to what.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}

/// The name of a build step's result before it is known: a hash over all that goes into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub Digest);

/// Size of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Bytes of its files.
    pub bytes: u64,
    /// Number of its files, folders and links.
    pub entries: u64,
}

/// What is written down of a layer.
#[derive(Serialize, Deserialize)]
pub(crate) struct Facts {
    #[serde(flatten)]
    pub(crate) size: Size,
    /// What its name stands for.
    #[serde(default)]
    pub(crate) likeness: Likeness,
}

/// The layers of one machine. One process opens a directory at a time.
#[derive(Debug)]
pub struct LayerStore {
    pub(crate) dir: PathBuf,
    salt: [u8; 32],
    /// Keys that are being built.
    building: KeyLocks,
    pub(crate) leases: Arc<Leases>,
}

impl LayerStore {
    /// Opens the store in `dir`, which is made if it is missing; removes what was half made.
    ///
    /// # Errors
    /// When the directories cannot be made, read or emptied.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        let mut store =
            Self { dir, salt: [0; 32], building: KeyLocks::default(), leases: Arc::default() };
        let tmp = store.dir.join("tmp");
        remove_all(&tmp).map_err(|e| store.fail("emptying", &tmp, e))?;
        for name in ["layers", "keys", "names", "tmp"] {
            let path = store.dir.join(name);
            std::fs::create_dir_all(&path).map_err(|e| store.fail("making", &path, e))?;
        }
        // What lies in layers keeps its modes and owners: nobody but root may walk in there.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&store.dir, private)
            .map_err(|e| store.fail("closing", &store.dir, e))?;
        store.salt = store.read_salt()?;
        Ok(store)
    }

    /// Starts a layer: an empty directory that a step may fill.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn draft(&self) -> Result<Draft, Error> {
        let draft = Draft { dir: self.place() };
        for path in [draft.upper(), draft.work()] {
            std::fs::create_dir_all(&path).map_err(|e| self.fail("making", &path, e))?;
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, open).map_err(|e| self.fail("opening", &path, e))?;
        }
        Ok(draft)
    }

    /// Makes a layer of a draft whose step has ended, unless its files are all there already.
    /// Gives `None` for a draft without files: that needs no layer.
    ///
    /// # Errors
    /// When the files cannot be listed, written to the disk or named; nothing is kept then.
    pub fn commit(&self, draft: Draft) -> Result<Option<Digest>, Error> {
        let Some(prepared) = self.prepare(draft, Contents::new(), Likeness::Build)? else {
            return Ok(None);
        };
        let digest = prepared.digest();
        self.settle([(None, prepared)])?;
        Ok(Some(digest))
    }

    /// The directory that holds a layer's files, to be mounted read-only.
    #[must_use]
    pub fn diff(&self, digest: Digest) -> PathBuf {
        self.layer_dir(digest).join("diff")
    }

    /// The directories of an image's layers, bottom first.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the first layer that is not here.
    pub fn diffs(&self, layers: &[Digest]) -> Result<Vec<PathBuf>, Error> {
        layers
            .iter()
            .map(|digest| match self.contains(*digest) {
                true => Ok(self.diff(*digest)),
                false => Err(Error::NotFound { digest: *digest }),
            })
            .collect()
    }

    /// Whether a layer is here.
    #[must_use]
    pub fn contains(&self, digest: Digest) -> bool {
        self.diff(digest).is_dir()
    }

    /// How large a layer is.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Garbled`] or [`Error::File`].
    pub fn size(&self, digest: Digest) -> Result<Size, Error> {
        self.facts(digest).map(|facts| facts.size)
    }

    fn facts(&self, digest: Digest) -> Result<Facts, Error> {
        let path = self.layer_dir(digest).join("summary.json");
        match std::fs::read(&path) {
            Ok(json) => {
                serde_json::from_slice(&json).map_err(|source| Error::Garbled { path, source })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::NotFound { digest }),
            Err(e) => Err(self.fail("reading", &path, e)),
        }
    }

    /// Reads a whole layer and compares it with its name.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Changed`] when they differ.
    pub fn verify(&self, digest: Digest) -> Result<(), Error> {
        if !self.contains(digest) {
            return Err(Error::NotFound { digest });
        }
        let likeness = self.facts(digest)?.likeness;
        let found = summarize(&self.diff(digest), Strays::Count, likeness)?.digest;
        if found == digest { Ok(()) } else { Err(Error::Changed { digest, found }) }
    }

    /// The layers that are here, in no order.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn list(&self) -> Result<Vec<Digest>, Error> {
        let dir = self.dir.join("layers");
        let entries = std::fs::read_dir(&dir).map_err(|e| self.fail("listing", &dir, e))?;
        let mut digests = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| self.fail("listing", &dir, e))?;
            digests.extend(entry.file_name().to_string_lossy().parse::<Digest>());
        }
        Ok(digests)
    }

    /// A place for what is made or removed: an interruption leaves no half of it under its name.
    pub(crate) fn place(&self) -> PathBuf {
        self.dir.join("tmp").join(format!("{:032x}", rand::random::<u128>()))
    }

    /// The image that a key led to, if all its layers are still here.
    ///
    /// # Errors
    /// When the note cannot be read.
    pub fn recall(&self, key: Key) -> Result<Option<Image>, Error> {
        let path = self.key_path(key);
        let json = match std::fs::read(&path) {
            Ok(json) => json,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.fail("reading", &path, e)),
        };
        let image: Image =
            serde_json::from_slice(&json).map_err(|source| Error::Garbled { path, source })?;
        // A lease of a moment: what is recalled counts as used.
        match self.lease(&image.layers) {
            Ok(_) => Ok(Some(image)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes the image that a key led to.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn remember(&self, key: Key, image: &Image) -> Result<(), Error> {
        let path = self.key_path(key);
        let json = serde_json::to_vec(image).map_err(|e| self.fail("writing", &path, e.into()))?;
        self.write_file(&path, &json)
    }

    /// The lock of `key`: who holds it ([`KeyLock::hold`]) is alone in this process in building
    /// it, until the guard is dropped.
    #[must_use]
    pub fn lock(&self, key: Key) -> KeyLock<'_> {
        self.building.lock(key)
    }

    /// What goes into keys that cover secrets, so that a key tells nothing about them.
    pub(crate) fn salt(&self) -> &[u8; 32] {
        &self.salt
    }

    fn read_salt(&self) -> Result<[u8; 32], Error> {
        let path = self.dir.join("salt");
        match std::fs::read(&path) {
            Ok(bytes) if bytes.len() == 32 => {
                let mut salt = [0; 32];
                salt.copy_from_slice(&bytes);
                Ok(salt)
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.fail("reading", &path, e)),
            Ok(_) | Err(_) => {
                let salt = rand::random::<[u8; 32]>();
                self.write_file(&path, &salt)?;
                Ok(salt)
            }
        }
    }

    pub(crate) fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        use io::Write as _;
        let draft = self.place();
        let written = std::fs::File::create_new(&draft).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(|e| self.fail("writing", path, e))?;
        std::fs::rename(&draft, path).map_err(|e| self.fail("renaming", path, e))?;
        let folder = path.parent().unwrap_or(&self.dir);
        sync_dir(folder).map_err(|e| self.fail("syncing", folder, e))
    }

    pub(crate) fn layer_dir(&self, digest: Digest) -> PathBuf {
        self.dir.join("layers").join(digest.to_string())
    }

    pub(crate) fn key_path(&self, key: Key) -> PathBuf {
        self.dir.join("keys").join(key.0.to_string())
    }

    pub(crate) fn fail(&self, action: &'static str, path: &Path, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::Full { dir: self.dir.clone() }
            }
            _ => Error::file(action, path)(source),
        }
    }
}

/// A layer in the making. It goes away with this value unless it was committed.
#[derive(Debug)]
pub struct Draft {
    pub(crate) dir: PathBuf,
}

impl Draft {
    /// Where a step's files go: the upper directory of an overlay, ids from 0.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.dir.join("diff")
    }

    /// An empty directory on the same file system, for an overlay that needs a work directory.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(error) = remove_all(&self.dir) {
            let dir = self.dir.display();
            tracing::warn!(%dir, %error, "a half-made layer stays until the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Error, Key, LayerStore};
    use crate::image::Image;
    use blobs::Digest;

    fn open(dir: &tempfile::TempDir) -> LayerStore {
        LayerStore::open(dir.path().join("store")).unwrap()
    }

    fn layer(store: &LayerStore, content: &str) -> Digest {
        let draft = store.draft().unwrap();
        fs::write(draft.upper().join("file"), content).unwrap();
        fs::write(draft.work().join("scratch"), "gone").unwrap();
        store.commit(draft).unwrap().unwrap()
    }

    fn names(dir: &std::path::Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn the_same_files_are_the_same_layer() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let (one, two, other) = (layer(&store, "a"), layer(&store, "a"), layer(&store, "b"));
        assert_eq!(one, two);
        assert_ne!(one, other);
        assert_eq!(store.list().unwrap().len(), 2);
        assert_eq!(fs::read(store.diff(one).join("file")).unwrap(), b"a");
        assert_eq!(store.size(one).unwrap().bytes, 1);
        assert_eq!(names(&dir.path().join("store/tmp")), 0);
        assert_eq!(store.diffs(&[one, other]).unwrap().len(), 2);
    }

    #[test]
    fn a_draft_without_files_is_no_layer() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        assert_eq!(store.commit(store.draft().unwrap()).unwrap(), None);
        drop(store.draft().unwrap());
        assert_eq!(names(&dir.path().join("store/tmp")), 0);
    }

    #[test]
    fn a_changed_layer_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let digest = layer(&store, "a");
        store.verify(digest).unwrap();
        fs::write(store.diff(digest).join("file"), "b").unwrap();
        let error = store.verify(digest).unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
        let nowhere = Digest::of(b"nowhere");
        assert!(matches!(store.verify(nowhere), Err(Error::NotFound { .. })));
        assert!(matches!(store.diffs(&[digest, nowhere]), Err(Error::NotFound { .. })));
    }

    #[test]
    fn what_was_half_made_is_gone_and_what_was_made_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let (digest, key) = (layer(&store, "a"), Key(Digest::of(b"key")));
        let image = Image { layers: vec![digest], ..Image::default() };
        store.remember(key, &image).unwrap();
        let salt = *store.salt();
        // As after kill -9: nothing of the draft's own clean-up runs.
        std::mem::forget(store.draft().unwrap());
        fs::write(dir.path().join("store/tmp/half"), "half").unwrap();
        drop(store);
        let store = open(&dir);
        assert_eq!(names(&dir.path().join("store/tmp")), 0);
        assert_eq!(store.recall(key).unwrap(), Some(image));
        assert_eq!(*store.salt(), salt);
        assert!(store.remove(digest).unwrap());
        assert!(!store.remove(digest).unwrap());
        assert_eq!(store.recall(key).unwrap(), None);
    }

    #[test]
    fn nobody_but_root_walks_into_layers() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        assert_eq!(fs::metadata(&store.dir).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
