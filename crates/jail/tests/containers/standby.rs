//! Containers that are built by a process that stood by.

use std::fs;
use std::path::Path;

use jail::{Error, Exit, Stdio};

use crate::ground::{Ground, groups, hold, run, say, stand_by, start};
use crate::life::leaves_nothing;

/// The control groups of a process in all trees, without the numbers that make names unlike.
fn groups_of(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let groups = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    groups.map(|group| group.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()).collect()
}

/// Containers are built by it as by one that was executed for them: same walls, same groups.
#[test]
fn makes_the_same_container() {
    let ground = Ground::new();
    let usual = hold(&ground.plan_for_execs());
    let plan = ground.plan_for_execs();
    let prepared = stand_by(&ground, "early").prepare(&plan, Stdio::null().unwrap()).unwrap();
    let child = prepared.start().unwrap();
    let groups = groups_of(child.pid());
    assert!(groups.iter().any(|group| group.ends_with("/test-")), "{groups:?}");
    assert_eq!(groups_of(usual.pid()), groups);
    let look = "cat /proc/self/status /proc/self/limits /proc/1/limits; ls -l /proc/self/ns/time";
    let facts = |text: String| -> Vec<String> {
        let kept = ["Cap", "NoNewPrivs", "Seccomp:", "Uid", "Gid", "Groups", "Max "];
        let lines = text.lines().filter(|line| kept.iter().any(|word| line.starts_with(word)));
        lines.map(str::to_owned).collect()
    };
    let (usual_facts, facts) = (facts(say(&usual, look)), facts(say(&child, look)));
    assert!(facts.len() > 20, "{facts:?}");
    assert_eq!(usual_facts, facts);
    drop((usual, child));
    leaves_nothing(&ground);
}

/// Its limits are those of its plan, also where they are less than what building it takes.
#[test]
fn limits_are_those_of_the_plan() {
    let ground = Ground::new();
    let mut plan = ground.plan("exec dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null");
    plan.limits.memory_bytes = 32 << 20;
    plan.limits.cpu_max_millis = Some(10);
    let prepared = stand_by(&ground, "early").prepare(&plan, Stdio::null().unwrap()).unwrap();
    let mut child = prepared.start().unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Signal(9));
    assert!(child.end().unwrap().oom);
    let mut plan = ground.plan("for i in 1 2 3 4 5 6 7 8; do sleep 3 & done; wait");
    plan.limits.pids = 5;
    let prepared = stand_by(&ground, "early").prepare(&plan, Stdio::null().unwrap()).unwrap();
    let mut child = prepared.start().unwrap();
    child.wait().unwrap();
    assert!(child.end().unwrap().usage.pids_refused > 0);
    leaves_nothing(&ground);
}

#[test]
fn one_that_is_not_used_leaves_nothing() {
    let ground = Ground::new();
    let standby = stand_by(&ground, "early");
    drop(standby);
    leaves_nothing(&ground);
    // Its groups are there while it stands by, in trees of version 1.
    let standby = stand_by(&ground, "early");
    let expected = Path::new("/sys/fs/cgroup/memory").is_dir();
    assert_eq!(groups(&format!("{}/early", ground.parent)).len() > 1, expected);
    drop(standby);
    leaves_nothing(&ground);
}

#[test]
fn what_it_cannot_build_is_said_and_leaves_nothing() {
    let ground = Ground::new();
    let mut plan = ground.plan("true");
    plan.layers.push(ground.path("missing"));
    let built = stand_by(&ground, "early").prepare(&plan, Stdio::null().unwrap());
    assert!(matches!(built, Err(Error::Build { .. })), "{built:?}");
    leaves_nothing(&ground);

    let mut plan = ground.plan("true");
    plan.name = "a/b".into();
    let built = stand_by(&ground, "early").prepare(&plan, Stdio::null().unwrap());
    assert!(matches!(built, Err(Error::Refused(_))), "{built:?}");
    leaves_nothing(&ground);

    // Two containers cannot have one name; the first one stays as it was.
    let plan = ground.plan("read line");
    let mut running = start(&plan);
    let built = stand_by(&ground, "early").prepare(&plan, Stdio::null().unwrap());
    assert!(matches!(built, Err(Error::Cgroup(jail::CgroupError::Exists(_)))), "{built:?}");
    running.tell("go on\n");
    assert_eq!(running.finish().ended.exit, Exit::Code(0));
    leaves_nothing(&ground);

    // Nor does it build one below another group than its own.
    let (other, standby) = (Ground::new(), stand_by(&ground, "early"));
    if Path::new("/sys/fs/cgroup/memory").is_dir() {
        let built = standby.prepare(&other.plan("true"), Stdio::null().unwrap());
        assert!(matches!(built, Err(Error::Cgroup(_))), "{built:?}");
        leaves_nothing(&ground);
        leaves_nothing(&other);
    }
    assert_eq!(run(&ground.plan("true")).ended.exit, Exit::Code(0));
}
