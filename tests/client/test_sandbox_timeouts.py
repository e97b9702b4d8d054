"""Timeouts of sandboxes, with a server and without one: a sandbox ends in time in any case."""

import os
import time

import pytest

import serving
from sandbox_kit import client_of, processes, ran, supervisors

pytestmark = [pytest.mark.timeout(240), pytest.mark.log_allows("earlier run|left behind|lost")]

TIMEOUT, IDLE, LONG = 14, 5, 600
# How late an end may be: the machine does other things, too.
LATE = 4


@pytest.fixture
def served(fresh_server, monkeypatch):
    """A server, and what makes sandboxes there."""
    server = fresh_server()
    modal, client = client_of(server, monkeypatch)
    app = modal.App.lookup("timeouts", create_if_missing=True, client=client)
    options = {"app": app, "image": modal.Image.debian_slim(), "client": client, "cpu": 0.01,
               "memory": 32, "block_network": True, "timeout": LONG}

    def create(*args, **more):
        return modal.Sandbox.create(*args, **(options | more))

    def find(made):
        return modal.Sandbox.from_id(made.object_id, client=client)

    return server, modal, create, find


def end_of(modal, sandbox) -> tuple[type | None, int]:
    """How waiting for a sandbox ends, and its code."""
    try:
        sandbox.wait()
    except modal.exception.Error as error:
        return type(error), sandbox.returncode
    return None, sandbox.returncode


def test_both_hold_while_the_server_is_there(served):
    server, modal, create, _ = served
    start = time.monotonic()
    timed, idle = create("sleep", "100", timeout=TIMEOUT), create(idle_timeout=IDLE)
    busy, used = create(idle_timeout=IDLE), create(idle_timeout=IDLE)
    work = busy.exec("sleep", str(2 * IDLE))
    while time.monotonic() - start < 1.5 * IDLE:
        ran(used, "true")
        time.sleep(1)
    last = time.monotonic()
    serving.eventually(lambda: idle.poll() is not None, LATE, "the idle one ends")
    assert (busy.poll(), used.poll(), timed.poll()) == (None, None, None)
    serving.eventually(lambda: used.poll() is not None, IDLE + LATE, "one ends after its last use")
    assert time.monotonic() - last > IDLE - 1.5
    assert end_of(modal, timed) == (modal.exception.SandboxTimeoutError, 124)
    assert TIMEOUT - 1 < time.monotonic() - start < TIMEOUT + LATE
    # A program that runs is no idleness, and it was not cut short.
    assert work.wait() == 0
    serving.eventually(lambda: busy.poll() is not None, IDLE + LATE, "the busy one ends, too")
    assert [one.returncode for one in (idle, used, busy)] == [124, 124, 124]
    serving.eventually(lambda: not processes(server) + supervisors(server), 10, "all are gone")


def test_both_hold_while_no_server_is_there(served):
    server, modal, create, find = served
    start = time.monotonic()
    timed, idle = create("sleep", "100", timeout=TIMEOUT), create(idle_timeout=2 * IDLE)
    lasting = create()
    server.kill()
    serving.eventually(lambda: len(supervisors(server)) == 1, TIMEOUT + LATE,
                       "the two end by themselves")
    assert time.monotonic() - start > 2 * IDLE - 1
    server.start()
    assert end_of(modal, find(timed)) == (modal.exception.SandboxTimeoutError, 124)
    ended = find(idle)
    ended.wait(raise_on_termination=False)
    assert ended.returncode == 124
    assert ran(find(lasting), "echo", "there") == "there\n"
    find(lasting).terminate()
    serving.eventually(lambda: not processes(server) + supervisors(server), 10, "all are gone")


@pytest.mark.parametrize("kill", [True, False])
def test_deadlines_outlive_the_server_and_are_not_moved(served, kill):
    server, modal, create, find = served
    start = time.monotonic()
    timed, idle = create(timeout=TIMEOUT), create(idle_timeout=TIMEOUT)
    server.restart(kill=kill)
    assert (find(timed).poll(), find(idle).poll()) == (None, None)
    assert end_of(modal, find(timed)) == (modal.exception.SandboxTimeoutError, 124)
    assert TIMEOUT - 1 < time.monotonic() - start < TIMEOUT + LATE
    serving.eventually(lambda: find(idle).poll() == 124, LATE, "the idle one ends, too")


def test_the_server_ends_what_no_supervisor_ends(served):
    server, modal, create, find = served
    timed, killed = create(timeout=TIMEOUT), create()
    server.kill()
    for pid in supervisors(server):
        os.kill(pid, 9)
    # The containers end with them; nothing is left that could keep a deadline.
    serving.eventually(lambda: not processes(server), 10, "containers end with their supervisors")
    server.start()
    for made in (timed, killed):
        found = find(made)
        found.wait(raise_on_termination=False)
        assert found.returncode not in (0, None), found.returncode
    serving.eventually(lambda: not supervisors(server), 10, "all are gone")
