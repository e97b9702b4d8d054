//! The build context, and what a COPY takes from it to where, by Docker's rules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use blobs::Digest;

use crate::limits::NAMES_SHOWN_MAX;
use crate::pattern::{glob, is_pattern};
use crate::step::{Entry, EntryKind, Source};

/// A file of the build context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextFile {
    /// Where it is in the context; the context's root is `/`.
    pub path: String,
    /// Its content.
    pub source: Source,
    /// The sha256 of its content, which the caller has verified.
    pub digest: Digest,
    /// Its permission bits; 0 stands for 0644.
    pub mode: u32,
}

impl ContextFile {
    /// A small file that is in memory, with mode 0644.
    #[must_use]
    pub fn of_bytes(path: &str, bytes: &[u8]) -> Self {
        let (source, digest) = (Source::Bytes(bytes.into()), Digest::of(bytes));
        Self { path: path.to_owned(), source, digest, mode: 0o644 }
    }
}

/// Files that COPY may take.
#[derive(Clone, Debug, Default)]
pub struct Context {
    files: BTreeMap<String, ContextFile>,
    folders: BTreeSet<String>,
    tree: Option<ContextTree>,
}

/// A folder of the host that is a build context as it is, links and owners included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextTree {
    /// What it is called in errors.
    pub name: String,
    /// Where it lies; it is the context's root. Never written.
    pub folder: PathBuf,
    /// A digest of all that is in it, which the caller vouches for.
    pub digest: Digest,
}

/// A COPY that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Nothing in the context has that name.
    #[error("{path:?} is not in the build context{held}")]
    Missing {
        /// As the recipe says.
        path: String,
        /// What is there.
        held: String,
    },
    /// More than one file for one name.
    #[error("several files are copied to {destination:?}, which is no folder; end it with a /")]
    NotFolder {
        /// As the recipe says.
        destination: String,
    },
    /// `ADD` would unpack it.
    #[error("ADD of the archive {path:?} is not supported; COPY it and unpack it in a RUN")]
    Archive {
        /// As the recipe says.
        path: String,
    },
    /// A file of the context cannot be read.
    #[error("reading {path:?} of the build context fails")]
    Read {
        /// In the context.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A COPY with its variables expanded.
#[derive(Debug)]
pub(crate) struct CopyPlan<'r> {
    pub(crate) is_add: bool,
    pub(crate) sources: Vec<PlanSource>,
    pub(crate) destination: &'r str,
    pub(crate) workdir: &'r str,
    pub(crate) owner: Option<&'r str>,
    pub(crate) mode: Option<u32>,
}

/// One source with its variables expanded.
#[derive(Debug)]
pub(crate) enum PlanSource {
    Path(String),
    Text { name: String, content: String },
}

impl Context {
    /// A context of these files. Of two with the same path the later one counts.
    #[must_use]
    pub fn new(files: impl IntoIterator<Item = ContextFile>) -> Self {
        let mut context = Self::default();
        for file in files {
            let path = normalize("/", &file.path);
            for (index, _) in path.match_indices('/') {
                context.folders.insert(path[..index.max(1)].to_owned());
            }
            context.files.insert(path, file);
        }
        context
    }

    /// The same context with this tree: COPY takes from it what no file of the context has.
    #[must_use]
    pub fn with_tree(self, tree: ContextTree) -> Self {
        Self { tree: Some(tree), ..self }
    }

    /// The tree, where a COPY of these paths is one of it: where no file is meant.
    pub(crate) fn tree(&self, paths: &[String]) -> Option<&ContextTree> {
        let is_file = |path: &String| {
            let path = normalize("/", path);
            self.files.contains_key(&path) || (path != "/" && self.folders.contains(&path))
        };
        self.tree.as_ref().filter(|_| !paths.iter().any(is_file))
    }

    /// What a copy writes, in order, with the digest of each file's content.
    pub(crate) fn plan(
        &self,
        copy: &CopyPlan<'_>,
    ) -> Result<Vec<(Entry, Option<Digest>)>, CopyError> {
        let mut target =
            Target { copy, is_folder: names_folder(copy.destination), entries: vec![] };
        let mut matches = Vec::new();
        for source in &copy.sources {
            match source {
                PlanSource::Text { name, content } => matches.push(Match::Text(name, content)),
                PlanSource::Path(path) => self.find(path, copy.is_add, &mut matches)?,
            }
        }
        // `COPY package.json lock.json* ./`: a pattern may match nothing beside what is there.
        if let ([], Some(PlanSource::Path(path))) = (&*matches, copy.sources.first()) {
            return Err(CopyError::Missing { path: path.clone(), held: self.shown() });
        }
        if matches.len() > 1 && !target.is_folder {
            let only_folders = matches.iter().all(|found| matches!(found, Match::Folder(_)));
            if !only_folders {
                return Err(CopyError::NotFolder { destination: copy.destination.to_owned() });
            }
        }
        for found in matches {
            match found {
                Match::Text(name, content) => target.add_text(name, content),
                Match::File(path, file) => target.add_file(path, file),
                Match::Folder(path) => self.add_folder(path, &mut target),
            }
        }
        Ok(target.entries)
    }

    fn find<'c>(
        &'c self,
        path: &str,
        is_add: bool,
        matches: &mut Vec<Match<'c>>,
    ) -> Result<(), CopyError> {
        let wanted = normalize("/", path);
        let before = matches.len();
        if let Some(file) = self.files.get(&wanted) {
            matches.push(Match::File(basename(&wanted).to_owned(), file));
        } else if wanted == "/" || self.folders.contains(&wanted) {
            matches.push(Match::Folder(wanted.clone()));
        } else if is_pattern(&wanted) {
            let files = self.files.iter().filter(|(name, _)| glob(&wanted, name));
            matches.extend(files.map(|(name, file)| Match::File(basename(name).to_owned(), file)));
            let folders = self.folders.iter().filter(|name| glob(&wanted, name));
            matches.extend(folders.map(|name| Match::Folder(name.clone())));
        }
        if matches.len() == before && !is_pattern(&wanted) {
            return Err(CopyError::Missing { path: path.to_owned(), held: self.shown() });
        }
        for found in &matches[before..] {
            if let (true, Match::File(_, file)) = (is_add, found) {
                refuse_archive(file)?;
            }
        }
        Ok(())
    }

    fn add_folder(&self, path: String, target: &mut Target<'_>) {
        let prefix = if path == "/" { path } else { path + "/" };
        let base = normalize(target.copy.workdir, target.copy.destination);
        target.add_parent(&base);
        let mut made = BTreeSet::new();
        for (name, file) in self.files.range(prefix.clone()..) {
            let Some(below) = name.strip_prefix(&prefix) else { break };
            for (index, _) in below.match_indices('/') {
                if made.insert(&below[..index]) {
                    target.add_parent(&normalize(&base, &below[..index]));
                }
            }
            target.push(normalize(&base, below), file.into(), file.mode, None, Some(file.digest));
        }
    }

    fn shown(&self) -> String {
        if self.files.is_empty() {
            return ", which is empty".to_owned();
        }
        let names: Vec<&str> =
            self.files.keys().take(NAMES_SHOWN_MAX).map(String::as_str).collect();
        let more = if self.files.len() > NAMES_SHOWN_MAX { ", …" } else { "" };
        format!("; it holds {}{more}", names.join(", "))
    }
}

impl From<&ContextFile> for EntryKind {
    fn from(file: &ContextFile) -> Self {
        Self::File(file.source.clone())
    }
}

enum Match<'c> {
    Text(&'c str, &'c str),
    File(String, &'c ContextFile),
    Folder(String),
}

struct Target<'p> {
    copy: &'p CopyPlan<'p>,
    is_folder: bool,
    entries: Vec<(Entry, Option<Digest>)>,
}

impl Target<'_> {
    fn add_text(&mut self, name: &str, content: &str) {
        let kind = EntryKind::File(Source::Bytes(content.as_bytes().into()));
        self.add_named(name, kind, 0o644, Some(Digest::of(content.as_bytes())));
    }

    fn add_file(&mut self, name: String, file: &ContextFile) {
        self.add_named(&name, file.into(), file.mode, Some(file.digest));
    }

    fn add_named(&mut self, name: &str, kind: EntryKind, mode: u32, digest: Option<Digest>) {
        let path = normalize(self.copy.workdir, self.copy.destination);
        match self.is_folder {
            true => self.push(normalize(&path, name), kind, mode, None, digest),
            false => self.push(path, kind, mode, Some(name.to_owned()), digest),
        }
    }

    fn add_parent(&mut self, path: &str) {
        if path != "/" {
            self.push(path.to_owned(), EntryKind::Folder, 0o755, None, None);
        }
    }

    fn push(
        &mut self,
        path: String,
        kind: EntryKind,
        mode: u32,
        name_in_folder: Option<String>,
        digest: Option<Digest>,
    ) {
        let mode = if mode == 0 { 0o644 } else { mode & 0o7777 };
        let entry = Entry {
            path: PathBuf::from(path),
            kind,
            mode: self.copy.mode.unwrap_or(mode),
            owner: self.copy.owner.map(str::to_owned),
            name_in_folder,
        };
        self.entries.push((entry, digest));
    }
}

/// An absolute path of `path`, from `base` when it is relative, without `.`, `..` and double
/// slashes. What would lead above the root stays there.
pub(crate) fn normalize(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let from = if path.starts_with('/') { "" } else { base };
    for part in from.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

pub(crate) fn names_folder(destination: &str) -> bool {
    destination.ends_with('/') || matches!(basename(destination), "." | "..")
}

fn basename(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Docker unpacks local archives that ADD names. Told from other files by their first bytes.
fn refuse_archive(file: &ContextFile) -> Result<(), CopyError> {
    let path = &file.path;
    let start =
        file.source.start(512).map_err(|source| CopyError::Read { path: path.clone(), source })?;
    let packed: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    let is_tar = start.get(257..262) == Some(b"ustar".as_slice());
    if is_tar || packed.iter().any(|magic| start.starts_with(magic)) {
        return Err(CopyError::Archive { path: path.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Context, ContextFile, CopyPlan, PlanSource, normalize};

    fn file(path: &str) -> ContextFile {
        let bytes: &[u8] = if path.contains(".tgz") { b"\x1f\x8b" } else { b"content" };
        ContextFile { mode: 0o640, ..ContextFile::of_bytes(path, bytes) }
    }

    /// What `COPY sources destination` in `/work` writes: paths, folders with a slash at the end,
    /// and in brackets the name that a file gets if its path is a folder.
    fn plan(sources: &[&str], destination: &str, is_add: bool) -> Result<String, String> {
        let files = ["a.txt", "b.txt", "/dir/c", "/dir/sub/d", "/empty", "/x.tgz"];
        let context = Context::new(files.map(file));
        let sources = sources.iter().map(|path| PlanSource::Path((*path).to_owned())).collect();
        let (workdir, owner, mode) = ("/work", None, None);
        let copy = CopyPlan { is_add, sources, destination, workdir, owner, mode };
        let entries = context.plan(&copy).map_err(|error| error.to_string())?;
        let shown = entries.into_iter().map(|(entry, digest)| {
            let path = entry.path.display();
            match (entry.name_in_folder, digest) {
                (Some(name), _) => format!("{path}[{name}]"),
                (None, Some(_)) => path.to_string(),
                (None, None) => format!("{path}/"),
            }
        });
        Ok(shown.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn copies_go_where_dockers_go() {
        let check = |sources: &[&str], destination, wanted: &str| {
            assert_eq!(plan(sources, destination, false).as_deref(), Ok(wanted), "{sources:?}");
        };
        check(&["a.txt"], "/zz", "/zz[a.txt]");
        check(&["./a.txt"], "zz/", "/work/zz/a.txt");
        check(&["a.txt"], ".", "/work/a.txt");
        check(&["/a.txt"], "/", "/a.txt");
        check(&["../../a.txt"], "sub/../zz", "/work/zz[a.txt]");
        check(&["a.txt", "b.txt"], "/zz/", "/zz/a.txt /zz/b.txt");
        check(&["?.txt"], "/zz/", "/zz/a.txt /zz/b.txt");
        check(&["dir"], "/zz", "/zz/ /zz/c /zz/sub/ /zz/sub/d");
        check(&["dir/."], "zz", "/work/zz/ /work/zz/c /work/zz/sub/ /work/zz/sub/d");
        check(&["dir/sub", "a.txt"], "/zz/", "/zz/ /zz/d /zz/a.txt");
        check(&["d*"], "/zz", "/zz/ /zz/c /zz/sub/ /zz/sub/d");
        check(&["a.txt", "none*"], "/zz/", "/zz/a.txt");
        let all = "/a.txt /b.txt /dir/ /dir/c /dir/sub/ /dir/sub/d /empty /x.tgz";
        check(&["."], "/", all);
    }

    #[test]
    fn copies_that_cannot_be_done_say_why() {
        let check = |sources: &[&str], is_add, wanted: &str| {
            let error = plan(sources, "/zz", is_add).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        };
        check(&["nowhere"], false, "\"nowhere\" is not in the build context; it holds /a.txt");
        check(&["n*"], false, "\"n*\" is not in the build context");
        check(&["a.txt", "b.txt"], false, "end it with a /");
        check(&["x.tgz"], true, "ADD of the archive");
    }

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(normalize("/a", "../../../b//./c/"), "/b/c");
        assert_eq!(normalize("/a", "/b/../c"), "/c");
        assert_eq!(normalize("/", "."), "/");
    }
}
