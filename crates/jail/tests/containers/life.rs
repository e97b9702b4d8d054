//! From preparing to ending, also when things go wrong.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jail::{Error, Exit};

use crate::ground::{Ground, base, exe, groups, prepare, run, start};

/// Whether any process of the host has `text` in its command line.
pub(crate) fn is_running(text: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(text)
    })
}

/// A command that no other run of these tests has: `is_running` looks at the whole machine.
pub(crate) fn sleep(number: u32) -> String {
    format!("sleep {}", std::process::id() * 10 + number)
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn leaves_nothing(ground: &Ground) {
    for parent in groups(&ground.parent) {
        let below = fs::read_dir(&parent).unwrap().flatten();
        let below: Vec<_> = below.filter(|entry| entry.path().is_dir()).collect();
        assert!(below.is_empty(), "{below:?}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(ground.dir.path().to_str().unwrap()), "{mounts}");
}

#[test]
fn exit_codes_and_signals_are_told() {
    let ground = Ground::new();
    for (script, exit) in [
        ("exit 0", Exit::Code(0)),
        ("exit 7", Exit::Code(7)),
        ("exit 137", Exit::Code(137)),
        ("kill -9 $$", Exit::Signal(9)),
        ("kill -SEGV $$", Exit::Signal(11)),
    ] {
        let ended = ground.run(script).ended;
        assert_eq!((ended.exit, ended.oom), (exit, false), "{script}");
    }
    leaves_nothing(&ground);
}

#[test]
fn ends_with_its_program_whatever_is_left() {
    let ground = Ground::new();
    let sleep = sleep(1);
    let script = format!(
        "trap '' TERM INT HUP; setsid {sleep} & (setsid {sleep} &) ; (trap '' TERM; {sleep}) & \
         sleep 0.1; exit 5"
    );
    let said = ground.run(&script);
    assert_eq!(said.ended.exit, Exit::Code(5));
    assert!(!is_running(&sleep));
    leaves_nothing(&ground);
}

#[test]
fn ending_kills_the_whole_tree() {
    let ground = Ground::new();
    let sleep = sleep(2);
    let script = format!(
        "trap '' TERM INT HUP; setsid {sleep} & (setsid {sleep} &); while true; do {sleep}; done"
    );
    let running = start(&ground.plan(&script));
    wait_until("the tree is there", || is_running(&sleep));
    let ended = running.end().ended;
    assert_eq!((ended.exit, ended.oom), (Exit::Signal(9), false));
    assert!(!is_running(&sleep));
    leaves_nothing(&ground);
}

#[test]
fn dropping_ends_too() {
    let ground = Ground::new();
    let sleep = sleep(3);
    let (prepared, _, _) = prepare(&ground.plan(&sleep));
    let pid = prepared.pid();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    drop(prepared);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    leaves_nothing(&ground);
    let running = start(&ground.plan(&sleep));
    wait_until("the program runs", || is_running(&sleep));
    drop(running.child);
    assert!(!is_running(&sleep));
    leaves_nothing(&ground);
}

#[test]
fn nothing_runs_before_the_start() {
    let ground = Ground::new();
    let (prepared, [mut out, _], stdin) = prepare(&ground.plan("echo started"));
    std::thread::sleep(Duration::from_millis(100));
    let children = format!("/proc/{0}/task/{0}/children", prepared.pid());
    assert_eq!(fs::read_to_string(children).unwrap(), "");
    let mut child = prepared.start().unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
    drop(stdin);
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "started\n");
    child.end().unwrap();
}

#[test]
fn signals_reach_the_program() {
    let ground = Ground::new();
    for signal in [libc::SIGTERM, libc::SIGUSR2, libc::SIGALRM] {
        let script = "trap 'echo term; exit 3' TERM; trap 'echo usr; exit 4' USR2; \
                      trap 'echo alarm; exit 5' ALRM; echo up > /tmp/up; \
                      while true; do sleep 0.05; done";
        let running = start(&ground.plan(script));
        let up = ground.path("scratch/upper/tmp/up");
        wait_until("the trap is set", || up.exists());
        running.child.signal(signal).unwrap();
        let said = running.finish();
        let want = [(15, "term", 3), (12, "usr", 4), (14, "alarm", 5)];
        let (_, word, code) = want.into_iter().find(|want| want.0 == signal).unwrap();
        assert_eq!((said.out.trim(), said.ended.exit), (word, Exit::Code(code)));
        fs::remove_file(up).unwrap();
    }
}

#[test]
fn waiting_is_pollable() {
    let ground = Ground::new();
    let mut running = start(&ground.plan("read line"));
    assert_eq!(running.child.try_wait().unwrap(), None);
    let poll = |running: &crate::ground::Running, timeout_ms: i64| {
        let fd = running.child.pidfd();
        let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        let time = rustix::event::Timespec { tv_sec: timeout_ms / 1000, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&time)).unwrap()
    };
    assert_eq!(poll(&running, 0), 0);
    running.tell("line\n");
    assert_eq!(poll(&running, 10_000), 1);
    assert_eq!(running.child.try_wait().unwrap(), Some(Exit::Code(0)));
    assert_eq!(running.child.wait().unwrap(), Exit::Code(0));
    running.child.signal(15).unwrap();
    running.finish();
}

#[test]
fn a_program_that_cannot_run_is_named() {
    let ground = Ground::new();
    let fails = |change: fn(&mut jail::Plan), want: &str| {
        let mut plan = ground.plan("true");
        change(&mut plan);
        let (prepared, _, _) = prepare(&plan);
        let error = prepared.start().expect_err(want);
        assert!(matches!(error, Error::Program { .. }), "{error:?}");
        assert!(error.to_string().contains(want), "{error}");
        leaves_nothing(&ground);
    };
    fails(
        |p| p.process.as_mut().unwrap().argv = vec!["nothing".into()],
        "nothing is not in the PATH",
    );
    fails(|p| p.process.as_mut().unwrap().argv = vec!["/no/such".into()], "/no/such");
    fails(|p| p.process.as_mut().unwrap().argv = vec!["/etc".into()], "Permission denied");
    fails(|p| p.process.as_mut().unwrap().cwd = "/nowhere".into(), "/nowhere (`process.cwd`)");
}

#[test]
fn a_container_that_cannot_be_built_leaves_nothing() {
    let ground = Ground::new();
    let fails = |change: &dyn Fn(&mut jail::Plan), want: &str| {
        let mut plan = ground.plan("true");
        change(&mut plan);
        let error = jail::prepare_with(exe(), &plan, jail::Stdio::null().unwrap());
        let error = error.expect_err(want).to_string();
        assert!(error.contains(want), "{error}");
        leaves_nothing(&ground);
    };
    fails(&|p| p.layers = vec!["/no/such/layer".into()], "/no/such/layer");
    fails(&|p| p.hostname = String::new(), "`hostname`");
    fails(&|p| p.layers = vec![ground.layer("f", "proc", "")], "/proc of the container's root");
    // A file where a folder should be: the target cannot be made.
    let bind = jail::Bind {
        source: "/etc".into(),
        target: "/bin/busybox/x".into(),
        read_only: true,
        ids: jail::BindIds::AsIs,
    };
    fails(&|p| p.binds = vec![bind.clone()], "/bin/busybox/x");
    let stdin = fs::File::open("/").unwrap().into();
    let stdio = jail::Stdio { stdin, ..jail::Stdio::null().unwrap() };
    let error = jail::prepare_with(exe(), &ground.plan("true"), stdio).expect_err("a folder");
    assert!(error.to_string().contains("standard streams"), "{error}");
    let error = jail::prepare_with(
        Path::new("/bin/true"),
        &ground.plan("true"),
        jail::Stdio::null().unwrap(),
    );
    assert!(matches!(error, Err(Error::Silent { .. })), "{error:?}");
    leaves_nothing(&ground);
}

#[test]
fn names_are_used_once() {
    let ground = Ground::new();
    let plan = ground.plan("true");
    let (first, _, _) = prepare(&plan);
    let second = jail::prepare_with(exe(), &plan, jail::Stdio::null().unwrap());
    assert!(second.expect_err("one name").to_string().contains("exists already"));
    // The first one is not harmed.
    let mut child = first.start().unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
    child.end().unwrap();
}

#[test]
fn containers_start_side_by_side() {
    let grounds: Vec<_> = (0..8).map(|_| Ground::new()).collect();
    std::thread::scope(|scope| {
        for ground in &grounds {
            scope.spawn(|| {
                let mut plan = ground.plan("hostname; echo $$");
                plan.hostname = format!("h{}", ground.ids.first);
                assert_eq!(run(&plan).out, format!("h{}\n2\n", ground.ids.first));
            });
        }
    });
    grounds.iter().for_each(leaves_nothing);
}

#[test]
fn the_caller_may_listen_inside() {
    let ground = Ground::new();
    let (prepared, [mut out, _], _stdin) =
        prepare(&ground.plan("echo hello | nc 127.0.0.1 8000; echo $?"));
    let address: SocketAddr = "127.0.0.1:8000".parse().unwrap();
    let listener = jail::listen_inside(prepared.network_namespace(), address).unwrap();
    // Outside, nobody listens there because of this.
    let outside = TcpStream::connect(address).is_ok();
    let mut child = prepared.start().unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut text = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut byte = [0; 6];
    stream.read_exact(&mut byte).unwrap();
    drop(stream);
    child.wait().unwrap();
    child.end().unwrap();
    out.read_to_string(&mut text).unwrap();
    assert_eq!((&byte, text.as_str(), outside), (b"hello\n", "0\n", false));
}

/// The folder in /proc of the parent of the process with `text` as its command line.
fn parent_of(text: &str) -> PathBuf {
    let says = |path: &Path| {
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").trim() == text
    };
    let mut processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let status = processes.find(|path| says(path)).map(|path| path.join("status"));
    let status = status.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Path::new("/proc").join(parent.unwrap_or("none").trim())
}

/// Whether a process may do nothing but kill: what a first process has kept when it stays.
fn has_little(process: &Path) -> bool {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    status.lines().any(|line| line == "CapEff:\t0000000000000020")
}

/// Runs `jail-run` on a plan and kills it with SIGKILL once the program runs.
fn kill_caller(ground: &Ground, script: &str, end_with_caller: bool) {
    let mut plan = ground.plan(script);
    plan.layers = vec![base().to_owned()];
    plan.end_with_caller = end_with_caller;
    let path = ground.path("plan.json");
    fs::write(&path, serde_json::to_vec(&plan).unwrap()).unwrap();
    let mut caller =
        Command::new(exe()).arg(path).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait_until("the program runs", || is_running(script));
    // Only now does the first process not need to tell its caller anything any more.
    wait_until("the first process stays", || has_little(&parent_of(script)));
    caller.kill().unwrap();
    caller.wait().unwrap();
}

#[test]
fn a_container_ends_with_a_killed_caller() {
    let ground = Ground::new();
    let sleep = sleep(4);
    kill_caller(&ground, &sleep, true);
    wait_until("the container ended", || !is_running(&sleep));
    // What is left is empty groups.
    assert!(!jail::sweep(&ground.parent, &[]).unwrap().groups.is_empty());
    leaves_nothing(&ground);
    assert!(jail::sweep(&ground.parent, &[]).unwrap().groups.is_empty());
}

#[test]
fn a_container_that_outlives_its_caller_is_swept() {
    let ground = Ground::new();
    let sleep = sleep(5);
    kill_caller(&ground, &sleep, false);
    std::thread::sleep(Duration::from_millis(200));
    assert!(is_running(&sleep));
    assert!(!jail::sweep(&ground.parent, &[]).unwrap().groups.is_empty());
    assert!(!is_running(&sleep));
    leaves_nothing(&ground);
}

#[test]
fn starting_is_quick() {
    let ground = Ground::new();
    let mut times = vec![];
    for _ in 0..20 {
        let mut plan = ground.plan("");
        plan.process.as_mut().unwrap().argv = vec!["true".into()];
        let begin = Instant::now();
        let prepared = jail::prepare_with(exe(), &plan, jail::Stdio::null().unwrap()).unwrap();
        let built = begin.elapsed();
        let mut child = prepared.start().unwrap();
        let started = begin.elapsed();
        child.wait().unwrap();
        child.end().unwrap();
        times.push([begin.elapsed(), built, started]);
    }
    times.sort();
    let [whole, built, started] = times[times.len() / 2];
    println!("median: prepared {built:?}, started {started:?}, ended {whole:?}; {:?}", times[0]);
    assert!(whole < Duration::from_secs(2), "{whole:?}");
}

#[test]
fn a_trial_says_what_this_host_can() {
    let ground = Ground::new();
    let folder = ground.path("scratch");
    let took = jail::host::try_container(exe(), &folder, &ground.parent, ground.ids).unwrap();
    assert!(took > Duration::ZERO);
    leaves_nothing(&ground);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    // A file system that cannot hold an upper folder is named.
    let error = jail::host::try_container(exe(), "/proc".as_ref(), &ground.parent, ground.ids);
    assert!(error.is_err());
}
