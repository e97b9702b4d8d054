//! `Watch`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::tool::{Done, folder, hostile, program, run, write};

/// How long anything may take here before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A watch that runs.
struct Watch {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Watch {
    /// Starts a watch, and waits until it watches `folders` folders.
    fn start(path: &Path, recursive: bool, filter: Value, folders: usize) -> Self {
        let fields = json!({
            "path": path, "recursive": recursive, "filter": filter, "timeout_secs": null,
        });
        let mut child = Command::new(program())
            .arg(json!({ "Watch": fields }).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let watch = Self { child, stdin, lines };
        watch.wait_for_folders(folders);
        watch
    }

    /// Waits until the kernel knows of so many watched folders.
    fn wait_for_folders(&self, folders: usize) {
        let infos = PathBuf::from(format!("/proc/{}/fdinfo", self.child.id()));
        let watched = || {
            let infos = fs::read_dir(&infos).into_iter().flatten().flatten();
            let texts = infos.filter_map(|info| fs::read_to_string(info.path()).ok());
            texts.map(|text| text.matches("inotify wd:").count()).sum::<usize>()
        };
        let end = Instant::now() + PATIENCE;
        while watched() != folders {
            assert!(Instant::now() < end, "{} folders are watched", watched());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The next event: its type, and the names of its paths below `base`.
    fn next(&self, base: &Path) -> (String, Vec<String>) {
        let line = self.lines.recv_timeout(PATIENCE).expect("no event comes");
        let event: Value = serde_json::from_str(&line).expect(&line);
        let paths = event["paths"].as_array().unwrap().iter().map(|path| {
            let path = Path::new(path.as_str().unwrap());
            path.strip_prefix(base).expect(&line).to_str().unwrap().to_owned()
        });
        (event["event_type"].as_str().unwrap().to_owned(), paths.collect())
    }

    fn expect(&self, base: &Path, events: &[(&str, &[&str])]) {
        for (kind, paths) in events {
            let (seen, names) = self.next(base);
            assert_eq!(
                (seen.as_str(), names),
                (*kind, paths.iter().map(|p| (*p).to_owned()).collect())
            );
        }
    }

    /// Ends the watch as clients do; there must be no event that was not asked for.
    fn end(mut self) {
        drop(self.stdin.take());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let rest: Vec<String> = self.lines.iter().collect();
        assert!(rest.is_empty(), "{rest:?}");
    }
}

/// All but accesses, which depend on how a test does what it does.
fn changes() -> Value {
    json!(["Unknown", "Create", "Modify", "Remove", "Rename", "RenameFrom", "RenameTo"])
}

#[test]
fn changes_of_entries_are_told() {
    let dir = folder();
    let base = dir.path();
    fs::create_dir(base.join("outside")).unwrap();
    fs::create_dir_all(base.join("watched/folder")).unwrap();
    let watched = base.join("watched");
    let watch = Watch::start(&watched, false, changes(), 1);
    fs::write(watched.join("file"), "content").unwrap();
    watch.expect(&watched, &[("Create", &["file"]), ("Modify", &["file"])]);
    fs::rename(watched.join("file"), watched.join("other")).unwrap();
    watch.expect(&watched, &[("Rename", &["file", "other"])]);
    fs::rename(watched.join("other"), base.join("outside/file")).unwrap();
    watch.expect(&watched, &[("RenameFrom", &["other"])]);
    fs::rename(base.join("outside/file"), watched.join("back")).unwrap();
    watch.expect(&watched, &[("RenameTo", &["back"])]);
    // Not what is deeper.
    fs::write(watched.join("folder/file"), "").unwrap();
    fs::remove_file(watched.join("back")).unwrap();
    watch.expect(&watched, &[("Remove", &["back"])]);
    watch.end();
}

#[test]
fn a_filter_leaves_out_what_it_does_not_name() {
    let dir = folder();
    let base = dir.path();
    let creates = Watch::start(base, false, json!(["Create"]), 1);
    let nothing = Watch::start(base, false, json!([]), 1);
    let accesses = Watch::start(base, false, json!(["Access"]), 1);
    fs::write(base.join("file"), "content").unwrap();
    fs::remove_file(base.join("file")).unwrap();
    fs::create_dir(base.join("folder")).unwrap();
    creates.expect(base, &[("Create", &["file"]), ("Create", &["folder"])]);
    accesses.expect(base, &[("Access", &["file"]), ("Access", &["file"])]);
    creates.end();
    nothing.end();
    accesses.end();
}

#[test]
fn folders_below_are_watched_also_new_and_moved_ones() {
    let dir = folder();
    let outside = folder();
    let base = dir.path();
    fs::create_dir_all(base.join("a/b")).unwrap();
    let filter = json!(["Create", "Remove", "Rename", "RenameFrom", "RenameTo"]);
    let watch = Watch::start(base, true, filter, 3);
    fs::write(base.join("a/b/file"), "").unwrap();
    watch.expect(base, &[("Create", &["a/b/file"])]);
    // A folder that has another name is still watched, under that.
    fs::rename(base.join("a"), base.join("c")).unwrap();
    watch.expect(base, &[("Rename", &["a", "c"])]);
    fs::write(base.join("c/b/more"), "").unwrap();
    watch.expect(base, &[("Create", &["c/b/more"])]);
    // One that has left is not, one that has come is.
    fs::rename(base.join("c"), outside.path().join("c")).unwrap();
    watch.expect(base, &[("RenameFrom", &["c"])]);
    watch.wait_for_folders(1);
    fs::write(outside.path().join("c/b/unseen"), "").unwrap();
    fs::rename(outside.path().join("c"), base.join("d")).unwrap();
    watch.expect(base, &[("RenameTo", &["d"])]);
    watch.wait_for_folders(3);
    fs::write(base.join("d/b/last"), "").unwrap();
    watch.expect(base, &[("Create", &["d/b/last"])]);
    watch.end();
}

#[test]
fn entries_of_new_folders_are_told_once_however_fast_they_come() {
    let dir = folder();
    let base = dir.path();
    let watch = Watch::start(base, true, json!(["Create"]), 1);
    let mut made = Vec::new();
    for round in 0..50 {
        let deep = format!("{round}/a/b/c");
        fs::create_dir_all(base.join(&deep)).unwrap();
        fs::write(base.join(&deep).join("file"), "").unwrap();
        for end in ["", "/a", "/a/b", "/a/b/c", "/a/b/c/file"] {
            made.push(format!("{round}{end}"));
        }
    }
    let mut seen: Vec<String> = made.iter().map(|_| watch.next(base).1.remove(0)).collect();
    seen.sort_unstable();
    made.sort_unstable();
    assert_eq!(seen, made);
    watch.end();
}

#[test]
fn a_file_stays_watched_when_it_is_replaced() {
    let dir = folder();
    let path = dir.path().join("file");
    fs::write(&path, "old").unwrap();
    fs::write(dir.path().join("other"), "").unwrap();
    let watch = Watch::start(&path, false, changes(), 1);
    let all = Watch::start(dir.path(), false, changes(), 1);
    for _ in 0..2 {
        write(&path, b"new").output();
        watch.expect(dir.path(), &[("RenameTo", &["file"])]);
        // And how it was replaced concerns nobody.
        all.expect(dir.path(), &[("RenameTo", &["file"])]);
    }
    write(&dir.path().join("new"), b"new").output();
    all.expect(dir.path(), &[("Create", &["new"])]);
    // A name that only looks like one of a file without a name is told.
    fs::write(dir.path().join("#12"), "content").unwrap();
    all.expect(dir.path(), &[("Create", &["#12"]), ("Modify", &["#12"])]);
    fs::remove_file(dir.path().join("other")).unwrap();
    all.expect(dir.path(), &[("Remove", &["other"])]);
    fs::remove_file(&path).unwrap();
    all.expect(dir.path(), &[("Remove", &["file"])]);
    watch.expect(dir.path(), &[("Remove", &["file"])]);
    fs::write(&path, "").unwrap();
    watch.expect(dir.path(), &[("Create", &["file"])]);
    all.expect(dir.path(), &[("Create", &["file"])]);
    watch.end();
    all.end();
}

#[test]
fn a_link_is_followed_and_events_name_its_target() {
    let dir = folder();
    fs::create_dir(dir.path().join("target")).unwrap();
    symlink("target", dir.path().join("link")).unwrap();
    let watch = Watch::start(&dir.path().join("link"), false, json!(["Create"]), 1);
    fs::write(dir.path().join("target/file"), "").unwrap();
    watch.expect(&dir.path().join("target"), &[("Create", &["file"])]);
    watch.end();
}

#[test]
fn hostile_names_are_one_line() {
    let dir = folder();
    let watch = Watch::start(dir.path(), false, json!(["Create"]), 1);
    fs::write(dir.path().join(hostile()), "").unwrap();
    fs::write(dir.path().join("next"), "").unwrap();
    let line = watch.lines.recv_timeout(PATIENCE).unwrap();
    assert!(line.contains(r#"a\"b\\c\u000a\udcff\udcc3\u001b[2J{\""#), "{line}");
    watch.expect(dir.path(), &[("Create", &["next"])]);
    watch.end();
}

#[test]
fn what_was_lost_is_said() {
    let dir = folder();
    let watch = Watch::start(dir.path(), true, json!(["Create", "Unknown"]), 1);
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let pid = rustix::process::Pid::from_child(&watch.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    for number in 0..queue.trim().parse::<usize>().unwrap() {
        fs::write(dir.path().join(number.to_string()), "").unwrap();
    }
    fs::create_dir(dir.path().join("late")).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    while watch.next(dir.path()).0 != "Unknown" {}
    watch.wait_for_folders(2);
    fs::write(dir.path().join("late/file"), "").unwrap();
    watch.expect(dir.path(), &[("Create", &["late/file"])]);
    watch.end();
}

#[test]
fn a_watch_ends_with_its_timeout_its_root_or_its_reader() {
    let dir = folder();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let timed = |seconds: f64| -> Done {
        let fields = json!({ "path": root, "timeout_secs": seconds });
        // Stdin stays open: only the time ends it.
        let mut child = Command::new(program())
            .arg(json!({ "Watch": fields }).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let _stdin = child.stdin.take();
        let code = child.wait().unwrap().code();
        Done { code, stdout: Vec::new(), stderr: String::new() }
    };
    let start = Instant::now();
    timed(0.0).output();
    timed(1.0).output();
    assert!(start.elapsed() >= Duration::from_secs(1));

    let mut watch = Watch::start(&root, false, changes(), 1);
    fs::remove_dir(&root).unwrap();
    watch.expect(dir.path(), &[("Remove", &["root"])]);
    assert_eq!(watch.child.wait().unwrap().code(), Some(0));

    let fields = json!({ "path": dir.path() });
    let mut child = Command::new(program())
        .arg(json!({ "Watch": fields }).to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let _stdin = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let dir = folder();
    let missing = json!({ "Watch": { "path": dir.path().join("missing") } });
    assert_eq!(run(&missing).failure().0, "NotFound");
    fs::write(dir.path().join("file"), "").unwrap();
    let below = json!({ "Watch": { "path": dir.path().join("file/below") } });
    let (kind, message) = run(&below).failure();
    assert_eq!(kind, "NotDirectory");
    assert!(message.ends_with("/file/below"), "{message}");
}
