//! What is done where the kernel or the host lacks something, forced on a host that has it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use jail::host::CgroupKind;
use jail::{Bind, BindIds, Exit, Plan};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};

use crate::ground::{Ground, exe, run, start};

/// Runs `act` in a mount namespace of its own; containers that it makes see that one.
fn alone<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let scoped = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            act()
        });
        thread.join()
    });
    scoped.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A plan whose upper folder lies on a new file system. A ramfs maps ids on no kernel.
fn on(kind: &str, ground: &Ground, script: &str) -> Plan {
    let scratch = ground.path("scratch");
    mount("palisade", &scratch, kind, MountFlags::empty(), None::<&std::ffi::CStr>).unwrap();
    for name in ["upper", "work"] {
        fs::create_dir(scratch.join(name)).unwrap();
    }
    ground.plan(script)
}

/// Runs a container that changes its root and looks at it; says who owns, on disk, what its root
/// and its user 1000 have written.
fn owners_on(kind: &str, ground: &Ground) -> [u32; 2] {
    let script = "echo root > /tmp/root; echo user > /tmp/user; chown 1000:1001 /tmp/user; \
                  rm /etc/old; mkdir -p /new/folder; cp /bin/true /bin/other; \
                  stat -c %u:%g / /tmp/* /bin/other /new; cat /tmp/*; ls /etc | wc -l";
    let (said, owners) = alone(|| {
        let mut plan = on(kind, ground, script);
        plan.layers.push(ground.layer("second", "etc/old", "old"));
        plan.volatile = true;
        let said = run(&plan);
        let owner = |name: &str| fs::metadata(plan.upper.join(name)).unwrap().uid();
        (said, [owner("tmp/root"), owner("tmp/user")])
    });
    let want = "0:0\n0:0\n1000:1001\n0:0\n0:0\nroot\nuser\n0\n";
    assert_eq!((said.out.as_str(), said.ended.exit), (want, Exit::Code(0)), "{}", said.err);
    owners
}

#[test]
fn a_file_system_that_cannot_map_ids_takes_what_is_not_kept() {
    let ground = Ground::new();
    let first = ground.ids.first;
    assert_eq!(owners_on("ramfs", &ground), [first, first + 1000]);
}

#[test]
fn memory_takes_what_is_not_kept_on_every_kernel() {
    let ground = Ground::new();
    let first = if jail::host::try_memory_ids().unwrap() { 0 } else { ground.ids.first };
    assert_eq!(owners_on("tmpfs", &ground), [first, first + 1000]);
}

#[test]
fn a_file_system_that_cannot_map_ids_takes_nothing_that_is_kept() {
    let ground = Ground::new();
    let error = alone(|| {
        let plan = on("ramfs", &ground, "true");
        jail::prepare_with(exe(), &plan, jail::Stdio::null().unwrap()).unwrap_err().to_string()
    });
    // Of the two processes at work, the one that knows why is heard.
    assert!(error.contains("cannot map ids"), "{error}");
    assert!(error.contains("scratch"), "{error}");
}

#[test]
fn a_bound_folder_that_cannot_be_mapped_is_shown_as_it_is() {
    let ground = Ground::new();
    let bind =
        |ids| Bind { source: "/sys/kernel".into(), target: "/mnt/a".into(), read_only: true, ids };
    let mut plan = ground.plan("ls -d /mnt/a/mm; stat -c %u /mnt/a");
    plan.binds = vec![bind(BindIds::MappedIfPossible)];
    assert_eq!(run(&plan).out, "/mnt/a/mm\n65534\n");
    let ground = Ground::new();
    let mut plan = ground.plan("true");
    plan.binds = vec![bind(BindIds::Mapped)];
    let stdio = jail::Stdio::null().unwrap();
    let error = jail::prepare_with(exe(), &plan, stdio).unwrap_err().to_string();
    assert!(error.contains("`binds`: the file system of /sys/kernel cannot map ids"), "{error}");
}

/// Takes version 2 away where version 1 has the controllers: there, processes are moved into
/// their groups after the clone, and killed one by one.
#[test]
fn version_1_alone_is_enough_where_it_has_the_controllers() {
    let ground = Ground::new();
    let script = "trap '' TERM; (setsid sleep 3000 &); (setsid sh -c 'sleep 3001' &); \
                  sleep 3002";
    let kind = alone(|| {
        if jail::host::read().cgroups.kind == CgroupKind::Hybrid {
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let version_2 = mounts.lines().filter(|line| line.contains(" - cgroup2 "));
            for point in version_2.filter_map(|line| line.split(' ').nth(4)) {
                unmount(Path::new(point), UnmountFlags::DETACH).unwrap();
            }
            assert_eq!(jail::host::read().cgroups.kind, CgroupKind::V1);
        }
        let mut plan = ground.plan(script);
        plan.limits.pids = 8;
        let running = start(&plan);
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut usage = running.child.usage().unwrap();
        while usage.pids < 4 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            usage = running.child.usage().unwrap();
        }
        let ended = running.end();
        assert_eq!(ended.ended.exit, Exit::Signal(9), "{}", ended.err);
        // What it started is counted, and limited, with it.
        assert!((4..=9).contains(&usage.pids), "{usage:?}");
        jail::host::read().cgroups.kind
    });
    assert!(matches!(kind, CgroupKind::V1 | CgroupKind::V2), "{kind:?}");
    for name in crate::ground::groups(&ground.parent) {
        let left = fs::read_dir(name).unwrap().flatten().filter(|entry| entry.path().is_dir());
        assert_eq!(left.count(), 0);
    }
}
