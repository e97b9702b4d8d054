//! How drafts become layers: several of them with one sync of the file system, because each sync
//! waits for all that is written to it.

use std::io;

use blobs::Digest;

use crate::image::Image;
use crate::layer::{Draft, Error, Facts, Key, LayerStore, Size};
use crate::listing::{Contents, Likeness, Strays, summarize_known};
use crate::tree::{remove_all, sync_dir};

/// A draft whose files are all there and named, but perhaps not on the disk.
#[derive(Debug)]
pub(crate) struct Prepared {
    draft: Draft,
    digest: Digest,
    size: Size,
}

impl Prepared {
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn size(&self) -> Size {
        self.size
    }
}

impl LayerStore {
    /// Finds the name of a draft whose step has ended. `contents` are of files that need not be
    /// read again. `None` for a draft without files.
    pub(crate) fn prepare(
        &self,
        draft: Draft,
        contents: Contents,
        likeness: Likeness,
    ) -> Result<Option<Prepared>, Error> {
        let work = draft.work();
        remove_all(&work).map_err(|e| self.fail("removing", &work, e))?;
        let summary = summarize_known(&draft.upper(), Strays::Remove, likeness, contents)?;
        if summary.entries == 0 {
            return Ok(None);
        }
        let size = Size { bytes: summary.bytes, entries: summary.entries };
        let path = draft.dir.join("summary.json");
        let facts = Facts { size, likeness };
        let json = serde_json::to_vec(&facts).map_err(|e| self.fail("writing", &path, e.into()))?;
        std::fs::write(&path, json).map_err(|e| self.fail("writing", &path, e))?;
        Ok(Some(Prepared { draft, digest: summary.digest, size }))
    }

    /// Puts drafts on the disk and gives them their names, unless a layer of the same files is
    /// there already. Where there is a key, it leads to the layer from then on.
    pub(crate) fn settle(
        &self,
        batch: impl IntoIterator<Item = (Option<Key>, Prepared)>,
    ) -> Result<(), Error> {
        let batch: Vec<_> = batch.into_iter().collect();
        let Some((_, first)) = batch.first() else { return Ok(()) };
        for (key, prepared) in &batch {
            let Some(key) = key else { continue };
            let image = Image { layers: vec![prepared.digest], ..Image::default() };
            let path = prepared.draft.dir.join("key.json");
            let json = serde_json::to_vec(&image);
            let json = json.map_err(|e| self.fail("writing", &self.key_path(*key), e.into()))?;
            std::fs::write(&path, json).map_err(|e| self.fail("writing", &path, e))?;
        }
        // One call for the many files: syncing ten thousand one by one takes longer by far.
        let dir = &first.draft.dir;
        let synced = std::fs::File::open(dir).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
        synced.map_err(|e| self.fail("syncing", dir, e))?;
        for (key, prepared) in &batch {
            // A key before its layer is no harm: nothing is recalled whose layers are not there.
            if let Some(key) = key {
                let (note, path) = (prepared.draft.dir.join("key.json"), self.key_path(*key));
                std::fs::rename(&note, &path).map_err(|e| self.fail("renaming", &path, e))?;
            }
            let layer = self.layer_dir(prepared.digest);
            match std::fs::rename(&prepared.draft.dir, &layer) {
                Ok(()) => {}
                Err(e) if is_occupied(&e) => {}
                Err(e) => return Err(self.fail("renaming", &layer, e)),
            }
        }
        for name in ["layers", "keys"] {
            let dir = self.dir.join(name);
            sync_dir(&dir).map_err(|e| self.fail("syncing", &dir, e))?;
        }
        Ok(())
    }
}

/// The same layer is already there, made by another build.
fn is_occupied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}
