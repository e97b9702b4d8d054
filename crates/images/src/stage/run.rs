//! RUN: a command in a container, and what is mounted for it alone.

use std::path::PathBuf;

use blobs::Digest;

use crate::build::{Error, say};
use crate::context::{CopyPlan, PlanSource, normalize};
use crate::key::KeyHasher;
use crate::layer::Draft;
use crate::limits::COMMAND_BYTES_MAX;
use crate::recipe::{Command, Problem, RunMount};
use crate::stage::files::hash_entries;
use crate::stage::{Build, Place};
use crate::step::{Entry, Exit, RunStep, StepDirs, StepMount, TreeCopy};

/// What a step's mounts come to.
#[derive(Default)]
struct Mounts {
    /// What the runner makes.
    made: Vec<StepMount>,
    /// Variables that hold secrets.
    env: Vec<(String, String)>,
    /// Files that lie below the step's own layer, in the order of their mounts.
    bound: Vec<Bound>,
}

/// Where a bind has its files from.
enum Bound {
    Context(Vec<(Entry, Option<Digest>)>),
    Tree { layers: Vec<Digest>, name: String, source: String, target: String },
}

impl Build<'_, '_> {
    pub(super) fn run(
        &mut self,
        command: &Command,
        network: bool,
        mounts: &[RunMount],
        place: &Place<'_>,
    ) -> Result<(), Error> {
        let argv = self.argv(command);
        if argv.iter().any(|word| word.len() >= COMMAND_BYTES_MAX) {
            return Err(place.problem(Problem::TooLong("128 KiB in one command")));
        }
        let mounts = self.read_mounts(mounts, place)?;
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
        self.hash_secrets(&mut key);
        mounts.hash(&mut key);
        env.extend(args);
        env.extend(self.scope.proxies());
        env.extend(self.request.secrets.0.iter().cloned());
        env.extend(mounts.env.iter().cloned());
        let (cwd, user) = (config.workdir().to_owned(), config.user.clone());
        let timeout = self.request.step_timeout;
        self.add_layer(key.finish(), place, |build, layers, dirs| {
            let (layers, dirs) = (layers.to_vec(), dirs.clone());
            let drafts = build.lay(&mounts.bound, &layers, place)?;
            let bound = drafts.iter().map(Draft::upper).collect();
            let mounts = mounts.made;
            let step =
                RunStep { layers, bound, dirs, argv, env, cwd, user, mounts, network, timeout };
            let exit = build.runner.run(&step, build.log).map_err(|e| place.runner(e))?;
            drop(drafts);
            match exit {
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

    /// Their values are hashed with a salt: a key tells nothing about them.
    fn hash_secrets(&self, key: &mut KeyHasher) {
        if self.request.secrets.0.is_empty() {
            return;
        }
        key.bytes(self.builder.store().salt());
        for (name, value) in &self.request.secrets.0 {
            key.texts([name.as_str(), value.as_str()]);
        }
    }

    fn read_mounts(&mut self, mounts: &[RunMount], place: &Place<'_>) -> Result<Mounts, Error> {
        let mut read = Mounts::default();
        for mount in mounts {
            match mount {
                RunMount::Cache => {
                    let why = "caches are not kept; what the step puts there is in its layer";
                    say(self.log, &format!(" -> {why}"));
                }
                RunMount::Tmpfs { target, size_bytes } => {
                    let (target, size_bytes) = (self.inside(target, place)?.into(), *size_bytes);
                    read.made.push(StepMount::Tmpfs { target, size_bytes });
                }
                RunMount::Secret { id, target, env, mode, is_required } => {
                    let known = &self.request.secrets.0;
                    let value = known.iter().rfind(|(name, _)| name == id);
                    let Some((_, value)) = value else {
                        if *is_required {
                            let wanted = "no secret of this build has a variable of that name";
                            let value = id.clone();
                            let what = "the secret's id";
                            return Err(place.problem(Problem::Value { what, value, wanted }));
                        }
                        continue;
                    };
                    if let Some(name) = env {
                        read.env.push((name.clone(), value.clone()));
                    }
                    // As in Docker, a variable alone makes no file.
                    if env.is_none() || target.is_some() {
                        let content = value.clone().into_bytes();
                        let default = format!("/run/secrets/{id}");
                        let target = self.inside(target.as_ref().unwrap_or(&default), place)?;
                        let (target, mode) = (target.into(), *mode);
                        read.made.push(StepMount::File { target, content, mode });
                    }
                }
                RunMount::Bind { from, source, target } => {
                    let bound = self.read_bind(from.as_deref(), source, target, place)?;
                    read.bound.push(bound);
                }
            }
        }
        Ok(read)
    }

    fn read_bind(
        &mut self,
        from: Option<&str>,
        source: &str,
        target: &str,
        place: &Place<'_>,
    ) -> Result<Bound, Error> {
        let target = self.inside(target, place)?;
        let source = normalize("/", &self.expand(source, place)?);
        if let Some(from) = from {
            let (image, name) = self.source(from, place)?;
            return Ok(Bound::Tree { layers: image.layers, name, source, target });
        }
        let plan = CopyPlan {
            is_add: false,
            sources: vec![PlanSource::Path(source)],
            destination: &target,
            workdir: "/",
            owner: None,
            mode: None,
        };
        let entries = self.request.context.plan(&plan).map_err(|source| Error::Copy {
            line: place.step.line,
            text: place.step.text.clone(),
            source,
        })?;
        // What is bound stands at the target itself, also over a folder.
        let at_target = |(entry, digest): (Entry, Option<Digest>)| {
            (Entry { name_in_folder: None, ..entry }, digest)
        };
        Ok(Bound::Context(entries.into_iter().map(at_target).collect()))
    }

    /// A mount's target: absolute, from the working folder.
    fn inside(&self, target: &str, place: &Place<'_>) -> Result<String, Error> {
        let target = self.expand(target, place)?;
        Ok(normalize(self.image.config.workdir(), &target))
    }

    /// Lays bound files between the image and the step's own layer, so that they are in no layer
    /// that stays. They last as long as what is returned.
    fn lay(
        &self,
        bound: &[Bound],
        layers: &[PathBuf],
        place: &Place<'_>,
    ) -> Result<Vec<Draft>, Error> {
        let store = self.builder.store();
        let mut layers = layers.to_vec();
        let mut drafts = Vec::with_capacity(bound.len());
        for bound in bound {
            let draft = store.draft()?;
            let dirs = StepDirs { upper: draft.upper(), work: draft.work() };
            match bound {
                Bound::Context(entries) => {
                    let entries: Vec<Entry> = entries.iter().map(|(e, _)| e.clone()).collect();
                    self.runner.write(&layers, &dirs, &entries).map_err(|e| place.runner(e))?;
                }
                Bound::Tree { layers: from, name, source, target } => {
                    let scratch = store.draft()?;
                    let _used = store.lease(from)?;
                    let copy = TreeCopy {
                        name: name.clone(),
                        from: store.diffs(from)?,
                        scratch: StepDirs { upper: scratch.upper(), work: scratch.work() },
                        sources: vec![source.clone()],
                        destination: target.into(),
                        into_folder: false,
                        owner: None,
                        mode: None,
                    };
                    self.runner.copy(&layers, &dirs, &copy).map_err(|e| place.runner(e))?;
                }
            }
            layers.push(draft.upper());
            drafts.push(draft);
        }
        Ok(drafts)
    }
}

impl Mounts {
    /// Secrets are in the key already.
    fn hash(&self, key: &mut KeyHasher) {
        for mount in &self.made {
            match mount {
                StepMount::Tmpfs { target, size_bytes } => {
                    let size = size_bytes.map(|size| size.to_string()).unwrap_or_default();
                    key.texts(["tmpfs", target.to_string_lossy().as_ref(), &size]);
                }
                StepMount::File { target, mode, .. } => {
                    let mode = mode.to_string();
                    key.texts(["secret", target.to_string_lossy().as_ref(), &mode]);
                }
            }
        }
        for (name, _) in &self.env {
            key.texts(["secret", name]);
        }
        for bound in &self.bound {
            match bound {
                Bound::Context(entries) => {
                    key.text("bind");
                    hash_entries(entries, key);
                }
                Bound::Tree { layers, source, target, .. } => {
                    key.texts(["bind", source, target]);
                    key.digests(layers);
                }
            }
        }
    }
}

/// A script that names its interpreter has to be a file for as long as it runs.
pub(super) fn script_argv(text: &str) -> Vec<String> {
    let wrapper = "f=$(mktemp) || exit; printf %s \"$1\" >\"$f\" && chmod 700 \"$f\" && \"$f\"; \
        s=$?; rm -f \"$f\"; exit $s";
    ["/bin/sh", "-c", wrapper, "script", text].map(str::to_owned).to_vec()
}
