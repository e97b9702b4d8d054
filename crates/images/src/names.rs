//! Images that were imported, by their names.

use serde::{Deserialize, Serialize};

use blobs::Digest;

use crate::image::Image;
use crate::layer::{Error, LayerStore};
use crate::reference::Reference;

/// An image that was imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its name, written out.
    pub name: String,
    /// The image.
    pub image: Image,
}

impl LayerStore {
    /// Gives an image a name; another image that had it loses it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn name(&self, reference: &Reference, image: &Image) -> Result<(), Error> {
        let named = Named { name: reference.to_string(), image: image.clone() };
        let path = self.name_path(&named.name);
        let json = serde_json::to_vec(&named).map_err(|e| self.fail("writing", &path, e.into()))?;
        self.write_file(&path, &json)
    }

    /// The image that was imported under a name, if all its layers are still here.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn named(&self, reference: &Reference) -> Result<Option<Image>, Error> {
        let path = self.name_path(&reference.to_string());
        let json = match std::fs::read(&path) {
            Ok(json) => json,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.fail("reading", &path, e)),
        };
        let named: Named =
            serde_json::from_slice(&json).map_err(|source| Error::Garbled { path, source })?;
        let image = named.image;
        Ok(image.layers.iter().all(|digest| self.contains(*digest)).then_some(image))
    }

    /// Every image that was imported, by name.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn names(&self) -> Result<Vec<Named>, Error> {
        let dir = self.dir.join("names");
        let entries = std::fs::read_dir(&dir).map_err(|e| self.fail("listing", &dir, e))?;
        let mut names = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| self.fail("listing", &dir, e))?.path();
            let json = std::fs::read(&path).map_err(|e| self.fail("reading", &path, e))?;
            let named: Named =
                serde_json::from_slice(&json).map_err(|source| Error::Garbled { path, source })?;
            names.push(named);
        }
        names.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(names)
    }

    /// Takes a name away; the layers stay. Says whether there was such a name.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(&self, reference: &Reference) -> Result<bool, Error> {
        let path = self.name_path(&reference.to_string());
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.fail("removing", &path, e)),
        }
    }

    fn name_path(&self, name: &str) -> std::path::PathBuf {
        self.dir.join("names").join(Digest::of(name.as_bytes()).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_images_until_they_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = LayerStore::open(dir.path().join("store")).unwrap();
        let (name, image) = ("python:3.12".parse().unwrap(), Image::default());
        assert_eq!(store.named(&name).unwrap(), None);
        store.name(&name, &image).unwrap();
        drop(store);
        let store = LayerStore::open(dir.path().join("store")).unwrap();
        assert_eq!(store.named(&name).unwrap(), Some(image));
        assert_eq!(store.names().unwrap()[0].name, "docker.io/library/python:3.12");
        let lost = Image { layers: vec![Digest::of(b"lost")], ..Image::default() };
        store.name(&name, &lost).unwrap();
        assert_eq!(store.named(&name).unwrap(), None);
        assert!(store.forget(&name).unwrap() && !store.forget(&name).unwrap());
    }
}
