//! The list of syscalls, in groups that say who needs them or why they are refused.
//!
//! A number in no group answers ENOSYS: programs take that for an older kernel and fall back.
//! Those refused by name answer EPERM, but for the few that programs only tolerate as missing.

use std::collections::BTreeMap;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Allow,
    /// EPERM.
    Refuse,
    /// ENOSYS, as on a kernel without it.
    Missing,
    /// It depends on the arguments.
    Examine(Examination),
}

/// Calls whose arguments decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Examination {
    /// `clone`: no new namespaces.
    Clone,
    /// `socket`: local, IP and route-netlink sockets with usual protocols.
    Socket,
    /// `socketpair`: local ones.
    SocketPair,
    /// `ioctl`: not those that type into a terminal.
    Ioctl,
    /// `personality`: only the usual ones.
    Personality,
}

/// Calls that stand together.
#[derive(Debug)]
pub struct Group {
    /// Who needs them, or what they would open.
    pub why: &'static str,
    /// What happens to them.
    pub verdict: Verdict,
    /// Names and numbers.
    pub calls: &'static [(&'static str, i64)],
}

/// The verdict of every number that some group names.
pub(super) fn table() -> BTreeMap<u32, Verdict> {
    let mut table = BTreeMap::new();
    for group in GROUPS {
        for &(_, number) in group.calls {
            if let Ok(number) = u32::try_from(number) {
                table.insert(number, group.verdict);
            }
        }
    }
    table
}

/// The same, but clone3 is made.
pub(super) fn table_with_clone3() -> BTreeMap<u32, Verdict> {
    let mut table = table();
    table.extend(u32::try_from(libc::SYS_clone3).map(|number| (number, Verdict::Allow)));
    table
}

macro_rules! calls {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), libc::$name)),*] };
}

/// Every group. A call is in one of them only.
#[rustfmt::skip] // One call a line would make ten pages of it.
pub const GROUPS: &[Group] = &[
    Group {
        why: "files by descriptor and path: every program",
        verdict: Verdict::Allow,
        calls: calls![
            SYS_read, SYS_write, SYS_close, SYS_fstat, SYS_lseek, SYS_pread64, SYS_pwrite64,
            SYS_readv, SYS_writev, SYS_preadv, SYS_pwritev, SYS_preadv2, SYS_pwritev2, SYS_dup,
            SYS_dup3, SYS_fcntl, SYS_flock, SYS_fsync, SYS_fdatasync, SYS_truncate, SYS_ftruncate,
            SYS_getcwd, SYS_chdir, SYS_fchdir, SYS_fchmod, SYS_fchown, SYS_umask, SYS_statfs,
            SYS_fstatfs, SYS_openat, SYS_openat2, SYS_mkdirat, SYS_fchownat, SYS_newfstatat,
            SYS_unlinkat, SYS_renameat2, SYS_linkat, SYS_symlinkat, SYS_readlinkat, SYS_fchmodat,
            SYS_faccessat, SYS_faccessat2, SYS_utimensat, SYS_statx, SYS_getdents64,
            SYS_fallocate, SYS_fadvise64, SYS_readahead, SYS_sync, SYS_syncfs,
            SYS_sync_file_range, SYS_copy_file_range, SYS_sendfile, SYS_splice, SYS_tee,
            SYS_vmsplice, SYS_pipe2, SYS_close_range, SYS_fchmodat2, SYS_renameat
        ],
    },
    Group {
        why: "extended attributes: package managers, cp -a, rsync",
        verdict: Verdict::Allow,
        calls: calls![
            SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_getxattr, SYS_lgetxattr,
            SYS_fgetxattr, SYS_listxattr, SYS_llistxattr, SYS_flistxattr, SYS_removexattr,
            SYS_lremovexattr, SYS_fremovexattr
        ],
    },
    Group {
        why: "named pipes and plain files; without CAP_MKNOD no devices: tar, dpkg",
        verdict: Verdict::Allow,
        calls: calls![SYS_mknodat],
    },
    Group {
        why: "memory: every program, language runtimes, numeric libraries",
        verdict: Verdict::Allow,
        calls: calls![
            SYS_mmap, SYS_mprotect, SYS_munmap, SYS_brk, SYS_mremap, SYS_msync, SYS_mincore,
            SYS_madvise, SYS_mlock, SYS_mlock2, SYS_munlock, SYS_mlockall, SYS_munlockall,
            SYS_memfd_create, SYS_membarrier, SYS_pkey_alloc, SYS_pkey_free, SYS_pkey_mprotect,
            SYS_remap_file_pages, SYS_mseal
        ],
    },
    Group {
        why: "signals and their descriptors: every program",
        verdict: Verdict::Allow,
        calls: calls![
            SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending,
            SYS_rt_sigtimedwait, SYS_rt_sigqueueinfo, SYS_rt_sigsuspend, SYS_rt_tgsigqueueinfo,
            SYS_sigaltstack, SYS_kill, SYS_tkill, SYS_tgkill, SYS_signalfd4, SYS_pidfd_open,
            SYS_pidfd_send_signal, SYS_restart_syscall
        ],
    },
    Group {
        why: "processes and threads: every program",
        verdict: Verdict::Allow,
        calls: calls![
            SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_wait4, SYS_waitid, SYS_getpid,
            SYS_getppid, SYS_gettid, SYS_set_tid_address, SYS_set_robust_list,
            SYS_get_robust_list, SYS_futex, SYS_futex_waitv, SYS_rseq, SYS_setpgid, SYS_getpgid,
            SYS_setsid, SYS_getsid, SYS_prctl, SYS_getrlimit, SYS_setrlimit, SYS_prlimit64,
            SYS_getrusage, SYS_times, SYS_process_mrelease, SYS_getcpu, SYS_uname, SYS_sysinfo,
            SYS_getrandom
        ],
    },
    Group {
        why: "scheduling of one's own processes: language runtimes, nice, taskset",
        verdict: Verdict::Allow,
        calls: calls![
            SYS_sched_yield, SYS_sched_setparam, SYS_sched_getparam, SYS_sched_setscheduler,
            SYS_sched_getscheduler, SYS_sched_get_priority_max, SYS_sched_get_priority_min,
            SYS_sched_rr_get_interval, SYS_sched_setaffinity, SYS_sched_getaffinity,
            SYS_sched_setattr, SYS_sched_getattr, SYS_getpriority, SYS_setpriority,
            SYS_ioprio_set, SYS_ioprio_get
        ],
    },
    Group {
        why: "clocks and timers: every program",
        verdict: Verdict::Allow,
        calls: calls![
            SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_gettime, SYS_clock_getres,
            SYS_gettimeofday, SYS_getitimer, SYS_setitimer, SYS_timer_create, SYS_timer_settime,
            SYS_timer_gettime, SYS_timer_getoverrun, SYS_timer_delete, SYS_timerfd_create,
            SYS_timerfd_settime, SYS_timerfd_gettime
        ],
    },
    Group {
        why: "waiting for many things: event loops",
        verdict: Verdict::Allow,
        calls: calls![
            SYS_ppoll, SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait,
            SYS_epoll_pwait2, SYS_eventfd2, SYS_inotify_init1, SYS_inotify_add_watch,
            SYS_inotify_rm_watch, SYS_io_setup, SYS_io_destroy, SYS_io_submit, SYS_io_cancel,
            SYS_io_getevents
        ],
    },
    Group {
        why: "sockets that exist already: network programs",
        verdict: Verdict::Allow,
        calls: calls![
            SYS_connect, SYS_accept, SYS_accept4, SYS_bind, SYS_listen, SYS_sendto, SYS_recvfrom,
            SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg, SYS_recvmmsg, SYS_shutdown, SYS_getsockname,
            SYS_getpeername, SYS_setsockopt, SYS_getsockopt
        ],
    },
    Group {
        why: "shared memory, semaphores, message queues of the own ipc namespace: databases",
        verdict: Verdict::Allow,
        calls: calls![
            SYS_shmget, SYS_shmat, SYS_shmctl, SYS_shmdt, SYS_semget, SYS_semop, SYS_semctl,
            SYS_semtimedop, SYS_msgget, SYS_msgsnd, SYS_msgrcv, SYS_msgctl, SYS_mq_open,
            SYS_mq_unlink, SYS_mq_timedsend, SYS_mq_timedreceive, SYS_mq_notify, SYS_mq_getsetattr
        ],
    },
    Group {
        why: "user and group ids inside the container: apt, su, servers that drop rights",
        verdict: Verdict::Allow,
        calls: calls![
            SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getgroups, SYS_getresuid,
            SYS_getresgid, SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid,
            SYS_setresgid, SYS_setfsuid, SYS_setfsgid, SYS_setgroups, SYS_capget, SYS_capset
        ],
    },
    Group {
        why: "walls that a program puts up for itself: browsers, package managers",
        verdict: Verdict::Allow,
        calls: calls![
            SYS_seccomp, SYS_landlock_create_ruleset, SYS_landlock_add_rule,
            SYS_landlock_restrict_self, SYS_chroot
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        why: "older forms of the above that only this processor has",
        verdict: Verdict::Allow,
        calls: calls![
            SYS_open, SYS_creat, SYS_stat, SYS_lstat, SYS_access, SYS_pipe, SYS_dup2, SYS_rename,
            SYS_mkdir, SYS_rmdir, SYS_link, SYS_unlink, SYS_symlink, SYS_readlink, SYS_chmod,
            SYS_chown, SYS_lchown, SYS_mknod, SYS_utime, SYS_utimes, SYS_futimesat, SYS_getdents,
            SYS_poll, SYS_select, SYS_epoll_create, SYS_epoll_wait, SYS_eventfd, SYS_signalfd,
            SYS_inotify_init, SYS_alarm, SYS_pause, SYS_time, SYS_fork, SYS_vfork, SYS_getpgrp,
            SYS_arch_prctl
        ],
    },
    Group {
        // In libc under these names on some targets only; numbers from 424 on are the same on
        // all (Documentation: syscall tables of kernel 6.12).
        why: "newer forms of the above, by number",
        verdict: Verdict::Allow,
        calls: &[
            ("SYS_cachestat", 451),
            ("SYS_map_shadow_stack", 453),
            ("SYS_futex_wake", 454),
            ("SYS_futex_wait", 455),
            ("SYS_futex_requeue", 456),
            ("SYS_setxattrat", 463),
            ("SYS_getxattrat", 464),
            ("SYS_listxattrat", 465),
            ("SYS_removexattrat", 466),
        ],
    },
    Group {
        why: "threads and processes, but no new namespaces",
        verdict: Verdict::Examine(Examination::Clone),
        calls: calls![SYS_clone],
    },
    Group {
        why: "new sockets: no packet, vsock, kernel crypto or exotic protocols",
        verdict: Verdict::Examine(Examination::Socket),
        calls: calls![SYS_socket],
    },
    Group {
        why: "local pairs",
        verdict: Verdict::Examine(Examination::SocketPair),
        calls: calls![SYS_socketpair],
    },
    Group {
        why: "device settings, but no typing into a terminal that others read from",
        verdict: Verdict::Examine(Examination::Ioctl),
        calls: calls![SYS_ioctl],
    },
    Group {
        why: "uname as of Linux 2.6 and address layout are asked for by old programs",
        verdict: Verdict::Examine(Examination::Personality),
        calls: calls![SYS_personality],
    },
    Group {
        why: "clone3 keeps its flags in memory, where a filter cannot look: libraries fall back to \
              clone. io_uring and the numa calls are tolerated as missing, not as refused",
        verdict: Verdict::Missing,
        calls: calls![
            SYS_clone3, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, SYS_mbind,
            SYS_get_mempolicy, SYS_set_mempolicy, SYS_migrate_pages, SYS_move_pages,
            SYS_memfd_secret
        ],
    },
    Group {
        why: "mounts and namespaces: the walls themselves",
        verdict: Verdict::Refuse,
        calls: calls![
            SYS_mount, SYS_umount2, SYS_pivot_root, SYS_unshare, SYS_setns, SYS_open_tree,
            SYS_move_mount, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick, SYS_mount_setattr,
            SYS_sethostname, SYS_setdomainname
        ],
    },
    Group {
        why: "other processes' memory and descriptors",
        verdict: Verdict::Refuse,
        calls: calls![
            SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_process_madvise,
            SYS_pidfd_getfd, SYS_kcmp, SYS_userfaultfd
        ],
    },
    Group {
        why: "kernel programs, tracing, keys, file handles: large surfaces, no need",
        verdict: Verdict::Refuse,
        calls: calls![
            SYS_bpf, SYS_perf_event_open, SYS_add_key, SYS_request_key, SYS_keyctl,
            SYS_name_to_handle_at, SYS_open_by_handle_at, SYS_fanotify_init, SYS_fanotify_mark,
            SYS_lookup_dcookie
        ],
    },
    Group {
        why: "the whole machine: modules, clocks, swap, quotas, log, power",
        verdict: Verdict::Refuse,
        calls: calls![
            SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_reboot,
            SYS_settimeofday, SYS_clock_settime, SYS_clock_adjtime, SYS_adjtimex, SYS_swapon,
            SYS_swapoff, SYS_quotactl, SYS_quotactl_fd, SYS_acct, SYS_syslog, SYS_vhangup,
            SYS_nfsservctl
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        why: "ports, descriptor tables and leftovers that only this processor has",
        verdict: Verdict::Refuse,
        calls: calls![
            SYS_ioperm, SYS_iopl, SYS_modify_ldt, SYS_kexec_file_load, SYS_uselib, SYS_ustat,
            SYS_sysfs, SYS__sysctl
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_in_one_group() {
        let mut seen = std::collections::HashMap::new();
        for group in GROUPS {
            for &(name, number) in group.calls {
                assert_eq!(seen.insert(number, name), None, "{name} is listed twice");
            }
        }
    }
}
