//! `MakeDirectory` and `Remove`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::tool::{Done, NOBODY, folder, hostile, names, run, run_command, run_under};

fn make(path: &Path, parents: bool) -> Done {
    run(&json!({ "MakeDirectory": { "path": path, "parents": parents } }))
}

fn remove(path: &Path, recursive: bool) -> Done {
    run(&json!({ "Remove": { "path": path, "recursive": recursive } }))
}

#[test]
fn folders_are_made_with_and_without_those_above() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name);
    make(&path("a/b/c"), true).output();
    make(&path("a/b/c"), true).output();
    make(&path("a/d"), false).output();
    assert_eq!(names(&path("a")), ["b", "d"]);
    fs::write(path("file"), "").unwrap();
    symlink("/nowhere/at/all", path("dangling")).unwrap();
    for (name, parents, expected) in [
        ("a", false, "PathAlreadyExists"),
        ("x/y", false, "NotFound"),
        ("file", false, "PathAlreadyExists"),
        ("file", true, "PathAlreadyExists"),
        ("dangling", true, "PathAlreadyExists"),
        ("file/below", false, "NotDirectory"),
        ("file/below/more", true, "NotDirectory"),
        ("dangling/below", true, "NotDirectory"),
    ] {
        let (kind, message) = make(&path(name), parents).failure();
        assert_eq!(kind, expected, "{name} {parents}: {message}");
    }
    let forbidden = json!({ "MakeDirectory": { "path": path("forbidden"), "parents": true } });
    assert_eq!(run_under(NOBODY, &forbidden, b"").failure().0, "PermissionDenied");
}

#[test]
fn files_links_and_folders_are_removed() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir_all(path("kept/below")).unwrap();
    fs::write(path("kept/file"), "").unwrap();
    fs::write(path("file"), "").unwrap();
    symlink("kept", path("link")).unwrap();
    fs::create_dir(path("empty")).unwrap();
    fs::create_dir_all(path("full/a/b")).unwrap();
    symlink("../../kept", path("full/a/link")).unwrap();
    fs::write(path("full/a").join(hostile()), "").unwrap();
    for (name, recursive) in [("file", false), ("link", true), ("empty", false)] {
        remove(&path(name), recursive).output();
    }
    assert_eq!(remove(&path("full"), false).failure().0, "DirectoryNotEmpty");
    remove(&path("full"), true).output();
    assert_eq!(names(dir.path()), ["kept"]);
    assert_eq!(names(&path("kept")), ["below", "file"]);
    assert_eq!(remove(&path("file"), false).failure().0, "NotFound");
    let (kind, message) = remove(&path("kept/file/x"), false).failure();
    assert_eq!(kind, "NotDirectory");
    assert!(message.ends_with("/kept/file/x"), "{message}");
    let forbidden = json!({ "Remove": { "path": path("kept"), "recursive": true } });
    assert_eq!(run_under(NOBODY, &forbidden, b"").failure().0, "PermissionDenied");
    for root in ["/", "/../", "/tmp/.."] {
        assert_eq!(remove(Path::new(root), true).failure().0, "InvalidPath", "{root}");
    }
}

#[test]
fn no_tree_is_too_deep_or_too_wide() {
    let dir = folder();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    // Deeper than a path can be, by moving trees into each other.
    for round in 0..12 {
        let deep = dir.path().join("deep");
        fs::create_dir_all(deep.join(vec!["d"; 300].join("/"))).unwrap();
        let bottom = deep.join(vec!["d"; 300].join("/"));
        for name in names(&root) {
            fs::rename(root.join(&name), bottom.join(&name)).unwrap();
        }
        fs::rename(&deep, root.join(format!("{round}"))).unwrap();
    }
    for number in 0..500 {
        fs::create_dir_all(root.join(format!("wide/{number}/below"))).unwrap();
    }
    let command = json!({ "Remove": { "path": root, "recursive": true } });
    run_under(&["prlimit", "--nofile=16", "--stack=262144", "--"], &command, b"").output();
    assert!(names(dir.path()).is_empty());
}

#[test]
fn what_is_mounted_stays() {
    let dir = folder();
    let mounted = dir.path().join("full/mounted");
    fs::create_dir_all(&mounted).unwrap();
    // In a namespace of its own: nothing is left, whatever happens.
    let script = r#"mount -t tmpfs palisade-test "$1" && touch "$1/file" && exec "$2" "$3""#;
    let command = json!({ "Remove": { "path": dir.path().join("full"), "recursive": true } });
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", script, "sh"]);
    unshare.arg(&mounted).arg(crate::tool::program()).arg(command.to_string());
    assert_eq!(run_command(unshare, b"").failure().0, "Busy");
    assert!(mounted.exists());
}
