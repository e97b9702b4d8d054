"""Commands in the containers of functions: `modal container exec`, `modal shell` and relatives."""

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from modal_proto import api_pb2, task_command_router_pb2

import raw_client
import serving
from command_line import Terminal, modal_says
from raw_client import EXHAUSTED, NOT_FOUND, OK, ROUTER, UNIMPLEMENTED

pytestmark = pytest.mark.usefixtures("warm")


def containers(server, app: str) -> list[str]:
    """The containers of an app, as the client lists them."""
    listed = json.loads(modal_says(server, "container", "list", "--json"))
    return [row["container_id"] for row in listed if row["app_name"] == app]


@contextlib.contextmanager
def running(server, app, function, *arguments):
    """A container in which an input of the function is at work."""
    with app.run():
        call = function.spawn(*arguments)
        (task,) = serving.eventually(lambda: containers(server, app.name), 60, "it has a container")
        serving.eventually(lambda: said(server, task, "cat", "/tmp/mine", code=None) ==
                           "of the function\n", 60, "the function runs")
        yield task, call


def said(server, task: str, *command: str, code: int | None = 0) -> str:
    """What a command in a container prints, by the client's own command."""
    done = server.run(serving.MODAL, "container", "exec", "--no-pty", task, "--", *command)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def living(modal, server, warm):
    """The container of a function without restrictions, whose input takes long."""
    import exec_app

    with running(server, exec_app.open_app, exec_app.stay, 250) as (task, _):
        yield task


@pytest.fixture(scope="module")
def closed(modal, server, warm):
    """The same, of a restricted function."""
    import exec_app

    with running(server, exec_app.closed_app, exec_app.stay_closed, 250) as (task, _):
        yield task


@pytest.fixture(params=["living", "closed"])
def task(request):
    """Either."""
    return request.getfixturevalue(request.param)


def test_a_command_runs_beside_the_function(server, task):
    script = "cat /tmp/mine; id -u; pwd; test -t 0 || echo no terminal"
    assert said(server, task, "sh", "-c", script) == "of the function\n0\n/root\nno terminal\n"
    # The client prints both streams.
    assert said(server, task, "sh", "-c", "echo wrong >&2") == "wrong\n"
    look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    assert "modal._container_entrypoint" in said(server, task, "sh", "-c", look)


def test_a_command_has_the_variables_of_the_function(server, living, closed):
    names = set(said(server, living, "sh", "-c", "echo $KEPT; env").splitlines())
    assert {"secret-value", "KEPT=secret-value", "HOME=/root"} <= names
    assert "KEPT" not in said(server, closed, "env")


def test_much_output_arrives_whole(server, task):
    script = "for n in $(seq 200); do head -c 65536 /dev/zero | tr '\\0' x; echo; done"
    assert said(server, task, "sh", "-c", script) == ("x" * 65536 + "\n") * 200


def test_a_command_that_is_not_there_is_named(server, task):
    done = server.run(serving.MODAL, "container", "exec", "--no-pty", task, "--", "no-such-program")
    assert done.returncode == 1
    assert "no-such-program" in done.stderr + done.stdout


def test_a_command_on_a_terminal(server, task):
    script = "tty; stty size; read word; echo got-$word"
    words = ["container", "exec", task, "--", "sh", "-c", script]
    terminal = Terminal(server, serving.MODAL, *words)
    terminal.shows("/dev/pts/")
    terminal.shows("33 111")
    terminal.type("typed\n")
    terminal.shows("got-typed")
    assert terminal.end() == 0


def test_a_shell_on_a_terminal(server, task):
    terminal = Terminal(server, serving.MODAL, "shell", task)
    terminal.type("cat /tmp/mine; sleep 300; echo after-$?\n")
    terminal.shows("of the function")
    time.sleep(1)
    terminal.type("\x03")
    terminal.type("echo again-$((6 * 7)); exit\n")
    terminal.shows("again-42")
    assert terminal.end() == 0, terminal.seen
    assert task in containers(server, "exec-open") + containers(server, "exec-closed")


def test_a_shell_without_a_terminal(server, task):
    words = ["shell", "--no-pty", "-c", "sh -c 'cat /tmp/mine; echo $((6 * 7))'", task]
    assert modal_says(server, *words) == "of the function\n42\n"


def test_many_commands_at_the_same_time(server, task):
    said_by = {}

    def run(number):
        said_by[number] = said(server, task, "sh", "-c", f"sleep 1; echo {number}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said_by == {number: f"{number}\n" for number in range(6)}


CLIENT_INSIDE = """
import modal
try:
    modal.Queue.from_name("q", create_if_missing=True).put(1)
except BaseException as error:
    print(type(error).__module__, type(error).__name__)
else:
    print("let in")
"""


def test_a_command_may_what_its_function_may(server, living, closed):
    """It has the container's socket, and no other: a restricted one stays restricted."""
    assert said(server, living, "python", "-c", CLIENT_INSIDE) == "let in\n"
    assert said(server, closed, "python", "-c", CLIENT_INSIDE) == "modal.exception AuthError\n"
    sockets = "find / -xdev -type s 2>/dev/null; ls /run/palisade /__modal 2>/dev/null"
    assert said(server, living, "sh", "-c", sockets) == said(server, closed, "sh", "-c", sockets)
    reach = "import socket; socket.create_connection(('1.1.1.1', 80), 2)"
    assert "Network is unreachable" in said(
        server, closed, "sh", "-c", f'python -c "{reach}" 2>&1')


def test_the_logs_of_a_container(server, task):
    """What its function prints is its output; what commands print is theirs."""
    said(server, task, "echo", "said by a command")
    serving.eventually(lambda: modal_says(server, "container", "logs", task) ==
                       "said by the function\n", 20, "it has logs")


def router(server, rpc: str, request, token: str) -> tuple[int, str]:
    """A request to the command router past the client."""
    return raw_client.send(server, rpc, request.SerializeToString(), service=ROUTER,
                           authorization=f"Bearer {token}")


def token_of(server, task: str) -> str:
    """What opens the command router of a container."""
    request = api_pb2.TaskGetCommandRouterAccessRequest(task_id=task)
    return raw_client.ask(server, "TaskGetCommandRouterAccess", request).jwt


def start_of(task: str, *command: str, **more):
    """The start of a program."""
    return task_command_router_pb2.TaskExecStartRequest(
        task_id=task, exec_id=str(uuid.uuid4()), command_args=command or ["true"], **more)


def test_a_token_opens_one_container(server, living, closed):
    tokens = {task: token_of(server, task) for task in (living, closed)}
    for task in (living, closed):
        for other in (living, closed):
            status, text = router(server, "TaskExecStart", start_of(task), tokens[other])
            assert status == (OK if task == other else NOT_FOUND), text


def test_what_is_for_sandboxes_is_refused_by_name(server, task):
    token = token_of(server, task)
    requests = {
        "SandboxStdioReadV2": task_command_router_pb2.SandboxStdioReadV2Request(task_id=task),
        "TaskSnapshotFilesystem": task_command_router_pb2.TaskSnapshotFilesystemRequest(
            task_id=task, snapshot_id="one"),
        "TaskSetNetworkAccess": task_command_router_pb2.TaskSetNetworkAccessRequest(
            task_id=task, network_access=api_pb2.NetworkAccess(network_access_type=1)),
    }
    for rpc, request in requests.items():
        status, text = router(server, rpc, request, token)
        assert (status, "container of a function" in text) == (UNIMPLEMENTED, True), (rpc, text)


def test_one_container_takes_so_many_programs(server, closed):
    token = token_of(server, closed)

    def start() -> tuple[int, str]:
        request = start_of(closed, "sleep", "300", timeout_secs=12)
        return router(server, "TaskExecStart", request, token)

    answers = [start() for _ in range(64)]
    assert answers == [(OK, "")] * 64
    status, text = start()
    assert status == EXHAUSTED and "64 programs run in this container" in text
    serving.eventually(lambda: start()[0] == OK, 30, "there is room again")


def test_programs_count_as_long_as_what_they_have_started_holds_their_streams(server, living):
    """Each costs the server open files, and the containers' code decides for how long."""
    token = token_of(server, living)

    def start() -> tuple[int, str]:
        pipe = task_command_router_pb2.TASK_EXEC_STDOUT_CONFIG_PIPE
        request = start_of(living, "sh", "-c", "sleep 12 & exit 0", stdout_config=pipe)
        return router(server, "TaskExecStart", request, token)

    taken = 0
    while (answer := start())[0] == OK:
        taken += 1
        assert taken <= 64
    assert answer[0] == EXHAUSTED and "64 programs run in this container" in answer[1]
    assert 0 < taken <= 64
    serving.eventually(lambda: start()[0] == OK, 30, "there is room again")


def test_a_program_whose_time_is_over_ends_with_its_children(server, task):
    mark = random.randrange(10**8, 10**9)
    script = f"setsid sleep {mark} & sleep {mark}"
    request = start_of(task, "sh", "-c", script, timeout_secs=2)
    assert router(server, "TaskExecStart", request, token_of(server, task))[0] == OK
    look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    assert f"sleep {mark}" in said(server, task, "sh", "-c", look)
    serving.eventually(lambda: f"sleep {mark}" not in said(server, task, "sh", "-c", look), 20,
                       "they are gone")


class Long:
    """A command in a container that would run for long, with a child that hides, and has begun."""

    def __init__(self, server, task: str):
        self.mark = str(random.randrange(10**8, 10**9))
        hiding = f"trap '' TERM INT HUP; setsid sleep {self.mark} & echo begun; sleep {self.mark}"
        command = [serving.MODAL, "container", "exec", "--no-pty", task, "--", "sh", "-c", hiding]
        self.command = subprocess.Popen(
            command, env={**os.environ, **server.env}, cwd=serving.REPOSITORY,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.command.stdout.readline() == "begun\n"
        assert len(self.processes()) == 3

    def processes(self) -> list[Path]:
        """What it has started, as the host sees it."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                owner = process.stat().st_uid
                words = (process / "cmdline").read_bytes()
                if owner >= serving.FIRST_ID and self.mark.encode() in words:
                    found.append(process)
        return found

    def has_ended(self) -> None:
        """Waits for its end, and that of all that it has started."""
        self.command.communicate(timeout=60)
        serving.eventually(lambda: not self.processes(), 10, "its children are gone")


def left(server, task: str) -> list[Path]:
    """What is left of a container: groups, disk space, its socket."""
    name = "ta-" + hashlib.sha256(task.encode()).digest()[:12].hex()
    found = [group for group in serving.container_groups(server) if group.name == name]
    worker = server.data_dir / "worker"
    return found + [one for place in ("disk", "doors") for one in (worker / place).rglob(name)]


def test_commands_end_with_a_single_use_container(modal, server):
    import exec_app

    with running(server, exec_app.single_app, exec_app.stay_once) as (task, call):
        long = Long(server, task)
        assert left(server, task)
        said(server, task, "touch", "/tmp/over")
        call.get(timeout=60)
        long.has_ended()
        serving.eventually(lambda: not left(server, task), 20, "nothing of it is left")
        late = server.run(serving.MODAL, "container", "exec", "--no-pty", task, "--", "true")
        assert late.returncode == 1
        assert f"container `{task}` has ended" in late.stdout + late.stderr
        shell = server.run(serving.MODAL, "shell", "--no-pty", task)
        assert shell.returncode == 1 and "not found" in shell.stdout + shell.stderr
        assert containers(server, "exec-single") == []


def test_commands_end_with_a_container_that_is_stopped(modal, server):
    import exec_app

    with running(server, exec_app.stopped_app, exec_app.stay_until_stopped) as (task, call):
        long = Long(server, task)
        token = token_of(server, task)
        following = subprocess.Popen(
            [serving.MODAL, "container", "logs", "--follow", task], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env={**os.environ, **server.env})
        assert "said by the function" in following.stdout.readline()
        modal_says(server, "container", "stop", "--yes", task)
        long.has_ended()
        assert following.wait(30) == 0, following.stdout.read()
        serving.eventually(lambda: not left(server, task), 20, "nothing of it is left")
        status, text = router(server, "TaskExecStart", start_of(task), token)
        assert status == NOT_FOUND, text
        call.cancel()


APPS = serving.REPOSITORY / "tests/client/apps"
STAY = "import exec_app\nwith exec_app.closed_app.run(): exec_app.stay_closed.remote(200)"


@pytest.mark.parametrize("how", ["ends", "is_killed"])
def test_commands_end_with_the_server(fresh_server, how):
    server = fresh_server()
    caller = subprocess.Popen([sys.executable, "-c", STAY], env={**os.environ, **server.env},
                              cwd=APPS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    long = None
    try:
        (task,) = serving.eventually(lambda: containers(server, "exec-closed"), 60, "it runs")
        serving.eventually(lambda: said(server, task, "cat", "/tmp/mine", code=None), 60, "it runs")
        long = Long(server, task)
        if how == "is_killed":
            server.kill()
            serving.eventually(lambda: not long.processes(), 20, "they are gone")
            server.start()
        assert server.stop() == 0, server.last_words()
        assert serving.nothing_runs(server)
        assert not long.processes() and not left(server, task)
    finally:
        for process in [caller, *([long.command] if long else [])]:
            process.kill()
            process.wait()


# Control groups as hosts have them that know version 1 alone.
VERSION_1 = ["unshare", "--mount", "sh", "-c", 'umount --all --types cgroup2 && exec "$@"', "sh"]


SANDBOX = "import modal; app = modal.App.lookup('none', create_if_missing=True); " \
    "modal.Sandbox.create(app=app, image=modal.Image.debian_slim())"


@pytest.mark.log_allows("a sandbox could not be started reason=`takes_execs` needs .* version 2")
def test_without_version_2_of_control_groups_they_are_refused(fresh_server):
    """As sandboxes are; functions run."""
    server = fresh_server(prefix=VERSION_1)
    done = server.run(sys.executable, "-c", SANDBOX)
    assert done.returncode == 1
    assert "version 2" in done.stdout + done.stderr
    done = server.run(serving.MODAL, "run", "tests/client/apps/warm_app.py")
    assert done.returncode == 0, done.stdout + done.stderr
    caller = subprocess.Popen([sys.executable, "-c", STAY], env={**os.environ, **server.env},
                              cwd=APPS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        (task,) = serving.eventually(lambda: containers(server, "exec-closed"), 60, "it runs")
        done = server.run(serving.MODAL, "container", "exec", "--no-pty", task, "--", "true")
        assert done.returncode == 1
        assert "control groups of version 2" in done.stdout + done.stderr
    finally:
        caller.kill()
        caller.wait()
