//! Building: from a recipe and a base to an image, each step once.
//!
//! A step that changes files has a key: a hash over its parent layers and all that it can see.
//! What a key led to is remembered, so the same step on the same files is not run again; two
//! builds that come to the same key at the same time run it once. Steps that only set something
//! make no layer. A step that fails leaves nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::catalogue::{self, BaseRecipe};
use crate::context::{Context, CopyError};
use crate::debian;
use crate::image::Image;
use crate::key::KeyHasher;
use crate::layer::{Error as LayerError, LayerStore};
use crate::limits::IMAGE_LAYERS_MAX;
use crate::recipe::{Problem, Recipe, RecipeError};
use crate::stage::Build;
use crate::step::{Exit, RunError, StepRunner};

/// Where a build's log goes: bytes as they come, lines of this crate whole.
pub type Log<'l> = dyn FnMut(&[u8]) + 'l;

/// What is to be built.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// The recipe.
    pub recipe: &'r Recipe,
    /// Images that FROM may name, by name. Other names are looked up in the catalogue.
    pub bases: &'r BTreeMap<String, Image>,
    /// What COPY takes files from.
    pub context: &'r Context,
    /// Values for ARG.
    pub args: &'r BTreeMap<String, String>,
    /// Environment variables that RUN sees and that stay out of the image. Their values are part
    /// of keys, so who has other secrets does not get what was built with these.
    pub secrets: &'r Secrets,
    /// Whether to run every step although it was run before.
    pub is_forced: bool,
    /// How long one RUN may take.
    pub step_timeout: Option<Duration>,
}

/// Environment variables that nobody prints.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(pub Vec<(String, String)>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Why a build failed. The texts are for the person whose build it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A line of the recipe cannot be used.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A base image is not there.
    #[error(transparent)]
    NoBase(Problem),
    /// A COPY cannot be done.
    #[error("line {line} of the recipe, {text:?}: {source}")]
    Copy {
        /// Number of the line.
        line: usize,
        /// The line, shortened.
        text: String,
        /// What is wrong.
        source: CopyError,
    },
    /// A command of the recipe failed.
    #[error("{text:?} (step {number} of {total}) ends by {exit}; its output says why")]
    StepFailed {
        /// The instruction.
        text: String,
        /// Number of the step, from 1.
        number: usize,
        /// Number of steps.
        total: usize,
        /// How it ended.
        exit: Exit,
    },
    /// A step could not be run.
    #[error("{text:?} (step {number} of {total}) cannot be run: {source}")]
    Runner {
        /// The instruction.
        text: String,
        /// Number of the step, from 1.
        number: usize,
        /// Number of steps.
        total: usize,
        /// Why.
        source: RunError,
    },
    /// The package of uv could not be fetched.
    #[error("fetching the package of uv{version} fails: {source}")]
    Uv {
        /// As in a requirement; empty for the newest.
        version: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The image would have more layers than an image may.
    #[error("the image has more than {max} layers; write several commands into one RUN with &&",
        max = IMAGE_LAYERS_MAX)]
    TooManyLayers,
    /// The layer store failed.
    #[error(transparent)]
    Layers(#[from] LayerError),
    /// A base image could not be made.
    #[error(transparent)]
    Base(#[from] debian::Error),
}

/// Builds images into a layer store.
#[derive(Clone, Debug)]
pub struct Builder {
    store: Arc<LayerStore>,
}

impl Builder {
    /// A builder that keeps its layers in `store`.
    #[must_use]
    pub fn new(store: Arc<LayerStore>) -> Self {
        Self { store }
    }

    /// The store that the layers are in.
    #[must_use]
    pub fn store(&self) -> &Arc<LayerStore> {
        &self.store
    }

    /// Gets a base image by its name, and makes it if this is the first time. Takes from half a
    /// minute to minutes then.
    ///
    /// Base images have one source so far, the recipes of [`catalogue`]. Registries will be
    /// looked at between what is remembered and the recipe.
    ///
    /// # Errors
    /// [`Error::NoBase`], [`Error::Base`] or [`Error::Layers`].
    pub fn base(&self, reference: &str, log: &mut Log<'_>) -> Result<Image, Error> {
        let found = catalogue::find(reference).map_err(Error::NoBase)?;
        if let Some(note) = found.note {
            say(log, &format!("{reference}: {note}"));
        }
        let (suite, minor) = match found.recipe {
            BaseRecipe::Scratch => return Ok(Image::default()),
            BaseRecipe::Debian(suite) => (suite, None),
            BaseRecipe::Python { minor, suite } => (suite, Some(minor)),
        };
        let mut key = KeyHasher::new("base");
        key.text(&debian::identity(&found.recipe));
        let key = key.finish();
        let lock = self.store.lock(key);
        let _alone = lock.hold();
        if let Some(image) = self.store.recall(key)? {
            return Ok(image);
        }
        let name = suite.name();
        say(log, &format!("{reference}: made of Debian {name} packages, once; this takes a while"));
        let started = Instant::now();
        let draft = self.store.draft()?;
        let config = debian::make(suite, minor, &draft.upper())?;
        let layers = self.store.commit(draft)?.into_iter().collect();
        let image = Image { layers, config, python: minor.map(|minor| (3, minor)) };
        self.store.remember(key, &image)?;
        say(log, &format!("{reference}: made in {:.0} s", started.elapsed().as_secs_f64()));
        Ok(image)
    }

    /// Builds what is asked for. The log gets a line for each step and the output of commands.
    ///
    /// # Errors
    /// The first failure of a step. Layers of the steps before it are kept for the next build.
    pub fn build(
        &self,
        request: &Request<'_>,
        runner: &dyn StepRunner,
        log: &mut Log<'_>,
    ) -> Result<Image, Error> {
        Build::new(self, request, runner, log).finish()
    }
}

/// Writes a line of this crate into a build's log.
pub(crate) fn say(log: &mut Log<'_>, line: &str) {
    log(format!("{line}\n").as_bytes());
}
