//! Building: from a recipe and a base to an image, each step once.
//!
//! A step that changes files has a key: a hash over its parent layers and all that it can see.
//! What a key led to is remembered, so the same step on the same files is not run again; two
//! builds that come to the same key at the same time run it once. Steps that only set something
//! make no layer. A step that fails leaves nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blobs::Digest;

use crate::base::{BaseError, Origins};
use crate::context::{Context, CopyError, CopyPlan, PlanSource, normalize};
use crate::image::Image;
use crate::key::KeyHasher;
use crate::layer::{Error as LayerError, Key, LayerStore};
use crate::limits::{COMMAND_BYTES_MAX, IMAGE_LAYERS_MAX};
use crate::recipe::{Command, Copy, CopySource, Instruction, Problem, Recipe, RecipeError, Step};
use crate::scope::Scope;
use crate::sources::{Credentials, Sources};
use crate::step::{Entry, EntryKind, Exit, RunError, RunStep, StepDirs, StepRunner};

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
        let mut build = Build {
            builder: self,
            request,
            runner,
            log,
            image: Image::default(),
            scope: Scope::new(request.args, request.recipe.escape),
            has_cmd: false,
        };
        let total = request.recipe.steps.len();
        for (index, step) in request.recipe.steps.iter().enumerate() {
            let place = Place { step, number: index + 1, total };
            say(build.log, &format!("Step {}/{total}: {}", place.number, step.text));
            build.take(&place)?;
        }
        Ok(build.image)
    }
}

/// Writes a line of this crate into a build's log.
pub(crate) fn say(log: &mut Log<'_>, line: &str) {
    log(format!("{line}\n").as_bytes());
}

/// A step and where the build is.
#[derive(Clone, Copy)]
struct Place<'r> {
    step: &'r Step,
    number: usize,
    total: usize,
}

impl Place<'_> {
    fn problem(&self, problem: Problem) -> Error {
        let Step { line, text, .. } = self.step;
        Error::Recipe(RecipeError { line: *line, text: text.clone(), problem })
    }

    fn runner(&self, source: RunError) -> Error {
        let text = self.step.text.clone();
        Error::Runner { text, number: self.number, total: self.total, source }
    }
}

struct Build<'b, 'l> {
    builder: &'b Builder,
    request: &'b Request<'b>,
    runner: &'b dyn StepRunner,
    log: &'b mut Log<'l>,
    image: Image,
    scope: Scope<'b>,
    /// Whether this recipe said CMD: an ENTRYPOINT then does not take it away.
    has_cmd: bool,
}

impl Build<'_, '_> {
    fn take(&mut self, place: &Place<'_>) -> Result<(), Error> {
        match &place.step.instruction {
            Instruction::From(name) => self.start_from(name, place)?,
            Instruction::Run { command, network, has_cache } => {
                if *has_cache {
                    let why = "caches are not kept; what the step puts there is in its layer";
                    say(self.log, &format!(" -> {why}"));
                }
                self.run(command, *network, place)?;
            }
            Instruction::Copy(copy) => self.copy(copy, place)?,
            Instruction::Workdir(path) => {
                let path = self.expand(path, place)?;
                let path = normalize(self.image.config.workdir(), &path);
                self.image.config.workdir.clone_from(&path);
                self.make_folder(&path, place)?;
            }
            Instruction::Env(pairs) => {
                // All of a line see what was set before the line.
                let pairs = self.expand_pairs(pairs, place)?;
                for (name, value) in pairs {
                    self.image.config.set_env(&name, value);
                }
            }
            Instruction::Label(pairs) => {
                let pairs = self.expand_pairs(pairs, place)?;
                self.image.config.labels.extend(pairs);
            }
            Instruction::Arg(args) => {
                for (name, default) in args {
                    let declared = self.scope.declare(&self.image.config, name, default.as_deref());
                    declared.map_err(|problem| place.problem(problem))?;
                }
            }
            Instruction::User(user) => self.image.config.user = self.expand(user, place)?,
            Instruction::Entrypoint(command) => {
                self.image.config.entrypoint = self.argv(command);
                if !self.has_cmd {
                    self.image.config.cmd.clear();
                }
            }
            Instruction::Cmd(command) => {
                self.image.config.cmd = self.argv(command);
                self.has_cmd = true;
            }
            Instruction::Shell(argv) => self.image.config.shell.clone_from(argv),
            Instruction::Expose(ports) => {
                let ports = self.expand_all(ports, place)?;
                self.image.config.exposed.extend(ports);
            }
            Instruction::Volume(paths) => {
                let paths = self.expand_all(paths, place)?;
                self.image.config.volumes.extend(paths);
            }
            Instruction::StopSignal(signal) => {
                self.image.config.stop_signal = self.expand(signal, place)?;
            }
            Instruction::Ignored(why) => say(self.log, &format!(" -> not used: {why}")),
        }
        Ok(())
    }

    fn start_from(&mut self, name: &str, place: &Place<'_>) -> Result<(), Error> {
        let name = self.expand(name, place)?;
        self.image = match self.request.bases.get(&name) {
            Some(image) => image.clone(),
            None => {
                let credentials = self.request.credentials;
                let base = self.builder.base_with(&name, credentials, self.log);
                base.map_err(|error| {
                    let Step { line, text, .. } = place.step;
                    Error::From { line: *line, text: text.clone(), source: Box::new(error) }
                })?
            }
        };
        self.scope.enter_stage();
        Ok(())
    }

    fn run(&mut self, command: &Command, network: bool, place: &Place<'_>) -> Result<(), Error> {
        let argv = self.argv(command);
        if argv.iter().any(|word| word.len() >= COMMAND_BYTES_MAX) {
            return Err(place.problem(Problem::TooLong("128 KiB in one command")));
        }
        let config = &self.image.config;
        let mut env = config.env.clone();
        if config.env("PATH").is_none() {
            env.push(("PATH".to_owned(), crate::image::DEFAULT_PATH.to_owned()));
        }
        let args = self.scope.env(config);
        let mut key = KeyHasher::new("run");
        key.digests(&self.image.layers);
        key.texts(argv.iter().map(String::as_str));
        for (name, value) in env.iter().chain(&args) {
            key.texts([name.as_str(), value.as_str()]);
        }
        key.texts([config.workdir(), &config.user, if network { "network" } else { "" }]);
        if !self.request.secrets.0.is_empty() {
            key.bytes(self.builder.store.salt());
            for (name, value) in &self.request.secrets.0 {
                key.texts([name.as_str(), value.as_str()]);
            }
        }
        env.extend(args);
        env.extend(self.scope.proxies());
        env.extend(self.request.secrets.0.iter().cloned());
        let (cwd, user) = (config.workdir().to_owned(), config.user.clone());
        let timeout = self.request.step_timeout;
        self.add_layer(key.finish(), place, |build, layers, dirs| {
            let (layers, dirs) = (layers.to_vec(), dirs.clone());
            let step = RunStep { layers, dirs, argv, env, cwd, user, network, timeout };
            match build.runner.run(&step, build.log).map_err(|e| place.runner(e))? {
                Exit::Code(0) => Ok(()),
                exit => Err(Error::StepFailed {
                    text: place.step.text.clone(),
                    number: place.number,
                    total: place.total,
                    exit,
                }),
            }
        })
    }

    fn copy(&mut self, copy: &Copy, place: &Place<'_>) -> Result<(), Error> {
        let mut sources = Vec::with_capacity(copy.sources.len());
        for source in &copy.sources {
            sources.push(match source {
                CopySource::Path(path) => PlanSource::Path(self.expand(path, place)?),
                CopySource::Text { name, content, expands } => {
                    let content = match expands {
                        true => self.expand_text(content, place)?,
                        false => content.clone(),
                    };
                    PlanSource::Text { name: name.clone(), content }
                }
            });
        }
        let destination = self.expand(&copy.destination, place)?;
        let owner = copy.chown.as_ref().map(|owner| self.expand(owner, place)).transpose()?;
        let plan = CopyPlan {
            is_add: copy.is_add,
            sources,
            destination: &destination,
            workdir: self.image.config.workdir(),
            owner: owner.as_deref(),
            mode: copy.chmod,
        };
        let entries = self.request.context.plan(&plan).map_err(|source| Error::Copy {
            line: place.step.line,
            text: place.step.text.clone(),
            source,
        })?;
        self.write(&entries, place)
    }

    fn make_folder(&mut self, path: &str, place: &Place<'_>) -> Result<(), Error> {
        if path == "/" {
            return Ok(());
        }
        let entry = Entry {
            path: path.into(),
            kind: EntryKind::Folder,
            mode: 0o755,
            owner: None,
            name_in_folder: None,
        };
        self.write(&[(entry, None)], place)
    }

    fn write(
        &mut self,
        entries: &[(Entry, Option<Digest>)],
        place: &Place<'_>,
    ) -> Result<(), Error> {
        let mut key = KeyHasher::new("write");
        key.digests(&self.image.layers);
        for (entry, digest) in entries {
            let owner = entry.owner.as_deref().unwrap_or_default();
            let inside = entry.name_in_folder.as_deref().unwrap_or_default();
            let mode = entry.mode.to_string();
            key.texts([entry.path.to_string_lossy().as_ref(), owner, inside, &mode]);
            key.digests(digest.as_slice());
        }
        let entries: Vec<Entry> = entries.iter().map(|(entry, _)| entry.clone()).collect();
        self.add_layer(key.finish(), place, |build, layers, dirs| {
            build.runner.write(layers, dirs, &entries).map_err(|e| place.runner(e))
        })
    }

    /// Puts the layer of a step on the image: the one that is remembered, or what `make` makes.
    fn add_layer(
        &mut self,
        key: Key,
        place: &Place<'_>,
        make: impl FnOnce(&mut Self, &[PathBuf], &StepDirs) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let store = Arc::clone(&self.builder.store);
        let lock = store.lock(key);
        let _alone = lock.hold();
        if !self.request.is_forced
            && let Some(image) = store.recall(key)?
        {
            self.image.layers = image.layers;
            say(self.log, &format!("Step {}/{}: cached", place.number, place.total));
            return Ok(());
        }
        if self.image.layers.len() >= IMAGE_LAYERS_MAX {
            return Err(Error::TooManyLayers);
        }
        let started = Instant::now();
        let draft = store.draft()?;
        let dirs = StepDirs { upper: draft.upper(), work: draft.work() };
        let _used = store.lease(&self.image.layers)?;
        let layers = store.diffs(&self.image.layers)?;
        make(self, &layers, &dirs)?;
        self.image.layers.extend(store.commit(draft)?);
        store.remember(key, &self.image)?;
        let seconds = started.elapsed().as_secs_f64();
        say(self.log, &format!("Step {}/{}: done in {seconds:.1} s", place.number, place.total));
        Ok(())
    }

    fn argv(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Shell(text) => self.image.config.shell_argv(text),
            Command::Exec(argv) => argv.clone(),
            Command::Script(text) => script_argv(text),
        }
    }

    fn expand(&self, text: &str, place: &Place<'_>) -> Result<String, Error> {
        self.scope.expand(&self.image.config, text).map_err(|problem| place.problem(problem))
    }

    fn expand_text(&self, text: &str, place: &Place<'_>) -> Result<String, Error> {
        self.scope.expand_text(&self.image.config, text).map_err(|problem| place.problem(problem))
    }

    fn expand_all(&self, texts: &[String], place: &Place<'_>) -> Result<Vec<String>, Error> {
        texts.iter().map(|text| self.expand(text, place)).collect()
    }

    fn expand_pairs(
        &self,
        pairs: &[(String, String)],
        place: &Place<'_>,
    ) -> Result<Vec<(String, String)>, Error> {
        let pair = |(name, value): &(String, String)| {
            Ok((self.expand(name, place)?, self.expand(value, place)?))
        };
        pairs.iter().map(pair).collect()
    }
}

/// A script that names its interpreter has to be a file for as long as it runs.
fn script_argv(text: &str) -> Vec<String> {
    let wrapper = "f=$(mktemp) || exit; printf %s \"$1\" >\"$f\" && chmod 700 \"$f\" && \"$f\"; \
        s=$?; rm -f \"$f\"; exit $s";
    ["/bin/sh", "-c", wrapper, "script", text].map(str::to_owned).to_vec()
}
