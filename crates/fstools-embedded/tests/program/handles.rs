//! Open files: `OpenFile`, what is done with its handle, and `CloseFile`.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::tool::{Done, folder, program, run, run_under};

/// A handle of its own for each test that runs on this machine.
fn handle(name: &str) -> String {
    format!("test-{}-{name}", std::process::id())
}

fn open(path: &Path, mode: &str, handle: &str) -> Done {
    run(&json!({ "OpenFile": { "path": path, "mode": mode, "handle": handle } }))
}

fn on(handle: &str, command: &str, more: Value, input: &[u8]) -> Done {
    let mut arguments = more;
    arguments["handle"] = json!(handle);
    run_under(&[], &json!({ command: arguments }), input)
}

fn read(handle: &str, count: Option<u64>) -> Vec<u8> {
    on(handle, "ReadOn", json!({ "count": count }), b"").output()
}

fn write(handle: &str, data: &[u8]) -> Done {
    on(handle, "WriteOn", json!({}), data)
}

fn seek(handle: &str, offset: i64, whence: &str) -> Done {
    on(handle, "Seek", json!({ "offset": offset, "whence": whence }), b"")
}

fn close(handle: &str) -> Done {
    on(handle, "CloseFile", json!({}), b"")
}

/// The processes that hold the file at `path`.
fn holders(path: &Path) -> usize {
    let held = |entry: fs::DirEntry| fs::read_link(entry.path().join("fd/0")).ok();
    let links = fs::read_dir("/proc").unwrap().filter_map(|entry| held(entry.unwrap()));
    links.filter(|link| link == path).count()
}

#[test]
fn the_position_goes_from_one_command_to_the_next() {
    let dir = folder();
    let path = dir.path().join("file");
    fs::write(&path, "one\ntwo\nthree").unwrap();
    let handle = handle("position");
    open(&path, "r+b", &handle).output();
    assert_eq!(holders(&path), 1);
    let line = || on(&handle, "ReadLine", json!({}), b"").output();
    assert_eq!(line(), b"one\n");
    assert_eq!(read(&handle, Some(2)), b"tw");
    assert_eq!(line(), b"o\n");
    assert_eq!(read(&handle, None), b"three");
    assert_eq!((read(&handle, None), line()), (vec![], vec![]));
    seek(&handle, -5, "End").output();
    write(&handle, b"THREE and more").output();
    on(&handle, "Flush", json!({}), b"").output();
    seek(&handle, 0, "Start").output();
    seek(&handle, 4, "Current").output();
    fs::remove_file(&path).unwrap();
    assert_eq!(read(&handle, None), b"two\nTHREE and more");
    assert_eq!(seek(&handle, -1, "Start").failure().0, "Invalid");
    assert_eq!(seek(&handle, -100, "Current").failure().0, "Invalid");
    close(&handle).output();
    for failed in [close(&handle), write(&handle, b"x")] {
        let (kind, message) = failed.failure();
        assert_eq!(kind, "NotOpen", "{message}");
    }
}

#[test]
fn modes_mean_what_they_mean_in_python() {
    let dir = folder();
    let path = dir.path().join("file");
    assert_eq!(open(&path, "r", &handle("m0")).failure().0, "NotFound");
    assert_eq!(open(dir.path(), "r", &handle("m0")).failure().0, "IsDirectory");
    assert_eq!(open(dir.path(), "w", &handle("m0")).failure().0, "IsDirectory");
    open(&path, "x", &handle("m1")).output();
    assert_eq!(open(&path, "x", &handle("m2")).failure().0, "PathAlreadyExists");
    write(&handle("m1"), b"content").output();
    close(&handle("m1")).output();
    open(&path, "a", &handle("m3")).output();
    write(&handle("m3"), b"!").output();
    seek(&handle("m3"), 0, "Start").output();
    write(&handle("m3"), b"?").output();
    let span = json!({ "span": { "start": 0, "end": 3 } });
    on(&handle("m3"), "ReplaceBytes", span.clone(), b"CON!").output();
    on(&handle("m3"), "DeleteBytes", json!({ "span": { "start": 3, "end": 4 } }), b"").output();
    close(&handle("m3")).output();
    assert_eq!(fs::read_to_string(&path).unwrap(), "CONtent!?");
    open(&path, "r", &handle("m4")).output();
    assert_eq!(write(&handle("m4"), b"x").failure().0, "Invalid");
    assert_eq!(on(&handle("m4"), "DeleteBytes", span, b"").failure().0, "Invalid");
    close(&handle("m4")).output();
    open(&path, "w", &handle("m5")).output();
    assert_eq!(fs::read(&path).unwrap(), b"");
    assert_eq!(on(&handle("m5"), "ReadOn", json!({}), b"").failure().0, "Io");
    close(&handle("m5")).output();
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o644.into(), 0)
        .unwrap();
    assert_eq!(open(&pipe, "r", &handle("m6")).failure().0, "NotAFile");
    assert_eq!(open(&pipe, "r", "../m6").failure().0, "InvalidCommand");
}

/// A client that sends nothing more holds nobody up, and leaves the file as it was.
#[test]
fn a_file_is_taken_once_all_is_there_that_is_to_be_written() {
    let dir = folder();
    let path = dir.path().join("file");
    let handle = handle("slow");
    open(&path, "w+", &handle).output();
    for command in ["WriteOn", "ReplaceBytes"] {
        let mut arguments = json!({ "handle": handle });
        if command == "ReplaceBytes" {
            arguments["span"] = json!({ "start": 0, "end": 3 });
        }
        let mut slow = Command::new(program());
        slow.arg(json!({ command: arguments }).to_string()).stdin(Stdio::piped());
        let mut slow = slow.spawn().unwrap();
        // More than a pipe holds: it reads.
        slow.stdin.as_mut().unwrap().write_all(&[b'x'; 1 << 20]).unwrap();
        write(&handle, b"one").output();
        seek(&handle, 0, "Start").output();
        assert_eq!(read(&handle, None), b"one", "{command}");
        seek(&handle, 0, "Start").output();
        slow.kill().unwrap();
        slow.wait().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one", "{command}");
    }
    let (kind, message) = write(&handle, &vec![b'x'; (16 << 20) + 1]).failure();
    assert_eq!(kind, "FileTooLarge", "{message}");
    assert_eq!(fs::read(&path).unwrap(), b"one");
    write(&handle, &vec![b'x'; 16 << 20]).output();
    assert_eq!(fs::metadata(&path).unwrap().len(), 16 << 20);
    close(&handle).output();
}

/// Commands have their turns: what each writes is whole.
#[test]
fn many_write_to_one_file_at_a_time() {
    let dir = folder();
    let path = dir.path().join("file");
    let handle = handle("turns");
    open(&path, "w", &handle).output();
    thread::scope(|scope| {
        for letter in b'a'..b'i' {
            let handle = &handle;
            scope.spawn(move || write(handle, &[letter; 1 << 20]).output());
        }
    });
    close(&handle).output();
    let content = fs::read(&path).unwrap();
    let runs = content.chunk_by(|a, b| a == b).map(<[u8]>::len);
    assert_eq!(runs.collect::<Vec<_>>(), [1 << 20; 8]);
    let begun = Instant::now();
    while holders(&path) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "its holder has not ended");
        thread::sleep(Duration::from_millis(10));
    }
}
