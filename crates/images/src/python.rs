//! Which Python an image has, told by its files: nothing of the image is run.

use std::io;

use rustix::fs::FileType;

use crate::image::{DEFAULT_PATH, Image};
use crate::layer::LayerStore;
use crate::stack::{Stack, name_of, parent_of};

/// Reads out of an image's layers what decides which functions can run in it, and notes it:
/// the Python that `python` starts, and whether its C library is musl.
///
/// # Errors
/// When a layer is not here or cannot be read.
pub(crate) fn inspect(store: &LayerStore, image: &mut Image) -> Result<(), crate::LayerError> {
    let layers = store.diffs(&image.layers)?;
    let read = || -> io::Result<_> {
        let stack = Stack::open(&layers)?;
        let path = image.config.env("PATH").unwrap_or(DEFAULT_PATH);
        Ok((find_python(&stack, path)?, has_musl(&stack)?))
    };
    let (python, is_musl) =
        read().map_err(|e| store.fail("reading the layers in", &store.dir, e))?;
    image.python = python;
    image.config.is_musl = is_musl;
    Ok(())
}

/// The version of the first `python` on a search path.
fn find_python(stack: &Stack, path: &str) -> io::Result<Option<(u8, u8)>> {
    for folder in path.split(':').filter(|folder| folder.starts_with('/')) {
        let Some(found) = stack.find(&format!("{folder}/python"))? else { continue };
        if found.kind != FileType::RegularFile {
            continue;
        }
        if let Some(version) = version(name_of(&found.path)) {
            return Ok(Some(version));
        }
        // Not a link to python3.12 but a file of its own; its neighbours tell.
        let versions: Vec<_> =
            stack.list(parent_of(&found.path))?.iter().filter_map(|name| version(name)).collect();
        return Ok(match versions.as_slice() {
            [only] => Some(*only),
            _ => None,
        });
    }
    Ok(None)
}

/// The version in a name like `python3.12`.
fn version(name: &[u8]) -> Option<(u8, u8)> {
    let name = std::str::from_utf8(name).ok()?;
    let minor = name.strip_prefix("python3.")?;
    let minor = minor.strip_suffix('t').unwrap_or(minor);
    minor.parse().ok().map(|minor| (3, minor))
}

/// Whether programs of the image are linked to musl: its loader is there, and glibc's is not.
fn has_musl(stack: &Stack) -> io::Result<bool> {
    for folder in ["/lib", "/lib64", "/usr/lib"] {
        let Some(found) = stack.find(folder)? else { continue };
        if found.kind != FileType::Directory {
            continue;
        }
        let names = stack.list(&found.path)?;
        if names.iter().any(|name| name.starts_with(b"ld-linux")) {
            return Ok(false);
        }
        if names.iter().any(|name| name.starts_with(b"ld-musl-")) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn inspected(files: &[&str], links: &[(&str, &str)], path: &str) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let store = LayerStore::open(dir.path().join("store")).unwrap();
        let draft = store.draft().unwrap();
        let place = |path: &str| {
            let path = draft.upper().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        files.iter().for_each(|path| fs::write(place(path), "").unwrap());
        links.iter().for_each(|(path, target)| symlink(target, place(path)).unwrap());
        let layers = store.commit(draft).unwrap().into_iter().collect();
        let mut image = Image { layers, python: Some((3, 1)), ..Image::default() };
        image.config.set_env("PATH", path.to_owned());
        inspect(&store, &mut image).unwrap();
        image
    }

    #[test]
    fn the_python_that_python_starts_is_found() {
        let check = |files: &[&str], links: &[(&str, &str)], wanted: Option<(u8, u8)>| {
            let image = inspected(files, links, "/opt/bin:/usr/bin");
            assert_eq!(image.python, wanted, "{files:?} {links:?}");
        };
        let links = [("opt/bin/python", "/usr/bin/python3"), ("usr/bin/python3", "python3.12")];
        check(&["usr/bin/python3.12", "usr/bin/python3.9"], &links, Some((3, 12)));
        check(&["usr/bin/python", "usr/bin/python3.13"], &[], Some((3, 13)));
        check(&["usr/bin/python", "usr/bin/python3.13", "usr/bin/python3.11"], &[], None);
        check(&["usr/bin/python3.12"], &[], None);
        check(&["bin/python", "bin/python3.12"], &[], None);
        check(&["usr/bin/sh"], &links, None);
    }

    #[test]
    fn musl_is_told_by_its_loader() {
        let is_musl = |files: &[&str]| inspected(files, &[], "/bin").config.is_musl;
        assert!(is_musl(&["lib/ld-musl-x86_64.so.1"]));
        assert!(!is_musl(&["lib64/ld-linux-x86-64.so.2"]));
        assert!(!is_musl(&["lib/ld-musl-x86_64.so.1", "lib/ld-linux-aarch64.so.1"]));
        assert!(!is_musl(&["bin/sh"]));
    }
}
