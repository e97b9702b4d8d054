//! Wheels of the client that the operator imported, for machines that reach no index: a layer of
//! them is laid under the step that installs the client.

use std::fs;
use std::path::{Path, PathBuf};

use crate::build::{Log, say};
use crate::image::Image;
use crate::layer::{Error as LayerError, LayerStore};
use crate::limits::{WHEELS_BYTES_MAX, WHEELS_MAX};
use crate::reference::Reference;

/// Where they lie in the step, below its root.
pub(crate) const FOLDER: &str = "opt/palisade-wheels";

/// The name under which the layer is kept.
const NAME: &str = "palisade.local/client-wheels:latest";

/// Why no wheels were imported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client is not among them.
    #[error(
        "there is no wheel of the client (modal-VERSION-….whl) in {}: make the folder with \
         `pip download --only-binary :all: -d DIR modal==VERSION`", path.display()
    )]
    NoClient {
        /// The folder.
        path: PathBuf,
    },
    /// Too much.
    #[error("there are more than {WHEELS_MAX} wheels, or {WHEELS_BYTES_MAX} bytes of them")]
    TooMany,
    /// The layer store failed, or the file system.
    #[error(transparent)]
    Layers(#[from] LayerError),
}

fn name() -> Option<Reference> {
    NAME.parse().ok()
}

/// The layer of what was imported so far.
pub(crate) fn imported(store: &LayerStore) -> Result<Option<Image>, LayerError> {
    name().map_or(Ok(None), |name| store.named(&name))
}

/// The wheels in a folder.
fn wheels(folder: &Path) -> Result<Vec<PathBuf>, LayerError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(LayerError::file("listing", folder))? {
        let path = entry.map_err(LayerError::file("listing", folder))?.path();
        let is_wheel = path.extension().is_some_and(|extension| extension == "whl");
        if is_wheel && path.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Takes the wheels of a folder beside those that were imported before. Says how many there are
/// now.
///
/// # Errors
/// When the client is not among them, or they cannot be read or kept.
pub fn import_wheels(store: &LayerStore, folder: &Path, log: &mut Log<'_>) -> Result<usize, Error> {
    let new = wheels(folder)?;
    let is_client = |path: &&PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("modal-"))
    };
    if !new.iter().any(|path| is_client(&path)) {
        return Err(Error::NoClient { path: folder.to_owned() });
    }
    let before = match imported(store)? {
        Some(image) => match image.layers.first() {
            Some(layer) => wheels(&store.diff(*layer).join(FOLDER))?,
            None => Vec::new(),
        },
        None => Vec::new(),
    };
    let draft = store.draft()?;
    let target = draft.upper().join(FOLDER);
    fs::create_dir_all(&target).map_err(LayerError::file("making", &target))?;
    let mut bytes = 0;
    for path in before.iter().chain(&new) {
        let to = target.join(path.file_name().unwrap_or_default());
        bytes += fs::copy(path, &to).map_err(LayerError::file("copying", path))?;
        if bytes > WHEELS_BYTES_MAX {
            return Err(Error::TooMany);
        }
    }
    let count = wheels(&target)?.len();
    if count > WHEELS_MAX {
        return Err(Error::TooMany);
    }
    let layers = store.commit(draft)?.into_iter().collect();
    if let Some(name) = name() {
        store.name(&name, &Image { layers, ..Image::default() })?;
    }
    say(log, &format!("{} wheels were taken, {count} are there now", new.len()));
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_are_kept_beside_those_from_before() {
        let dir = tempfile::tempdir().unwrap();
        let store = LayerStore::open(dir.path().join("store")).unwrap();
        let (folder, mut log) = (dir.path().join("wheels"), |_: &[u8]| {});
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("other-1-py3-none-any.whl"), "o").unwrap();
        let error = import_wheels(&store, &folder, &mut log).unwrap_err();
        assert!(error.to_string().contains("pip download"), "{error}");
        fs::write(folder.join("modal-1.6.4-py3-none-any.whl"), "m").unwrap();
        fs::write(folder.join("notes.txt"), "n").unwrap();
        assert_eq!(import_wheels(&store, &folder, &mut log).unwrap(), 2);
        fs::remove_file(folder.join("other-1-py3-none-any.whl")).unwrap();
        fs::rename(folder.join("modal-1.6.4-py3-none-any.whl"), folder.join("modal-2-x.whl"))
            .unwrap();
        assert_eq!(import_wheels(&store, &folder, &mut log).unwrap(), 3);
        let layer = imported(&store).unwrap().unwrap().layers[0];
        assert!(store.diff(layer).join(FOLDER).join("other-1-py3-none-any.whl").is_file());
    }
}
