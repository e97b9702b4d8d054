//! Building: from a recipe and a base to an image, each step once.
//!
//! A step that changes files has a key: a hash over its parent layers and all that it can see.
//! What a key led to is remembered, so the same step on the same files is not run again; two
//! builds that come to the same key at the same time run it once. Steps that only set something
//! make no layer. A step that fails leaves nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{BaseError, Origins};
use crate::context::{Context, CopyError};
use crate::image::Image;
use crate::layer::{Error as LayerError, LayerStore};
use crate::limits::IMAGE_LAYERS_MAX;
use crate::recipe::{Recipe, RecipeError};
use crate::sources::{Credentials, Sources};
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
    /// What opens a private registry from which FROM takes an image.
    pub credentials: Option<&'r Credentials>,
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
    #[error("line {line} of the recipe, {text:?}: {source}")]
    From {
        /// Number of the line.
        line: usize,
        /// The line, shortened.
        text: String,
        /// Why it is not there.
        source: Box<BaseError>,
    },
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
}

/// Builds images into a layer store.
#[derive(Clone, Debug)]
pub struct Builder {
    store: Arc<LayerStore>,
    pub(crate) origins: Arc<Origins>,
}

impl Builder {
    /// A builder that keeps its layers in `store`, and asks registries themselves.
    #[must_use]
    pub fn new(store: Arc<LayerStore>) -> Self {
        Self::with_sources(store, Sources::default())
    }

    /// A builder that keeps its layers in `store`, and looks for images in `sources`.
    #[must_use]
    pub fn with_sources(store: Arc<LayerStore>, sources: Sources) -> Self {
        Self { store, origins: Arc::new(Origins::new(sources)) }
    }

    /// The store that the layers are in.
    #[must_use]
    pub fn store(&self) -> &Arc<LayerStore> {
        &self.store
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
