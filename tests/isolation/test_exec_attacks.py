"""What hostile code tries in the containers of functions, in which clients run commands: against
the process that starts these, and from a command.
"""

import errno
import json
import os
import signal
import socket

import pytest

import serving
from command_line import modal_says
from test_attacks import FORBIDDEN, REFUSED, app, control_groups, inside, sockets, system_calls
from test_sandbox_attacks import first_process, groups, rights, script

pytestmark = pytest.mark.usefixtures("warm")

__all__ = ["app", "inside"]


@pytest.fixture(scope="module")
def task(server, inside):
    """The container of the attacks."""
    assert inside(groups) == []
    listed = json.loads(modal_says(server, "container", "list", "--json"))
    (task,) = [row["container_id"] for row in listed if row["app_name"] == "attack-app"]
    return task


@pytest.fixture(scope="module")
def command(server, task):
    """Runs a function of a test file as a command in that container."""

    def run(function, *arguments):
        words = ["container", "exec", "--no-pty", task, "--", *script(function, *arguments)]
        return json.loads(modal_says(server, *words).splitlines()[-1])

    return run


def test_a_command_has_the_rights_of_the_function(inside, command):
    first, later = inside(rights), command(rights)
    assert first["status"]["Seccomp"] == "2"
    # Signals are the interpreter's own matter; the rest is the kernel's.
    for name in ("SigBlk", "SigIgn"):
        first["status"].pop(name), later["status"].pop(name)
    assert json.loads(json.dumps(first)) == later


def test_a_command_meets_the_same_filter(command):
    answers = command(system_calls, FORBIDDEN)
    assert set(answers) == {name for name, _, _ in FORBIDDEN}
    assert {name: got for name, got in answers.items() if got not in REFUSED} == {}


@pytest.mark.parametrize("who", ["inside", "command"])
def test_the_first_process_cannot_be_used(who, request):
    """It keeps what commands get, and may call clone3."""
    run = request.getfixturevalue(who)
    # Its processors may be chosen by whoever has its user id: that reaches nobody else.
    assert [found for found in run(first_process) if found != "affinity"] == []
    calls = [
        ("clone3", 435, (0, 0)),
        ("ptrace_first", 101, (16, 1, 0, 0)),
        ("process_vm_readv_first", 310, (1, 0, 0, 0, 0, 0)),
        ("pidfd_getfd", 438, (0, 0, 0)),
        ("kcmp_first", 312, (1, 1, 0, 0, 0)),
    ]
    answers = run(system_calls, calls)
    assert answers.pop("clone3") == errno.ENOSYS
    assert {name: got for name, got in answers.items() if got not in REFUSED} == {}


@pytest.mark.parametrize("who", ["inside", "command"])
def test_control_groups_cannot_be_written(who, request):
    run = request.getfixturevalue(who)
    assert run(groups) == []
    assert run(control_groups)["tried"] == {}
    assert "palisade" not in run(control_groups)["own"]


def strike(numbers):
    """Sends signals to the first process."""
    import os

    for number in numbers:
        os.kill(1, number)
    return True


@pytest.mark.parametrize("who", ["inside", "command"])
def test_no_signal_reaches_the_first_process(who, request, server, task):
    # These it passes on to its program, as everywhere.
    passed_on = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1,
                 signal.SIGUSR2}
    numbers = [number for number in range(1, signal.NSIG) if number not in passed_on]
    assert request.getfixturevalue(who)(strike, numbers)
    words = ["container", "exec", "--no-pty", task, "--", "echo", "well"]
    assert modal_says(server, *words) == "well\n"


def test_a_command_opens_no_other_sockets(command):
    name = f"palisade-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"\0" + name.encode())
        listener.listen()
        answers = command(sockets, name)
    assert len(answers) > 5 and 0 not in answers.values(), answers


def test_nothing_of_commands_is_left(app, server, task):
    modal_says(server, "container", "exec", "--no-pty", task, "--", "sh", "-c",
               "setsid sleep 3000 > /dev/null 2>&1 < /dev/null & echo left")
    modal_says(server, "container", "stop", "--yes", task)
    serving.eventually(lambda: serving.nothing_runs(server), 20, "all is gone")
