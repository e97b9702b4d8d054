//! Images from files: a folder of the OCI image layout, a tar of one, or what `docker save` wrote.
//!
//! For machines that reach no registry. Such an archive is as little trusted as a registry: it is
//! unpacked by the same rules as a layer, and every digest in it is compared with its bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use blobs::Digest;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::apply::{ApplyError, apply, open};
use crate::build::{Builder, Log, say};
use crate::export::KEYS_FILE;
use crate::image::Image;
use crate::layer::{Draft, Error as LayerError, Key};
use crate::limits::INDEX_DEPTH_MAX;
use crate::listing::Contents;
use crate::manifest::{Descriptor, Manifest, ManifestError, parse_config, parse_manifest};
use crate::pull::{LayerSource, PullError, Work, get_layers};
use crate::python;
use crate::reference::{Reference, ReferenceError};
use crate::registry::RegistryError;
use crate::tree::{Tree, TreeError};
use crate::unpack::{UnpackError, unpack};

/// Images of one archive.
const IMAGES_MAX: usize = 1_000;

/// What was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportReport {
    /// The names, written out, that FROM finds now, and the image that each stands for.
    pub images: Vec<(String, Image)>,
    /// How many notes of builds were taken over.
    pub steps: usize,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system failed.
    #[error("reading {} fails", path.display())]
    File {
        /// What was read.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is neither of what can be read.
    #[error(
        "{} is no image: there is neither an index.json (OCI image layout) nor a manifest.json \
        (docker save) in it", path.display()
    )]
    NoImage {
        /// What was given.
        path: PathBuf,
    },
    /// An image in it has no name.
    #[error("the image says no name of its own; pass --name")]
    NoName,
    /// One name for several images.
    #[error("--name is for one image, and there are {0} in it")]
    OneName(usize),
    /// A name is none.
    #[error(transparent)]
    Name(#[from] ReferenceError),
    /// A file that the archive speaks of is not in it.
    #[error("{0} is not in the archive")]
    Missing(String),
    /// The archive itself is refused.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// A description in it cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A layer cannot be used.
    #[error(transparent)]
    Layers(#[from] PullError),
    /// A file in it cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The layer store failed.
    #[error(transparent)]
    Store(#[from] LayerError),
}

/// Imports the images of a folder or archive under their own names, or the only one of it under
/// `name`. With `steps`, what builds came to elsewhere is taken over too, where [`crate::export`]
/// wrote it: whoever made the folder then says what later builds come to.
///
/// # Errors
/// When it is no archive of images, or one of them cannot be used; those before it stay.
pub fn import(
    builder: &Builder,
    path: &Path,
    name: Option<&str>,
    steps: bool,
    log: &mut Log<'_>,
) -> Result<ImportReport, Error> {
    let file = |source| Error::File { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(file)?.is_dir() {
        return import_folder(builder, path, path, (name, steps), log);
    }
    say(log, &format!("unpacking {}", path.display()));
    let packed = File::open(path).map_err(file)?;
    let bytes = packed.metadata().map_err(file)?.len();
    // It goes away at the end: what is kept is the layers' own folders.
    let draft = builder.store().draft()?;
    unpack(open(packed, bytes)?, &draft.upper())?;
    import_folder(builder, &draft.upper(), path, (name, steps), log)
}

fn import_folder(
    builder: &Builder,
    folder: &Path,
    shown: &Path,
    (name, steps): (Option<&str>, bool),
    log: &mut Log<'_>,
) -> Result<ImportReport, Error> {
    let layout = Layout { tree: Tree::open(folder)? };
    // `docker save` writes both, and knows all names in its own.
    let saved = layout.saved()?;
    let images = match saved {
        Some(images) => images,
        None => layout.indexed()?.ok_or_else(|| Error::NoImage { path: shown.to_owned() })?,
    };
    let name = name.map(str::parse::<Reference>).transpose()?;
    if name.is_some() && images.len() != 1 {
        return Err(Error::OneName(images.len()));
    }
    let mut report = ImportReport { images: Vec::new(), steps: 0 };
    for described in images {
        let names = match &name {
            Some(name) => vec![name.clone()],
            None => described.names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?,
        };
        if names.is_empty() {
            return Err(Error::NoName);
        }
        let image = layout.image(builder, &described, log)?;
        for name in names {
            builder.store().name(&name, &image)?;
            report.images.push((name.to_string(), image.clone()));
        }
    }
    if steps {
        report.steps = layout.take_steps(builder)?;
    }
    Ok(report)
}

/// An image of an archive, for this machine.
struct Described {
    names: Vec<String>,
    config: Vec<u8>,
    layers: Vec<Part>,
}

/// A packed layer in an archive.
#[derive(Clone, Debug)]
struct Part {
    path: String,
    /// The digest of its bytes, where the archive says it.
    digest: Option<Digest>,
}

struct Layout {
    tree: Tree,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<IndexEntry>,
}

#[derive(Deserialize)]
struct IndexEntry {
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Layout {
    /// The images of `docker save`.
    fn saved(&self) -> Result<Option<Vec<Described>>, Error> {
        let Some(bytes) = self.tree.read("manifest.json")? else { return Ok(None) };
        let saved: Vec<Saved> = from_json("manifest.json", &bytes)?;
        let described = saved.into_iter().take(IMAGES_MAX).map(|saved| {
            let config = self.tree.read(&saved.config)?.ok_or(Error::Missing(saved.config))?;
            let part = |path| Part { path, digest: None };
            let layers = saved.layers.into_iter().map(part).collect();
            Ok(Described { names: saved.repo_tags.unwrap_or_default(), config, layers })
        });
        described.collect::<Result<_, Error>>().map(Some)
    }

    /// The images of an OCI layout.
    fn indexed(&self) -> Result<Option<Vec<Described>>, Error> {
        let Some(bytes) = self.tree.read("index.json")? else { return Ok(None) };
        let index: Index = from_json("index.json", &bytes)?;
        let mut images = Vec::new();
        for entry in index.manifests.into_iter().take(IMAGES_MAX) {
            let digest = entry.digest.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
            let value = entry.digest.chars().take(100).collect();
            let digest = digest.ok_or(ManifestError::Digest { what: "a manifest", value })?;
            let (config, layers) = self.manifest(digest)?;
            let config = self.blob("the configuration", config.digest)?;
            // What a registry's client wrote there is whole; the specification's own is often a
            // tag alone, which names nothing.
            let whole = entry.annotations.get("io.containerd.image.name");
            let plain = entry.annotations.get("org.opencontainers.image.ref.name");
            let plain = plain.filter(|name| name.contains(['/', ':']));
            let names = whole.or(plain).cloned().into_iter().collect();
            let part = |layer: Descriptor| Part {
                path: blob_path(layer.digest),
                digest: Some(layer.digest),
            };
            let layers = layers.into_iter().map(part).collect();
            images.push(Described { names, config, layers });
        }
        Ok(Some(images))
    }

    fn manifest(&self, mut digest: Digest) -> Result<(Descriptor, Vec<Descriptor>), Error> {
        for _ in 0..INDEX_DEPTH_MAX {
            match parse_manifest(&self.blob("the manifest", digest)?)? {
                Manifest::Index(entry) => digest = entry.digest,
                Manifest::Image { config, layers } => return Ok((config, layers)),
            }
        }
        let why = format!("more than {INDEX_DEPTH_MAX} indexes lie within each other");
        Err(ManifestError::Garbled { what: "index", why }.into())
    }

    /// Takes over the notes of builds whose layers are all here.
    fn take_steps(&self, builder: &Builder) -> Result<usize, Error> {
        let Some(bytes) = self.tree.read(KEYS_FILE)? else { return Ok(0) };
        let keys: BTreeMap<String, Image> = from_json(KEYS_FILE, &bytes)?;
        let store = builder.store();
        let mut taken = 0;
        for (key, image) in keys {
            let value = key.chars().take(100).collect();
            let what = "the note of a build";
            let key = key.parse().map_err(|_| ManifestError::Digest { what, value })?;
            if image.layers.iter().all(|layer| store.contains(*layer)) {
                store.remember(Key(key), &image)?;
                taken += 1;
            }
        }
        Ok(taken)
    }

    fn blob(&self, what: &'static str, wanted: Digest) -> Result<Vec<u8>, Error> {
        let path = blob_path(wanted);
        let bytes = self.tree.read(&path)?.ok_or(Error::Missing(path))?;
        let found = Digest::of(&bytes);
        if found != wanted {
            let differs = RegistryError::Digest { what, wanted, found };
            return Err(PullError::from(differs).into());
        }
        Ok(bytes)
    }

    fn image(
        &self,
        builder: &Builder,
        described: &Described,
        log: &mut Log<'_>,
    ) -> Result<Image, Error> {
        let config = parse_config(&described.config, described.layers.len())?;
        let mut blobs = Vec::new();
        for part in &described.layers {
            let file = self.tree.file(&part.path)?;
            let file = file.ok_or_else(|| Error::Missing(part.path.clone()))?;
            let path = PathBuf::from(&part.path);
            let size = file.metadata().map_err(|source| Error::File { path, source })?.len();
            blobs.push(Descriptor { digest: part.digest.unwrap_or(Digest::of(b"")), size });
        }
        let source = LayoutLayers { layout: self, parts: &described.layers };
        let claims = &builder.origins.claims;
        let layers = get_layers(builder.store(), claims, &source, &blobs, &config.diff_ids, log)?;
        let mut image = Image { layers, config: config.config, python: None };
        python::inspect(builder.store(), &mut image)?;
        Ok(image)
    }
}

struct LayoutLayers<'l> {
    layout: &'l Layout,
    parts: &'l [Part],
}

impl LayerSource for LayoutLayers<'_> {
    fn unpack(&self, work: &Work<'_>, draft: &Draft) -> Result<Contents, PullError> {
        let part = &self.parts[work.number - 1];
        let archive = |error| work.refuse(ApplyError::Unpack(UnpackError::Archive(error)));
        let file = self.layout.tree.file(&part.path).ok().flatten();
        let file = file.ok_or_else(|| archive(io::ErrorKind::NotFound.into()))?;
        let mut packed = Hashed { inner: file, hasher: Sha256::new() };
        let applied = apply(&mut packed, work.blob.size, work.diff_id, draft);
        io::copy(&mut packed, &mut io::sink()).map_err(archive)?;
        let found = Digest::from_bytes(packed.hasher.finalize().into());
        match part.digest {
            Some(wanted) if wanted != found => {
                Err(RegistryError::Digest { what: "the layer", wanted, found }.into())
            }
            _ => applied.map_err(|source| work.refuse(source)),
        }
    }
}

struct Hashed {
    inner: File,
    hasher: Sha256,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{digest}")
}

fn from_json<'b, T: Deserialize<'b>>(
    what: &'static str,
    bytes: &'b [u8],
) -> Result<T, ManifestError> {
    let garbled =
        |error: serde_json::Error| ManifestError::Garbled { what, why: error.to_string() };
    serde_json::from_slice(bytes).map_err(garbled)
}
