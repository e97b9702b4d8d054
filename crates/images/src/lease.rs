//! Layers in use, and the eviction of those that are not.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use blobs::Digest;

use crate::image::Image;
use crate::layer::{Error, Key, LayerStore};
use crate::tree::remove_all;

/// How many use each layer.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<HashMap<Digest, usize>>);

impl Leases {
    fn counts(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As long as this is held, its layers stay.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    layers: Vec<Digest>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut counts = self.leases.counts();
        for digest in &self.layers {
            if let Some(count) = counts.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(digest);
                }
            }
        }
    }
}

/// What an eviction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// The layers that went.
    pub layers: Vec<Digest>,
    /// Bytes of their files.
    pub freed_bytes: u64,
    /// Bytes of what is left.
    pub left_bytes: u64,
}

struct Candidate {
    used_at: SystemTime,
    digest: Digest,
    bytes: u64,
}

impl LayerStore {
    /// Says that layers are used from now on, so that none of them is evicted.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the first layer that is not here (any more).
    pub fn lease(&self, layers: &[Digest]) -> Result<Lease, Error> {
        let mut counts = self.leases.counts();
        if let Some(digest) = layers.iter().find(|digest| !self.contains(**digest)) {
            return Err(Error::NotFound { digest: *digest });
        }
        for digest in layers {
            *counts.entry(*digest).or_default() += 1;
        }
        drop(counts);
        // The lease counts from here on, whatever happens below.
        let lease = Lease { leases: self.leases.clone(), layers: layers.to_vec() };
        for digest in layers {
            let dir = self.layer_dir(*digest);
            touch(&dir).map_err(|e| self.fail("touching", &dir, e))?;
        }
        Ok(lease)
    }

    /// Removes a layer that nobody has leased. Says whether it went. Images that have it are built
    /// again when they are asked for.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, digest: Digest) -> Result<bool, Error> {
        let counts = self.leases.counts();
        if counts.contains_key(&digest) {
            return Ok(false);
        }
        let (layer, grave) = (self.layer_dir(digest), self.place());
        // Renamed while nobody can lease it: after that it is not found any more.
        match std::fs::rename(&layer, &grave) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(self.fail("renaming", &layer, e)),
        }
        drop(counts);
        remove_all(&grave).map_err(|e| self.fail("removing", &grave, e))?;
        Ok(true)
    }

    /// Removes the layers that were not used for the longest time, until those that are left have
    /// no more than `budget_bytes`. What is leased or in `keep` stays, and so does what was
    /// imported, whatever the budget.
    ///
    /// # Errors
    /// When layers cannot be listed or removed. What was removed before stays removed.
    pub fn evict(&self, keep: &HashSet<Digest>, budget_bytes: u64) -> Result<Evicted, Error> {
        let imported: HashSet<Digest> =
            self.names()?.into_iter().flat_map(|named| named.image.layers).collect();
        let mut candidates = self.candidates()?;
        candidates.sort_by_key(|candidate| candidate.used_at);
        let mut evicted = Evicted {
            left_bytes: candidates.iter().map(|candidate| candidate.bytes).sum(),
            ..Evicted::default()
        };
        for Candidate { digest, bytes, .. } in candidates {
            if evicted.left_bytes <= budget_bytes {
                break;
            }
            if keep.contains(&digest) || imported.contains(&digest) {
                continue;
            }
            if self.remove(digest)? {
                evicted.layers.push(digest);
                evicted.freed_bytes += bytes;
                evicted.left_bytes -= bytes;
            }
        }
        self.forget_lost_keys()?;
        Ok(evicted)
    }

    fn candidates(&self) -> Result<Vec<Candidate>, Error> {
        let mut candidates = Vec::new();
        for digest in self.list()? {
            let dir = self.layer_dir(digest);
            let bytes = match self.size(digest) {
                Ok(size) => size.bytes,
                Err(Error::NotFound { .. }) => continue,
                Err(error) => return Err(error),
            };
            let used_at = std::fs::metadata(&dir).and_then(|facts| facts.modified());
            let used_at = used_at.map_err(|e| self.fail("reading", &dir, e))?;
            candidates.push(Candidate { used_at, digest, bytes });
        }
        Ok(candidates)
    }

    /// What each build key led to.
    ///
    /// # Errors
    /// When the notes cannot be read.
    pub(crate) fn keys(&self) -> Result<Vec<(Key, Image)>, Error> {
        let dir = self.dir.join("keys");
        let mut keys = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(|e| self.fail("listing", &dir, e))? {
            let path = entry.map_err(|e| self.fail("listing", &dir, e))?.path();
            let json = match std::fs::read(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                read => read.map_err(|e| self.fail("reading", &path, e))?,
            };
            let name = path.file_name().unwrap_or_default().to_string_lossy().parse();
            // What is garbled is said when it is recalled.
            if let (Ok(key), Ok(image)) = (name, serde_json::from_slice(&json)) {
                keys.push((Key(key), image));
            }
        }
        Ok(keys)
    }

    /// Removes notes of builds whose layers are gone: they lead nowhere.
    fn forget_lost_keys(&self) -> Result<(), Error> {
        for (key, image) in self.keys()? {
            if image.layers.iter().all(|digest| self.contains(*digest)) {
                continue;
            }
            let path = self.key_path(key);
            std::fs::remove_file(&path).map_err(|e| self.fail("removing", &path, e))?;
        }
        Ok(())
    }
}

fn touch(path: &Path) -> io::Result<()> {
    std::fs::File::open(path)?.set_modified(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn layer(store: &LayerStore, content: &str, age_s: u64) -> Digest {
        let draft = store.draft().unwrap();
        std::fs::write(draft.upper().join("file"), content).unwrap();
        let digest = store.commit(draft).unwrap().unwrap();
        let used_at = SystemTime::now() - Duration::from_secs(age_s);
        std::fs::File::open(store.layer_dir(digest)).unwrap().set_modified(used_at).unwrap();
        digest
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_and_what_is_used_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = LayerStore::open(dir.path().join("store")).unwrap();
        let [leased, kept, named, old, young] =
            [("a", 50), ("bb", 40), ("ccc", 30), ("dddd", 20), ("eeeee", 10)]
                .map(|(content, age_s)| layer(&store, content, age_s));
        let image = |digest| Image { layers: vec![digest], ..Image::default() };
        store.name(&"named:1".parse().unwrap(), &image(named)).unwrap();
        let key = Key(Digest::of(b"key"));
        store.remember(key, &image(old)).unwrap();
        let lease = store.lease(&[leased]).unwrap();
        assert!(matches!(store.lease(&[leased, Digest::of(b"no")]), Err(Error::NotFound { .. })));
        let keep = HashSet::from([kept]);

        let evicted = store.evict(&keep, 11).unwrap();
        assert_eq!(evicted, Evicted { layers: vec![old], freed_bytes: 4, left_bytes: 11 });
        assert_eq!(store.recall(key).unwrap(), None);
        let evicted = store.evict(&keep, 0).unwrap();
        assert_eq!(evicted, Evicted { layers: vec![young], freed_bytes: 5, left_bytes: 6 });
        drop(lease);
        assert_eq!(store.evict(&keep, 0).unwrap().layers, [leased]);
        assert_eq!(std::fs::read_dir(dir.path().join("store/tmp")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(dir.path().join("store/keys")).unwrap().count(), 0);
    }
}
