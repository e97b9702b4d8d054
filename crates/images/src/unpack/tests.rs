use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::*;
use crate::listing::{Likeness, Strays, summarize, summarize_known};

/// The archives of `tests/archives`, and the part of the refusal that says why.
const REFUSED: &[(&str, &str)] = &[
    ("absolute", "\"/etc/passwd\" in the archive is refused: its path begins with /"),
    ("parent", "\"../outside\" in the archive is refused: its path has .."),
    ("parent-inside", "\"a/../../outside\" in the archive is refused: its path has .."),
    ("parent-in-long-name", "its path has .."),
    ("parent-in-pax", "\"../outside\" in the archive is refused: its path has .."),
    ("below-link", "\"out/passwd\" in the archive is refused: it lies below a link"),
    ("below-link-up", "\"up/outside\" in the archive is refused: it lies below a link"),
    ("below-links", "\"a/one/two\" in the archive is refused: it lies below a link"),
    ("folder-over-link", "\"out\" in the archive is refused: it is there twice"),
    ("file-over-link", "\"out\" in the archive is refused: it is there twice"),
    ("hard-link-out", "a hard link to \"/etc/passwd\", which is no file of this layer"),
    ("hard-link-up", "a hard link to \"../../etc/passwd\", which is no file of this layer"),
    ("hard-link-through-link", "a hard link to \"out/passwd\", which is no file of this layer"),
    ("hard-link-to-nothing", "a hard link to \"nowhere\""),
    ("hard-link-to-folder", "a hard link to \"a\""),
    ("hard-link-before-file", "a hard link to \"a/file\", which is no file of this layer before"),
    ("hard-link-to-whiteout", "a hard link to \"gone\""),
    ("link-to-nothing", "it is a link to nothing"),
    ("character-device", "\"null\" in the archive is refused: it is a device"),
    ("block-device", "\"disk\" in the archive is refused: it is a device"),
    ("overlay-opaque", "\"trusted.overlay.opaque\" would tell the overlay"),
    ("overlay-redirect", "\"trusted.overlay.redirect\" would tell the overlay"),
    ("overlay-user", "\"user.overlay.whiteout\" would tell the overlay"),
    ("whiteout-of-nothing", "it removes \"\""),
    ("whiteout-of-itself", "it removes \".\""),
    ("whiteout-of-parent", "it removes \"..\""),
    ("whiteout-and-file", "the layer removes it and has it"),
    ("file-and-whiteout", "the layer removes it and has it"),
    ("whiteout-and-folder", "the layer removes it and has it"),
    ("whiteout-twice", "it is there twice"),
    ("whiteout-folder", "it is a whiteout but no empty file"),
    ("whiteout-link", "it is a whiteout but no empty file"),
    ("whiteout-with-content", "it is a whiteout but no empty file"),
    ("below-whiteout-name", "a folder whose name is a whiteout's"),
    ("below-whiteout", "it lies below something that is no folder"),
    ("whiteout-of-whiteout", "a note of AUFS"),
    ("aufs-links", "it is a whiteout but no empty file"),
    ("aufs-orphans", "a note of AUFS"),
    ("opaque-root", "it hides the whole image below"),
    ("opaque-below-link", "it lies below a link"),
    ("file-twice", "\"a/file\" in the archive is refused: it is there twice"),
    ("file-twice-by-dots", "\"./a//./file\" in the archive is refused: it is there twice"),
    ("file-over-folder", "it is a folder and something else at once"),
    ("folder-over-file", "it is there twice"),
    ("below-file", "\"a/b\" in the archive is refused: it lies below something that is no folder"),
    ("root-as-file", "it has no name"),
    ("root-as-link", "it has no name"),
    ("bad-checksum", "checksum"),
    ("cut-header", "cannot be read"),
    ("cut-content", "cannot be read"),
    ("huge-content", "cannot be read"),
    ("negative-content", "cannot be read"),
    ("no-name", "it has no name"),
    ("long-part", "longer than the kernel takes"),
    ("long-path", "longer than the kernel takes"),
    ("deep", "more than 512 folders deep"),
    ("zero-in-name", "a zero byte is in its path"),
    ("zero-in-long-name", "a zero byte is in its long name"),
    ("two-long-names", "its path is said twice"),
    ("two-names", "its path is said twice"),
    ("two-extended", "its extended header is said twice"),
    ("path-twice", "its path is said twice"),
    ("size-twice", "its size is said twice, and differently"),
    ("extended-without-entry", "an extended header has no entry after it"),
    ("extended-garbled", "its extended header cannot be read"),
    ("extended-cut", "its extended header cannot be read"),
    ("extended-huge", "its extended header is larger than"),
    ("global-path", "a header for all entries says \"path\""),
    ("attributes-large", "its attributes are larger than"),
    ("owner-large", "its owner 65536 is above 65535"),
    ("owner-in-pax", "its owner 4294967295 is above 65535"),
    ("group-large", "its group 1099511627776 is above 65535"),
    ("sparse", "a sparse file of GNU tar"),
    ("sparse-in-pax", "a sparse file of GNU tar"),
    ("unknown-type", "entries of the type 'V' are not read"),
    ("folder-with-content", "only a file has content, and this is a folder"),
    ("link-with-content", "only a file has content, and this is a link"),
];

/// Those that are fine.
const TAKEN: [&str; 2] = ["good", "comment"];

fn archive(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives");
    fs::read(folder.join(format!("{name}.tar"))).unwrap()
}

/// All that is in a tree, with its bytes and rights.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, (u32, u32, Vec<u8>)> {
    let mut seen = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let bytes = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            if meta.is_dir() && path != root.join("layer") {
                folders.push(path.clone());
            }
            seen.insert(path, (meta.mode(), meta.uid(), bytes));
        }
    }
    seen
}

/// Unpacks into a folder with neighbours, and compares them before and after.
fn unpack_between(bytes: &[u8]) -> (tempfile::TempDir, Result<Contents, UnpackError>) {
    let dir = tempfile::tempdir().unwrap();
    for path in ["layer", "outside-folder/etc"] {
        fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    fs::write(dir.path().join("outside-folder/etc/passwd"), "stays").unwrap();
    let before = (snapshot(dir.path()), fs::read("/etc/passwd").unwrap());
    let result = unpack(bytes, &dir.path().join("layer"));
    let after = (snapshot(dir.path()), fs::read("/etc/passwd").unwrap());
    assert!(before == after, "something outside of the layer's folder changed");
    (dir, result)
}

#[test]
fn every_hostile_archive_is_refused_with_its_reason() {
    for (name, part) in REFUSED {
        let (_, result) = unpack_between(&archive(name));
        let error = result.expect_err(name);
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let text = format!("{error}: {}", cause.unwrap_or_default());
        assert!(text.contains(part), "{name}: {text}");
    }
}

#[test]
fn every_archive_of_the_folder_is_in_a_list() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives");
    let known = |name: &str| REFUSED.iter().any(|(it, _)| *it == name) || TAKEN.contains(&name);
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "tar") {
            count += 1;
            assert!(known(&path.file_stem().unwrap().to_string_lossy()), "{}", path.display());
        }
    }
    assert_eq!(count, REFUSED.len() + TAKEN.len());
}

#[test]
fn what_images_have_becomes_what_it_says() {
    let (dir, result) = unpack_between(&archive("good"));
    let contents = result.unwrap();
    let layer = dir.path().join("layer");
    let meta = |path: &str| fs::symlink_metadata(layer.join(path)).unwrap();
    let folder = meta("a");
    assert_eq!((folder.mode() & 0o7777, folder.uid(), folder.gid()), (0o700, 65_535, 7));
    assert_eq!(fs::read(layer.join("a/file")).unwrap(), b"content");
    assert_eq!(meta("a/file").ino(), meta("a/hard").ino());
    assert_eq!(meta("a/file").mtime(), 1_700_000_000);
    assert_eq!(fs::read_link(layer.join("a/link")).unwrap(), Path::new("../../../etc/passwd"));
    assert_eq!(meta("a/su").mode() & 0o7777, 0o4755);
    assert!(meta("a/pipe").file_type().is_fifo());
    let gone = meta("a/gone");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(meta("b").mode() & 0o7777, 0o755);
    let mut value = [0; 8];
    let path = layer.join("b/c");
    assert_eq!(rustix::fs::lgetxattr(&path, c"trusted.overlay.opaque", &mut value), Ok(1));
    let path = layer.join("a/noted");
    assert_eq!(rustix::fs::lgetxattr(&path, c"user.note", &mut value), Ok(3));
    assert_eq!(&value[..3], b"a\nb");
    let raw = layer.join("a").join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    assert_eq!(fs::read(raw).unwrap(), b"bytes");
    assert_eq!(fs::read(layer.join("a").join("n".repeat(200))).unwrap(), b"long");
    // What was hashed on the way is what lies there.
    let known = summarize_known(&layer, Strays::Count, Likeness::Build, contents).unwrap();
    assert_eq!(known, summarize(&layer, Strays::Count, Likeness::Build).unwrap());
}

#[test]
fn a_layer_has_a_largest_number_of_entries() {
    let folder = tempfile::tempdir().unwrap();
    let maker = Maker::new(folder.path()).unwrap();
    let mut unpacking = Unpacking { maker, entries: LAYER_ENTRIES_MAX };
    assert!(matches!(unpacking.count(1), Err(UnpackError::TooMany)));
}
