"""`terminate` works in whatever state a sandbox is, and soon."""

import subprocess
import threading
import time
from pathlib import Path

import pytest

import serving
from sandbox_kit import app_of, groups, processes, sandbox, shell, supervisors

pytestmark = pytest.mark.usefixtures("warm")

END_SECONDS_MAX = 5.0


def ends_soon(made, server, before) -> None:
    """Terminates a sandbox and checks that all of it is gone in time."""
    start = time.monotonic()
    made.terminate()
    made.wait(raise_on_termination=False)
    assert time.monotonic() - start < END_SECONDS_MAX
    assert made.returncode == 137
    rest = max(END_SECONDS_MAX - (time.monotonic() - start), 0.1)
    serving.eventually(lambda: set(processes(server)) <= before, rest, "processes are gone")
    serving.eventually(lambda: not groups(server) and not supervisors(server), 5, "all is gone")


@pytest.fixture
def before(server):
    """Processes of other containers."""
    return set(processes(server))


def test_a_starting_one(modal, server, before):
    made = []
    options = {"app": app_of(modal), "image": modal.Image.debian_slim(), "name": "starting"}
    thread = threading.Thread(target=lambda: made.append(modal.Sandbox.create(**options)))
    thread.start()
    found = serving.eventually(lambda: by_name(modal, "starting"), 20, "it has a name")
    ends_soon(found, server, before)
    thread.join(20)
    assert not thread.is_alive()


def by_name(modal, name):
    try:
        return modal.Sandbox.from_name("sandbox-tests", name)
    except modal.exception.NotFoundError:
        return None


def test_a_frozen_one(modal, server, before):
    with sandbox(modal) as made:
        shell(made, "(setsid sleep 300 >/dev/null 2>&1 &)")
        frozen = [one for one in groups(server) if (one / "cgroup.freeze").exists()]
        assert frozen, "there is a group to freeze"
        for group in frozen:
            (group / "cgroup.freeze").write_text("1")
        time.sleep(0.3)
        ends_soon(made, server, before)


def test_one_that_bombs(modal, server, before):
    with sandbox(modal) as made:
        made.exec("python3", "-c", "import os\nwhile True:\n    try: os.fork()\n"
                  "    except OSError: pass")
        serving.eventually(lambda: len(set(processes(server)) - before) > 500, 30, "it has forked")
        ends_soon(made, server, before)


def test_one_that_ignores_every_signal(modal, server, before):
    script = "import signal, time\nfor n in range(1, 65):\n    try: signal.signal(n, " \
             "signal.SIG_IGN)\n    except (OSError, ValueError): pass\ntime.sleep(300)"
    with sandbox(modal, "python3", "-c", script) as made:
        ends_soon(made, server, before)


def test_one_that_is_stopped(modal, server, before):
    with sandbox(modal, "sleep", "300") as made:
        for pid in set(processes(server)) - before:
            subprocess.run(["kill", "-STOP", str(pid)], check=True)
        ends_soon(made, server, before)


def test_one_out_of_memory(modal, server, before):
    with sandbox(modal, memory=(64, 64)) as made:
        eater = made.exec("python3", "-c", "held = []\nwhile True: held.append(bytes(1 << 20))")
        assert eater.wait() == 137
        made.exec("python3", "-c", "held = []\nwhile True: held.append(bytes(1 << 20))")
        ends_soon(made, server, before)


def test_one_out_of_disk(modal, server, before):
    with sandbox(modal) as made:
        full = made.exec("sh", "-c", "head -c 20G /dev/zero > /full")
        said = full.stderr.read()
        assert full.wait() != 0
        assert "No space left" in said or "quota exceeded" in said, said
        ends_soon(made, server, before)


def test_one_that_hangs_in_the_kernel(modal, server, before, tmp_path):
    """A read of a FUSE file whose server does not answer cannot be interrupted by the program.
    The test mounts it on the host and moves it into the sandbox's mount namespace."""
    script = Path(__file__).with_name("apps") / "hanging_fuse.py"
    with sandbox(modal) as made:
        shell(made, "mkdir /hang; (setsid sleep 300 >/dev/null 2>&1 &)")
        inside = next(iter(set(processes(server)) - before))
        daemon = subprocess.Popen(["python3", str(script), str(inside), "/hang"],
                                  stdout=subprocess.PIPE, text=True)
        try:
            assert daemon.stdout.readline() == "mounted\n"
            made.exec("cat", "/hang/file")
            assert daemon.stdout.readline() == "read\n"
            ends_soon(made, server, before)
        finally:
            daemon.kill()
            daemon.wait()
            daemon.stdout.close()


def test_one_that_has_ended(modal):
    with sandbox(modal, "true") as made:
        made.wait()
        made.terminate()
        assert made.returncode == 0
