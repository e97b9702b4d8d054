//! Pulling: an image of a registry becomes layers of the store.
//!
//! The registry is asked for the manifest with the caller's own credentials each time, so nobody
//! gets an image by its name that they could not pull themselves; layers are shared by digest.
//! Layers are fetched and unpacked beside each other, each once even when two builds need it at
//! the same time, and put on the disk in batches.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Instant;

use blobs::Digest;

use crate::apply::{ApplyError, apply};
use crate::build::{Log, say};
use crate::claims::{Claim, Claims};
use crate::image::Image;
use crate::key::KeyHasher;
use crate::layer::{Draft, Error as LayerError, Key, LayerStore};
use crate::limits::{INDEX_DEPTH_MAX, LAYERS_AT_ONCE_MAX, UNSYNCED_BYTES_MAX};
use crate::listing::{Contents, Likeness};
use crate::manifest::{Descriptor, Manifest, ManifestError, parse_config, parse_manifest};
use crate::python;
use crate::reference::Reference;
use crate::registry::{BlobReader, RegistryError, Session};
use crate::settle::Prepared;
use crate::unpack::UnpackError;

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry did not give what it should.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layer cannot be used.
    #[error("layer {number} of {total}")]
    Layer {
        /// Which one, from 1 at the bottom.
        number: usize,
        /// How many there are.
        total: usize,
        /// What is wrong with it.
        source: ApplyError,
    },
    /// The layer store failed.
    #[error(transparent)]
    Store(#[from] LayerError),
    /// Another layer failed first.
    #[error("the pull was given up")]
    GivenUp,
}

impl From<ManifestError> for PullError {
    fn from(error: ManifestError) -> Self {
        Self::Registry(error.into())
    }
}

/// What stands under a name now.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// The digest of the image's own manifest.
    digest: Digest,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Asks one place what an image's name stands for, on this machine.
pub(crate) fn resolve(session: &Session<'_>, name: &Reference) -> Result<Resolved, RegistryError> {
    let mut wanted = name.wanted();
    for _ in 0..INDEX_DEPTH_MAX {
        let (digest, bytes) = session.manifest(&wanted)?;
        match parse_manifest(&bytes)? {
            Manifest::Index(entry) => wanted = format!("sha256:{}", entry.digest),
            Manifest::Image { config, layers } => return Ok(Resolved { digest, config, layers }),
        }
    }
    let why = format!("more than {INDEX_DEPTH_MAX} indexes lie within each other");
    Err(ManifestError::Garbled { what: "index", why }.into())
}

/// Gets the image that was found: what of it is stored already is not fetched.
pub(crate) fn pull(
    store: &LayerStore,
    claims: &Claims,
    session: &Session<'_>,
    found: &Resolved,
    log: &mut Log<'_>,
) -> Result<Image, PullError> {
    let mut key = KeyHasher::new("manifest");
    key.digests(&[found.digest]);
    let key = key.finish();
    if let Some(image) = store.recall(key)? {
        return Ok(image);
    }
    let config = session.small_blob(&found.config)?;
    let config = parse_config(&config, found.layers.len())?;
    let started = Instant::now();
    let bytes: u64 = found.layers.iter().map(|layer| layer.size).sum();
    let (count, mib) = (found.layers.len(), bytes.div_ceil(1 << 20));
    say(log, &format!("pulling {count} layers ({mib} MiB) from {}", session.place()));
    let layers = get_layers(store, claims, session, &found.layers, &config.diff_ids, log)?;
    let mut image = Image { layers, config: config.config, python: None };
    python::inspect(store, &mut image)?;
    store.remember(key, &image)?;
    say(log, &format!("pulled in {:.1} s", started.elapsed().as_secs_f64()));
    Ok(image)
}

/// Where packed layers are.
pub(crate) trait LayerSource: Sync {
    /// Unpacks one into a draft, and compares what was read with its name.
    fn unpack(&self, work: &Work<'_>, draft: &Draft) -> Result<Contents, PullError>;
}

impl LayerSource for Session<'_> {
    fn unpack(&self, work: &Work<'_>, draft: &Draft) -> Result<Contents, PullError> {
        let mut blob = BlobReader::new(self, work.blob);
        let applied = apply(&mut blob, work.blob.size, work.diff_id, draft);
        if let Err(ApplyError::Unpack(UnpackError::Archive(error))) = &applied
            && let Some(why) = download_error(error)
        {
            return Err(RegistryError::Unreachable { why }.into());
        }
        // Bytes that are not those that were asked for explain whatever went wrong with them.
        blob.check()?;
        applied.map_err(|source| work.refuse(source))
    }
}

/// Gets an image's layers, bottom first: those that are stored, and the others from `source`.
pub(crate) fn get_layers(
    store: &LayerStore,
    claims: &Claims,
    source: &dyn LayerSource,
    blobs: &[Descriptor],
    diff_ids: &[Digest],
    log: &mut Log<'_>,
) -> Result<Vec<Digest>, PullError> {
    let work: Vec<Work<'_>> = blobs
        .iter()
        .zip(diff_ids)
        .enumerate()
        .map(|(index, (blob, diff_id))| Work {
            number: index + 1,
            total: blobs.len(),
            blob,
            diff_id: *diff_id,
        })
        .collect();
    let pull = Pull { store, claims, source, batch: Mutex::default(), is_over: false.into() };
    Ok(pull.layers(&work, log)?.into_iter().flatten().collect())
}

/// A layer that is needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work<'w> {
    /// From 1 at the bottom.
    pub(crate) number: usize,
    /// How many the image has.
    pub(crate) total: usize,
    /// The packed layer.
    pub(crate) blob: &'w Descriptor,
    /// The digest of the archive once it is unpacked.
    pub(crate) diff_id: Digest,
}

impl Work<'_> {
    /// Under which its layer is remembered: what is in it, whoever packed it.
    fn key(&self) -> Key {
        let mut key = KeyHasher::new("unpacked layer 1");
        key.digests(&[self.diff_id]);
        key.finish()
    }

    pub(crate) fn refuse(&self, source: ApplyError) -> PullError {
        PullError::Layer { number: self.number, total: self.total, source }
    }
}

/// One pull.
struct Pull<'p> {
    store: &'p LayerStore,
    claims: &'p Claims,
    source: &'p dyn LayerSource,
    batch: Mutex<Batch>,
    is_over: AtomicBool,
}

/// Layers that are unpacked but not yet on the disk. They are claimed, so nobody of this pull may
/// wait for another's claim while it has any: two pulls would wait for each other.
#[derive(Default)]
struct Batch {
    ready: Vec<(Claim, Key, Prepared)>,
    bytes: u64,
    /// Threads of this pull that wait for a claim.
    waiting: usize,
}

impl Batch {
    fn take(&mut self) -> Vec<(Claim, Key, Prepared)> {
        self.bytes = 0;
        std::mem::take(&mut self.ready)
    }
}

impl Pull<'_> {
    /// Gets all layers, bottom first. `None` for one without files.
    fn layers(
        &self,
        work: &[Work<'_>],
        log: &mut Log<'_>,
    ) -> Result<Vec<Option<Digest>>, PullError> {
        let next = AtomicUsize::new(0);
        let (done, results) = mpsc::channel();
        let mut layers = vec![None; work.len()];
        let mut failed = None;
        std::thread::scope(|scope| {
            for _ in 0..work.len().min(LAYERS_AT_ONCE_MAX) {
                let (next, done) = (&next, done.clone());
                scope.spawn(move || {
                    while let Some(work) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let layer = self.layer(work);
                        if layer.is_err() {
                            self.is_over.store(true, Ordering::Relaxed);
                        }
                        // Its reader goes away after this thread.
                        drop(done.send((work.number, layer)));
                    }
                });
            }
            drop(done);
            for (number, layer) in results {
                match layer {
                    Ok(layer) => {
                        layers[number - 1] = layer;
                        say(log, &format!("layer {number} of {}: ready", work.len()));
                    }
                    Err(PullError::GivenUp) => {}
                    Err(error) => failed = failed.take().or(Some(error)),
                }
            }
        });
        // What is whole is kept, also when something else failed.
        let ready = self.batch().take();
        let settled = self.settle(ready);
        match failed {
            Some(error) => Err(error),
            None => settled.map(|()| layers),
        }
    }

    fn layer(&self, work: &Work<'_>) -> Result<Option<Digest>, PullError> {
        let key = work.key();
        let claim = self.claim(key)?;
        if let Some(image) = self.store.recall(key)? {
            return Ok(image.layers.first().copied());
        }
        if self.is_over.load(Ordering::Relaxed) {
            return Err(PullError::GivenUp);
        }
        let Some(prepared) = self.fetch(work)? else {
            self.store.remember(key, &Image::default())?;
            return Ok(None);
        };
        let digest = prepared.digest();
        let mut batch = self.batch();
        batch.bytes += prepared.size().bytes;
        batch.ready.push((claim, key, prepared));
        let is_due = batch.waiting > 0 || batch.bytes >= UNSYNCED_BYTES_MAX;
        let ready = if is_due { batch.take() } else { Vec::new() };
        drop(batch);
        self.settle(ready)?;
        Ok(Some(digest))
    }

    fn claim(&self, key: Key) -> Result<Claim, PullError> {
        if let Some(claim) = self.claims.claim_now(key) {
            return Ok(claim);
        }
        let mut batch = self.batch();
        let ready = batch.take();
        batch.waiting += 1;
        drop(batch);
        let settled = self.settle(ready);
        let claim = self.claims.claim(key);
        self.batch().waiting -= 1;
        settled.map(|()| claim)
    }

    fn fetch(&self, work: &Work<'_>) -> Result<Option<Prepared>, PullError> {
        let draft = self.store.draft()?;
        let contents = self.source.unpack(work, &draft)?;
        Ok(self.store.prepare(draft, contents, Likeness::Build)?)
    }

    /// Puts what is ready on the disk. The claims end after the layers have their names.
    fn settle(&self, ready: Vec<(Claim, Key, Prepared)>) -> Result<(), PullError> {
        let (mut claims, mut layers) = (Vec::new(), Vec::new());
        for (claim, key, prepared) in ready {
            claims.push(claim);
            layers.push((Some(key), prepared));
        }
        Ok(self.store.settle(layers)?)
    }

    fn batch(&self) -> MutexGuard<'_, Batch> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the download itself said, where an archive ended because of it.
fn download_error(error: &std::io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<RegistryError>()?;
    Some(error.to_string())
}
