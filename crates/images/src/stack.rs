//! Layers as a container sees them: one tree, of which nothing is mounted.
//!
//! Looking a file up follows the overlay's rules: an upper layer's entry hides the lower ones',
//! folders merge, whiteouts and opaque folders end the search. Links are followed inside.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::limits::LINKS_MAX;
use crate::listing::entry_path;
use crate::tree::read_text;

/// An image's layers, opened.
#[derive(Debug)]
pub(crate) struct Stack {
    /// Top first.
    layers: Vec<OwnedFd>,
}

/// Something that was found: where, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its path without links, without a leading slash.
    pub(crate) path: Vec<u8>,
    /// What it is; never a link.
    pub(crate) kind: FileType,
}

impl Stack {
    /// Opens layers by their folders, bottom first.
    pub(crate) fn open(layers: &[PathBuf]) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &PathBuf| rustix::fs::openat(CWD, path, flags, Mode::empty());
        Ok(Self { layers: layers.iter().rev().map(open).collect::<Result<_, _>>()? })
    }

    /// Finds what a path names, as a process inside would.
    pub(crate) fn find(&self, path: &str) -> io::Result<Option<Found>> {
        let mut rest: VecDeque<Vec<u8>> = parts(path.as_bytes()).collect();
        let mut here: Vec<Vec<u8>> = Vec::new();
        let mut kind = FileType::Directory;
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            if part == b".." {
                here.pop();
                continue;
            }
            if kind != FileType::Directory {
                return Ok(None);
            }
            here.push(part);
            let path = here.join(&b'/');
            match self.look(&path)? {
                None => return Ok(None),
                Some((layer, FileType::Symlink)) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Ok(None);
                    }
                    let folder = self.open_in(layer, parent_of(&path), OFlags::PATH)?;
                    let target = rustix::fs::readlinkat(&folder, name_of(&path), Vec::new())?;
                    here.pop();
                    if target.to_bytes().starts_with(b"/") {
                        here.clear();
                    }
                    parts(target.to_bytes()).rev().for_each(|part| rest.push_front(part));
                }
                Some((_, found)) => kind = found,
            }
            if rest.is_empty() {
                break;
            }
            // `..` and links lead to folders, which were seen to be some.
            if kind != FileType::Directory {
                return Ok(None);
            }
        }
        Ok(Some(Found { path: here.join(&b'/'), kind }))
    }

    /// Reads a small file whole. `None` when there is none.
    ///
    /// # Errors
    /// When it is no regular file, is larger than a text may be, or cannot be read.
    pub(crate) fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(found) = self.find(path)? else { return Ok(None) };
        let fail = |e: io::Error| io::Error::new(e.kind(), format!("reading {path} fails: {e}"));
        self.read_place(&found.path).map(Some).map_err(fail)
    }

    /// The names in a folder whose path has no links, whiteouts left out.
    pub(crate) fn list(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for layer in self.holders(path)? {
            let folder = self.open_in(layer, path, OFlags::RDONLY)?;
            for entry in Dir::read_from(&folder)? {
                names.push(entry?.file_name().to_bytes().to_vec());
            }
        }
        names.sort_unstable();
        names.dedup();
        names.retain(|name| name != b"." && name != b"..");
        let mut there = Vec::new();
        for name in names {
            let path = if path.is_empty() { name.clone() } else { [path, &name].join(&b'/') };
            if self.look(&path)?.is_some() {
                there.push(name);
            }
        }
        Ok(there)
    }

    fn read_place(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let Some((layer, FileType::RegularFile)) = self.look(path)? else {
            return Err(io::Error::other("it is no regular file"));
        };
        let folder = self.open_in(layer, parent_of(path), OFlags::PATH)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        read_text(rustix::fs::openat(&folder, name_of(path), flags, Mode::empty())?.into())
    }

    /// The layer that an entry without links on its way comes from, and what it is.
    fn look(&self, path: &[u8]) -> io::Result<Option<(usize, FileType)>> {
        for layer in self.holders(parent_of(path))? {
            match self.kind_in(layer, path)? {
                None => {}
                // A whiteout: lower layers' entries of this name are gone.
                Some((FileType::CharacterDevice, 0)) => return Ok(None),
                Some((kind, _)) => return Ok(Some((layer, kind))),
            }
        }
        Ok(None)
    }

    /// The layers whose folders make up the one at a path, top first.
    fn holders(&self, path: &[u8]) -> io::Result<Vec<usize>> {
        let mut holders: Vec<usize> = (0..self.layers.len()).collect();
        let mut here = Vec::new();
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            if !here.is_empty() {
                here.push(b'/');
            }
            here.extend_from_slice(part);
            let mut merged = Vec::new();
            for layer in holders {
                match self.kind_in(layer, &here)? {
                    None => {}
                    Some((FileType::Directory, _)) => {
                        merged.push(layer);
                        if self.is_opaque(layer, &here)? {
                            break;
                        }
                    }
                    Some(_) => break,
                }
            }
            holders = merged;
        }
        Ok(holders)
    }

    fn kind_in(&self, layer: usize, path: &[u8]) -> io::Result<Option<(FileType, u64)>> {
        let folder = match self.open_in(layer, parent_of(path), OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            opened => opened?,
        };
        match rustix::fs::statat(&folder, name_of(path), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((FileType::from_raw_mode(stat.st_mode), stat.st_rdev))),
            Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn is_opaque(&self, layer: usize, path: &[u8]) -> io::Result<bool> {
        let folder = self.open_in(layer, path, OFlags::RDONLY)?;
        let (path, mut value) = (entry_path(folder.as_fd(), c"."), [0; 2]);
        match rustix::fs::lgetxattr(&path, c"trusted.overlay.opaque", &mut value) {
            Ok(len) => Ok(value[..len] == *b"y"),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
            Err(Errno::RANGE) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn open_in(&self, layer: usize, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { &b"."[..] } else { path };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.layers[layer], path, flags, Mode::empty(), resolve)
    }
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> + '_ {
    let is_part = |part: &&[u8]| !part.is_empty() && *part != b".";
    path.split(|byte| *byte == b'/').filter(is_part).map(<[u8]>::to_vec)
}

/// The folder of what has this path; the root's is empty.
pub(crate) fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |cut| &path[..cut])
}

/// The last part of a path.
pub(crate) fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn layers_are_seen_as_one_tree() {
        let dir = tempfile::tempdir().unwrap();
        let (low, high) = (dir.path().join("low"), dir.path().join("high"));
        for path in ["low/usr/bin", "low/gone", "low/hidden", "high/usr/bin", "high/hidden"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        for path in ["low/usr/bin/python3.12", "low/gone/x", "low/hidden/x", "low/usr/bin/off"] {
            fs::write(dir.path().join(path), "").unwrap();
        }
        symlink("/usr/bin", high.join("bin")).unwrap();
        symlink("../../../bin/python3.12", high.join("usr/bin/python")).unwrap();
        symlink("loop", high.join("loop")).unwrap();
        symlink("/etc/hostname", high.join("out")).unwrap();
        for name in ["gone", "usr/bin/off"] {
            let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
            rustix::fs::mknodat(CWD, high.join(name), kind, mode, 0).unwrap();
        }
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(high.join("hidden"), c"trusted.overlay.opaque", b"y", flags).unwrap();
        let stack = Stack::open(&[low, high]).unwrap();
        let check = |path: &str, wanted: Option<&str>| {
            let found = stack.find(path).unwrap();
            let found = found.map(|found| String::from_utf8(found.path).unwrap());
            assert_eq!(found.as_deref(), wanted, "{path}");
        };
        check("/bin/python", Some("usr/bin/python3.12"));
        check("bin/../bin/./python3.12", Some("usr/bin/python3.12"));
        check("/usr/bin/off", None);
        check("/gone/x", None);
        check("/hidden/x", None);
        check("/hidden", Some("hidden"));
        check("/loop", None);
        check("/out", None);
        check("/usr/bin/python/x", None);
        check("/", Some(""));
        assert_eq!(stack.list(b"usr/bin").unwrap(), [&b"python"[..], b"python3.12"]);
    }

    #[test]
    fn a_file_that_a_layer_removes_hides_those_below() {
        let dir = tempfile::tempdir().unwrap();
        let (low, high) = (dir.path().join("low"), dir.path().join("high"));
        for layer in [&low, &high] {
            fs::create_dir_all(layer.join("folder")).unwrap();
        }
        for (name, content) in [("gone", "low"), ("file", "here"), ("both", "low")] {
            fs::write(low.join(name), content).unwrap();
        }
        fs::write(high.join("both"), "high").unwrap();
        symlink("../file", high.join("folder/link")).unwrap();
        let (node, mode) = (FileType::CharacterDevice, Mode::empty());
        rustix::fs::mknodat(CWD, high.join("gone"), node, mode, 0).unwrap();
        let stack = Stack::open(&[low, high]).unwrap();
        assert_eq!(stack.read("/gone").unwrap(), None);
        assert_eq!(stack.read("/file").unwrap().unwrap(), b"here");
        assert_eq!(stack.read("/both").unwrap().unwrap(), b"high");
        assert_eq!(stack.read("/folder/link").unwrap().unwrap(), b"here");
        assert_eq!(stack.read("/nowhere").unwrap(), None);
        for folder in ["/folder", "/"] {
            let error = stack.read(folder).unwrap_err().to_string();
            assert!(error.ends_with("it is no regular file"), "{error}");
        }
    }
}
