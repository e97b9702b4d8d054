//! COPY, ADD and the folder of WORKDIR: files that get into a layer without a command.

use std::path::PathBuf;

use blobs::Digest;

use crate::build::Error;
use crate::context::{CopyPlan, PlanSource, names_folder, normalize};
use crate::key::KeyHasher;
use crate::recipe::{Copy, CopySource};
use crate::stage::{Build, Place};
use crate::step::{Entry, EntryKind, StepDirs, TreeCopy};

impl Build<'_, '_> {
    pub(super) fn copy(&mut self, copy: &Copy, place: &Place<'_>) -> Result<(), Error> {
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
        if let Some(from) = &copy.from {
            // Its texts are written beside what is copied.
            let (paths, texts): (Vec<_>, Vec<_>) =
                plan.sources.into_iter().partition(|one| matches!(one, PlanSource::Path(_)));
            if !texts.is_empty() {
                let wanted = "a here document is no file of another stage; write two lines";
                let value = from.clone();
                let problem = crate::recipe::Problem::Value { what: "--from", value, wanted };
                return Err(place.problem(problem));
            }
            let paths = paths.into_iter().filter_map(|one| match one {
                PlanSource::Path(path) => Some(normalize("/", &path)),
                PlanSource::Text { .. } => None,
            });
            return self.copy_tree(from, paths.collect(), &destination, owner, copy.chmod, place);
        }
        let entries = self.request.context.plan(&plan).map_err(|source| Error::Copy {
            line: place.step.line,
            text: place.step.text.clone(),
            source,
        })?;
        self.write(&entries, place)
    }

    /// `COPY --from=`.
    fn copy_tree(
        &mut self,
        from: &str,
        sources: Vec<String>,
        destination: &str,
        owner: Option<String>,
        mode: Option<u32>,
        place: &Place<'_>,
    ) -> Result<(), Error> {
        let (source, name) = self.source(from, place)?;
        let mut key = KeyHasher::new("copy");
        key.digests(&self.image.layers);
        key.digests(&source.layers);
        key.texts(sources.iter().map(String::as_str));
        let into_folder = names_folder(destination);
        let destination = PathBuf::from(normalize(self.image.config.workdir(), destination));
        key.texts([
            destination.to_string_lossy().as_ref(),
            if into_folder { "/" } else { "" },
            owner.as_deref().unwrap_or_default(),
            &mode.map(|mode| mode.to_string()).unwrap_or_default(),
        ]);
        self.add_layer(key.finish(), place, |build, layers, dirs| {
            let store = build.builder.store();
            let scratch = store.draft()?;
            let copy = TreeCopy {
                name,
                from: store.diffs(&source.layers)?,
                scratch: StepDirs { upper: scratch.upper(), work: scratch.work() },
                sources,
                destination,
                into_folder,
                owner,
                mode,
            };
            build.runner.copy(layers, dirs, &copy).map_err(|e| place.runner(e))
        })
    }

    pub(super) fn make_folder(&mut self, path: &str, place: &Place<'_>) -> Result<(), Error> {
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
        hash_entries(entries, &mut key);
        let entries: Vec<Entry> = entries.iter().map(|(entry, _)| entry.clone()).collect();
        self.add_layer(key.finish(), place, |build, layers, dirs| {
            build.runner.write(layers, dirs, &entries).map_err(|e| place.runner(e))
        })
    }

    fn expand_text(&self, text: &str, place: &Place<'_>) -> Result<String, Error> {
        self.scope.expand_text(&self.image.config, text).map_err(|problem| place.problem(problem))
    }
}

/// All that decides what entries write.
pub(super) fn hash_entries(entries: &[(Entry, Option<Digest>)], key: &mut KeyHasher) {
    for (entry, digest) in entries {
        let owner = entry.owner.as_deref().unwrap_or_default();
        let inside = entry.name_in_folder.as_deref().unwrap_or_default();
        let mode = entry.mode.to_string();
        key.texts([entry.path.to_string_lossy().as_ref(), owner, inside, &mode]);
        key.digests(digest.as_slice());
        if let EntryKind::Link(target) = &entry.kind {
            key.texts(["link", target]);
        }
    }
}
