//! Ending and freezing containers in every state.

use std::time::{Duration, Instant};

use jail::{Child, Exit};

use crate::ground::{Ground, exec, hold, say, script, start};
use crate::life::{is_running, leaves_nothing, sleep, wait_until};

/// What a user waits for at most.
const END_SECONDS_MAX: u64 = 5;

/// Ends it, and says how.
fn end_in_time(child: Child, ground: &Ground) -> jail::Ended {
    let begin = Instant::now();
    let ended = child.end().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(END_SECONDS_MAX), "{:?}", begin.elapsed());
    leaves_nothing(ground);
    ended
}

#[test]
fn without_a_program_it_lives_until_it_is_ended() {
    let ground = Ground::new();
    let mut child = ground.hold();
    child.signal(libc::SIGTERM).unwrap();
    say(&child, "kill -TERM 1; kill -INT 1; kill -KILL 1; true");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(child.try_wait().unwrap(), None);
    assert_eq!(end_in_time(child, &ground).exit, Exit::Signal(9));
}

#[test]
fn frozen_ones_stand_still_and_go_on() {
    let ground = Ground::new();
    let child = ground.hold();
    let text = "while true; do echo >> /tmp/ticks; sleep 0.01; done";
    let ticking = exec(&child, &script(&format!("({text}) & setsid sh -c '{text}' & {text}")));
    let ticking = ticking.unwrap();
    let file = ground.path("scratch/upper/tmp/ticks");
    let ticks = || std::fs::metadata(&file).map_or(0, |facts| facts.len());
    wait_until("it ticks", || ticks() > 3);
    child.freeze().unwrap();
    let before = ticks();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(ticks(), before);
    // Twice is no error.
    child.freeze().unwrap();
    std::thread::scope(|scope| {
        // What is started meanwhile waits.
        let waiting = scope.spawn(|| say(&child, "echo later"));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!waiting.is_finished());
        child.thaw().unwrap();
        assert_eq!(waiting.join().unwrap(), "later");
    });
    wait_until("it ticks again", || ticks() > before);
    ticking.exec.kill().unwrap();
    child.freeze().unwrap();
    end_in_time(child, &ground);
}

#[test]
fn it_ends_in_every_state() {
    let ground = Ground::new();
    let mut plan = ground.plan_for_execs();
    (plan.limits.pids, plan.volatile) = (300, false);
    let sleep = sleep(30);
    for (name, text, freeze) in [
        ("frozen", "while true; do :; done", true),
        ("stopped", "sh -c 'kill -STOP $$' & kill -STOP $$", false),
        ("stopped and frozen", "kill -STOP $$", true),
        ("a fork bomb", "f() { f | f & }; f; while true; do f; done", false),
        ("deaf", "trap '' TERM INT HUP QUIT USR1 USR2; while true; do sleep 1; done", false),
        ("out of memory", "x=x; while true; do x=$x$x; done", false),
        ("out of memory again", "while true; do dd if=/dev/zero of=/dev/null bs=99M; done", false),
    ] {
        println!("{name}");
        let child = hold(&plan);
        let started = exec(&child, &script(&format!("{sleep} & {text}"))).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        if freeze {
            child.freeze().unwrap();
        }
        end_in_time(child, &ground);
        assert!(!is_running(&sleep), "{name}");
        started.finish();
    }
}

#[test]
fn some_are_kept_and_each_can_be_ended_by_name() {
    let ground = Ground::new();
    let (kept, swept, named) = (Ground::new(), Ground::new(), Ground::new());
    let sleeps = [sleep(31), sleep(32), sleep(33)];
    let children: Vec<_> = [&kept, &swept, &named]
        .iter()
        .zip(&sleeps)
        .map(|(own, sleep)| {
            let mut plan = own.plan_for_execs();
            plan.cgroup_parent.clone_from(&ground.parent);
            let child = hold(&plan);
            let exec = exec(&child, &script(sleep)).unwrap();
            wait_until("it runs", || is_running(sleep));
            (plan.name, child, exec)
        })
        .collect();
    let names: Vec<String> = children.iter().map(|(name, ..)| name.clone()).collect();
    jail::end_named(&ground.parent, &names[2]).unwrap();
    assert!(!is_running(&sleeps[2]) && is_running(&sleeps[1]) && is_running(&sleeps[0]));
    // What is gone already is no error.
    jail::end_named(&ground.parent, &names[2]).unwrap();
    let swept = jail::sweep(&ground.parent, &names[..1]).unwrap();
    assert!(swept.groups.iter().any(|path| path.ends_with(&names[1])), "{swept:?}");
    assert!(!is_running(&sleeps[1]) && is_running(&sleeps[0]));
    assert_eq!(say(&children[0].1, "echo alive"), "alive");
    drop(children);
    assert!(!is_running(&sleeps[0]));
    leaves_nothing(&ground);
}

#[test]
fn a_main_program_and_its_signals_are_as_before() {
    let ground = Ground::new();
    let text = "trap 'echo term; exit 3' TERM; echo > /tmp/up; while true; do sleep 0.05; done";
    let mut plan = ground.plan(text);
    plan.takes_execs = true;
    let running = start(&plan);
    let up = ground.path("scratch/upper/tmp/up");
    wait_until("the trap is set", || up.exists());
    running.child.signal(libc::SIGTERM).unwrap();
    let said = running.finish();
    assert_eq!((said.out.trim(), said.ended.exit), ("term", Exit::Code(3)));
    leaves_nothing(&ground);
}
