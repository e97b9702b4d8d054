"""Sandboxes outlive the server, however it ends."""

import subprocess
import sys
import time

import pytest

from sandbox_kit import supervisors

COUNT = 20


@pytest.fixture
def place(fresh_server, monkeypatch):
    """A server of its own, and the client's environment for it."""
    server = fresh_server()
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return server


def traces(server) -> list[str]:
    """What is left of sandboxes in the kernel and on the disk."""
    data = str(server.data_dir)
    mounts = open("/proc/self/mountinfo").read().splitlines()
    beside = [f"supervisor {pid}" for pid in supervisors(server)]
    scratch = server.data_dir / "worker/disk/palisade-scratch"
    left = [str(path) for path in scratch.iterdir()] if scratch.is_dir() else []
    mounts = [line for line in mounts if data in line and "palisade-scratch" not in line]
    return beside + mounts + left


PROGRAM = """
import hashlib, os, sys, threading, time
import modal

server_says, tell = sys.stdin, lambda word: print(word, flush=True)
app = modal.App.lookup("restarts", create_if_missing=True)
image = modal.Image.debian_slim()
count = int(sys.argv[1])
made = [
    modal.Sandbox.create(
        "sh", "-c", "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.1; done",
        app=app, image=image, timeout=600, name=f"box-{number}",
    )
    for number in range(count)
]
short = modal.Sandbox.create(app=app, image=image, timeout=20, name="short")
for number, sandbox in enumerate(made):
    assert sandbox.exec("sh", "-c", f"echo {number} > /root/number").wait() == 0
# A stream that is read all along.
ticks = made[0].exec("sh", "-c", "for i in $(seq 80); do echo tick $i; sleep 0.1; done")
read = []
reader = threading.Thread(target=lambda: read.extend(ticks.stdout))
reader.start()
tell("killed?")
assert server_says.readline() == "yes\\n"
for number, sandbox in enumerate(made):
    found = modal.Sandbox.from_name("restarts", f"box-{number}")
    assert found.object_id == sandbox.object_id
    out = found.exec("cat", "/root/number")
    assert (out.stdout.read(), out.wait()) == (f"{number}\\n", 0)
reader.join()
assert "".join(read).split("\\n")[:-1] == [f"tick {n}" for n in range(1, 81)], read
assert ticks.wait() == 0
tell("stopped?")
assert server_says.readline() == "yes\\n"
try:
    short.wait()
    raise AssertionError("its time is over")
except modal.exception.SandboxTimeoutError:
    assert short.returncode == 124
for sandbox in made:
    sandbox.terminate()
    sandbox.wait(raise_on_termination=False)
    assert sandbox.returncode == 137
    lines = sandbox.stdout.read().split("\\n")[:-1]
    assert lines == [f"line {n}" for n in range(1, len(lines) + 1)]
    assert len(lines) > 20
tell("done")
"""


@pytest.mark.timeout(240)
def test_sandboxes_are_found_again(place):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(COUNT)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )

    def said() -> str:
        return program.stdout.readline().strip()

    def answer() -> None:
        program.stdin.write("yes\n")
        program.stdin.flush()

    try:
        assert said() == "killed?"
        place.restart(kill=True)
        answer()
        assert said() == "stopped?"
        place.restart()
        answer()
        assert said() == "done"
        assert program.wait(30) == 0
    finally:
        program.kill()
    deadline = time.monotonic() + 15
    allowed = ("/worker/doors", "/worker/tools")
    while left := [line for line in traces(place) if not any(word in line for word in allowed)]:
        assert time.monotonic() < deadline, "\n".join(left)
        time.sleep(0.5)
