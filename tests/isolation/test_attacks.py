"""What hostile code tries from inside real containers, one class of escape after the other."""

import errno
import inspect
import os
import textwrap
import time
from pathlib import Path

import pytest

import serving

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture(scope="module")
def app(modal, warm):
    import attack_app

    with attack_app.app.run():
        yield attack_app


@pytest.fixture(scope="module")
def inside(app):
    """Runs a function of this file in the container: its source travels, its file does not."""

    def run(function, *arguments, where=app.attack):
        source = textwrap.dedent(inspect.getsource(function))
        return where.remote(f"{source}\nresult = {function.__name__}(*{arguments!r})\n")

    return run


def system_calls(calls):
    """Makes raw system calls with harmless arguments: name -> errno, 0 if one was let through."""
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    answers = {}
    for name, number, arguments in calls:
        # A child: some would change or end whoever calls them.
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            ctypes.set_errno(0)
            arguments = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a)
                         for a in arguments]
            returned = libc.syscall(ctypes.c_long(number), *arguments)
            failed = ctypes.get_errno() if returned == -1 else 0
            os.write(writer, str(failed).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            text = answer.read()
        _, status = os.waitpid(pid, 0)
        answers[name] = int(text) if text else -os.waitstatus_to_exitcode(status)
    return answers


# Numbers of x86-64. Arguments are such that the call would do nothing bad if it were let through,
# and would not fail for another reason where that can be had.
FORBIDDEN = [
    ("mount", 165, (b"none", b"/mnt", b"tmpfs", 0, 0)),
    ("umount2", 166, (b"/proc", 2)),
    ("pivot_root", 155, (b"/", b"/")),
    ("swapon", 167, (b"/x", 0)),
    ("reboot", 169, (0, 0, 0)),
    ("sethostname", 170, (b"x", 1)),
    ("iopl", 172, (3,)),
    ("ioperm", 173, (0, 1, 1)),
    ("init_module", 175, (0, 0, b"")),
    ("delete_module", 176, (b"x", 0)),
    ("quotactl", 179, (0, 0, 0, 0)),
    ("settimeofday", 164, (0, 0)),
    ("acct", 163, (0,)),
    ("syslog", 103, (10, 0, 0)),
    ("kexec_load", 246, (0, 0, 0, 0)),
    ("add_key", 248, (b"user", b"x", b"y", 1, -3)),
    ("request_key", 249, (b"user", b"x", 0, -3)),
    ("keyctl", 250, (0, -3, 0, 0, 0)),
    ("unshare_user", 272, (0x10000000,)),
    ("unshare_net", 272, (0x40000000,)),
    ("unshare_mount", 272, (0x20000,)),
    ("perf_event_open", 298, (0, 0, -1, -1, 0)),
    ("name_to_handle_at", 303, (-100, b"/", 0, 0, 0)),
    ("open_by_handle_at", 304, (-100, 0, 0)),
    ("setns", 308, (0, 0)),
    ("finit_module", 313, (0, b"", 0)),
    ("kexec_file_load", 320, (0, 0, 0, b"", 0)),
    ("bpf", 321, (0, 0, 0)),
    ("userfaultfd", 323, (0,)),
    ("io_uring_setup", 425, (1, 0)),
    ("open_tree", 428, (-100, b"/", 1)),
    ("move_mount", 429, (-100, b"/", -100, b"/", 0)),
    ("fsopen", 430, (b"tmpfs", 0)),
    ("fsmount", 432, (0, 0, 0)),
    ("mount_setattr", 442, (-100, b"/", 0, 0, 0)),
]

REFUSED = {errno.EPERM, errno.ENOSYS, errno.EACCES}


def test_dangerous_system_calls_are_refused(inside):
    answers = inside(system_calls, FORBIDDEN)
    assert set(answers) == {name for name, _, _ in FORBIDDEN}
    assert {name: got for name, got in answers.items() if got not in REFUSED} == {}


def test_new_user_namespaces_by_clone_are_refused(inside):
    """clone with CLONE_NEWUSER; clone3 must look as if it did not exist."""
    calls = [
        ("clone_user", 56, (0x10000000 | 17, 0, 0, 0, 0)),
        ("clone_net", 56, (0x40000000 | 17, 0, 0, 0, 0)),
        ("clone3_none", 435, (0, 0)),
    ]
    answers = inside(system_calls, calls)
    assert answers["clone_user"] in REFUSED
    assert answers["clone_net"] in REFUSED
    assert answers["clone3_none"] in REFUSED | {errno.EINVAL}


def identity():
    """Who the code is, as the kernel says."""
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines())
    import os

    return {
        "no_new_privileges": status["NoNewPrivs"],
        "seccomp": status["Seccomp"],
        "effective": int(status["CapEff"], 16),
        "bounding": int(status["CapBnd"], 16),
        "ambient": int(status["CapAmb"], 16),
        "uid_map": open("/proc/self/uid_map").read().split(),
        "gid_map": open("/proc/self/gid_map").read().split(),
        "pid": os.getpid(),
        "parents": os.getppid(),
        "groups": os.getgroups(),
    }


def test_capabilities_and_ids(inside):
    who = inside(identity)
    assert who["no_new_privileges"] == "1"
    assert who["seccomp"] == "2"
    assert who["ambient"] == 0
    # capabilities(7): DAC_READ_SEARCH, LINUX_IMMUTABLE, NET_BROADCAST, NET_ADMIN, NET_RAW,
    # IPC_LOCK, IPC_OWNER, SYS_MODULE … SYS_TIME, SYS_TTY_CONFIG, MKNOD, and all from AUDIT on.
    dangerous = [2, 9, 11, 12, 13, 14, 15, *range(16, 18), *range(19, 28), *range(29, 31),
                 *range(32, 41)]
    for which in ("effective", "bounding"):
        held = [number for number in dangerous if who[which] & 1 << number]
        assert held == [], which
    for which in ("uid_map", "gid_map"):
        assert who[which][0] == "0" and int(who[which][1]) >= serving.FIRST_ID, who[which]
        assert int(who[which][2]) == serving.IDS_EACH
    assert who["pid"] < 100


def mounts():
    """The container's mounts, and which of the kernel's files can be written."""
    import os

    writable = []
    for path in (
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/randomize_va_space",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/release_agent",
    ):
        try:
            os.close(os.open(path, os.O_WRONLY))
            writable.append(path)
        except OSError:
            continue
    readable = []
    for path in ("/proc/kcore", "/proc/kmsg", "/proc/kallsyms", "/proc/keys", "/proc/timer_list",
                 "/proc/1/environ", "/proc/sched_debug", "/sys/firmware"):
        try:
            if os.path.isdir(path):
                content = bool(os.listdir(path))
            else:
                with open(path, "rb") as file:
                    content = file.read(4096)
            if path == "/proc/kallsyms" and content:
                # Without the right to see them, all addresses are zero.
                content = any(not line.startswith(b"0000000000000000")
                              for line in content.splitlines()[:-1])
            if path == "/proc/1/environ":
                content = b"CARGO" in content or b"SUDO" in content
            if content:
                readable.append(path)
        except OSError:
            continue
    return {
        "mountinfo": open("/proc/self/mountinfo").read(),
        "writable": writable,
        "readable": readable,
        "root": os.listdir("/"),
        "host_names": [os.path.exists(path) for path in ("/host", "/var/lib/palisade")],
    }


def test_the_kernels_files_are_closed(inside):
    found = inside(mounts)
    assert found["writable"] == []
    assert found["readable"] == []
    assert not any(found["host_names"])


def test_mounts_do_not_tell_where_the_server_lives(inside, warm):
    mountinfo = inside(mounts)["mountinfo"]
    assert str(warm.data_dir) not in mountinfo
    assert warm.data_dir.parent.name not in mountinfo
    assert str(serving.REPOSITORY) not in mountinfo


def devices():
    """Which devices are there, can be made, or can be opened."""
    import os
    import stat

    listed = []
    for folder, _, files in os.walk("/dev"):
        for name in files:
            path = os.path.join(folder, name)
            try:
                mode = os.lstat(path).st_mode
            except OSError:
                continue
            if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
                listed.append(path)
    opened = []
    for name in ("mem", "kmem", "port", "kmsg", "kvm", "fuse", "loop-control", "loop0", "sda",
                 "vda", "mapper/control", "net/tun", "vhost-net", "snapshot", "btrfs-control"):
        try:
            os.close(os.open(f"/dev/{name}", os.O_RDONLY))
            opened.append(name)
        except OSError:
            continue
    made = []
    for name, mode, device in (("m-mem", stat.S_IFCHR, (1, 1)), ("m-sda", stat.S_IFBLK, (8, 0)),
                               ("m-null", stat.S_IFCHR, (1, 3))):
        try:
            os.mknod(f"/tmp/{name}", mode | 0o666, os.makedev(*device))
            os.close(os.open(f"/tmp/{name}", os.O_RDONLY))
            made.append(name)
        except OSError:
            continue
    return {"listed": listed, "opened": opened, "made": made}


def test_devices(inside):
    found = inside(devices)
    assert found["opened"] == []
    assert found["made"] == []
    harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"}
    others = [path for path in found["listed"]
              if Path(path).name not in harmless and not path.startswith("/dev/pts/")]
    assert others == []


def sockets(abstract):
    """Kinds of sockets that reach the kernel or the machine: name -> errno, 0 if it was made."""
    import socket

    answers = {}
    for name, family, kind, protocol in (
        ("packet", 17, socket.SOCK_RAW, 0x300),
        ("raw", socket.AF_INET, socket.SOCK_RAW, 1),
        ("raw6", socket.AF_INET6, socket.SOCK_RAW, 58),
        ("vsock", 40, socket.SOCK_STREAM, 0),
        ("alg", 38, socket.SOCK_SEQPACKET, 0),
        ("bluetooth", 31, socket.SOCK_RAW, 1),
        ("can", 29, socket.SOCK_RAW, 1),
        ("netfilter", 16, socket.SOCK_RAW, 12),
        ("audit", 16, socket.SOCK_RAW, 9),
    ):
        try:
            socket.socket(family, kind, protocol).close()
            answers[name] = 0
        except OSError as error:
            answers[name] = error.errno
    with socket.socket(socket.AF_UNIX) as sock:
        answers["abstract"] = sock.connect_ex(b"\0" + abstract.encode())
    return answers


def test_sockets(inside):
    import socket

    name = f"palisade-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        answers = inside(sockets, name)
    assert [kind for kind, got in answers.items() if got == 0] == []


def fork_bomb():
    """Starts processes until it may not, then ends them; says how many it had."""
    import os
    import signal

    children = []
    refused = 0
    for _ in range(20_000):
        try:
            # Not fork: a thousand copies of this interpreter reach the limit of memory first.
            children.append(os.posix_spawn("/bin/sleep", ["sleep", "60"], {}))
        except OSError as error:
            refused = error.errno
            break
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)
    return {"had": len(children), "refused": refused}


def test_a_fork_bomb_stops_at_the_limit(inside):
    found = inside(fork_bomb)
    assert found["refused"] == errno.EAGAIN
    assert 100 < found["had"] <= 1_100
    assert inside(identity)["pid"] > 0


def eat(mebibytes):
    """Fills memory."""
    blocks = [bytes([number % 256]) * (1 << 20) for number in range(mebibytes)]
    return len(blocks)


@pytest.mark.log_allows("(?i)memory")
def test_too_much_memory_ends_the_container_and_says_so(inside, app):
    assert inside(eat, 100, where=app.small) == 100
    with pytest.raises(Exception, match="(?i)memory"):
        inside(eat, 2_000, where=app.small)
    # The next one is well.
    assert inside(eat, 100, where=app.small) == 100


def control_groups():
    """Tries to see and leave the control group."""
    import os

    tried = {}
    tops = [f"/sys/fs/cgroup/{name}" for name in ("", "memory", "pids", "cpu", "unified")]
    for top in tops:
        try:
            os.mkdir(f"{top}/escape")
            tried[f"mkdir {top}"] = "made"
        except OSError:
            pass
        for name in ("cgroup.procs", "tasks", "memory.limit_in_bytes", "memory.max", "pids.max"):
            try:
                with open(f"{top}/{name}", "w") as file:
                    file.write("0")
                tried[f"write {top}/{name}"] = "written"
            except OSError:
                pass
    return {"tried": tried, "own": open("/proc/self/cgroup").read()}


def test_control_groups_cannot_be_left(inside):
    found = inside(control_groups)
    assert found["tried"] == {}
    # In a group namespace of its own: where it is in the host's tree is not told.
    assert "palisade" not in found["own"], found["own"]


def signals():
    """Sends signals to everybody that can be seen."""
    import os
    import signal

    reached = []
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()] + [2**22 - 1]:
        if pid in (1, os.getpid()):
            continue
        try:
            os.kill(pid, 0)
            reached.append((pid, open(f"/proc/{pid}/cmdline").read()))
        except OSError:
            pass
    try:
        # The first process of the container does not die of its children's signals.
        os.kill(1, signal.SIGKILL)
        survived = True
    except OSError:
        survived = True
    return {"reached": reached, "survived": survived}


def test_processes_of_others_are_out_of_reach(inside, warm):
    found = inside(signals)
    assert [command for _, command in found["reached"] if "palisade serve" in command] == []
    assert os.path.exists(f"/proc/{warm.pid}")


def set_user_id():
    """A program with the set-user-id bit gives nothing."""
    import os
    import shutil
    import subprocess

    shutil.copy("/usr/bin/id", "/tmp/id")
    os.chown("/tmp/id", 0, 0)
    os.chmod("/tmp/id", 0o4755)

    def be_nobody():
        os.setgid(65534)
        os.setuid(65534)

    done = subprocess.run(["/tmp/id"], preexec_fn=be_nobody, capture_output=True, text=True)
    return done.stdout


def test_set_user_id_programs_give_nothing(inside):
    said = inside(set_user_id)
    assert "uid=65534" in said
    assert "euid=0" not in said


def test_a_container_that_kills_everything_kills_itself_alone(inside, app, warm, modal):
    with pytest.raises(Exception) as caught:
        app.attack.remote("import os\nos.kill(-1, 9)\nos.kill(os.getpid(), 9)\nresult = 0\n")
    assert not isinstance(caught.value, modal.exception.InternalFailure)
    assert os.path.exists(f"/proc/{warm.pid}")
    assert inside(identity)["pid"] > 0


def test_links_in_an_image_do_not_lead_files_out_of_it(modal, warm, tmp_path):
    """A file that is added below a link in the image stays in the container."""
    name = f"palisade-test-{os.getpid()}"
    local = tmp_path / name
    local.write_text("it came in")
    image = (
        modal.Image.debian_slim()
        .run_commands("ln -s /etc /link", "ln -s ../../../../../../../../etc /climb")
        .add_local_file(local, f"/link/{name}-1")
        .add_local_file(local, f"/climb/{name}-2")
    )
    app = modal.App("links-app")

    def read(name):
        import os

        return {folder: sorted(file for file in os.listdir(folder) if name in file)
                for folder in ("/etc", "/link", "/climb")}

    function = app.function(image=image, serialized=True, block_network=True)(read)
    with app.run():
        found = function.remote(name)
    assert f"{name}-1" in found["/link"] and f"{name}-2" in found["/climb"]
    assert [path for path in Path("/etc").iterdir() if name in path.name] == []


def test_output_without_end_is_bounded(inside, warm):
    """A container that prints as fast as it can does not stop the server or fill its memory."""

    def memory_kib():
        status = Path(f"/proc/{warm.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    before = memory_kib()
    source = "\n".join([
        "import os, time",
        "end = time.monotonic() + 3",
        "while time.monotonic() < end: os.write(1, b'x' * 65536)",
        "result = 'done'",
    ])
    import attack_app

    assert attack_app.attack.remote(source) == "done"
    started = time.monotonic()
    assert inside(identity)["pid"] > 0
    assert time.monotonic() - started < 10
    assert memory_kib() - before < 200 << 10


def test_the_disk_of_a_container_is_limited(fresh_server):
    server = fresh_server(flags=["--disk-mib", "64"])
    done = server.run(serving.MODAL, "run", "tests/isolation/apps/disk_app.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stopped by ENOSPC" in done.stdout or "stopped by EDQUOT" in done.stdout, done.stdout
