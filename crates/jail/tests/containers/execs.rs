//! Programs that are started in a running container.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jail::{Child, ExecError, Exit};

use crate::ground::{Ground, exec, hold, say, script};
use crate::life::{is_running, leaves_nothing, sleep, wait_until};

#[test]
fn streams_codes_and_settings_are_its_own() {
    let ground = Ground::new();
    let child = ground.hold();
    let mut process = script("cat; echo $ONE; pwd; id -u; id -g; id -G; echo error >&2; exit 7");
    process.env.push(("ONE".into(), "1 = one".into()));
    (process.uid, process.gid, process.groups) = (1000, 1001, vec![7]);
    process.cwd = "/tmp".into();
    let started = exec(&child, &process).unwrap();
    started.tell("in\n");
    let (exit, out, err) = started.finish();
    assert_eq!(out, "in\n1 = one\n/tmp\n1000\n1001\n1001 7\n");
    assert_eq!((exit, err.as_str()), (Exit::Code(7), "error\n"));
    let killed = exec(&child, &script("kill -SEGV $$")).unwrap().finish();
    assert_eq!(killed.0, Exit::Signal(11));
    // What one writes the next one reads.
    say(&child, "echo kept > /tmp/file");
    assert_eq!(say(&child, "cat /tmp/file"), "kept");
    child.end().unwrap();
    leaves_nothing(&ground);
}

#[test]
fn what_cannot_be_started_is_named() {
    let ground = Ground::new();
    let child = ground.hold();
    say(&child, "echo '#!/no/interpreter' > /tmp/script; chmod 755 /tmp/script; echo > /tmp/plain");
    let fails = |argv: &[&str], cwd: &str| {
        let mut process = script("");
        process.argv = argv.iter().map(|&arg| arg.to_owned()).collect();
        process.cwd = cwd.into();
        exec(&child, &process).err().unwrap()
    };
    let error = fails(&["nothing-such"], "/");
    assert!(matches!(error, ExecError::NotFound(_)), "{error:?}");
    assert!(error.to_string().contains("nothing-such is not in the PATH"), "{error}");
    let error = fails(&["/no/such", "x"], "/");
    assert!(matches!(error, ExecError::NotFound(_)), "{error:?}");
    assert!(error.to_string().contains("/no/such"), "{error}");
    for (path, text) in
        [("/etc", "denied"), ("/tmp/plain", "denied"), ("/tmp/script", "interpreter")]
    {
        let error = fails(&[path], "/");
        assert!(matches!(error, ExecError::NotExecutable(_)), "{error:?}");
        assert!(error.to_string().contains(path) && error.to_string().contains(text), "{error}");
    }
    for folder in ["/nowhere", "/tmp/plain"] {
        let error = fails(&["true"], folder);
        assert!(matches!(error, ExecError::NoFolder(_)), "{error:?}");
        assert!(error.to_string().contains(folder), "{error}");
    }
    let error = fails(&[], "/");
    assert!(error.to_string().contains("`process.argv`"), "{error}");
    let error = fails(&["true"], "relative");
    assert!(error.to_string().contains("`process.cwd`"), "{error}");
    let error = fails(&["echo", &"x".repeat(200_000)], "/");
    assert!(matches!(error, ExecError::NotExecutable(_)), "{error:?}");
    assert_eq!(groups_of(&child), Vec::<String>::new());
    child.end().unwrap();
    let plain = hold(&ground.plan("sleep 100"));
    let error = exec(&plain, &script("true")).err().unwrap();
    assert!(error.to_string().contains("`takes_execs`"), "{error}");
    plain.end().unwrap();
    leaves_nothing(&ground);
}

/// Some descriptors for each of them are this process' own.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// The groups of further programs that a container has now.
fn groups_of(child: &Child) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(v2_group(child)).unwrap().flatten().collect();
    names.retain(|entry| entry.path().is_dir());
    names.iter().map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// Where a container's group lies in v2's tree.
fn v2_group(child: &Child) -> std::path::PathBuf {
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", child.pid())).unwrap();
    let below = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap().to_owned();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let v2 = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
    std::path::Path::new(v2.split(' ').nth(1).unwrap()).join(below)
}

#[test]
fn many_run_at_once() {
    let ground = Ground::new();
    let mut plan = ground.plan_for_execs();
    (plan.limits.pids, plan.limits.memory_bytes) = (2000, 512 << 20);
    raise_open_files();
    let child = hold(&plan);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..300 {
            let child = &child;
            scope.spawn(move || {
                let started = exec(child, &script(&format!("read x; echo {number} $x"))).unwrap();
                started.tell("told\n");
                let (exit, out, err) = started.finish();
                assert_eq!((exit, out), (Exit::Code(0), format!("{number} told\n")), "{err}");
            });
        }
    });
    println!("300 programs at once: {:?}", begin.elapsed());
    say(&child, "true");
    assert_eq!(groups_of(&child), Vec::<String>::new());
    // One does not wait for the others: these are all alive together.
    let held: Vec<_> = (0..200).map(|_| exec(&child, &script("read x")).unwrap()).collect();
    assert_eq!(groups_of(&child).len(), 200);
    assert!(held.iter().all(|one| one.exec.try_wait().unwrap().is_none()));
    for one in held {
        assert_eq!(one.finish().0, Exit::Code(1));
    }
    child.end().unwrap();
    leaves_nothing(&ground);
}

#[test]
fn a_whole_tree_is_killed_and_no_other() {
    let ground = Ground::new();
    let mut plan = ground.plan_for_execs();
    // Enough memory for so many: else the kernel ends one of them, or the first process.
    (plan.limits.pids, plan.limits.memory_bytes) = (500, 512 << 20);
    let child = hold(&plan);
    let (hidden, other) = (sleep(20), sleep(21));
    let neighbour = exec(&child, &script(&other)).unwrap();
    let text = format!(
        "trap '' TERM INT HUP; setsid {hidden} & (setsid sh -c '{hidden} &' &); echo > /tmp/up; \
         while true; do {hidden}; done"
    );
    let tree = exec(&child, &script(&text)).unwrap();
    wait_until("the tree is there", || ground.path("scratch/upper/tmp/up").exists());
    assert!(is_running(&hidden));
    tree.exec.signal(libc::SIGTERM).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(tree.exec.try_wait().unwrap(), None);
    tree.exec.kill().unwrap();
    assert_eq!(tree.finish().0, Exit::Signal(9));
    wait_until("nothing of it is left", || !is_running(&hidden));
    assert!(is_running(&other));

    let bomb = exec(&child, &script("f() { f | f & }; f; while true; do f; done")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    bomb.exec.kill().unwrap();
    let (exit, ..) = bomb.finish();
    assert!(matches!(exit, Exit::Signal(9) | Exit::Code(_)), "{exit:?}");
    wait_until("the bomb is gone", || say(&child, "ls -d /proc/[0-9]* | wc -l").len() == 1);
    assert_eq!(neighbour.exec.try_wait().unwrap(), None);
    neighbour.exec.kill().unwrap();
    // What has ended can be killed again.
    assert_eq!(neighbour.exec.wait().unwrap(), Exit::Signal(9));
    neighbour.exec.kill().unwrap();
    neighbour.exec.signal(libc::SIGTERM).unwrap();
    drop(neighbour);
    say(&child, "true");
    child.end().unwrap();
    leaves_nothing(&ground);
}

#[test]
fn what_it_started_outlives_it() {
    let ground = Ground::new();
    let child = ground.hold();
    let sleep = sleep(22);
    let text = format!("{sleep} > /dev/null 2>&1 < /dev/null & echo $! > /tmp/pid; echo done");
    assert_eq!(say(&child, &text), "done");
    assert!(is_running(&sleep));
    assert_eq!(groups_of(&child).len(), 1);
    say(&child, "kill $(cat /tmp/pid)");
    wait_until("it is gone", || !is_running(&sleep));
    say(&child, "true");
    // The group goes when the next one starts.
    assert_eq!(groups_of(&child), Vec::<String>::new());
    child.end().unwrap();
    leaves_nothing(&ground);
}

/// What /proc tells about a program's walls.
const WALLS: &str = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Sig(Blk|Ign))' \
     /proc/self/status; cat /proc/self/uid_map /proc/self/gid_map /proc/self/limits \
     /proc/self/oom_score_adj; for kind in user mnt pid net ipc uts cgroup time; do \
     readlink /proc/self/ns/$kind; done; grep -v '^0::' /proc/self/cgroup; umask; ls /proc/self/fd";

#[test]
fn the_walls_are_those_of_the_main_program() {
    let ground = Ground::new();
    let mut plan = ground.plan(&format!("({WALLS}) > /tmp/walls; echo > /tmp/done; sleep 1000"));
    plan.takes_execs = true;
    let child = hold(&plan);
    let done = ground.path("scratch/upper/tmp/done");
    wait_until("the main program has looked", || done.exists());
    let main = say(&child, "cat /tmp/walls");
    let further = say(&child, WALLS);
    assert_eq!(main, further);
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t2"] {
        assert!(further.contains(line), "{line}: {further}");
    }
    // Its own group lies below the container's.
    assert_eq!(say(&child, "grep ^0:: /proc/1/cgroup"), "0::/");
    let own = say(&child, "grep ^0:: /proc/self/cgroup");
    assert!(own.starts_with("0::/exec-"), "{own}");
    // clone3 is there for the first process alone; a new user namespace for nobody.
    let calls = [(libc::SYS_clone3, "@ 88", 38), (libc::SYS_clone, "0x10000011 0 0 0 0", 1)];
    for (number, arguments, errno) in calls {
        let answer = say(&child, &format!("probe 64 {number} {arguments}"));
        assert_eq!(answer, errno.to_string(), "{number}");
    }
    child.end().unwrap();
    leaves_nothing(&ground);
}

#[test]
fn the_first_process_is_out_of_reach() {
    let ground = Ground::new();
    let child = ground.hold();
    let before = std::fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
    for command in [
        "cat /proc/1/environ",
        "cat /proc/1/maps",
        "cat /proc/1/mem",
        "cat /proc/1/syscall",
        "readlink /proc/1/exe",
        "readlink /proc/1/root",
        "readlink /proc/1/cwd",
        "ls /proc/1/fd",
        "ls /proc/1/map_files",
        "echo 0 > /proc/1/oom_score_adj",
        "echo 1 > /sys/fs/cgroup/cgroup.procs",
        "echo $$ > /sys/fs/cgroup/cgroup.procs",
        "mkdir /sys/fs/cgroup/other",
        "echo 1 > /sys/fs/cgroup/cgroup.freeze",
        "mount -o remount,rw /sys/fs/cgroup",
        "mount -t cgroup2 none /tmp",
    ] {
        let text = format!("if {command}; then echo possible; fi");
        let (_, out, err) = exec(&child, &script(&text)).unwrap().finish();
        assert_eq!(out, "", "{command}: {err}");
        let told = !err.is_empty() || command.starts_with("readlink");
        assert!(told && !err.contains("not found"), "{command}: {err}");
    }
    // ptrace(PTRACE_ATTACH, 1), process_vm_readv(1, …), kcmp(1, …).
    for call in ["101 16 1 0 0", "310 1 @ 0 @ 0 0", "312 1 1 0 0 0"] {
        #[cfg(target_arch = "x86_64")]
        assert_eq!(say(&child, &format!("probe 64 {call}")), "1", "{call}");
    }
    // No signal from inside ends or stops it.
    say(&child, "for s in 9 15 2 1 3 10 12 19 11 6; do kill -$s 1; done; kill -9 -1; true");
    assert_eq!(say(&child, "echo alive"), "alive");
    let after = std::fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
    let caps = |text: &str| -> BTreeMap<String, String> {
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        let pairs = pairs.filter(|(key, _)| key.starts_with("Cap") || *key == "NoNewPrivs");
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    assert_eq!(caps(&before), caps(&after));
    child.end().unwrap();
    leaves_nothing(&ground);
}

#[test]
fn its_end_is_seen_and_that_of_the_container_too() {
    let ground = Ground::new();
    let child = ground.hold();
    let started = exec(&child, &script("read line; exit 3")).unwrap();
    let poll = |time: i64| {
        let fd = started.exec.ended();
        let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        let time = rustix::event::Timespec { tv_sec: time, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&time)).unwrap()
    };
    assert_eq!((poll(0), started.exec.try_wait().unwrap()), (0, None));
    started.tell("line\n");
    assert_eq!((poll(10), started.exec.try_wait().unwrap()), (1, Some(Exit::Code(3))));
    // It stays so.
    assert_eq!((poll(0), started.exec.try_wait().unwrap()), (1, Some(Exit::Code(3))));
    let held = exec(&child, &script("sleep 1000")).unwrap();
    child.end().unwrap();
    assert_eq!(held.finish().0, Exit::Signal(9));
    leaves_nothing(&ground);
    // And with the main program the others end.
    let mut plan = ground.plan("read line; exit 5");
    (plan.takes_execs, plan.volatile) = (true, false);
    let mut running = crate::ground::start(&plan);
    let held = exec(&running.child, &script("sleep 1000")).unwrap();
    running.tell("line\n");
    running.child.wait().unwrap();
    let error = exec(&running.child, &script("true")).err().unwrap();
    assert!(matches!(error, ExecError::Gone(_)), "{error:?}");
    assert_eq!(running.end().ended.exit, Exit::Code(5));
    assert_eq!(held.finish().0, Exit::Signal(9));
    leaves_nothing(&ground);
}

#[test]
fn the_limits_hold_for_all_together() {
    let ground = Ground::new();
    let mut plan = ground.plan_for_execs();
    (plan.limits.pids, plan.limits.memory_bytes) = (10, 32 << 20);
    let child = hold(&plan);
    let held: Vec<_> = (0..9).map(|_| exec(&child, &script("read x")).unwrap()).collect();
    let said = exec(&child, &script("(true); echo $?")).unwrap().finish();
    assert!(said.2.contains("can't fork"), "{said:?}");
    let tenth = exec(&child, &script("read x")).unwrap();
    let error = exec(&child, &script("true")).err().unwrap();
    assert!(error.to_string().contains("`limits.pids`"), "{error}");
    drop(tenth.finish());
    held.into_iter().for_each(|one| drop(one.finish()));
    let greedy = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    assert_eq!(
        exec(&child, &script(&format!("exec {greedy}"))).unwrap().finish().0,
        Exit::Signal(9)
    );
    assert_eq!(say(&child, "echo alive"), "alive");
    assert!(child.usage().unwrap().pids_refused > 0);
    child.end().unwrap();
    leaves_nothing(&ground);
}

#[test]
fn starting_one_is_quick() {
    let ground = Ground::new();
    let child = ground.hold();
    let mut times = vec![];
    for _ in 0..50 {
        let mut process = script("");
        process.argv = vec!["true".into()];
        let begin = Instant::now();
        let stdio = jail::Stdio::null().unwrap();
        let exec = child.exec(&process, jail::ExecIo::Streams(stdio)).unwrap();
        let started = begin.elapsed();
        exec.wait().unwrap();
        times.push([begin.elapsed(), started]);
    }
    times.sort();
    println!("median: ended, started {:?}; best {:?}", times[times.len() / 2], times[0]);
    assert!(times[times.len() / 2][0] < Duration::from_secs(1));
    child.end().unwrap();
}

/// Also not the signals that the language's runtime has handlers for.
#[test]
fn no_signal_from_inside_ends_the_first_process() {
    let ground = Ground::new();
    let child = ground.hold();
    for number in 1..=64 {
        let text = format!("kill -{number} 1 2>/dev/null; kill -{number} 1 2>/dev/null; echo sent");
        let (exit, out, _) = exec(&child, &script(&text)).unwrap().finish();
        assert_eq!((exit, out.as_str()), (Exit::Code(0), "sent\n"), "signal {number}");
        assert_eq!(say(&child, "echo well"), "well", "after signal {number}");
    }
    child.end().unwrap();
    leaves_nothing(&ground);
}

/// The end of a program by a signal without a name is an end.
#[test]
fn real_time_signals_end_programs() {
    let ground = Ground::new();
    let child = ground.hold();
    for number in [34, 40, 64] {
        let started = exec(&child, &script(&format!("kill -{number} $$; sleep 100"))).unwrap();
        assert_eq!(started.finish().0, Exit::Signal(number));
    }
    child.end().unwrap();
    let mut child = hold(&ground.plan("kill -40 $$; sleep 100"));
    assert_eq!(child.wait().unwrap(), Exit::Signal(40));
    child.end().unwrap();
    leaves_nothing(&ground);
}
