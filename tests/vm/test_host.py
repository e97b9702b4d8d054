"""What must hold on every kernel and every kind of control groups. Run on Debian 12's own kernel by
`cargo xtask vm`; waits are long because its processor is emulated."""

import errno
import inspect
import json
import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

import sandbox_kit
import serving

# Each test may have to wait for containers on an emulated processor.
pytestmark = pytest.mark.timeout(400)

PROCESSES, DISK_MIB = 128, 64
MODAL = [sys.executable, "-m", "modal"]


@pytest.fixture(scope="module")
def host():
    """A server with limits that are reached soon, on the images of the other tests."""
    data = serving.TARGET / "test-data/shared"
    log = serving.TARGET / "test-data/host.log"
    log.unlink(missing_ok=True)
    flags = ["--pids", str(PROCESSES), "--disk-mib", str(DISK_MIB)]
    served = serving.Server(serving.cleared(data), log, flags).start()
    os.environ.update(served.env)
    yield served
    served.end_sandboxes()
    assert served.stop() == 0, served.last_words()
    allowed = ["(?i)memory"]
    assert served.complaints(0, allowed) == []


@pytest.fixture(scope="module")
def app(host):
    """The functions, on that server."""
    import host_app

    with host_app.app.run():
        yield host_app


@pytest.fixture(scope="module")
def inside(app):
    """Runs a function of this file in a container: its source travels, its file does not."""

    def run(function, *arguments):
        source = textwrap.dedent(inspect.getsource(function))
        return app.run.remote(f"{source}\nresult = {function.__name__}(*{arguments!r})\n")

    return run


def mounted(kind: str) -> list[str]:
    """Where file systems of a kind are mounted."""
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [where for _, where, this, *_ in lines if this == kind]


def has_all_rights() -> bool:
    """Whether this process has every capability that the kernel knows."""
    status = Path("/proc/self/status").read_text()
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    return int(status.split("CapEff:\t")[1].split()[0], 16) == (2 << last) - 1


def test_doctor_says_what_the_kernel_has(host):
    done = host.palisade("doctor", "--json", check=False)
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["can_run"] is True, done.stdout + done.stderr
    assert report["server_runs"] is True
    found = {point["key"]: point for point in report["points"]}
    assert found["kernel"]["found"].startswith(os.uname().release), found["kernel"]
    for key in ("root", "user_namespaces", "overlay", "seccomp", "proc", "cgroups", "network",
                "container"):
        assert found[key]["state"] == "ok", found[key]
    assert found["capabilities"]["state"] in (("ok",) if has_all_rights() else ("ok", "weaker"))
    version_1 = [Path(where).name.split(",") for where in mounted("cgroup")]
    version_1 = {name for names in version_1 for name in names}
    said = found["cgroups"]["found"]
    kind = "versions 1 and 2" if version_1 and mounted("cgroup2") else (
        "version 1" if version_1 else "version 2")
    assert said.startswith(kind + ":"), said
    for controller in ("memory", "cpu", "pids"):
        assert f"{controller} in v{1 if controller in version_1 else 2}" in said, said
    fallbacks = {name.split()[0] for name in found["fallbacks"]["found"].split(", ")}
    late = {"joins-groups-late"} if version_1 & {"memory", "cpu", "pids"} else set()
    one_by_one = set() if mounted("cgroup2") else {"kills-one-by-one"}
    # Since Linux 6.3.
    kernel = tuple(int(part) for part in os.uname().release.split(".")[:2])
    memory = set() if kernel >= (6, 3) else {"memory-without-mapped-ids"}
    disk = {"disk-in-a-file"} if found["disk_limit"]["found"].startswith("btrfs") else set()
    assert fallbacks == (late | one_by_one | memory | disk or {"none"})


def test_the_restricted_example(host):
    done = host.run(*MODAL, "run", "examples/restricted.py", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Result: 55" in done.stdout.splitlines()
    assert "  interfaces: lo" in done.stdout.splitlines()


def blocked_network():
    """What is seen of the network: interfaces, routes, and how connecting ends."""
    import errno
    import socket

    with open("/proc/net/route") as file:
        routes = file.read().splitlines()[1:]
    ends = {}
    for target in (("192.0.2.1", 80), ("1.1.1.1", 443), ("169.254.169.254", 80)):
        with socket.socket() as sock:
            sock.settimeout(10)
            ends[target[0]] = errno.errorcode.get(sock.connect_ex(target))
    return {
        "interfaces": [name for _, name in socket.if_nameindex()],
        "routes": routes,
        "ends": ends,
    }


def test_a_blocked_network_is_closed(inside):
    found = inside(blocked_network)
    assert found["interfaces"] == ["lo"] and found["routes"] == []
    assert set(found["ends"].values()) == {"ENETUNREACH"}, found


def busy(seconds):
    """Computes for a while; says how much of a processor it had."""
    import time

    began, used = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        pass
    return (time.process_time() - used) / (time.monotonic() - began)


def test_the_processor_has_its_limit(inside):
    share = inside(busy, 4)
    assert 0.1 < share < 0.6, share


def processes():
    """Starts processes until it may not, then ends them; says how many it had."""
    import os
    import signal

    children, refused = [], 0
    while len(children) < 2_000 and not refused:
        try:
            children.append(os.posix_spawn("/bin/sleep", ["sleep", "600"], {}))
        except OSError as error:
            refused = error.errno
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)
    return {"had": len(children), "refused": refused}


def test_processes_have_their_limit(inside):
    found = inside(processes)
    assert found["refused"] == errno.EAGAIN
    assert PROCESSES // 2 < found["had"] < PROCESSES


def fill(mebibytes):
    """Writes a file; says how many MiB fitted and what stopped it."""
    import errno
    import os

    wrote, stopped = 0, None
    try:
        with open("/root/filler", "wb", buffering=0) as file:
            for _ in range(mebibytes):
                file.write(bytes(1 << 20))
                wrote += 1
    except OSError as error:
        stopped = errno.errorcode[error.errno]
    os.unlink("/root/filler")
    return {"wrote": wrote, "stopped": stopped}


def test_the_disk_has_its_limit(inside):
    found = inside(fill, 4 * DISK_MIB)
    assert found["stopped"] in ("ENOSPC", "EDQUOT"), found
    assert DISK_MIB // 2 < found["wrote"] <= DISK_MIB
    # What is deleted can be written again.
    assert inside(fill, DISK_MIB // 4) == {"wrote": DISK_MIB // 4, "stopped": None}


def test_memory_has_its_limit(app):
    assert app.eat.remote(64) == 64
    with pytest.raises(Exception, match="(?i)memory"):
        app.eat.remote(2_000)


def test_every_input_gets_a_container_of_its_own(app, host):
    seen = list(app.once.map(range(4)))
    assert [one["number"] for one in seen] == list(range(4))
    assert [one["traces"] for one in seen] == [[]] * 4
    assert len({one["container"] for one in seen}) == 4
    assert max(one["processes"] for one in seen) <= 3


def test_a_timeout_ends_the_whole_tree(app, host):
    import modal

    began = time.monotonic()
    with pytest.raises(modal.exception.FunctionTimeoutError):
        app.hang.remote()
    assert time.monotonic() - began < 120
    serving.eventually(
        lambda: not [pid for pid in serving.container_processes(host) if "sleep" in command(pid)],
        30, "the children that ignore signals are gone",
    )


def command(pid: int) -> str:
    """The command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def test_a_sandbox(host):
    """It is made by what stood by, takes programs, keeps its limits, and leaves nothing."""
    import modal

    made = modal.Sandbox.create(app=modal.App.lookup("host", create_if_missing=True), timeout=300,
                                image=modal.Image.debian_slim(), memory=64, block_network=True)
    script = "echo $((6 * 7)) > /root/made; cat /root/made; ls /sys/class/net"
    assert sandbox_kit.shell(made, script) == "42\nlo\n"
    greedy = made.exec("python3", "-c", "x = bytearray(200 << 20)")
    assert greedy.wait() == 137
    late = made.exec("sh", "-c", "setsid sleep 987 & sleep 987", timeout=3)
    assert late.wait() == -1
    look = "cat /root/made; grep -l '^sleep.987' /proc/[0-9]*/cmdline || echo none"
    assert sandbox_kit.shell(made, look) == "42\nnone\n"
    made.terminate()
    serving.eventually(lambda: not sandbox_kit.supervisors(host), 60, "its supervisor is gone")
    assert sandbox_kit.groups(host) == []


def test_nothing_is_left(app, host):
    """The last one: idle containers are ended with their server, and take everything along."""
    assert host.restart().pid
    serving.eventually(lambda: serving.nothing_runs(host), 30, "processes and groups are gone")
