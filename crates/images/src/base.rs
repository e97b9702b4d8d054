//! Base images: where FROM finds what it names.
//!
//! In this order: what was imported under the name; the mirrors of its registry, and the registry,
//! which are asked each time because names move; what was pulled before, when none of them can be
//! reached; the recipes of [`catalogue`].

use std::time::Instant;

use crate::build::{Builder, Log, say};
use crate::catalogue::{self, BaseRecipe};
use crate::claims::Claims;
use crate::debian;
use crate::image::Image;
use crate::key::KeyHasher;
use crate::layer::{Error as LayerError, Key};
use crate::pull::{PullError, pull, resolve};
use crate::reference::{Reference, ReferenceError};
use crate::registry::{Registries, RegistryError};
use crate::sources::{Credentials, Sources};

/// Why there is no base image. The texts are for the person whose build it is.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// What stands after FROM is no name.
    #[error(transparent)]
    Name(#[from] ReferenceError),
    /// It is nowhere.
    #[error(
        "the image {name} is not here and cannot be pulled ({tried}); bring it with `palisade \
        image import`, or name a registry that has it with `palisade serve --registry-mirror \
        {registry}=http://HOST:PORT`. Without a registry there are python:3.11-slim, \
        python:3.13-slim, python:3.14-slim, debian:bookworm-slim, debian:trixie-slim and scratch"
    )]
    NotThere {
        /// The image, written out.
        name: String,
        /// Its registry.
        registry: String,
        /// Who was asked, and what came of it.
        tried: String,
    },
    /// It is there and cannot be used.
    #[error("pulling {name} from {place}: {}", chain(source.as_ref()))]
    Pull {
        /// The image, written out.
        name: String,
        /// Where it is.
        place: String,
        /// What is wrong.
        source: Box<PullError>,
    },
    /// It could not be made of Debian packages.
    #[error(transparent)]
    Debian(#[from] debian::Error),
    /// The layer store failed.
    #[error(transparent)]
    Layers(#[from] LayerError),
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        cause = error.source();
    }
    text
}

/// Where images come from, and who is fetching what.
#[derive(Debug)]
pub(crate) struct Origins {
    sources: Sources,
    registries: Registries,
    pub(crate) claims: Claims,
}

impl Origins {
    pub(crate) fn new(sources: Sources) -> Self {
        Self { sources, registries: Registries::new(), claims: Claims::default() }
    }
}

/// What came of asking for an image.
enum Asked {
    Pulled(Box<Image>),
    /// Nobody has it or can be reached.
    Absent {
        tried: String,
        /// Nobody could be reached, so that nobody says it is gone or forbidden.
        is_silent: bool,
    },
}

impl Builder {
    /// Gets a base image by its name, without credentials; see [`Builder::base_with`].
    ///
    /// # Errors
    /// When it is nowhere to be had, or what there is cannot be used.
    pub fn base(&self, reference: &str, log: &mut Log<'_>) -> Result<Image, BaseError> {
        self.base_with(reference, None, log)
    }

    /// Gets a base image by its name: pulls it, or makes it if this is the first time. Takes from
    /// milliseconds to minutes.
    ///
    /// # Errors
    /// When it is nowhere to be had, or what there is cannot be used.
    pub fn base_with(
        &self,
        reference: &str,
        credentials: Option<&Credentials>,
        log: &mut Log<'_>,
    ) -> Result<Image, BaseError> {
        if reference == "scratch" {
            return Ok(Image::default());
        }
        let name: Reference = reference.parse()?;
        if let Some(image) = self.store().named(&name)? {
            return Ok(image);
        }
        let key = self.pulled_key(&name, credentials);
        let (tried, is_silent) = match self.ask(&name, credentials, log)? {
            Asked::Pulled(image) => {
                if self.store().recall(key)?.as_ref() != Some(&*image) {
                    self.store().remember(key, &image)?;
                }
                return Ok(*image);
            }
            Asked::Absent { tried, is_silent } => (tried, is_silent),
        };
        if is_silent && let Some(image) = self.store().recall(key)? {
            say(log, &format!("{name}: what was pulled before is used, for {tried}"));
            return Ok(image);
        }
        match catalogue::find(reference) {
            Ok(found) => self.make(reference, &found, log),
            Err(_) => {
                let registry = name.registry().to_owned();
                Err(BaseError::NotThere { name: name.to_string(), registry, tried })
            }
        }
    }

    /// Gets a base image for the server's own use: one that is here already is taken as it is,
    /// and nobody is asked for a newer one.
    ///
    /// # Errors
    /// When it is nowhere to be had, or what there is cannot be used.
    pub fn base_at_hand(&self, reference: &str, log: &mut Log<'_>) -> Result<Image, BaseError> {
        let name: Reference = reference.parse()?;
        if let Some(image) = self.store().named(&name)? {
            return Ok(image);
        }
        if let Some(image) = self.store().recall(self.pulled_key(&name, None))? {
            return Ok(image);
        }
        if let Ok(found) = catalogue::find(reference)
            && let Some(image) = self.store().recall(made_key(&found.recipe))?
        {
            return Ok(image);
        }
        self.base(reference, log)
    }

    /// Under which an image is remembered that was pulled by its name. Nobody else's credentials
    /// lead to it.
    fn pulled_key(&self, name: &Reference, credentials: Option<&Credentials>) -> Key {
        let mut key = KeyHasher::new("pulled");
        key.text(&name.to_string());
        if let Some(Credentials { username, password }) = credentials {
            key.bytes(self.store().salt());
            key.texts([username.as_str(), password.as_str()]);
        }
        key.finish()
    }

    fn ask(
        &self,
        name: &Reference,
        credentials: Option<&Credentials>,
        log: &mut Log<'_>,
    ) -> Result<Asked, BaseError> {
        let (mut tried, mut is_silent) = (Vec::new(), true);
        let mut unusable = None;
        for endpoint in self.origins.sources.endpoints(name) {
            let is_registry = endpoint.is_registry;
            let session = self.origins.registries.session(endpoint, name, credentials);
            let pulled = resolve(&session, name)
                .map_err(PullError::from)
                .and_then(|found| pull(self.store(), &self.origins.claims, &session, &found, log));
            let error = match pulled {
                Ok(image) => return Ok(Asked::Pulled(Box::new(image))),
                Err(error) => error,
            };
            let place = session.place().to_owned();
            let fail = |source| {
                let (name, source) = (name.to_string(), Box::new(source));
                BaseError::Pull { name, place, source }
            };
            match error {
                PullError::Registry(error) if error.is_passing() => {
                    tried.push(format!("{}: {error}", session.place()));
                }
                // A mirror need not have everything.
                PullError::Registry(
                    error @ (RegistryError::NotFound
                    | RegistryError::Denied { .. }
                    | RegistryError::Open),
                ) if !is_registry => {
                    is_silent = false;
                    tried.push(format!("{}: {error}", session.place()));
                }
                PullError::Registry(error) if !is_registry => {
                    unusable = unusable.or(Some(fail(error.into())));
                }
                error => return Err(fail(error)),
            }
        }
        match unusable {
            Some(error) => Err(error),
            None => Ok(Asked::Absent { tried: tried.join("; "), is_silent }),
        }
    }

    /// Makes an image of the catalogue, once.
    fn make(
        &self,
        reference: &str,
        found: &catalogue::Found,
        log: &mut Log<'_>,
    ) -> Result<Image, BaseError> {
        if let Some(note) = &found.note {
            say(log, &format!("{reference}: {note}"));
        }
        let (suite, minor) = match found.recipe {
            BaseRecipe::Scratch => return Ok(Image::default()),
            BaseRecipe::Debian(suite) => (suite, None),
            BaseRecipe::Python { minor, suite } => (suite, Some(minor)),
        };
        let key = made_key(&found.recipe);
        let lock = self.store().lock(key);
        let _alone = lock.hold();
        if let Some(image) = self.store().recall(key)? {
            return Ok(image);
        }
        let name = suite.name();
        say(log, &format!("{reference}: made of Debian {name} packages, once; this takes a while"));
        let started = Instant::now();
        let draft = self.store().draft()?;
        let config = debian::make(suite, minor, &draft.upper())?;
        let layers = self.store().commit(draft)?.into_iter().collect();
        let image = Image { layers, config, python: minor.map(|minor| (3, minor)) };
        self.store().remember(key, &image)?;
        say(log, &format!("{reference}: made in {:.0} s", started.elapsed().as_secs_f64()));
        Ok(image)
    }

    /// Reads out of an image's layers what decides which functions can run in it: its Python, and
    /// its C library. Steps may have changed both.
    ///
    /// # Errors
    /// When a layer is not here or cannot be read.
    pub fn inspect(&self, image: &mut Image) -> Result<(), LayerError> {
        crate::python::inspect(self.store(), image)
    }
}

/// Under which an image of the catalogue is remembered.
fn made_key(recipe: &BaseRecipe) -> Key {
    let mut key = KeyHasher::new("base");
    key.text(&debian::identity(recipe));
    key.finish()
}
