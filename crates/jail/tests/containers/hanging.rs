//! A file system that does not answer, and containers that use it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jail::{Bind, BindIds, Child, ChildError, ExecError, Exit};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::ground::{Ground, exec, hold, say, script};
use crate::life::{leaves_nothing, wait_until};

// Numbers and sizes of include/uapi/linux/fuse.h, version 7.31.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
/// Reads wait for pages, not for the answer itself, and can be broken off.
const ASYNC_READ: u32 = 1;
const HEADER_BYTES: usize = 40;

/// A mounted file system with one file that can be opened and never read.
struct Hanging {
    point: PathBuf,
    device: Option<Arc<File>>,
    asked: Arc<AtomicBool>,
}

impl Hanging {
    /// `flags` are those of struct fuse_init_out.
    fn mount(point: &Path, flags: u32) -> Self {
        fs::create_dir(point).unwrap();
        let device = Arc::new(File::options().read(true).write(true).open("/dev/fuse").unwrap());
        let number = std::os::fd::AsRawFd::as_raw_fd(&*device);
        let options = format!("fd={number},rootmode=40000,user_id=0,group_id=0,allow_other\0");
        let options = std::ffi::CString::from_vec_with_nul(options.into_bytes()).unwrap();
        let quiet = MountFlags::NOSUID | MountFlags::NODEV;
        mount("palisade-test", point, "fuse", quiet, Some(options.as_c_str())).unwrap();
        let asked = Arc::new(AtomicBool::new(false));
        let (server, seen) = (Arc::clone(&device), Arc::clone(&asked));
        std::thread::spawn(move || serve(&server, &seen, flags));
        Self { point: point.to_owned(), device: Some(device), asked }
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // Forced: what waits for an answer gets an error.
        let _ = unmount(&self.point, UnmountFlags::FORCE);
        let _ = unmount(&self.point, UnmountFlags::DETACH);
        self.device = None;
    }
}

/// Answers until it is unmounted.
fn serve(mut device: &File, asked: &AtomicBool, flags: u32) {
    let mut bytes = vec![0; 1 << 17];
    while let Ok(count) = device.read(&mut bytes) {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert!(count >= HEADER_BYTES);
        let (code, node) = (number(4), number(16));
        let body = match code {
            INIT => init(flags),
            LOOKUP => entry(),
            GETATTR => [vec![0; 16], attributes(node == 1)].concat(),
            OPEN => vec![0; 16],
            READ => {
                asked.store(true, Ordering::Relaxed);
                continue;
            }
            FORGET | BATCH_FORGET | INTERRUPT => continue,
            _ => vec![],
        };
        let known = matches!(code, INIT | LOOKUP | GETATTR | OPEN);
        let error = if known { 0 } else { -libc::ENOSYS };
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut answer = [length.to_le_bytes(), error.to_le_bytes()].concat();
        answer.extend_from_slice(&bytes[8..16]);
        answer.extend_from_slice(&body);
        // A request may have been given up meanwhile.
        let _ = device.write_all(&answer);
    }
}

/// struct fuse_init_out: version 7.31.
fn init(flags: u32) -> Vec<u8> {
    let words = [7_u32, 31, 1 << 16, flags, 0, 1 << 16, 1];
    let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    body.resize(64, 0);
    body
}

/// struct fuse_entry_out of the file.
fn entry() -> Vec<u8> {
    let mut body = 2_u64.to_le_bytes().to_vec();
    body.resize(40, 0);
    body.extend(attributes(false));
    body
}

/// struct fuse_attr of the top folder or of the file.
fn attributes(folder: bool) -> Vec<u8> {
    let (node, mode) = if folder { (1_u64, 0o040_755_u32) } else { (2, 0o100_644) };
    let mut body = node.to_le_bytes().to_vec();
    body.extend(4096_u64.to_le_bytes());
    body.resize(60, 0);
    body.extend(mode.to_le_bytes());
    body.extend(1_u32.to_le_bytes());
    body.resize(88, 0);
    body
}

/// A container without a program that sees the file system at /hanging.
fn hold_with(ground: &Ground, hanging: &Hanging) -> Child {
    let mut plan = ground.plan_for_execs();
    plan.binds = vec![Bind {
        source: hanging.point.clone(),
        target: "/hanging".into(),
        read_only: true,
        ids: BindIds::AsIs,
    }];
    hold(&plan)
}

#[test]
fn a_container_ends_in_the_middle_of_a_read() {
    let ground = Ground::new();
    let hanging = Hanging::mount(&ground.path("fuse"), ASYNC_READ);
    let child = hold_with(&ground, &hanging);
    let reader = exec(&child, &script("exec cat /hanging/file")).unwrap();
    wait_until("it reads", || hanging.asked.load(Ordering::Relaxed));
    assert_eq!(say(&child, "echo alive"), "alive");
    let begin = Instant::now();
    child.end().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(reader.finish().0, Exit::Signal(9));
    drop(hanging);
    leaves_nothing(&ground);
}

/// What only the container sees is broken off; nobody else can wait for it.
#[test]
fn a_file_system_of_its_own_holds_nothing_up() {
    let ground = Ground::new();
    let hanging = Hanging::mount(&ground.path("fuse"), 0);
    let child = hold_with(&ground, &hanging);
    unmount(&hanging.point, UnmountFlags::DETACH).unwrap();
    let reader = exec(&child, &script("exec cat /hanging/file")).unwrap();
    wait_until("it reads", || hanging.asked.load(Ordering::Relaxed));
    let begin = Instant::now();
    child.end().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert_eq!(reader.finish().0, Exit::Signal(9));
    drop(hanging);
    leaves_nothing(&ground);
}

#[test]
fn what_no_kill_reaches_is_named_and_ended_later() {
    let ground = Ground::new();
    let hanging = Hanging::mount(&ground.path("fuse"), 0);
    let mut child = hold_with(&ground, &hanging);
    let reader = exec(&child, &script("exec cat /hanging/file")).unwrap();
    let other = exec(&child, &script("sleep 1000")).unwrap();
    wait_until("it reads", || hanging.asked.load(Ordering::Relaxed));
    let begin = Instant::now();
    let error = child.end_within(Duration::from_millis(500)).unwrap_err();
    assert!(matches!(error, ChildError::Lingers { .. }), "{error}");
    assert!(error.to_string().contains("(cat), in "), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    // The others are gone.
    assert_eq!(other.finish().0, Exit::Signal(9));
    let refused = exec(&child, &script("true")).err().unwrap();
    assert!(matches!(refused, ExecError::Gone(_)), "{refused}");
    drop(hanging);
    assert_eq!(child.end_within(Duration::from_secs(5)).unwrap().exit, Exit::Signal(9));
    assert_eq!(reader.finish().0, Exit::Signal(9));
    leaves_nothing(&ground);
}
