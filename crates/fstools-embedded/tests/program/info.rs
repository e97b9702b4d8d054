//! `Stat`, `ListFiles`, and commands that are none.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use fstools_embedded::FS_TOOLS;
use serde_json::{Value, json};

use crate::tool::{folder, hostile, run, run_command, run_raw};

fn stat(path: &Path) -> Value {
    run(&json!({ "Stat": { "path": path } })).json()
}

#[test]
fn the_program_is_small_and_needs_no_other_file() {
    assert!(FS_TOOLS.len() < 1_500_000, "{} bytes", FS_TOOLS.len());
    // An image without anything: not even /proc, /dev or a user database.
    let dir = folder();
    fs::copy(crate::tool::program(), dir.path().join("tool")).unwrap();
    fs::write(dir.path().join("file"), "content").unwrap();
    let bare = |command: Value, input: &[u8]| {
        let mut chroot = Command::new("chroot");
        chroot.arg(dir.path()).arg("/tool").arg(command.to_string()).env_clear();
        chroot.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        run_command(chroot, input)
    };
    let listed = bare(json!({ "ListFiles": { "path": "/" } }), b"").json();
    assert_eq!(listed[0]["name"], "file");
    assert_eq!(listed[0]["owner"], "0");
    assert_eq!(bare(json!({ "ReadFile": { "path": "/file" } }), b"").output(), b"content");
    bare(json!({ "WriteFile": { "path": "/new/file" } }), b"new").output();
    bare(json!({ "WriteFile": { "path": "/file" } }), b"other").output();
    assert_eq!(fs::read(dir.path().join("new/file")).unwrap(), b"new");
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"other");
    assert_eq!(crate::tool::names(dir.path()), ["file", "new", "tool"]);
}

#[test]
fn stat_says_what_stat_of_coreutils_says() {
    let dir = folder();
    let path = dir.path().join("file");
    fs::write(&path, "12345").unwrap();
    for mode in [0o644, 0o4755, 0o1777, 0] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let mut coreutils = Command::new("stat");
        coreutils.arg("-c").arg("%s %f %a %U %G %Y").arg(&path);
        let text = String::from_utf8(run_command(coreutils, b"").output()).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        let info = stat(&path);
        assert_eq!(info["type"], "file");
        assert_eq!(info["path"], json!(path));
        assert_eq!(info["size"].to_string(), words[0]);
        assert_eq!(format!("{:x}", info["mode"].as_u64().unwrap()), words[1]);
        assert_eq!(info["permissions"], format!("{:0>4}", words[2]));
        assert_eq!((info["owner"].as_str(), info["group"].as_str()), (Some("root"), Some("root")));
        let seconds: f64 = words[5].parse().unwrap();
        assert!((0.0..1.0).contains(&(info["modified_time"].as_f64().unwrap() - seconds)));
        assert!(info["symlink_target"].is_null());
    }
    chown(&path, Some(123_456), Some(123_457)).unwrap();
    let info = stat(&path);
    assert_eq!((&info["owner"], &info["group"]), (&json!("123456"), &json!("123457")));
}

#[test]
fn times_before_1970_and_after_2038_are_right() {
    let dir = folder();
    for (date, seconds) in
        [("1969-12-31 23:59:58.5 UTC", -1.5), ("2100-01-01 UTC", 4_102_444_800.0)]
    {
        let mut touch = Command::new("touch");
        touch.arg("-d").arg(date).arg(dir.path());
        run_command(touch, b"").output();
        assert_eq!(stat(dir.path())["modified_time"].as_f64(), Some(seconds));
    }
}

#[test]
fn links_are_shown_with_their_targets_and_a_listed_one_is_followed() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("folder")).unwrap();
    fs::write(path("folder/file"), "").unwrap();
    for (target, name) in [("folder", "to-folder"), ("/nowhere", "dangling"), ("loop", "loop")] {
        symlink(target, path(name)).unwrap();
        let info = stat(&path(name));
        assert_eq!(info["type"], "symlink");
        assert_eq!(info["symlink_target"], target);
    }
    let listed = run(&json!({ "ListFiles": { "path": path("to-folder") } })).json();
    assert_eq!(listed[0]["path"], json!(path("to-folder/file")));
    let listed = run(&json!({ "ListFiles": { "path": dir.path() } })).json();
    let names: Vec<&str> =
        listed.as_array().unwrap().iter().map(|info| info["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dangling", "folder", "loop", "to-folder"]);
}

#[test]
fn what_is_no_file_is_listed_as_one_and_never_opened() {
    let dir = folder();
    let mut mkfifo = Command::new("mkfifo");
    run_command(
        {
            mkfifo.arg(dir.path().join("pipe"));
            mkfifo
        },
        b"",
    )
    .output();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let listed = run(&json!({ "ListFiles": { "path": dir.path() } })).json();
    for (info, bits) in listed.as_array().unwrap().iter().zip([0o010_000, 0o140_000]) {
        assert_eq!(info["type"], "file");
        assert_eq!(info["mode"].as_u64().unwrap() & 0o170_000, bits);
    }
    for path in [dir.path().join("pipe"), dir.path().join("socket"), "/dev/zero".into()] {
        for command in ["ReadFile", "WriteFile"] {
            let (kind, message) = run(&json!({ command: { "path": path } })).failure();
            assert_eq!(kind, "NotAFile");
            assert!(message.ends_with(path.to_str().unwrap()), "{message}");
        }
    }
}

#[test]
fn every_name_can_be_listed_and_used() {
    let dir = folder();
    let path = dir.path().join(hostile());
    fs::write(&path, "content").unwrap();
    let listed = run(&json!({ "ListFiles": { "path": dir.path() } })).output();
    let text = String::from_utf8(listed).unwrap();
    // What Python and JavaScript read is what they write: the escape stays.
    let start = text.find(r#""path":"#).unwrap() + 7;
    let end = text.find(r#","type""#).unwrap();
    let quoted = &text[start..end];
    assert!(quoted.contains(r"\udcff\udcc3"), "{quoted}");
    let command = |name: &str| format!(r#"{{"{name}":{{"path":{quoted}}}}}"#);
    assert_eq!(run_raw(OsStr::new(&command("ReadFile")), b"").output(), b"content");
    run_raw(OsStr::new(&command("WriteFile")), b"new").output();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    run_raw(OsStr::new(&command("Remove")), b"").output();
    assert!(!path.exists());
}

#[test]
fn failures_have_the_kinds_that_clients_know() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("file"), "").unwrap();
    symlink("loop", path("loop")).unwrap();
    for command in ["Stat", "ListFiles"] {
        for (name, expected) in
            [("missing", "NotFound"), ("file/below", "NotDirectory"), ("loop/below", "InvalidPath")]
        {
            let (kind, message) = run(&json!({ command: { "path": path(name) } })).failure();
            assert_eq!(kind, expected, "{command} {name}");
            // Clients add the path to what they know.
            assert_eq!(message.contains(name), kind == "InvalidPath", "{message}");
        }
        let long = path(&"x".repeat(300));
        assert_eq!(run(&json!({ command: { "path": long } })).failure().0, "InvalidPath");
    }
    assert_eq!(run(&json!({ "ListFiles": { "path": path("file") } })).failure().0, "NotDirectory");
}

#[test]
fn what_is_no_command_is_refused() {
    for argument in [
        &b""[..],
        b"{",
        b"[]",
        b"{}",
        b"{\"Nothing\":{}}",
        b"\xff\xfe",
        b"{\"Stat\":{\"path\":\"\xff\"}}",
    ] {
        let (kind, _) = run_raw(OsStr::from_bytes(argument), b"").failure();
        assert_eq!(kind, "InvalidCommand");
    }
    let deep = format!("{{\"Stat\":{}", "[".repeat(100_000));
    assert_eq!(run_raw(OsStr::new(&deep), b"").failure().0, "InvalidCommand");
    let mut command = Command::new(crate::tool::program());
    command.args(["{\"Stat\":{\"path\":\"/\"}}", "more"]);
    assert_eq!(run_command(command, b"").failure().0, "InvalidCommand");
    assert_eq!(
        run_command(Command::new(crate::tool::program()), b"").failure().0,
        "InvalidCommand"
    );
}

#[test]
fn a_large_folder_is_listed_in_order() {
    let dir = folder();
    for number in 0..5_000 {
        fs::write(dir.path().join(format!("{number:05}")), "").unwrap();
    }
    let listed = run(&json!({ "ListFiles": { "path": dir.path() } })).json();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 5_000);
    assert!(listed.iter().enumerate().all(|(at, info)| info["name"] == format!("{at:05}")));
}
