//! Copies from one tree into another, as `COPY --from=` does. Both trees came from containers:
//! every path is resolved below its own tree's root, so a link leads nowhere else.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use images::TreeCopy;
use jail::{Kind, Root, RootError};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Capabilities of a program, the one attribute that is copied (capabilities(7)).
const CAPABILITY: &str = "security.capability";

/// Bytes of that attribute: 24 in its longest form (linux/capability.h).
const CAPABILITY_BYTES_MAX: usize = 64;

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A source that is not there.
    #[error("{path} is not in {tree}")]
    Missing { path: String, tree: String },
    /// More than one file for one name.
    #[error(
        "several files are copied to {}, which is no folder; end it with a /",
        destination.display()
    )]
    NotFolder { destination: PathBuf },
    /// A folder would replace what is no folder.
    #[error("{path} of {tree} is a folder, and {} is none", to.display())]
    Folder { path: String, tree: String, to: PathBuf },
    /// What cannot be in an image.
    #[error("{} of {tree} is a device, a pipe or a socket, which no image holds", path.display())]
    Special { path: PathBuf, tree: String },
    /// The kernel refused.
    #[error("copying {} of {tree}", path.display())]
    Path { path: PathBuf, tree: String, source: RootError },
    /// Reading or writing the bytes of a file.
    #[error("copying {} of {tree}", path.display())]
    Bytes { path: PathBuf, tree: String, source: io::Error },
}

/// Copies the sources of `copy` from one tree to the other. `owner` is that of all copies.
pub(crate) fn copy(
    from: &Root,
    to: &Root,
    copy: &TreeCopy,
    owner: Option<(u32, u32)>,
) -> Result<(), Error> {
    let copier = Copier { from, to, copy, owner };
    let mut sources = Vec::new();
    for pattern in &copy.sources {
        let found = copier.find(pattern)?;
        if found.is_empty() && !images::is_pattern(pattern) {
            return Err(copier.missing(pattern));
        }
        sources.extend(found);
    }
    // A pattern may match nothing beside what is there.
    if let ([], Some(pattern)) = (&*sources, copy.sources.first()) {
        return Err(copier.missing(pattern));
    }
    let is_folder = |path: &Path| from.stat(path).is_ok_and(|facts| facts.kind == Kind::Folder);
    let has_folder = to.stat(&copy.destination).is_ok_and(|facts| facts.kind == Kind::Folder);
    let into_folder = copy.into_folder || has_folder;
    if sources.len() > 1 && !into_folder && !sources.iter().all(|path| is_folder(path)) {
        return Err(Error::NotFolder { destination: copy.destination.clone() });
    }
    for source in sources {
        if is_folder(&source) {
            copier.make_parents(&copy.destination, &source)?;
            copier.folder(&source, &copy.destination)?;
            continue;
        }
        let to = match (into_folder, source.file_name()) {
            (true, Some(name)) => copy.destination.join(name),
            _ => copy.destination.clone(),
        };
        // A link that is named is followed; links below a folder stay what they are.
        let facts = from.stat(&source).map_err(|e| copier.fail(&source, e))?;
        if let Some(parent) = to.parent() {
            copier.make_parents(parent, &source)?;
        }
        copier.one(&source, facts, &to)?;
    }
    Ok(())
}

struct Copier<'c> {
    from: &'c Root,
    to: &'c Root,
    copy: &'c TreeCopy,
    owner: Option<(u32, u32)>,
}

impl Copier<'_> {
    fn fail(&self, path: &Path, source: RootError) -> Error {
        Error::Path { path: path.to_owned(), tree: self.copy.name.clone(), source }
    }

    fn missing(&self, path: &str) -> Error {
        Error::Missing { path: path.to_owned(), tree: self.copy.name.clone() }
    }

    /// What a pattern names, part by part, in the order of names.
    fn find(&self, pattern: &str) -> Result<Vec<PathBuf>, Error> {
        let mut found = vec![PathBuf::from("/")];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            let mut next = Vec::new();
            for folder in found {
                let path = folder.join(part);
                if self.from.stat(&path).is_ok() {
                    next.push(path);
                } else if images::is_pattern(part) {
                    let is_match = |name: &OsStr| {
                        name.to_str().is_some_and(|name| images::matches(part, name))
                    };
                    let entries = self.from.read_dir(&folder).unwrap_or_default();
                    let entries = entries.into_iter().filter(|entry| is_match(&entry.name));
                    next.extend(entries.map(|entry| folder.join(entry.name)));
                }
            }
            found = next;
        }
        Ok(found)
    }

    /// Makes a folder and those above it that are missing, as root's.
    fn make_parents(&self, path: &Path, source: &Path) -> Result<(), Error> {
        let is_other = self.to.stat(path).is_ok_and(|facts| facts.kind != Kind::Folder);
        if is_other {
            return Err(Error::Folder {
                path: source.display().to_string(),
                tree: self.copy.name.clone(),
                to: path.to_owned(),
            });
        }
        self.to.mkdir_all(path, 0o755).map_err(|e| self.fail(source, e))
    }

    /// What is in a folder, into another that is there.
    fn folder(&self, folder: &Path, to: &Path) -> Result<(), Error> {
        for entry in self.from.read_dir(folder).map_err(|e| self.fail(folder, e))? {
            let (path, to) = (folder.join(&entry.name), to.join(&entry.name));
            let facts = self.from.stat_link(&path).map_err(|e| self.fail(&path, e))?;
            self.one(&path, facts, &to)?;
        }
        Ok(())
    }

    fn one(&self, path: &Path, facts: jail::Facts, to: &Path) -> Result<(), Error> {
        let there = self.to.stat_link(to).ok();
        let is_there = facts.kind == Kind::Folder
            && self.to.stat(to).is_ok_and(|facts| facts.kind == Kind::Folder);
        if is_there {
            return self.folder(path, to);
        }
        if there.is_some() {
            self.to.remove_all(to).map_err(|e| self.fail(path, e))?;
        }
        let mode = self.copy.mode.unwrap_or(facts.mode);
        let (uid, gid) = self.owner.unwrap_or((facts.uid, facts.gid));
        match facts.kind {
            Kind::Folder => {
                // Closed until its entries are in: its own mode may let nobody write.
                self.to.mkdir(to, 0o700).map_err(|e| self.fail(path, e))?;
                self.folder(path, to)?;
            }
            Kind::File => self.file(path, to)?,
            Kind::Link => {
                let target = self.from.read_link(path).map_err(|e| self.fail(path, e))?;
                self.to.symlink(&target, to).map_err(|e| self.fail(path, e))?;
            }
            Kind::Special => {
                let (path, tree) = (path.to_owned(), self.copy.name.clone());
                return Err(Error::Special { path, tree });
            }
        }
        // The owner first: a change of it takes set-id bits and capabilities away.
        self.to.chown(to, uid, gid).map_err(|e| self.fail(path, e))?;
        if facts.kind != Kind::Link {
            self.to.chmod(to, mode).map_err(|e| self.fail(path, e))?;
        }
        if facts.kind == Kind::File {
            self.capability(path, to)?;
        }
        // Python compares the time of a source with what its compiled form says.
        self.to.set_modified(to, facts.modified_s).map_err(|e| self.fail(path, e))
    }

    fn file(&self, path: &Path, to: &Path) -> Result<(), Error> {
        let mut source = self.from.open(path).map_err(|e| self.fail(path, e))?;
        let mut target = self.to.create_new(to, 0o600).map_err(|e| self.fail(path, e))?;
        io::copy(&mut source, &mut target).map_err(|e| self.bytes(path, e))?;
        Ok(())
    }

    fn capability(&self, path: &Path, to: &Path) -> Result<(), Error> {
        let source = self.from.open(path).map_err(|e| self.fail(path, e))?;
        let mut value = [0; CAPABILITY_BYTES_MAX];
        let len = match rustix::fs::fgetxattr(source.as_fd(), CAPABILITY, &mut value[..]) {
            Ok(len) => len,
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(()),
            Err(error) => return Err(self.bytes(path, error.into())),
        };
        let target = self.to.open(to).map_err(|e| self.fail(path, e))?;
        let set = rustix::fs::fsetxattr(target, CAPABILITY, &value[..len], XattrFlags::empty());
        set.map_err(|e| self.bytes(path, e.into()))
    }

    fn bytes(&self, path: &Path, source: io::Error) -> Error {
        Error::Bytes { path: path.to_owned(), tree: self.copy.name.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::Path;

    use images::{StepDirs, TreeCopy};
    use jail::Root;

    /// A tree to copy from: links inside and out, a program, a folder that is closed.
    fn source(dir: &Path) {
        fs::create_dir_all(dir.join("app/sub")).unwrap();
        fs::create_dir_all(dir.join("etc")).unwrap();
        fs::write(dir.join("app/one.txt"), "1").unwrap();
        fs::write(dir.join("app/two.txt"), "2").unwrap();
        fs::write(dir.join("app/sub/run"), "program").unwrap();
        fs::write(dir.join("etc/passwd"), "of the tree").unwrap();
        fs::set_permissions(dir.join("app/sub/run"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(dir.join("app/sub"), fs::Permissions::from_mode(0o500)).unwrap();
        symlink("one.txt", dir.join("app/link")).unwrap();
        symlink("/etc/passwd", dir.join("app/passwd")).unwrap();
        symlink("/nowhere", dir.join("app/broken")).unwrap();
        symlink("../../../../../etc", dir.join("up")).unwrap();
    }

    /// Runs a copy; gives the target's files, or the error.
    fn run(
        sources: &[&str],
        to: &str,
        into: bool,
        prepare: impl Fn(&Path),
    ) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let (from, target) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(&from).unwrap();
        fs::create_dir_all(&target).unwrap();
        source(&from);
        prepare(&target);
        let copy = TreeCopy {
            name: "the stage s".to_owned(),
            from: vec![],
            scratch: StepDirs { upper: "/".into(), work: "/".into() },
            sources: sources.iter().map(|path| (*path).to_owned()).collect(),
            destination: to.into(),
            into_folder: into,
            owner: None,
            mode: None,
        };
        let roots = (Root::open_folder(&from).unwrap(), Root::open_folder(&target).unwrap());
        super::copy(&roots.0, &roots.1, &copy, None).map_err(|error| error.to_string())?;
        let mut lines = Vec::new();
        list(&target, &target, &mut lines);
        Ok(lines.join(" "))
    }

    fn list(top: &Path, folder: &Path, lines: &mut Vec<String>) {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        for path in names {
            let shown = path.strip_prefix(top).unwrap().display();
            let facts = path.symlink_metadata().unwrap();
            let mode = facts.mode() & 0o7777;
            if facts.is_symlink() {
                lines.push(format!("{shown}>{}", fs::read_link(&path).unwrap().display()));
            } else if facts.is_dir() {
                lines.push(format!("{shown}/{mode:o}"));
                list(top, &path, lines);
            } else {
                lines.push(format!("{shown}={}:{mode:o}", fs::read_to_string(&path).unwrap()));
            }
        }
    }

    #[test]
    fn trees_are_copied_as_they_are() {
        let check = |sources: &[&str], to, into, wanted: &str| {
            assert_eq!(run(sources, to, into, |_| ()).as_deref(), Ok(wanted), "{sources:?}");
        };
        check(&["/app/one.txt"], "/x", false, "x=1:644");
        check(&["/app/one.txt"], "/x", true, "x/755 x/one.txt=1:644");
        check(&["/app/*.txt"], "/x", true, "x/755 x/one.txt=1:644 x/two.txt=2:644");
        check(&["/app/one.txt", "/no*"], "/x", true, "x/755 x/one.txt=1:644");
        check(&["/a*/sub"], "/a/b", false, "a/755 a/b/755 a/b/run=program:4751");
        let all = "broken>/nowhere link>one.txt one.txt=1:644 passwd>/etc/passwd sub/500 \
            sub/run=program:4751 two.txt=2:644";
        check(&["/app"], "/", true, all);
        // A link that is named is followed, inside the tree.
        check(&["/app/passwd"], "/x", false, "x=of the tree:644");
        check(&["/up/passwd"], "/x", false, "x=of the tree:644");
    }

    #[test]
    fn what_is_in_the_way_is_replaced_and_links_lead_nowhere_else() {
        let prepare = |target: &Path| {
            fs::create_dir_all(target.join("x/sub")).unwrap();
            fs::write(target.join("x/sub/kept"), "k").unwrap();
            symlink("/etc/passwd", target.join("x/one.txt")).unwrap();
            symlink("/../../../../x", target.join("y")).unwrap();
        };
        let wanted = "x/755 x/broken>/nowhere x/link>one.txt x/one.txt=1:644 x/passwd>/etc/passwd \
            x/sub/755 x/sub/kept=k:644 x/sub/run=program:4751 x/two.txt=2:644 y>/../../../../x";
        assert_eq!(run(&["/app"], "/y", false, prepare).as_deref(), Ok(wanted));
    }

    #[test]
    fn what_cannot_be_copied_is_said() {
        let check = |sources: &[&str], to, wanted: &str| {
            let file = |target: &Path| fs::write(target.join("file"), "f").unwrap();
            let error = run(sources, to, false, file).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        };
        check(&["/app/none"], "/x", "/app/none is not in the stage s");
        check(&["/app/*.c"], "/x", "/app/*.c is not in the stage s");
        check(&["/app/broken"], "/x", "is not in the stage s");
        check(&["/app/one.txt", "/app/two.txt"], "/x", "end it with a /");
        check(&["/app"], "/file", "is a folder, and /file is none");
    }
}
