//! Stages: the instructions of a recipe, one after the other, up to the image of its last stage.
//!
//! A stage begins with an image (of its FROM) and changes it. Only stages that the last one needs
//! are built.

mod files;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::base::BaseError;
use crate::build::{Builder, Error, Log, Request, say};
use crate::catalogue;
use crate::context::normalize;
use crate::image::Image;
use crate::layer::Key;
use crate::limits::IMAGE_LAYERS_MAX;
use crate::recipe::{Command, Instruction, Problem, Recipe, RecipeError, RunMount, Step};
use crate::scope::Scope;
use crate::sources::Credentials;
use crate::step::{RunError, StepDirs, StepRunner};
use crate::uv;

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

/// A build on its way.
pub(crate) struct Build<'b, 'l> {
    builder: &'b Builder,
    request: &'b Request<'b>,
    runner: &'b dyn StepRunner,
    log: &'b mut Log<'l>,
    /// What the stage has come to.
    image: Image,
    scope: Scope<'b>,
    /// Whether this stage said CMD: an ENTRYPOINT then does not take it away.
    has_cmd: bool,
    /// Number of the stage.
    stage: usize,
    /// Images of finished stages, by their number.
    finished: BTreeMap<usize, Image>,
}

impl<'b, 'l> Build<'b, 'l> {
    pub(crate) fn new(
        builder: &'b Builder,
        request: &'b Request<'b>,
        runner: &'b dyn StepRunner,
        log: &'b mut Log<'l>,
    ) -> Self {
        let scope = Scope::new(request.args, request.recipe.escape);
        let (image, finished) = (Image::default(), BTreeMap::new());
        Self { builder, request, runner, log, image, scope, has_cmd: false, stage: 0, finished }
    }

    /// Runs what is needed; gives the image of the last stage.
    pub(crate) fn finish(mut self) -> Result<Image, Error> {
        let recipe = self.request.recipe;
        // The lines before the first FROM only set variables, which FROM lines may name.
        let globals = recipe.globals.len();
        for (index, step) in recipe.globals.iter().enumerate() {
            let place = Place { step, number: index + 1, total: globals };
            self.take(&place)?;
        }
        let needed = needed(recipe, &|name| self.scope.expand_from(name).ok());
        let total = globals + needed.iter().map(|at| recipe.stages[*at].steps.len()).sum::<usize>();
        let mut number = globals;
        for at in needed {
            self.stage = at;
            self.has_cmd = false;
            for step in &recipe.stages[at].steps {
                number += 1;
                let place = Place { step, number, total };
                say(self.log, &format!("Step {number}/{total}: {}", step.text));
                self.take(&place)?;
            }
            self.finished.insert(at, self.image.clone());
        }
        Ok(self.image)
    }

    fn take(&mut self, place: &Place<'_>) -> Result<(), Error> {
        match &place.step.instruction {
            Instruction::From(name) => self.start_from(name, place)?,
            Instruction::Run { command, network, mounts } => {
                self.run(command, *network, mounts, place)?;
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
        let expanded = self.scope.expand_from(name);
        let name = expanded.map_err(|problem| place.problem(problem))?;
        self.image = match self.request.recipe.stage(&name, self.stage) {
            Some(stage) => self.finished.get(&stage).cloned().unwrap_or_default(),
            None => self.named(&name, self.request.credentials, place)?,
        };
        self.scope.enter_stage();
        Ok(())
    }

    /// The tree that `--from=` or `from=` names, and what to call it.
    fn source(&mut self, name: &str, place: &Place<'_>) -> Result<(Image, String), Error> {
        match self.request.recipe.source(name, self.stage) {
            Some(stage) => {
                let image = self.finished.get(&stage).cloned().unwrap_or_default();
                Ok((image, format!("the stage {name}")))
            }
            // The build's credentials are for the registry of its FROM, and shown to no other.
            None => Ok((self.named(name, None, place)?, format!("the image {name}"))),
        }
    }

    /// An image that is no stage.
    fn named(
        &mut self,
        name: &str,
        credentials: Option<&Credentials>,
        place: &Place<'_>,
    ) -> Result<Image, Error> {
        if let Some(image) = self.request.bases.get(name) {
            return Ok(image.clone());
        }
        let error = match self.builder.base_with(name, credentials, self.log) {
            Ok(image) => return Ok(image),
            Err(error) => error,
        };
        // Without a registry: uv's program is in its package, too.
        if let (BaseError::NotThere { .. }, Some(found)) = (&error, catalogue::find_uv(name)) {
            let version = found.map_err(|problem| place.problem(problem))?;
            let minor = self.image.python.map(|(_, minor)| minor);
            let request = uv::Request { version, minor, is_forced: self.request.is_forced };
            return request.image(self.builder, self.runner, self.log);
        }
        let Step { line, text, .. } = place.step;
        Err(Error::From { line: *line, text: text.clone(), source: Box::new(error) })
    }

    /// Puts the layer of a step on the image: the one that is remembered, or what `make` makes.
    fn add_layer(
        &mut self,
        key: Key,
        place: &Place<'_>,
        make: impl FnOnce(&mut Self, &[PathBuf], &StepDirs) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let store = Arc::clone(self.builder.store());
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
            Command::Script(text) => run::script_argv(text),
        }
    }

    fn expand(&self, text: &str, place: &Place<'_>) -> Result<String, Error> {
        self.scope.expand(&self.image.config, text).map_err(|problem| place.problem(problem))
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

/// The stages that the last one needs, itself included, in order.
fn needed(recipe: &Recipe, expand: &dyn Fn(&str) -> Option<String>) -> BTreeSet<usize> {
    let mut needed = BTreeSet::new();
    let mut waiting: Vec<usize> = recipe.stages.len().checked_sub(1).into_iter().collect();
    while let Some(at) = waiting.pop() {
        if !needed.insert(at) {
            continue;
        }
        for step in &recipe.stages[at].steps {
            match &step.instruction {
                // A name that cannot be expanded is an error when its line is taken.
                Instruction::From(name) => {
                    waiting.extend(expand(name).and_then(|name| recipe.stage(&name, at)));
                }
                Instruction::Copy(copy) => {
                    waiting.extend(copy.from.iter().filter_map(|name| recipe.source(name, at)));
                }
                Instruction::Run { mounts, .. } => waiting.extend(mounts.iter().filter_map(|m| {
                    let RunMount::Bind { from: Some(name), .. } = m else { return None };
                    recipe.source(name, at)
                })),
                _ => {}
            }
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::needed;
    use crate::recipe::parse;

    #[test]
    fn only_stages_that_the_last_one_needs_are_built() {
        let check = |lines: &[&str], wanted: &[usize]| {
            let recipe = parse(lines).unwrap();
            let expand = |name: &str| Some(name.replace("$B", "b"));
            let found: Vec<usize> = needed(&recipe, &expand).into_iter().collect();
            assert_eq!(found, wanted, "{lines:?}");
        };
        check(&["FROM a"], &[0]);
        check(&["FROM a AS a", "FROM a AS b", "FROM c"], &[2]);
        check(&["FROM a AS a", "FROM a AS b", "FROM $B"], &[0, 1, 2]);
        check(&["FROM a AS a", "FROM x AS b", "FROM c", "COPY --from=a /x /"], &[0, 2]);
        check(&["FROM a AS a", "FROM x AS b", "FROM c", "COPY --from=1 /x /"], &[1, 2]);
        check(&["FROM a AS a", "FROM x", "RUN --mount=from=a,target=/x y"], &[0, 1]);
        check(&["FROM a AS a", "FROM c", "COPY --from=later /x /"], &[1]);
    }
}
