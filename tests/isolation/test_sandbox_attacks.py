"""What hostile code tries from inside real sandboxes: against the process that starts its programs,
the one beside it that keeps its output, other programs, other sandboxes and the host.
"""

import contextlib
import errno
import inspect
import json
import os
import re
import signal
import textwrap
import threading
import time
from pathlib import Path

import pytest

import serving
from sandbox_kit import supervisors
from test_attacks import (
    FORBIDDEN,
    REFUSED,
    control_groups,
    devices,
    identity,
    mounts,
    set_user_id,
    sockets,
    system_calls,
)

pytestmark = [pytest.mark.usefixtures("warm"), pytest.mark.timeout(240)]

TOOL = "/__modal/.bin/modal-sandbox-fs-tools"


@pytest.fixture(scope="module")
def app(warm, modal):
    return modal.App.lookup("sandbox-attacks", create_if_missing=True)


@pytest.fixture(scope="module")
def create(modal, app):
    """Makes sandboxes as any untrusted code gets them; they end with the module."""
    made = []

    def create(*command, **options):
        usual = {"image": modal.Image.debian_slim(), "timeout": 600, "block_network": True}
        options = usual | options
        made.append(modal.Sandbox.create(*command, app=app, **options))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.terminate()


@pytest.fixture(scope="module")
def sandbox(create):
    """It runs the image's program, which waits for its input."""
    return create()


def script(function, *arguments):
    """A program that runs a function of a test file and prints what it returns."""
    source = textwrap.dedent(inspect.getsource(function))
    call = f"print(json.dumps({function.__name__}(*{arguments!r}), default=repr), flush=True)\n"
    return ["python3", "-c", f"import json\n{source}{call}"]


def run(sandbox, *command, **options):
    """Runs a program in a sandbox to its end: what it printed, and its exit code."""
    process = sandbox.exec(*command, **options)
    printed, complained = process.stdout.read(), process.stderr.read()
    code = process.wait()
    if code:
        print(complained)
    return printed, code


@pytest.fixture(scope="module")
def inside(sandbox):
    """Runs a function of a test file as a program of the sandbox."""

    def inside(function, *arguments, where=sandbox, **options):
        printed, code = run(where, *script(function, *arguments), **options)
        assert code == 0, printed
        return json.loads(printed.splitlines()[-1])

    return inside


def is_well(sandbox):
    return run(sandbox, "echo", "well") == ("well\n", 0)


def test_dangerous_system_calls_are_refused(inside):
    answers = inside(system_calls, FORBIDDEN)
    assert set(answers) == {name for name, _, _ in FORBIDDEN}
    assert {name: got for name, got in answers.items() if got not in REFUSED} == {}


def test_programs_cannot_do_what_their_starter_can(inside):
    """The first process may call clone3; what it starts may not."""
    calls = [
        ("clone3", 435, (0, 0)),
        ("clone_user", 56, (0x10000000 | 17, 0, 0, 0, 0)),
        ("ptrace_first", 101, (16, 1, 0, 0)),
        ("process_vm_readv_first", 310, (1, 0, 0, 0, 0, 0)),
        ("pidfd_getfd", 438, (0, 0, 0)),
        ("kcmp_first", 312, (1, 1, 0, 0, 0)),
    ]
    answers = inside(system_calls, calls)
    assert answers.pop("clone3") == errno.ENOSYS
    assert {name: got for name, got in answers.items() if got not in REFUSED} == {}


def rights():
    """What the kernel lets the caller do, beside who it is."""
    import os
    import resource

    status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines())
    kept = ("Umask", "NoNewPrivs", "Seccomp", "Seccomp_filters", "CapInh", "CapPrm", "CapEff",
            "CapBnd", "CapAmb", "SigBlk", "SigIgn", "Speculation_Store_Bypass", "Uid", "Gid",
            "Groups", "THP_enabled")
    limits = {name: getattr(resource, name) for name in dir(resource) if "RLIMIT_" in name}
    return {
        "status": {name: status.get(name, "").strip() for name in kept},
        "limits": {name: resource.getrlimit(number) for name, number in limits.items()},
        "oom": open("/proc/self/oom_score_adj").read(),
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}")
                       for name in sorted(os.listdir("/proc/self/ns"))},
        "leads_session": os.getsid(0) == os.getpid(),
        "folder": os.getcwd(),
    }


def test_programs_have_the_rights_of_the_sandboxs_own(create, inside):
    """No program that is started later has other walls than the first one."""
    own = [*script(rights)[:2], script(rights)[2] + "import time; time.sleep(600)\n"]
    sandbox = create(*own)
    first = json.loads(next(iter(sandbox.stdout)))
    assert first["status"]["Seccomp"] == "2"
    assert inside(rights, where=sandbox) == first
    on_terminal, code = run(sandbox, *script(rights), pty=True)
    assert code == 0
    assert json.loads(on_terminal.splitlines()[-1]) == first
    calls = [(name, number, arguments) for name, number, arguments in FORBIDDEN]
    answers = inside(system_calls, calls, where=sandbox)
    assert {name: got for name, got in answers.items() if got not in REFUSED} == {}


def test_capabilities_and_ids(inside):
    who = inside(identity)
    assert (who["no_new_privileges"], who["seccomp"], who["ambient"]) == ("1", "2", 0)
    for which in ("uid_map", "gid_map"):
        assert who[which][0] == "0" and int(who[which][1]) >= serving.FIRST_ID, who[which]
        assert int(who[which][2]) == serving.IDS_EACH
    # CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE,
    # SYS_CHROOT, SETFCAP of capabilities(7), and no other.
    kept = sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31))
    assert (who["effective"], who["bounding"]) == (kept, kept)


def test_the_kernels_files_and_devices_are_closed(inside, warm):
    found = inside(mounts)
    assert (found["writable"], found["readable"]) == ([], [])
    for secret in (str(warm.data_dir), warm.data_dir.parent.name, str(serving.REPOSITORY)):
        assert secret not in found["mountinfo"]
    assert not any(found["host_names"])
    found = inside(devices)
    assert (found["opened"], found["made"]) == ([], [])


def descriptors():
    """Every descriptor of this program but the one that lists them."""
    import os

    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return found


def test_programs_inherit_three_streams_and_nothing_else(sandbox, inside):
    found = inside(descriptors)
    assert sorted(found) == ["0", "1", "2"], found
    assert all(target.startswith("pipe:") for target in found.values()), found
    printed, _ = run(sandbox, *script(descriptors), pty=True)
    found = json.loads(printed.splitlines()[-1])
    assert sorted(found) == ["0", "1", "2"], found
    assert all(target.startswith("/dev/pts/") for target in found.values()), found


def first_process():
    """What can be read, written or entered of the process that starts all others."""
    import os

    reached = []
    for name in ("environ", "mem", "maps", "auxv", "io", "syscall", "stack", "personality",
                 "pagemap", "wchan"):
        try:
            with open(f"/proc/1/{name}", "rb") as file:
                content = file.read(64)
            if content.strip(b"0\n"):
                reached.append(name)
        except OSError:
            continue
    for name in ("root", "cwd", "exe", "ns/mnt", "ns/user", "ns/pid"):
        try:
            reached.append((name, os.readlink(f"/proc/1/{name}")))
        except OSError:
            continue
    for folder in ("fd", "fdinfo", "root", "cwd", "map_files"):
        try:
            reached.append((folder, os.listdir(f"/proc/1/{folder}")))
        except OSError:
            continue
    for name in ("mem", "oom_score_adj", "comm", "clear_refs", "coredump_filter", "uid_map",
                 "setgroups", "timerslack_ns", "attr/current"):
        try:
            with open(f"/proc/1/{name}", "r+b", buffering=0) as file:
                file.write(b"0")
            reached.append(("written", name))
        except OSError:
            continue
    try:
        os.sched_setaffinity(1, {0})
        reached.append("affinity")
    except OSError:
        pass
    return reached


def test_the_first_process_cannot_be_looked_into(inside):
    # Its processors may be chosen by whoever has its user id: that reaches nobody else.
    assert [found for found in inside(first_process) if found != "affinity"] == []


def test_no_signal_ends_a_sandbox_without_a_program(create, modal):
    """Neither any signal to the first process, nor SIGKILL to everybody."""
    sandbox = create(image=modal.Image.debian_slim().cmd([]))
    for number in range(1, signal.NSIG):
        struck = run(sandbox, "sh", "-c", f"kill -{number} 1; kill -{number} 1; echo struck")
        assert struck == ("struck\n", 0), f"signal {number}"
    # With another program beside it: alone, there is nobody to strike.
    end = "import os, subprocess; subprocess.Popen(['sleep', '60']); os.kill(-1, 9); " \
          "os.kill(os.getpid(), 9)"
    for _ in range(3):
        assert sandbox.exec("python3", "-c", end).wait() == 137
    assert sandbox.poll() is None
    assert is_well(sandbox)


def groups():
    """Writes to every file of every control group that is seen."""
    import os

    reached = []
    for folder, folders, files in os.walk("/sys/fs/cgroup"):
        for name in ("cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze",
                     "cgroup.subtree_control", "cgroup.type", "pids.max", "memory.max", "cpu.max"):
            for value in (b"0", b"1", b"max", b"%d" % os.getpid()):
                try:
                    descriptor = os.open(f"{folder}/{name}", os.O_WRONLY)
                except OSError:
                    continue
                reached.append(f"{folder}/{name}")
                try:
                    os.write(descriptor, value)
                except OSError:
                    pass
        for act, argument in ((os.mkdir, "own"), (os.rmdir, "."), (os.unlink, "cgroup.procs")):
            try:
                act(f"{folder}/{argument}")
                reached.append(f"{folder}/{argument} made or removed")
            except OSError:
                continue
        try:
            os.chmod(f"{folder}/cgroup.procs", 0o777)
            reached.append(f"{folder}/cgroup.procs opened")
        except OSError:
            continue
    return reached


def test_control_groups_of_programs_cannot_be_written(sandbox, inside):
    """Their members' files belong to the container's root, but lie on a read-only mount."""
    other = sandbox.exec("sleep", "60")
    assert inside(groups) == []
    assert inside(control_groups)["tried"] == {}
    own = inside(control_groups)["own"]
    assert "palisade" not in own, own
    assert other.poll() is None
    assert is_well(sandbox)


def test_a_program_whose_time_is_over_takes_all_that_it_started_along(sandbox):
    """Sessions, double forks, ignored signals and stopped processes hide nothing."""
    mark = f"hidden-{os.getpid()}"
    hiding = textwrap.dedent(f"""
        import os, signal, subprocess, time
        for stop in (False, True):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    for number in range(1, signal.NSIG):
                        try: signal.signal(number, signal.SIG_IGN)
                        except (OSError, ValueError): pass
                    for name in ("cgroup.procs", "../cgroup.procs"):
                        try: open("/sys/fs/cgroup/" + name, "w").write("0")
                        except OSError: pass
                    if stop: os.kill(os.getpid(), signal.SIGSTOP)
                    os.execvp("sleep", ["{mark}", "600"])
                os._exit(0)
        print("hid", flush=True)
        time.sleep(600)
    """)
    process = sandbox.exec("python3", "-c", hiding, timeout=4)
    assert next(iter(process.stdout)) == "hid\n"
    assert process.wait() in (-1, 137)

    def is_gone():
        look = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/stat | tr '\\0' ' '"
        printed, _ = run(sandbox, "sh", "-c", look)
        return mark not in printed and " T " not in printed

    serving.eventually(is_gone, 5, "all of the program is gone")


def others_processes():
    """Processes that are seen, and unix sockets of anybody."""
    import os

    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    commands = []
    for pid in pids:
        try:
            commands.append(open(f"/proc/{pid}/cmdline").read().replace("\0", " "))
        except OSError:
            continue
    bound = [line.split()[7:] for line in open("/proc/net/unix").read().splitlines()[1:]]
    files = []
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if f"{folder}/{name}" not in ("//proc", "//sys")]
        for name in names:
            try:
                if os.stat(os.path.join(folder, name), follow_symlinks=False).st_mode >> 12 == 0o14:
                    files.append(os.path.join(folder, name))
            except OSError:
                continue
    return {"commands": commands, "bound": [path for path in bound if path], "files": files}


def test_supervisors_and_the_server_are_out_of_sight(inside, warm):
    found = inside(others_processes)
    assert [command for command in found["commands"] if "supervisor" in command] == []
    assert [command for command in found["commands"] if "palisade" in command] == []
    assert (found["bound"], found["files"]) == ([], [])


def test_sockets_and_set_user_id(inside):
    answers = inside(sockets, f"palisade-test-{os.getpid()}")
    assert [kind for kind, got in answers.items() if got == 0] == []
    said = inside(set_user_id)
    assert "uid=65534" in said and "euid=0" not in said


def tool(path):
    """Changes the file tool in every way that there is."""
    import os

    done = []
    folder = os.path.dirname(path)
    for name, act in (
        ("written", lambda: os.close(os.open(path, os.O_WRONLY))),
        ("truncated", lambda: os.truncate(path, 0)),
        ("removed", lambda: os.unlink(path)),
        ("renamed", lambda: os.rename(path, path + "-2")),
        ("linked", lambda: os.link(path, "/tmp/tool")),
        ("mode", lambda: os.chmod(path, 0o4777)),
        ("owner", lambda: os.chown(path, 1, 1)),
        ("times", lambda: os.utime(path, (0, 0))),
        ("attribute", lambda: os.setxattr(path, "user.x", b"x")),
        ("neighbour", lambda: os.close(os.open(folder + "/x", os.O_CREAT | os.O_WRONLY))),
        ("folder's mode", lambda: os.chmod(folder, 0o777)),
        ("folder removed", lambda: os.rename(folder, folder + "-2")),
    ):
        try:
            act()
            done.append(name)
        except OSError:
            continue
    return done


def test_the_file_tool_cannot_be_changed(create, sandbox, inside):
    """It is one file for all sandboxes."""
    hash_of = lambda where: run(where, "sha256sum", TOOL)  # noqa: E731
    before = hash_of(sandbox)
    assert before[1] == 0
    assert inside(tool, TOOL) == []
    assert hash_of(sandbox) == before
    # Its folder can be moved away as a whole, with what is above it: that is the sandbox's own.
    run(sandbox, "sh", "-c", "mv /__modal /moved; mkdir -p /__modal/.bin; mv /moved /__modal-old")
    assert hash_of(create()) == before


def test_paths_of_files_do_not_lead_out(create, modal, tmp_path):
    """Neither links nor dots nor what /proc offers lead the file tool to the host."""
    marker = tmp_path / f"marker-{os.getpid()}"
    marker.write_text("of the host")
    sandbox = create()
    files = sandbox.filesystem
    run(sandbox, "sh", "-c", f"ln -s ../../../../../../../..{marker} /dots; ln -s {marker} /plain;"
                             f"ln -s /proc/1/root{marker} /first; ln -s /proc/self/root /root-link;"
                             f"ln -s /proc/1/cwd /cwd-link; ln -s /proc/self/fd/0 /zero")
    ways = ["/dots", "/plain", "/first", str(marker), f"/proc/1/root{marker}",
            f"/root-link{marker}", f"/cwd-link{marker}", f"/../../../../../..{marker}",
            f"/zero/../../..{marker}", f"/proc/self/task/1/root{marker}",
            f"/proc/thread-self/root{marker}"]
    for way in ways:
        with pytest.raises(modal.exception.Error):
            files.read_text(way)
    for way in ways:
        try:
            files.write_text("of the sandbox", way)
        except modal.exception.Error:
            continue
    assert marker.read_text() == "of the host"
    assert [path.name for path in tmp_path.iterdir()] == [marker.name]


def test_a_fork_bomb_fills_its_own_sandbox_alone(create, sandbox):
    """Whoever starts a program in it is told; it ends as fast as any other."""
    bombed = create()
    # Processes that end by themselves make room for others: these stay.
    bomb = textwrap.dedent("""
        import os
        while True:
            try: os.posix_spawn("/bin/sleep", ["sleep", "600"], {})
            except OSError: pass
    """)
    bombed.exec("python3", "-c", bomb)

    def is_full():
        try:
            bombed.exec("true").wait()
        except Exception as error:
            return "pids" in str(error)
        return False

    serving.eventually(is_full, 60, "no program can be started any more")
    assert is_well(sandbox)
    began = time.monotonic()
    bombed.terminate()
    assert bombed.wait(raise_on_termination=False) is None
    assert time.monotonic() - began < 5


def usage_of_supervisors(server):
    """The processes beside sandboxes: pid -> (seconds of processor time, KiB of memory)."""
    found = {}
    for folder in [Path(f"/proc/{pid}") for pid in supervisors(server)]:
        try:
            times = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            memory = re.search(r"VmRSS:\s*(\d+)", (folder / "status").read_text())
            ticks = int(times[11]) + int(times[12])
            found[int(folder.name)] = (ticks / os.sysconf("SC_CLK_TCK"), int(memory[1]))
        except (OSError, TypeError):
            continue
    return found


def group_of(supervisor):
    """The control group of the container beside which a supervisor is, where it can be frozen."""
    first = min(serving.descendants(supervisor))
    own = Path(f"/proc/{first}/cgroup").read_text()
    below = re.search(r"^0::/(.*)$", own, re.M)[1]
    tops = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
    return next(top / below for top in tops if (top / below / "cgroup.freeze").exists())


def test_programs_that_wait_to_be_started_do_not_hold_up_the_end(create, warm):
    """In a container that stands still nothing starts; it ends in time all the same."""
    before = set(supervisors(warm))
    sandbox = create()
    (pid,) = set(supervisors(warm)) - before
    (group_of(pid) / "cgroup.freeze").write_text("1")

    def start():
        with contextlib.suppress(Exception):
            sandbox.exec("true")

    waiting = [threading.Thread(target=start, daemon=True) for _ in range(40)]
    for thread in waiting:
        thread.start()
    time.sleep(2)
    began = time.monotonic()
    sandbox.terminate()
    sandbox.wait(raise_on_termination=False)
    assert time.monotonic() - began < 5
    assert sandbox.returncode == 137


def test_supervisors_hold_nothing_of_the_server(sandbox, warm):
    """They outlive it: what they inherited would be held for as long."""
    held = {}
    for pid in supervisors(warm):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if not target.startswith(("pipe:", "anon_inode:", "/dev/null", "socket:", "/dev/pts")):
                held.setdefault(target, []).append(pid)
    folder = str(warm.data_dir / "worker" / "sandboxes")
    assert [target for target in held if not target.startswith(folder)] == []


def test_output_without_end_costs_the_host_little(create, warm):
    """What a program leaves in the background may write for ever, and is read and thrown away."""
    before = set(supervisors(warm))
    sandbox = create()
    (pid,) = set(supervisors(warm)) - before
    # It is silent for a moment, so that the program's streams end, and then is not.
    flood = "sleep 3; exec python3 -c 'import os\nwhile True: os.write(1, bytes(1 << 16))'"
    assert run(sandbox, "sh", "-c", f"({flood}) & echo begun") == ("begun\n", 0)
    time.sleep(3)
    time_before, _ = usage_of_supervisors(warm)[pid]
    time.sleep(4)
    time_after, memory = usage_of_supervisors(warm)[pid]
    assert time_after - time_before < 1, "processor time of the supervisor in 4 s"
    assert memory < 64 << 10
    assert is_well(sandbox)


def test_output_that_nobody_reads_fills_no_memory(create, warm):
    before = set(supervisors(warm))
    sandbox = create()
    (pid,) = set(supervisors(warm)) - before
    flood = "import os\nfor _ in range(4096): os.write(1, bytes(1 << 16))"
    floods = [sandbox.exec("python3", "-c", flood) for _ in range(4)]
    time.sleep(5)
    assert usage_of_supervisors(warm)[pid][1] < 64 << 10
    assert is_well(sandbox)
    for process in floods:
        assert sum(len(piece) for piece in process.stdout) == 4096 << 16


def test_signals_from_inside_reach_nobody_outside(inside, warm):
    """The numbers of the server and of supervisors mean nothing inside."""
    outside = [warm.pid, *supervisors(warm)]

    def strike(pids):
        import os

        for pid in pids:
            for number in (9, 15, 19):
                try:
                    if pid > 1:
                        os.kill(pid, number)
                except OSError:
                    pass
        return "struck"

    assert inside(strike, [pid for pid in outside if pid > 4_000]) == "struck"
    assert all(os.path.exists(f"/proc/{pid}") for pid in outside)
    assert signal.SIGSTOP == 19
