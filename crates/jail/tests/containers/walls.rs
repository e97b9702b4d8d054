//! The walls, seen from inside.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::ground::{Ground, base, run};

#[test]
fn runs_a_program_with_its_own_environment_only() {
    let ground = Ground::new();
    let script = "echo $ONLY; tr '\\0' '\\n' < /proc/$$/environ | sort; pwd; umask";
    assert_eq!(ground.say(script), "this\nONLY=this\nPATH=/bin\n/\n0022");
}

#[test]
fn every_namespace_is_its_own() {
    let ground = Ground::new();
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let inside = ground.say(&format!("readlink /proc/self/ns/{kind}"));
        let outside = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert!(inside.starts_with(&format!("{kind}:[")), "{inside}");
        assert_ne!(inside, outside.to_str().unwrap(), "{kind}");
        renew(&ground);
    }
}

#[test]
fn processes_and_ids_are_its_own() {
    let ground = Ground::new();
    let seen =
        ground.say("hostname; cat /proc/self/cgroup | cut -d: -f3 | sort -u; echo /proc/[0-9]*");
    assert_eq!(seen, "inside\n/\n/proc/1 /proc/2");
    renew(&ground);
    let map = ground.say("cat /proc/self/uid_map /proc/self/gid_map; id");
    let line = format!("0 {} 65536", ground.ids.first);
    let mut lines = map.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
    assert_eq!(lines.next(), Some(line.clone()));
    assert_eq!(lines.next(), Some(line));
    assert!(lines.next().unwrap().starts_with("uid=0 gid=0"));
}

#[test]
fn no_path_of_the_host_is_visible() {
    let ground = Ground::new();
    let files = "/proc/self/mountinfo /proc/self/mounts /proc/1/mountinfo /proc/1/cmdline \
                 /proc/1/comm /proc/self/cgroup /proc/swaps /proc/cmdline";
    let seen = ground.say(&format!("cat {files}; find /sys -name backing_file -exec cat {{}} +"));
    for path in ["jail-host-path", "/work", "busybox-root", "/root", "target", &ground.parent] {
        assert!(!seen.contains(path), "{path} is visible:\n{seen}");
    }
    // The root's own line says what it is made of, in neutral words.
    assert!(seen.contains("lowerdir=0,upperdir=u,workdir=w"), "{seen}");
    assert!(seen.contains(" - overlay palisade "), "{seen}");
    renew(&ground);
    let others = ground.say("ls /; ls /tmp /root /home /work 2>/dev/null | wc -l");
    assert_eq!(
        others.split_whitespace().collect::<Vec<_>>(),
        ["bin", "dev", "etc", "proc", "sys", "tmp", "1"]
    );
}

#[test]
fn the_network_is_loopback_only() {
    let ground = Ground::new();
    let script = "ls /sys/class/net; ip -o link | wc -l; cat /sys/class/net/lo/carrier
        nc -l -p 80 > /tmp/got & sleep 0.2; echo over | nc 127.0.0.1 80; wait
        cat /tmp/got; ip route | wc -l; nc -w 1 192.0.2.1 80 2>&1; ip link add x type dummy 2>&1";
    let seen = ground.say(&format!("{script}; true"));
    assert!(seen.starts_with("lo\n1\n1\nover\n0\n"), "{seen}");
    assert!(seen.contains("unreachable"), "{seen}");
    assert!(seen.contains("not permitted"), "{seen}");
}

#[test]
fn rights_are_few_and_final() {
    let ground = Ground::new();
    let status = ground.say("cat /proc/self/status");
    let value = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(&format!("{key}:"))).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let kept = jail::CAPABILITIES.iter().fold(0, |all, (one, _)| all | one.bits());
    let kept = format!("{kept:016x}");
    for (key, want) in [
        ("CapEff", kept.as_str()),
        ("CapPrm", &kept),
        ("CapBnd", &kept),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Seccomp_filters", "1"),
    ] {
        assert_eq!(value(key), want, "{key}");
    }
    // CAP_NET_ADMIN 12, CAP_NET_RAW 13, CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21, CAP_MKNOD 27.
    let kept = u64::from_str_radix(&kept, 16).unwrap();
    for dangerous in [2, 12, 13, 14, 16, 17, 19, 21, 22, 24, 25, 27, 34, 38, 39, 40] {
        assert_eq!(kept & (1 << dangerous), 0, "capability {dangerous}");
    }
    renew(&ground);
    let mut plan = ground.plan("grep Cap /proc/self/status; id -u; id -g; id -G; touch /x");
    let process = plan.process.as_mut().unwrap();
    (process.uid, process.gid, process.groups) = (1000, 1001, vec![7]);
    let said = run(&plan);
    assert_eq!(said.out.matches("0000000000000000").count(), 4, "{}", said.out);
    assert!(said.out.ends_with("1000\n1001\n1001 7\n"), "{}", said.out);
    assert!(said.err.contains("Permission denied"), "{}", said.err);
}

#[test]
fn refused_calls_answer_an_error() {
    let ground = Ground::new();
    // (call, arguments, errno): 1 is EPERM, 38 ENOSYS, 93 EPROTONOSUPPORT, 97 EAFNOSUPPORT.
    let calls: &[(i64, &str, i32)] = &[
        (libc::SYS_unshare, "0x10000000", 1),
        (libc::SYS_unshare, "0x20000", 1),
        (libc::SYS_mount, "@ @ @ 0 0", 1),
        (libc::SYS_umount2, "@ 2", 1),
        (libc::SYS_setns, "0 0", 1),
        (libc::SYS_pivot_root, "@ @", 1),
        (libc::SYS_ptrace, "0 0 0 0", 1),
        (libc::SYS_keyctl, "0 0 0", 1),
        (libc::SYS_add_key, "@ @ @ 1 0", 1),
        (libc::SYS_bpf, "0 @ 128", 1),
        (libc::SYS_perf_event_open, "@ 0 -1 -1 0", 1),
        (libc::SYS_userfaultfd, "0", 1),
        (libc::SYS_init_module, "@ 0 @", 1),
        (libc::SYS_kexec_load, "0 0 0 0", 1),
        (libc::SYS_open_by_handle_at, "0 @ 0", 1),
        (libc::SYS_fsopen, "@ 0", 1),
        (libc::SYS_open_tree, "-100 @ 1", 1),
        (libc::SYS_mount_setattr, "-100 @ 0 @ 32", 1),
        (libc::SYS_process_vm_readv, "1 @ 0 @ 0 0", 1),
        (libc::SYS_pidfd_getfd, "0 0 0", 1),
        (libc::SYS_syslog, "3 @ 10", 1),
        (libc::SYS_reboot, "0 0 0 0", 1),
        (libc::SYS_swapon, "@ 0", 1),
        (libc::SYS_settimeofday, "@ 0", 1),
        (libc::SYS_io_uring_setup, "1 @", 38),
        (libc::SYS_clone3, "@ 88", 38),
        (libc::SYS_clone, "0x10000011 0 0 0 0", 1),
        (libc::SYS_clone, "0x40000011 0 0 0 0", 1),
        (libc::SYS_socket, "16 3 9", 93),
        (libc::SYS_socket, "17 3 0", 97),
        (libc::SYS_socket, "40 1 0", 97),
        (libc::SYS_socket, "38 5 0", 97),
        (libc::SYS_socket, "2 3 1", 1),
        (libc::SYS_socket, "2 1 0", 0),
        (libc::SYS_socket, "1 1 0", 0),
        (libc::SYS_ioctl, "0 0x5412 @", 1),
        (libc::SYS_personality, "0x40000", 1),
        (libc::SYS_getpid, "", 0),
        (1000, "", 38),
    ];
    let script: Vec<_> =
        calls.iter().map(|(number, args, _)| format!("probe 64 {number} {args}")).collect();
    let answers = ground.say(&script.join(";"));
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers.len(), calls.len(), "{answers:?}");
    for ((number, arguments, errno), answer) in calls.iter().zip(answers) {
        assert_eq!(answer, errno.to_string(), "call {number} {arguments}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_of_other_kinds_are_missing() {
    let ground = Ground::new();
    // getpid and mount as x32; getpid (20), mount (21) and execve (11) as i386.
    let script =
        "probe x32 39; probe x32 165 @ @ @ 0 0; probe i386 20; probe i386 21; probe i386 11";
    assert_eq!(ground.say(script), "38\n38\n38\n38\n38");
}

#[test]
fn mounts_and_devices_cannot_be_made() {
    let ground = Ground::new();
    for command in [
        "mount -t tmpfs x /tmp",
        "mount -o remount,rw /sys",
        "mount -o bind /bin /tmp",
        "umount /proc/kcore",
        "umount -l /proc",
        "unshare -U true",
        "unshare -m true",
        "mknod /tmp/disk b 8 0",
        "mknod /tmp/zero c 1 5",
        "echo 1 > /proc/sys/user/max_user_namespaces",
        "echo x > /proc/sysrq-trigger",
        "echo x > /proc/sys/kernel/core_pattern",
        "mkdir /sys/fs/cgroup/x",
        "hostname other",
        "chown 70000 /tmp",
        "cat /proc/1/environ",
        "cat /proc/1/maps",
        "readlink /proc/1/exe",
        "readlink /proc/1/root",
        "readlink /proc/1/cwd",
        "ls /proc/1/fd",
        "cat /proc/1/mem",
    ] {
        let said = ground.run(&format!("if {command}; then echo possible; fi"));
        assert_eq!(said.out, "", "{command}: {}", said.err);
        // Not because there is no such command; readlink says nothing when it fails.
        let told = !said.err.is_empty() || command.starts_with("readlink");
        assert!(told && !said.err.contains("not found"), "{command}: {}", said.err);
        renew(&ground);
    }
    assert_eq!(ground.say("cat /proc/sys/user/max_user_namespaces"), "0");
}

#[test]
fn what_tells_about_the_host_is_hidden() {
    let ground = Ground::new();
    let script = "cat /proc/keys /proc/timer_list /proc/kallsyms /proc/swaps /proc/cmdline \
                  /proc/modules 2>/dev/null | wc -c; find /proc/acpi /proc/scsi /sys/firmware \
                  /sys/devices/virtual/block /sys/kernel/debug -mindepth 1 2>/dev/null; \
                  head -c 1 /proc/kcore | wc -c";
    assert_eq!(ground.say(script), "0\n0");
    renew(&ground);
    assert!(ground.say("grep -c . /proc/meminfo").parse::<u32>().unwrap() > 10);
}

#[test]
fn devices_are_the_usual_few() {
    let ground = Ground::new();
    let names = ground.say("ls /dev");
    assert_eq!(
        names.split_whitespace().collect::<Vec<_>>(),
        [
            "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
            "stdout", "tty", "urandom", "zero"
        ]
    );
    renew(&ground);
    let script =
        "echo x > /dev/null; head -c 4 /dev/zero | od -An -tx1; head -c 9 /dev/urandom | wc -c
        echo hi > /dev/stdout; echo x > /dev/shm/a && cat /dev/shm/a
        (exec 3<>/dev/ptmx; ls /dev/pts)
        dd if=/dev/zero of=/dev/shm/b bs=1M count=2 2>&1 | grep -c space
        echo x > /dev/full";
    let said = ground.run(script);
    let lines: Vec<_> = said.out.lines().map(str::trim).collect();
    assert_eq!(lines, ["00 00 00 00", "9", "hi", "x", "0", "ptmx", "1"], "{}", said.err);
    assert!(said.err.contains("No space left"), "{}", said.err);
}

#[test]
fn the_first_process_withstands_its_children() {
    let ground = Ground::new();
    let script = "kill -9 1; kill -STOP 1; kill -SEGV 1; sleep 0.1; echo alive; \
                  (sleep 0.1; exit 3) & wait $!; echo $?";
    assert_eq!(ground.say(script), "alive\n3");
}

#[test]
fn no_descriptor_is_inherited() {
    let ground = Ground::new();
    // One of the caller's that would pass an exec.
    let file = fs::File::open("/").unwrap();
    let leaky = rustix::io::fcntl_dupfd_cloexec(&file, 100).unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    // The shell expands the pattern itself; its own open folder is the fourth.
    let seen = ground.say("set -- /proc/self/fd/*; echo $#; cd /proc/self/fd/100 || echo none");
    let (count, none) = seen.split_once('\n').unwrap();
    assert!(count.parse::<u32>().unwrap() <= 4, "{seen}");
    assert_eq!(none, "none");
}

#[test]
fn what_is_written_lies_on_disk_with_ids_from_0() {
    let ground = Ground::new();
    let script = "echo root > /tmp/root; echo user > /tmp/user; chown 1000:1001 /tmp/user; \
                  rm /etc/old; mkdir -p /new/folder; chmod 4755 /bin/sh; \
                  stat -c %u:%g /tmp/* /bin/sh";
    let mut plan = ground.plan(script);
    plan.layers.push(ground.layer("second", "etc/old", "old"));
    let said = run(&plan);
    assert_eq!(said.out, "0:0\n1000:1001\n0:0\n", "{}", said.err);
    let upper = ground.path("scratch/upper");
    let owner = |name: &str| {
        let facts = fs::symlink_metadata(upper.join(name)).unwrap();
        (facts.uid(), facts.gid())
    };
    assert_eq!(owner("tmp/root"), (0, 0));
    assert_eq!(owner("tmp/user"), (1000, 1001));
    assert_eq!(owner("new/folder"), (0, 0));
    // The deleted file is a whiteout, and the layers below are as they were.
    assert_eq!(fs::symlink_metadata(upper.join("etc/old")).unwrap().rdev(), 0);
    assert_eq!(fs::read_to_string(ground.path("second/etc/old")).unwrap(), "old");
    assert!(!base().join("new").exists() && !base().join("tmp/root").exists());

    // And the folder can be a layer of the next container.
    let next = Ground::new();
    let mut plan = next.plan("cat /tmp/root /tmp/user; stat -c %u /tmp/user; ls /etc | wc -l");
    plan.layers = vec![base().to_owned(), ground.path("second"), upper];
    assert_eq!(run(&plan).out, "root\nuser\n1000\n0\n");
}

#[test]
fn many_layers_stack() {
    let ground = Ground::new();
    let mut plan = ground.plan("cat /etc/top; ls /many | wc -l");
    for number in 0..jail::limits::LAYERS_MAX - 1 {
        let layer = ground.layer(&format!("l{number}"), &format!("many/{number}"), "");
        fs::create_dir_all(layer.join("etc")).unwrap();
        fs::write(layer.join("etc/top"), number.to_string()).unwrap();
        plan.layers.push(layer);
    }
    let said = run(&plan);
    assert_eq!(
        said.out,
        format!("{}{}\n", jail::limits::LAYERS_MAX - 2, jail::limits::LAYERS_MAX - 1)
    );
}

/// A fresh writable folder for a further container.
fn renew(ground: &Ground) {
    for name in ["scratch/upper", "scratch/work"] {
        let root = jail::Root::open_folder(ground.dir.path()).unwrap();
        root.remove_all(name.as_ref()).unwrap();
        root.mkdir(name.as_ref(), 0o755).unwrap();
    }
}
