//! `ReadFile` and `WriteFile`.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::json;

use crate::tool::{Done, NOBODY, folder, names, program, read, run_command, run_under, write};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn files_are_written_and_read() {
    let dir = folder();
    let all: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    for (name, content) in
        [("empty", &b""[..]), ("a/b/c", b"\x00\xff\n"), ("large", &all), ("a/b/c", b"again")]
    {
        let path = dir.path().join(name);
        write(&path, content).output();
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!(read(&path).output(), content);
    }
    assert_eq!(names(dir.path()), ["a", "empty", "large"]);
    assert_eq!(names(&dir.path().join("a/b")), ["c"]);
    // What has no size can be read, too.
    assert!(!read(Path::new("/proc/self/stat")).output().is_empty());
}

#[test]
fn failures_have_the_kinds_that_clients_know() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("file"), "kept").unwrap();
    fs::create_dir(path("folder")).unwrap();
    symlink("folder", path("link")).unwrap();
    symlink("loop", path("loop")).unwrap();
    for (name, expected) in [
        ("missing", "NotFound"),
        ("missing/file", "NotFound"),
        ("folder", "IsDirectory"),
        ("link", "IsDirectory"),
        ("file/below", "NotDirectory"),
        ("loop", "InvalidPath"),
    ] {
        assert_eq!(read(&path(name)).failure().0, expected, "{name}");
    }
    for (name, expected) in [
        ("folder", "IsDirectory"),
        ("link", "IsDirectory"),
        ("new/", "IsDirectory"),
        ("new/..", "IsDirectory"),
        ("file/below", "NotDirectory"),
        ("file/below/more", "NotDirectory"),
        ("loop", "InvalidPath"),
    ] {
        assert_eq!(write(&path(name), b"new").failure().0, expected, "{name}");
    }
    assert_eq!(fs::read(path("file")).unwrap(), b"kept");
    assert_eq!(names(dir.path()), ["file", "folder", "link", "loop"]);
    set_mode(&path("file"), 0o600);
    for command in ["ReadFile", "WriteFile"] {
        let command = json!({ command: { "path": path("file") } });
        assert_eq!(run_under(NOBODY, &command, b"new").failure().0, "PermissionDenied");
    }
    assert_eq!(fs::read(path("file")).unwrap(), b"kept");
}

#[test]
fn a_file_beyond_the_limit_is_not_begun() {
    let dir = folder();
    let path = dir.path().join("sparse");
    File::create(&path).unwrap().set_len((5 << 30) + 1).unwrap();
    let done = read(&path);
    assert!(done.stdout.is_empty());
    assert_eq!(done.failure().0, "FileTooLarge");
}

#[test]
fn owner_mode_and_links_of_an_old_file_are_kept() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("file"), "old").unwrap();
    chown(path("file"), Some(1_234), Some(2_345)).unwrap();
    set_mode(&path("file"), 0o4750);
    symlink("file", path("link")).unwrap();
    write(&path("link"), b"new").output();
    let meta = fs::metadata(path("file")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1_234, 2_345, 0o4750));
    assert!(path("link").is_symlink());
    assert_eq!(fs::read(path("file")).unwrap(), b"new");
    // A link to nowhere makes what it leads to.
    symlink("deep/er/made", path("dangling")).unwrap();
    write(&path("dangling"), b"made").output();
    assert_eq!(fs::read(path("deep/er/made")).unwrap(), b"made");
    // Another name of the same file sees the new content.
    fs::hard_link(path("file"), path("other")).unwrap();
    write(&path("file"), b"both").output();
    assert_eq!(fs::read(path("other")).unwrap(), b"both");
    assert_eq!(names(dir.path()), ["dangling", "deep", "file", "link", "other"]);
}

#[test]
fn a_file_that_may_be_written_is_written_whatever_its_folder_says() {
    let dir = folder();
    let path = dir.path().join("file");
    fs::write(&path, "old").unwrap();
    set_mode(&path, 0o666);
    let command = json!({ "WriteFile": { "path": path } });
    let check = |content: &[u8]| {
        run_under(NOBODY, &command, content).output();
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!(fs::metadata(&path).unwrap().uid(), 0);
        assert_eq!(names(dir.path()), ["file"]);
    };
    check(b"in a folder of somebody else");
    set_mode(dir.path(), 0o1777);
    check(b"in a folder like /tmp");
    // A file of the kernel.
    write(Path::new("/proc/self/comm"), b"renamed").output();
    // A file that something is mounted on, as /etc/hosts is in containers.
    let script = r#"mount --bind "$1" "$1" && "$2" "$3" && cat "$1""#;
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", script, "sh"]).arg(&path).arg(program());
    let done = run_command(
        {
            unshare.arg(command.to_string());
            unshare
        },
        b"mounted",
    );
    assert_eq!(done.output(), b"mounted");
    assert_eq!(names(dir.path()), ["file"]);
}

#[test]
fn a_write_that_does_not_end_leaves_everything_as_it_was() {
    let dir = folder();
    let path = dir.path().join("file");
    fs::write(&path, "old").unwrap();
    for name in ["file", "new"] {
        let command = json!({ "WriteFile": { "path": dir.path().join(name) } });
        let mut child =
            Command::new(program()).arg(command.to_string()).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // More than a pipe holds: some of it has been taken.
        stdin.write_all(&[b'x'; 1 << 20]).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["file"]);
}

#[test]
fn a_full_disk_is_said_and_the_old_file_stays() {
    let dir = folder();
    let script = r#"mount -t tmpfs -o size=1m palisade-test "$1" && echo old > "$1/file" &&
        head -c 4000000 /dev/zero | "$2" "$3"; code=$?; cat "$1/file"; ls "$1"; exit $code"#;
    let command = json!({ "WriteFile": { "path": dir.path().join("file") } });
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", script, "sh"]);
    unshare.arg(dir.path()).arg(program()).arg(command.to_string());
    let done = run_command(unshare, b"");
    assert_eq!(done.stdout, b"old\nfile\n");
    let (kind, message) = done.failure();
    assert_eq!(kind, "NoSpace");
    assert!(message.contains("no space is left"), "{message}");
    assert!(message.ends_with("/file"), "{message}");
}

#[test]
fn a_limit_of_files_is_said_and_kills_nobody() {
    let dir = folder();
    let path = dir.path().join("file");
    let limited = |content: &[u8]| -> Done {
        let command = json!({ "WriteFile": { "path": path } });
        run_under(&["prlimit", "--fsize=100000", "--"], &command, content)
    };
    limited(&[1; 100_000]).output();
    let (kind, message) = limited(&[2; 100_001]).failure();
    assert_eq!(kind, "FileTooLarge");
    assert!(message.contains("at most 100000 bytes"), "{message}");
    assert_eq!(fs::read(&path).unwrap(), [1; 100_000]);
}

#[test]
fn a_gibibyte_streams_in_little_memory() {
    let dir = folder();
    let path = dir.path().join("large");
    let pattern: Vec<u8> =
        (0_u32..1 << 18).flat_map(|n| n.wrapping_mul(0x9e37).to_le_bytes()).collect();
    let start = |command: &str| {
        let command = json!({ command: { "path": path } });
        // All memory that the process may map, its code and its stack included.
        Command::new("prlimit")
            .args(["--as=25000000", "--"])
            .arg(program())
            .arg(command.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut writer = start("WriteFile");
    let mut stdin = writer.stdin.take().unwrap();
    for _ in 0..1 << 10 {
        stdin.write_all(&pattern).unwrap();
    }
    drop(stdin);
    assert!(writer.wait().unwrap().success());
    assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 30);
    let mut reader = start("ReadFile");
    let mut stdout = reader.stdout.take().unwrap();
    let read = thread::spawn(move || {
        let mut chunk = vec![0; pattern.len()];
        for _ in 0..1 << 10 {
            stdout.read_exact(&mut chunk).unwrap();
            assert!(chunk == pattern);
        }
        stdout.read(&mut chunk).unwrap()
    });
    assert!(reader.wait().unwrap().success());
    assert_eq!(read.join().unwrap(), 0);
}

#[test]
fn a_client_that_goes_away_ends_a_read() {
    let dir = folder();
    let path = dir.path().join("file");
    File::create(&path).unwrap().set_len(1 << 28).unwrap();
    let mut child = Command::new(program())
        .arg(json!({ "ReadFile": { "path": path } }).to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("the output cannot be written"));
}
