//! The client's packages as a layer, to be laid over any image with the same Python.
//!
//! A function's container runs the client's own entrypoint, of the version that its caller has.
//! `/pkg` holds the client, `/__modal/deps` what it requires at the versions that the client pins
//! for a builder version; a `sitecustomize` in `/pkg` puts the latter last on the module path, so
//! that what the image has installed wins. Both are compiled. The layer is made once for each
//! (client, builder version, Python) by a build step with the network, like any other.

mod wheels;

use std::path::Path;

use blobs::Digest;

use crate::build::{Builder, Log, say};
use crate::image::{Config, Image};
use crate::key::KeyHasher;
use crate::layer::Error as LayerError;
use crate::limits::CLIENT_BUILD_MAX;
use crate::step::{Exit, RunError, RunStep, StepDirs, StepRunner};
use crate::tree::remove_all;
pub use wheels::{Error as WheelsError, import_wheels};

/// What the step runs.
const INSTALL: &str = include_str!("client/install.py");

/// Folders at the top of the layer: these and no others.
const WANTED: [&str; 2] = ["__modal", "pkg"];

/// Folders that a step may leave behind where its runner mounts nothing over them.
const LITTER: [&str; 3] = ["root", "run", "tmp"];

/// Which client, for which Python.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    version: String,
    builder: String,
    python: (u8, u8),
}

/// Why there is no layer of a client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A version that is none; it came from a client.
    #[error("{what} is {value:?}; a version is digits and dots, and perhaps letters after them")]
    Version {
        /// Which one.
        what: &'static str,
        /// As given, shortened.
        value: String,
    },
    /// The image has another Python than the layer is for.
    #[error("packages for Python {}.{} cannot be made with an image of Python {found}",
        wanted.0, wanted.1)]
    Python {
        /// What the layer is for.
        wanted: (u8, u8),
        /// What the image has.
        found: String,
    },
    /// The step failed.
    #[error("installing the client {version} fails by {exit}; the log says why")]
    Install {
        /// The client's version.
        version: String,
        /// How the step ended.
        exit: Exit,
    },
    /// The step could not be run.
    #[error("installing the client {version} cannot be run: {source}")]
    Runner {
        /// The client's version.
        version: String,
        /// Why.
        source: RunError,
    },
    /// The step wrote where it should not.
    #[error("installing the client {version} left {names} beside /pkg and /__modal")]
    Strays {
        /// The client's version.
        version: String,
        /// What is there.
        names: String,
    },
    /// The layer cannot be looked at.
    #[error("looking at the packages of the client {version} fails")]
    Files {
        /// The client's version.
        version: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The layer store failed.
    #[error(transparent)]
    Layers(#[from] LayerError),
}

impl Client {
    /// The client of `version`, with what it pins for the `builder` version (as "2025.06"), for
    /// a minor version of Python.
    ///
    /// # Errors
    /// [`Error::Version`]: both come from clients, and go into a command.
    pub fn new(version: &str, builder: &str, python: (u8, u8)) -> Result<Self, Error> {
        for (what, value) in [("the client's version", version), ("the builder version", builder)] {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '.';
            let is_version = value.starts_with(|c: char| c.is_ascii_digit())
                && value.chars().all(is_part)
                && value.len() <= 40;
            if !is_version {
                return Err(Error::Version { what, value: value.chars().take(80).collect() });
            }
        }
        Ok(Self { version: version.to_owned(), builder: builder.to_owned(), python })
    }

    /// Gets the layer, and makes it if this is the first time, with the Python of `base`.
    ///
    /// # Errors
    /// When the packages cannot be installed; nothing is kept then.
    pub fn layer(
        &self,
        builder: &Builder,
        base: &Image,
        runner: &dyn StepRunner,
        log: &mut Log<'_>,
    ) -> Result<Digest, Error> {
        self.check_python(base)?;
        let store = builder.store();
        let python = format!("{}.{}", self.python.0, self.python.1);
        let mut key = KeyHasher::new("client");
        key.texts([INSTALL, &self.version, &self.builder, &python, std::env::consts::ARCH]);
        let key = key.finish();
        let lock = store.lock(key);
        let _alone = lock.hold();
        if let Some(digest) = store.recall(key)?.and_then(|image| image.layers.first().copied()) {
            return Ok(digest);
        }
        let text = "is prepared, once; this takes a while";
        say(log, &format!("the client's package {} for Python {python} {text}", self.version));
        let draft = store.draft()?;
        let dirs = StepDirs { upper: draft.upper(), work: draft.work() };
        let wheels = wheels::imported(store)?.map(|image| image.layers).unwrap_or_default();
        let below: Vec<Digest> = base.layers.iter().chain(&wheels).copied().collect();
        let _used = store.lease(&below)?;
        let program = [INSTALL, &self.version, &self.builder];
        let below = store.diffs(&below)?;
        let mut step = RunStep::of_python(&program, &base.config, below, dirs, CLIENT_BUILD_MAX);
        if !wheels.is_empty() {
            step.env.push(("PALISADE_WHEELS".to_owned(), format!("/{}", wheels::FOLDER)));
        }
        let exit = runner
            .run(&step, log)
            .map_err(|source| Error::Runner { version: self.version.clone(), source })?;
        if exit != Exit::Code(0) {
            return Err(Error::Install { version: self.version.clone(), exit });
        }
        self.clean(&draft.upper())?;
        let layers: Vec<Digest> = store.commit(draft)?.into_iter().collect();
        let digest = layers.first().copied().ok_or_else(|| self.strays("nothing".to_owned()))?;
        let config = Config::default();
        store.remember(key, &Image { layers, config, python: Some(self.python) })?;
        Ok(digest)
    }

    fn check_python(&self, base: &Image) -> Result<(), Error> {
        if base.python == Some(self.python) {
            return Ok(());
        }
        let found = match base.python {
            Some((major, minor)) => format!("{major}.{minor}"),
            None => "no known version".to_owned(),
        };
        Err(Error::Python { wanted: self.python, found })
    }

    /// Over another image, anything else in the layer would hide or change files of that image.
    fn clean(&self, upper: &Path) -> Result<(), Error> {
        let fail = |source| Error::Files { version: self.version.clone(), source };
        for name in LITTER {
            remove_all(&upper.join(name)).map_err(fail)?;
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(upper).map_err(fail)? {
            names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        if names == WANTED { Ok(()) } else { Err(self.strays(names.join(", "))) }
    }

    fn strays(&self, names: String) -> Error {
        Error::Strays { version: self.version.clone(), names }
    }
}

#[cfg(test)]
mod tests {
    use super::Client;

    #[test]
    fn versions_of_clients_are_checked() {
        for version in ["1.6.4", "1.7.0rc1", "1.6.4.dev3"] {
            Client::new(version, "2025.06", (3, 11)).unwrap();
        }
        for version in ["", "1.6;x", "--pre", "1.6 x", "../1", "x1", &"1".repeat(41)] {
            let error = Client::new(version, "2025.06", (3, 11)).unwrap_err().to_string();
            assert!(error.contains("the client's version"), "{error}");
            assert!(Client::new("1.6.4", version, (3, 11)).is_err());
        }
    }
}
