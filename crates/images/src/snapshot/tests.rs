use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use blobs::Digest;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::{Error, LayerError, LayerStore};

const CAPABILITY: &str = "security.capability";
/// cap_net_raw=ep, version 2 (linux/capability.h).
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn store(dir: &Path) -> LayerStore {
    LayerStore::open(dir.join("store")).unwrap()
}

fn take(store: &LayerStore, tree: &Path, earlier: Option<Digest>) -> Result<Digest, Error> {
    let tree = File::open(tree).unwrap();
    let copied = store.copy(std::os::fd::AsFd::as_fd(&tree), earlier, &|| true)?;
    Ok(store.keep(copied)?.unwrap())
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn mknod(path: &Path, kind: FileType, device: u64) {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device).unwrap();
}

/// One of each kind of entry that an upper folder can have.
fn fill(tree: &Path) {
    fs::create_dir_all(tree.join("folder/below/deep")).unwrap();
    fs::write(tree.join("folder/file"), "content").unwrap();
    fs::write(tree.join("folder/empty"), "").unwrap();
    fs::write(tree.join("folder/program"), vec![7; 70_000]).unwrap();
    std::os::unix::fs::chown(tree.join("folder/program"), Some(1_234), Some(65_534)).unwrap();
    fs::set_permissions(tree.join("folder/program"), fs::Permissions::from_mode(0o6751)).unwrap();
    set(&tree.join("folder/program"), CAPABILITY, &NET_RAW);
    set(&tree.join("folder/file"), "user.note", b"\0any\xff");
    fs::hard_link(tree.join("folder/file"), tree.join("folder/below/again")).unwrap();
    symlink("/nowhere/\u{e4}", tree.join("link")).unwrap();
    fs::hard_link(tree.join("link"), tree.join("folder/link")).unwrap();
    std::os::unix::fs::lchown(tree.join("link"), Some(5), Some(6)).unwrap();
    let name = std::os::unix::ffi::OsStringExt::from_vec(b"no \xff utf8 \n".to_vec());
    let name: std::ffi::OsString = name;
    fs::write(tree.join(name), "x").unwrap();
    let mut sparse = File::create(tree.join("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(16 << 20)).unwrap();
    sparse.write_all(b"in the middle").unwrap();
    sparse.set_len(64 << 20).unwrap();
    File::create(tree.join("hole")).unwrap().set_len(64 << 20).unwrap();
    mknod(&tree.join("pipe"), FileType::Fifo, 0);
    mknod(&tree.join("gone"), FileType::CharacterDevice, 0);
    fs::hard_link(tree.join("gone"), tree.join("folder/gone")).unwrap();
    fs::create_dir(tree.join("anew")).unwrap();
    set(&tree.join("anew"), "trusted.overlay.opaque", b"y");
    set(&tree.join("folder"), "trusted.overlay.origin", b"o");
    set(&tree.join("folder"), "trusted.overlay.impure", b"y");
    fs::set_permissions(tree.join("folder/below"), fs::Permissions::from_mode(0o1000)).unwrap();
    fs::set_permissions(tree, fs::Permissions::from_mode(0o711)).unwrap();
    let then = std::time::UNIX_EPOCH + Duration::new(981_173_106, 987_654_321);
    for path in ["folder/program", "folder/below", "anew", "."] {
        File::open(tree.join(path)).unwrap().set_modified(then).unwrap();
    }
}

/// All that counts of a tree, a line for each entry; names of one file stand together.
fn describe(tree: &Path) -> Vec<String> {
    let (mut lines, mut names) = (Vec::new(), HashMap::<u64, String>::new());
    list(tree, tree, &mut lines, &mut names);
    lines.sort();
    lines
}

fn list(top: &Path, path: &Path, lines: &mut Vec<String>, names: &mut HashMap<u64, String>) {
    let facts = path.symlink_metadata().unwrap();
    let shown = format!("{:?}", path.strip_prefix(top).unwrap());
    let first = match facts.is_dir() || facts.file_type().is_char_device() {
        true => shown.clone(),
        false => names.entry(facts.ino()).or_insert_with(|| shown.clone()).clone(),
    };
    let mode = if facts.is_symlink() { 0 } else { facts.mode() };
    let kind = facts.file_type();
    let content = match (kind.is_file(), kind.is_symlink()) {
        (true, _) => Digest::of(&fs::read(path).unwrap()).to_string(),
        (_, true) => format!("{:?}", fs::read_link(path).unwrap()),
        _ => format!("{kind:?} {}", facts.rdev()),
    };
    let mut buffer = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut buffer[..]).unwrap();
    let mut attributes: Vec<String> = Vec::new();
    for name in String::from_utf8_lossy(&buffer[..len]).split_terminator('\0') {
        let mut value = [0; 256];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        attributes.push(format!("{name}={:?}", &value[..len]));
    }
    attributes.retain(|line| !line.starts_with("trusted.overlay.") || line.contains("opaque"));
    attributes.sort();
    let (time, owner) = ((facts.mtime(), facts.mtime_nsec()), (facts.uid(), facts.gid()));
    lines.push(format!("{shown} {first} {mode:o} {owner:?} {time:?} {content} {attributes:?}"));
    if facts.is_dir() {
        let mut below: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
        below.sort();
        below.iter().for_each(|path| list(top, path, lines, names));
    }
}

fn blocks(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().blocks()
}

#[test]
fn every_kind_of_entry_is_copied_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (store, tree) = (store(dir.path()), dir.path().join("tree"));
    fs::create_dir(&tree).unwrap();
    fill(&tree);
    let wanted = describe(&tree);
    assert_eq!(wanted.len(), 17, "{wanted:#?}");
    let _listener = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    let then = std::time::UNIX_EPOCH + Duration::new(981_173_106, 987_654_321);
    File::open(&tree).unwrap().set_modified(then).unwrap();
    let digest = take(&store, &tree, None).unwrap();
    let diff = store.diff(digest);
    assert_eq!(describe(&diff), wanted);
    store.verify(digest).unwrap();
    for name in ["sparse", "hole"] {
        let (copy, source) = (blocks(&diff.join(name)), blocks(&tree.join(name)));
        assert!(copy <= source + 16, "{name}: {copy} blocks of {source}");
    }
    let mut overlay_only = vec![0; 256];
    let origin = "trusted.overlay.origin";
    rustix::fs::lgetxattr(diff.join("folder"), origin, &mut overlay_only[..]).unwrap_err();
}

#[test]
fn a_copy_of_a_copy_is_the_same_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (store, tree) = (store(dir.path()), dir.path().join("tree"));
    fs::create_dir(&tree).unwrap();
    fill(&tree);
    let (mut from, wanted) = (tree.clone(), describe(&tree));
    let mut digests = std::collections::BTreeSet::new();
    for round in 0..5 {
        // Each from what the last one made, in a store of its own.
        let place = dir.path().join(round.to_string());
        fs::create_dir(&place).unwrap();
        let other = LayerStore::open(place.join("store")).unwrap();
        let digest = take(&other, &from, None).unwrap();
        digests.insert(digest);
        from = other.diff(digest);
        assert_eq!(describe(&from), wanted, "round {round}");
    }
    digests.insert(take(&store, &tree, None).unwrap());
    assert_eq!(digests.len(), 1);
}

#[test]
fn what_did_not_change_is_shared_and_what_did_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (store, tree) = (store(dir.path()), dir.path().join("tree"));
    fs::create_dir(&tree).unwrap();
    for name in ["same", "written", "touched", "mode", "attribute", "one"] {
        fs::write(tree.join(name), vec![1; 100_000]).unwrap();
    }
    fs::hard_link(tree.join("one"), tree.join("two")).unwrap();
    let first = take(&store, &tree, None).unwrap();
    let before = describe(&store.diff(first));

    // Written as through a mapping: the size and the times stay what they were.
    let modified = tree.join("written").metadata().unwrap().modified().unwrap();
    let mut written = File::options().write(true).open(tree.join("written")).unwrap();
    written.seek(SeekFrom::Start(50_000)).unwrap();
    written.write_all(b"changed").unwrap();
    written.set_modified(modified).unwrap();
    File::open(tree.join("touched")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    fs::set_permissions(tree.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    set(&tree.join("attribute"), "user.a", b"b");
    // Two names of one file become two files with the same content and time.
    let time = tree.join("one").metadata().unwrap().modified().unwrap();
    fs::remove_file(tree.join("two")).unwrap();
    fs::write(tree.join("two"), vec![1; 100_000]).unwrap();
    File::open(tree.join("two")).unwrap().set_modified(time).unwrap();
    fs::write(tree.join("new"), vec![2; 100_000]).unwrap();

    let second = take(&store, &tree, Some(first)).unwrap();
    assert_ne!(first, second);
    assert_eq!(describe(&store.diff(second)), describe(&tree));
    assert_eq!(describe(&store.diff(first)), before);
    let is_shared = |name: &str| {
        let inode = |digest| store.diff(digest).join(name).metadata().unwrap().ino();
        inode(first) == inode(second)
    };
    assert!(is_shared("same"));
    assert!(is_shared("one") != is_shared("two"), "one of both is that file");
    for name in ["written", "touched", "mode", "attribute"] {
        assert!(!is_shared(name), "{name}");
    }
    store.verify(first).unwrap();
    store.verify(second).unwrap();
    // The earlier one goes; what was shared stays, and is shared on.
    assert!(store.remove(first).unwrap());
    store.verify(second).unwrap();
    fs::write(tree.join("third"), "3").unwrap();
    let third = take(&store, &tree, Some(second)).unwrap();
    assert_eq!(describe(&store.diff(third)), describe(&tree));
    let inode = |digest| store.diff(digest).join("same").metadata().unwrap().ino();
    assert_eq!(inode(second), inode(third));
    // The same but for a time, or for which names are of one file, is another layer.
    File::open(tree.join("same")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let fourth = take(&store, &tree, Some(third)).unwrap();
    assert_eq!(describe(&store.diff(fourth)), describe(&tree));
    fs::write(tree.join("twin"), "3").unwrap();
    File::open(tree.join("twin")).unwrap().set_modified(time).unwrap();
    File::open(tree.join("third")).unwrap().set_modified(time).unwrap();
    File::open(&tree).unwrap().set_modified(time).unwrap();
    let apart = take(&store, &tree, None).unwrap();
    fs::remove_file(tree.join("twin")).unwrap();
    fs::hard_link(tree.join("third"), tree.join("twin")).unwrap();
    File::open(&tree).unwrap().set_modified(time).unwrap();
    let together = take(&store, &tree, None).unwrap();
    assert_ne!(apart, together);
    for digest in [fourth, apart, together] {
        store.verify(digest).unwrap();
    }
    fs::remove_file(tree.join("twin")).unwrap();
    let third = take(&store, &tree, None).unwrap();
    File::open(&tree)
        .unwrap()
        .set_modified(store.diff(third).metadata().unwrap().modified().unwrap())
        .unwrap();
    // A layer that is not there any more is nothing to share with.
    assert_eq!(take(&store, &tree, Some(first)).unwrap(), third);
}

#[test]
fn what_is_not_whole_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, tree) = (store(dir.path()), dir.path().join("tree"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "x").unwrap();
    let check = |wanted: &str| {
        let error = take(&store, &tree, None).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert_eq!(store.list().unwrap(), []);
        assert_eq!(fs::read_dir(dir.path().join("store/tmp")).unwrap().count(), 0);
    };
    mknod(&tree.join("null"), FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    check("/null is a device");
    fs::remove_file(tree.join("null")).unwrap();
    File::create(tree.join("vast")).unwrap().set_len(super::SNAPSHOT_BYTES_MAX + 1).unwrap();
    check("more than 64 GiB");
    fs::remove_file(tree.join("vast")).unwrap();
    let deep = (0..600).fold(tree.join("deep"), |path, _| path.join("d"));
    fs::create_dir_all(deep).unwrap();
    check("nested more than 512");
    fs::remove_dir_all(tree.join("deep")).unwrap();
    let opened = File::open(&tree).unwrap();
    let late = store.copy(std::os::fd::AsFd::as_fd(&opened), None, &|| false);
    assert!(matches!(late, Err(Error::Late)));
    assert_eq!(fs::read_dir(dir.path().join("store/tmp")).unwrap().count(), 0);
    take(&store, &tree, None).unwrap();
}

#[test]
fn a_full_disk_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (small, tree) = (dir.path().join("small"), dir.path().join("tree"));
    fs::create_dir(&small).unwrap();
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), vec![1; 8 << 20]).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("test", &small, "tmpfs", flags, Some(c"size=4m")).unwrap();
    let outcome = std::panic::catch_unwind(|| {
        let store = store(&small);
        let error = take(&store, &tree, None).unwrap_err();
        assert!(matches!(error, Error::Layer(LayerError::Full { .. })), "{error}");
        assert_eq!(store.list().unwrap(), []);
        assert_eq!(fs::read_dir(small.join("store/tmp")).unwrap().count(), 0);
    });
    rustix::mount::unmount(&small, rustix::mount::UnmountFlags::DETACH).unwrap();
    outcome.unwrap();
}
