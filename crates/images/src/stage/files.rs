//! COPY, ADD and the folder of WORKDIR: files that get into a layer without a command.

use std::path::PathBuf;

use blobs::Digest;

use crate::build::Error;
use crate::context::{CopyPlan, PlanSource, names_folder, normalize};
use crate::key::KeyHasher;
use crate::recipe::{Copy, CopySource, Problem};
use crate::stage::{Build, Place};
use crate::step::{Entry, EntryKind, StepDirs, TreeCopy};

/// Where a tree lies.
enum From {
    /// In layers of the store.
    Layers,
    /// In a folder of the host.
    Folder(PathBuf),
}

/// A tree that files are copied from.
struct Tree {
    /// What it is called in errors.
    name: String,
    from: From,
    /// What it holds; its layers, where it has some.
    digests: Vec<Digest>,
    /// What of it is copied: absolute paths, perhaps with patterns.
    sources: Vec<String>,
}

impl Build<'_, '_> {
    pub(super) fn copy(&mut self, copy: &Copy, place: &Place<'_>) -> Result<(), Error> {
        let destination = self.expand(&copy.destination, place)?;
        let owner = copy.chown.as_ref().map(|owner| self.expand(owner, place)).transpose()?;
        if let Some(tree) = self.tree(copy, place)? {
            return self.copy_tree(tree, &destination, owner, copy.chmod, place);
        }
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

    /// The tree that a copy is from, where it is from one.
    fn tree(&mut self, copy: &Copy, place: &Place<'_>) -> Result<Option<Tree>, Error> {
        let path = |source: &CopySource| match source {
            CopySource::Path(path) => Some(self.expand(path, place)),
            CopySource::Text { .. } => None,
        };
        let paths: Vec<String> =
            copy.sources.iter().filter_map(path).collect::<Result<_, Error>>()?;
        let has_texts = paths.len() < copy.sources.len();
        let sources = paths.iter().map(|path| normalize("/", path)).collect();
        let Some(from) = &copy.from else {
            let tree = self.request.context.tree(&paths).filter(|_| !has_texts);
            return Ok(tree.map(|tree| Tree {
                name: tree.name.clone(),
                from: From::Folder(tree.folder.clone()),
                digests: vec![tree.digest],
                sources,
            }));
        };
        if has_texts {
            let wanted = "a here document is no file of another stage; write a line for each";
            let problem = Problem::Value { what: "--from", value: from.clone(), wanted };
            return Err(place.problem(problem));
        }
        let (image, name) = self.source(from, place)?;
        Ok(Some(Tree { name, from: From::Layers, digests: image.layers, sources }))
    }

    /// `COPY --from=`, or from a context that is a tree.
    fn copy_tree(
        &mut self,
        tree: Tree,
        destination: &str,
        owner: Option<String>,
        mode: Option<u32>,
        place: &Place<'_>,
    ) -> Result<(), Error> {
        let mut key = KeyHasher::new("copy");
        key.digests(&self.image.layers);
        key.digests(&tree.digests);
        key.texts(tree.sources.iter().map(String::as_str));
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
            let (from, _used) = match tree.from {
                From::Layers => {
                    let used = store.lease(&tree.digests)?;
                    (store.diffs(&tree.digests)?, Some(used))
                }
                From::Folder(folder) => (vec![folder], None),
            };
            let copy = TreeCopy {
                name: tree.name,
                from,
                scratch: StepDirs { upper: scratch.upper(), work: scratch.work() },
                sources: tree.sources,
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
    }
}
