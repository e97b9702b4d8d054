//! Limits hold, and what was used is told.

use std::time::{Duration, Instant};

use jail::Exit;

use crate::ground::{Ground, run, start};

#[test]
fn a_fork_bomb_stays_small() {
    let ground = Ground::new();
    // The program itself needs no further process, so that it survives its bomb.
    let script = "bomb() { bomb | bomb & }; (while true; do (bomb); done) 2>/dev/null & \
                  exec sleep 30";
    let mut plan = ground.plan(script);
    plan.limits.pids = 20;
    let running = start(&plan);
    std::thread::sleep(Duration::from_millis(500));
    let usage = running.child.usage().unwrap();
    assert!((2..=21).contains(&usage.pids), "{usage:?}");
    assert!(usage.pids_refused > 0, "{usage:?}");
    let ended = running.end().ended;
    assert_eq!((ended.exit, ended.oom), (Exit::Signal(9), false));
}

#[test]
fn the_number_of_processes_is_exact() {
    let ground = Ground::new();
    // The shell is one, so nine more fit.
    let mut plan = ground.plan(
        "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo nine; (true) 2>/dev/null; echo $?",
    );
    plan.limits.pids = 10;
    let said = run(&plan);
    assert!(said.out.starts_with("nine\n"), "{} {}", said.out, said.err);
    assert!(said.err.contains("can't fork"), "{} {}", said.out, said.err);
}

#[test]
fn a_program_that_takes_too_much_memory_is_reported() {
    let ground = Ground::new();
    let mut plan = ground.plan("");
    plan.process.as_mut().unwrap().argv =
        ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"].map(str::to_owned).to_vec();
    plan.limits.memory_bytes = 32 << 20;
    let ended = run(&plan).ended;
    assert_eq!((ended.exit, ended.oom), (Exit::Signal(9), true));
}

#[test]
fn a_greedy_child_is_not_the_program() {
    let ground = Ground::new();
    let mut plan = ground.plan("dd if=/dev/zero of=/dev/null bs=200M count=1; echo $?");
    plan.limits.memory_bytes = 32 << 20;
    let said = run(&plan);
    assert_eq!(said.out, "137\n", "{}", said.err);
    assert_eq!((said.ended.exit, said.ended.oom), (Exit::Code(0), false));
}

#[test]
fn memory_file_systems_count() {
    let ground = Ground::new();
    let mut plan = ground.plan("exec dd if=/dev/zero of=/dev/shm/x bs=1M count=64 2>/dev/null");
    plan.shm_bytes = 128 << 20;
    plan.limits.memory_bytes = 32 << 20;
    let ended = run(&plan).ended;
    assert_eq!((ended.exit, ended.oom), (Exit::Signal(9), true));
}

#[test]
fn usage_is_told() {
    let ground = Ground::new();
    let script = "head -c 8000000 /dev/zero > /dev/shm/x; i=0; \
                  while [ $i -lt 200000 ]; do i=$((i+1)); done; echo ready; read line";
    let mut plan = ground.plan(script);
    plan.shm_bytes = 16 << 20;
    let mut running = start(&plan);
    std::thread::sleep(Duration::from_secs(2));
    let usage = running.child.usage().unwrap();
    running.tell("go on\n");
    let ended = running.finish().ended;
    for usage in [usage, ended.usage] {
        assert!((8_000_000..32 << 20).contains(&usage.memory_peak_bytes), "{usage:?}");
        // An emulated machine takes its time.
        assert!((50_000..60_000_000).contains(&usage.cpu_us), "{usage:?}");
    }
    assert_eq!(usage.pids, 2);
}

#[test]
fn the_processor_has_a_hard_limit() {
    let ground = Ground::new();
    let mut plan = ground.plan("while true; do :; done");
    plan.limits.cpu_max_millis = Some(200);
    let running = start(&plan);
    let before = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let used = running.end().ended.usage.cpu_us;
    let share = used * 1000 / u64::try_from(before.elapsed().as_micros()).unwrap();
    assert!(share < 320, "{share} thousandths of a processor");
}

#[test]
fn files_and_descriptors_are_limited() {
    let ground = Ground::new();
    let script = "ulimit -c; ulimit -n; ulimit -Hn; \
                  dd if=/dev/zero of=/tmp/large bs=1k count=100 2>&1 | grep -c large; \
                  stat -c %s /tmp/large";
    let mut plan = ground.plan(script);
    plan.limits.open_files = 123;
    plan.limits.file_size_bytes = Some(10 << 10);
    let out = run(&plan).out;
    assert!(out.starts_with("0\n123\n123\n"), "{out}");
    assert!(out.ends_with("10240\n"), "{out}");
}

#[test]
fn programs_can_read_their_limits() {
    let ground = Ground::new();
    if jail::host::read().cgroups.memory != Some(2) {
        // Only the tree of version 2 can be shown safely.
        assert_eq!(ground.say("ls /sys/fs/cgroup/memory 2>/dev/null | wc -l"), "0");
        return;
    }
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max";
    assert_eq!(ground.say(script), format!("{}\n65", 64 << 20));
}
