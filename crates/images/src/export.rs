//! Images to files: a folder of the OCI image layout, which [`crate::import`] and other programs
//! read, and beside it the notes of builds, so that a machine that reaches nothing does not run
//! their steps again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use blobs::Digest;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::build::{Log, say};
use crate::image::Image;
use crate::layer::{Error as LayerError, LayerStore};
use crate::recipe::platform;

/// The notes of builds in an exported folder: a JSON object from keys to images.
pub(crate) const KEYS_FILE: &str = "palisade-keys.json";

/// Why images could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something is there already.
    #[error("{} is there already: name a folder that is not", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// The layer store failed, or the file system.
    #[error(transparent)]
    Layers(#[from] LayerError),
}

/// A layer as it lies in the folder.
struct Packed {
    /// Of the archive.
    diff_id: Digest,
    /// Of the compressed archive.
    digest: Digest,
    bytes: u64,
}

/// Writes images to a new folder. Says how many layers they have together.
///
/// # Errors
/// When the folder is there already, a layer is not, or writing fails; the folder is removed then.
pub fn export(
    store: &LayerStore,
    images: &[Image],
    path: &Path,
    log: &mut Log<'_>,
) -> Result<usize, Error> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::Occupied { path: path.to_owned() });
        }
        made => made.map_err(LayerError::file("making", path))?,
    }
    let written = write(store, images, path, log);
    if written.is_err() {
        // What is half written must not be taken for whole.
        let _ = fs::remove_dir_all(path);
    }
    written
}

fn write(
    store: &LayerStore,
    images: &[Image],
    path: &Path,
    log: &mut Log<'_>,
) -> Result<usize, Error> {
    let blobs = path.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(LayerError::file("making", &blobs))?;
    let all: BTreeSet<Digest> = images.iter().flat_map(|image| &image.layers).copied().collect();
    let lease = store.lease(&all.iter().copied().collect::<Vec<_>>())?;
    let mut packed = BTreeMap::new();
    for (n, digest) in all.iter().enumerate() {
        say(log, &format!("layer {} of {}: {digest}", n + 1, all.len()));
        packed.insert(*digest, pack(&store.diff(*digest), &blobs)?);
    }
    let mut manifests = Vec::new();
    for image in images {
        manifests.push(describe(image, &packed, &blobs)?);
    }
    write_json(&path.join("oci-layout"), &json!({ "imageLayoutVersion": "1.0.0" }))?;
    write_json(&path.join("index.json"), &json!({ "schemaVersion": 2, "manifests": manifests }))?;
    let mut keys = BTreeMap::new();
    for (key, image) in store.keys()? {
        if !image.layers.is_empty() && image.layers.iter().all(|layer| all.contains(layer)) {
            keys.insert(key.0.to_string(), image);
        }
    }
    write_json(&path.join(KEYS_FILE), &json!(keys))?;
    drop(lease);
    Ok(all.len())
}

/// Writes an image's manifest and configuration. Answers with its entry of the index.
fn describe(
    image: &Image,
    packed: &BTreeMap<Digest, Packed>,
    blobs: &Path,
) -> Result<Value, Error> {
    let layers: Vec<&Packed> = image.layers.iter().filter_map(|layer| packed.get(layer)).collect();
    let config = &image.config;
    let (os, architecture) = platform().split_once('/').unwrap_or(("linux", "unknown"));
    let set = |all: &[String]| all.iter().map(|one| (one.clone(), json!({}))).collect::<Value>();
    let env: Vec<_> = config.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let description = json!({
        "os": os,
        "architecture": architecture,
        "config": {
            "Env": env, "WorkingDir": config.workdir, "Entrypoint": config.entrypoint,
            "Cmd": config.cmd, "Shell": config.shell, "User": config.user,
            "Labels": config.labels, "ExposedPorts": set(&config.exposed),
            "Volumes": set(&config.volumes), "StopSignal": config.stop_signal,
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|l| format!("sha256:{}", l.diff_id)).collect::<Vec<_>>(),
        },
    });
    let layer = |layer: &&Packed| {
        let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
        json!({
            "mediaType": kind, "digest": format!("sha256:{}", layer.digest), "size": layer.bytes,
        })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(blobs, "application/vnd.oci.image.config.v1+json", &description)?,
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    });
    let mut entry = put(blobs, "application/vnd.oci.image.manifest.v1+json", &manifest)?;
    // An image without a name cannot be imported; this one says what is in it.
    let content: String =
        Digest::of(description.to_string().as_bytes()).to_string().chars().take(12).collect();
    entry["annotations"] =
        json!({ "io.containerd.image.name": format!("palisade.local/exported:{content}") });
    Ok(entry)
}

/// Writes a description. Answers with what points to it.
fn put(blobs: &Path, kind: &str, value: &Value) -> Result<Value, Error> {
    let bytes = value.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    let path = blobs.join(digest.to_string());
    fs::write(&path, &bytes).map_err(LayerError::file("writing", &path))?;
    let digest = format!("sha256:{digest}");
    Ok(json!({ "mediaType": kind, "digest": digest, "size": bytes.len() }))
}

fn write_json(path: &Path, value: &Value) -> Result<(), LayerError> {
    fs::write(path, value.to_string()).map_err(LayerError::file("writing", path))
}

/// Writes a layer as a compressed archive, under its digest.
fn pack(diff: &Path, blobs: &Path) -> Result<Packed, Error> {
    let draft = blobs.join("draft");
    let outer = File::create(&draft).map_err(LayerError::file("making", &draft))?;
    let encoder = GzEncoder::new(Hashing::new(outer), Compression::fast());
    let mut archive =
        Archive { tar: tar::Builder::new(Hashing::new(encoder)), seen: HashMap::new() };
    archive.tar.follow_symlinks(false);
    archive.add_folder(diff, Path::new(""))?;
    let finished = archive.tar.into_inner().and_then(|inner| {
        let (encoder, diff_id, _) = inner.finish();
        let (outer, digest, bytes) = encoder.finish()?.finish();
        outer.sync_all()?;
        Ok(Packed { diff_id, digest, bytes })
    });
    let packed = finished.map_err(LayerError::file("writing", &draft))?;
    let path = blobs.join(packed.digest.to_string());
    fs::rename(&draft, &path).map_err(LayerError::file("renaming", &path))?;
    Ok(packed)
}

/// Counts and hashes what goes through.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), bytes: 0 }
    }

    fn finish(self) -> (W, Digest, u64) {
        (self.inner, Digest::from_bytes(self.hasher.finalize().into()), self.bytes)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Archive<W: Write> {
    tar: tar::Builder<W>,
    /// Where a file that has several names was put first, by (device, inode).
    seen: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Archive<W> {
    /// Adds what is in a folder. A layer never changes, so its paths can be walked.
    fn add_folder(&mut self, folder: &Path, name: &Path) -> Result<(), Error> {
        let listed = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = listed.map_err(LayerError::file("listing", folder))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            self.add(&path, &name).map_err(LayerError::file("packing", &path))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.add_folder(&path, &name)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let facts = fs::symlink_metadata(path)?;
        let kind = facts.file_type();
        if kind.is_char_device() {
            // The only devices in layers are the overlay's whiteouts.
            return self.add_mark(&beside(name, ".wh."));
        }
        let mut header = tar::Header::new_gnu();
        header.set_metadata_in_mode(&facts, tar::HeaderMode::Complete);
        if facts.nlink() > 1 && kind.is_file() {
            let id = (facts.dev(), facts.ino());
            if let Some(first) = self.seen.get(&id) {
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                return self.tar.append_link(&mut header, name, first);
            }
            self.seen.insert(id, name.to_owned());
        }
        if kind.is_symlink() {
            header.set_size(0);
            return self.tar.append_link(&mut header, name, fs::read_link(path)?);
        }
        self.add_attributes(path)?;
        if kind.is_dir() {
            header.set_size(0);
            self.tar.append_data(&mut header, name, io::empty())?;
            if attribute(path, c"trusted.overlay.opaque")?.is_some_and(|value| value == b"y") {
                self.add_mark(&name.join(".wh..wh..opq"))?;
            }
            return Ok(());
        }
        self.tar.append_data(&mut header, name, File::open(path)?)
    }

    /// Capabilities of programs; the other attributes of layers are the overlay's own.
    fn add_attributes(&mut self, path: &Path) -> io::Result<()> {
        let Some(value) = attribute(path, c"security.capability")? else { return Ok(()) };
        self.tar.append_pax_extensions([("SCHILY.xattr.security.capability", &value[..])])
    }

    fn add_mark(&mut self, name: &Path) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        self.tar.append_data(&mut header, name, io::empty())
    }
}

fn beside(name: &Path, prefix: &str) -> PathBuf {
    let mut marked = std::ffi::OsString::from(prefix);
    marked.push(name.file_name().unwrap_or_default());
    name.with_file_name(marked)
}

fn attribute(path: &Path, name: &std::ffi::CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 1 << 10];
    match rustix::fs::lgetxattr(path, name, &mut value) {
        Ok(bytes) => {
            value.truncate(bytes);
            Ok(Some(value))
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::build::Builder;
    use crate::import::import;
    use crate::layer::Key;

    fn fill(diff: &Path) {
        fs::create_dir_all(diff.join("opt/long").join("x".repeat(120))).unwrap();
        fs::write(diff.join("opt/file"), "content").unwrap();
        fs::set_permissions(diff.join("opt/file"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(diff.join("opt/file"), diff.join("opt/same")).unwrap();
        symlink("/etc/passwd", diff.join("opt/link")).unwrap();
        std::os::unix::fs::chown(diff.join("opt/long"), Some(33), Some(44)).unwrap();
        let (node, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::empty());
        rustix::fs::mknodat(rustix::fs::CWD, diff.join("opt/gone"), node, mode, 0).unwrap();
        let none = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(diff.join("opt"), c"trusted.overlay.opaque", b"y", none).unwrap();
    }

    #[test]
    fn what_is_exported_is_the_same_once_it_is_imported() {
        let dir = tempfile::tempdir().unwrap();
        let open =
            |name: &str| Builder::new(LayerStore::open(dir.path().join(name)).unwrap().into());
        let (here, there) = (open("here"), open("there"));
        let draft = here.store().draft().unwrap();
        fill(&draft.upper());
        let layer = here.store().commit(draft).unwrap().unwrap();
        let mut image = Image { layers: vec![layer], ..Image::default() };
        image.config.set_env("NAME", "value=x".into());
        image.config.cmd = vec!["run".into()];
        let key = Key(Digest::of(b"step"));
        here.store().remember(key, &image).unwrap();
        let (folder, mut log) = (dir.path().join("folder"), |_: &[u8]| {});
        assert_eq!(export(here.store(), &[image.clone()], &folder, &mut log).unwrap(), 1);
        let occupied = export(here.store(), &[], &folder, &mut log).unwrap_err();
        assert!(matches!(occupied, Error::Occupied { .. }));

        let report = import(&there, &folder, None, false, &mut log).unwrap();
        assert_eq!((report.images[0].1.layers.clone(), report.steps), (vec![layer], 0));
        assert_eq!(report.images[0].1.config.env("NAME"), Some("value=x"));
        assert_eq!(there.store().recall(key).unwrap(), None);
        let report = import(&there, &folder, None, true, &mut log).unwrap();
        assert_eq!(report.steps, 1);
        assert_eq!(there.store().recall(key).unwrap(), Some(image));
        there.store().verify(layer).unwrap();
    }
}
