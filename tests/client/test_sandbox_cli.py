"""Sandboxes from the command line: the client's own commands, and those of `palisade`."""

import json
import subprocess
import time

import pytest

import serving
from command_line import Terminal, modal_says
from sandbox_kit import app_of, sandbox, shell

pytestmark = pytest.mark.usefixtures("warm")

TALKER = "echo to stdout; echo to stderr >&2; sleep 300"


@pytest.fixture(scope="module")
def living(modal, warm):
    """A sandbox with a program that says something."""
    with sandbox(modal, "sh", "-c", TALKER, timeout=900, name="cli", tags={"kind": "cli"}) as made:
        shell(made, "echo kept > /kept")
        yield made


def test_a_shell_of_an_image(modal, server, living):
    words = ["shell", "--no-pty", "-c", "sh -c 'echo $((6 * 7)); pwd; test -t 0 || echo no tty'"]
    assert modal_says(server, *words).endswith("42\n/root\nno tty\n")


def test_a_shell_of_a_functions_image(modal, server, living):
    words = ["shell", "--no-pty", "-c", "python3 -c 'print(6 * 7)'"]
    assert modal_says(server, *words, "tests/client/apps/warm_app.py").endswith("42\n")


def test_a_shell_on_a_terminal(modal, server, living):
    terminal = Terminal(server, serving.MODAL, "shell", living.object_id)
    terminal.type("cat /kept; tty; stty size\n")
    terminal.shows("kept\r\n")
    terminal.shows("/dev/pts/")
    terminal.shows("33 111")
    # Keys reach the program one by one, and signals its own children.
    terminal.type("sleep 300; echo after-$?\n")
    time.sleep(1)
    terminal.type("\x03")
    terminal.type("echo again-$((6 * 7))\n")
    terminal.shows("again-42")
    terminal.type("exit\n")
    assert terminal.end() == 0, terminal.seen
    assert living.poll() is None


def test_a_command_in_a_container(modal, server, living):
    task = living._get_task_id()
    listed = json.loads(modal_says(server, "container", "list", "--json"))
    (mine,) = [row for row in listed if row["container_id"] == task]
    assert mine["app_name"] == "sandbox-tests"
    words = ["container", "exec", "--no-pty", task, "--", "cat", "/kept"]
    assert modal_says(server, *words) == "kept\n"
    terminal = Terminal(server, serving.MODAL, "container", "exec", task, "--", "sh", "-c", "tty")
    terminal.shows("/dev/pts/")
    assert terminal.end() == 0


@pytest.mark.parametrize("by", ["task", "sandbox"])
def test_the_logs_of_a_container(modal, server, living, by):
    what = living._get_task_id() if by == "task" else living.object_id
    serving.eventually(
        lambda: "to stderr" in modal_says(server, "container", "logs", what), 20, "it has logs")
    assert sorted(modal_says(server, "container", "logs", what).split("\n")) == [
        "", "to stderr", "to stdout"]


def test_a_container_is_stopped(modal, server, living):
    with sandbox(modal, "sleep", "300") as made:
        modal_says(server, "container", "stop", "--yes", made._get_task_id())
        assert made.wait(raise_on_termination=False) is None
        assert made.returncode == 137


def in_sandbox(server, *words: str, stdin: str | None = None):
    """`palisade sandbox exec`."""
    command = [serving.BINARY, "sandbox", "exec", "--data-dir", server.data_dir, *words]
    return subprocess.run([str(word) for word in command], input=stdin or "", text=True,
                          capture_output=True, timeout=60)


def test_the_owner_lists(modal, server, living):
    with sandbox(modal, "sh", "-c", "exit 7") as ended:
        ended.wait(raise_on_termination=False)
        lines = server.palisade("sandbox", "list", "--json").stdout.splitlines()
        running = {one["id"]: one for one in map(json.loads, lines)}
        lines = server.palisade("sandbox", "list", "--all", "--json").stdout.splitlines()
        known = {one["id"]: one for one in map(json.loads, lines)}
        assert ended.object_id not in running
        assert known[ended.object_id]["state"] == "exited 7"
        mine = running[living.object_id]
        app_id = app_of(modal).app_id
        assert (mine["name"], mine["app_id"], mine["state"]) == ("cli", app_id, "running")
        assert mine["tags"] == {"kind": "cli"}
        task = living._get_task_id()
        containers = server.palisade("ps", "--json").stdout.splitlines()
        (mine,) = [one for one in map(json.loads, containers) if one["id"] == task]
        assert (mine["sandbox_id"], mine["app"]) == (living.object_id, "sandbox-tests")
        for words in (["ps"], ["sandbox", "list"]):
            text = server.palisade(*words).stdout
            assert living.object_id in text and ended.object_id not in text


def test_the_owner_runs_programs(modal, server, living):
    done = in_sandbox(server, living.object_id, "cat", "/kept")
    assert (done.stdout, done.stderr, done.returncode) == ("kept\n", "", 0)
    script = 'read line; echo "$line $WHO $PWD"; echo wrong >&2; exit 9'
    words = ["-w", "/usr", "-e", "WHO=owner", "sandbox-tests/cli", "sh", "-c", script]
    done = in_sandbox(server, *words, stdin="typed\n")
    assert (done.stdout, done.stderr, done.returncode) == ("typed owner /usr\n", "wrong\n", 9)
    text = "".join(f"{number}\n" for number in range(300_000))
    assert in_sandbox(server, living.object_id, "cat", stdin=text).stdout == text
    done = in_sandbox(server, living.object_id, "sh", "-c", "kill -9 $$")
    assert done.returncode == 137
    done = in_sandbox(server, living.object_id, "no-such-program")
    assert done.returncode == 1 and "no-such-program" in done.stderr
    done = in_sandbox(server, "sb-unknown", "true")
    assert done.returncode == 1 and "sb-unknown" in done.stderr
    command = [str(serving.BINARY), "sandbox", "exec", "--data-dir", str(server.data_dir), "-t"]
    terminal = Terminal(server, *command, living.object_id, "sh")
    terminal.type("tty; stty size; exit 4\n")
    terminal.shows("/dev/pts/")
    terminal.shows("33 111")
    assert terminal.end() == 4


def test_the_owner_reads_logs(modal, server, living):
    def logs(*words):
        done = server.palisade("sandbox", "logs", *words)
        return done.stdout, done.stderr

    serving.eventually(
        lambda: logs(living.object_id) == ("to stdout\n", "to stderr\n"), 20, "it has logs")
    with sandbox(modal, "sh", "-c", "for n in 1 2 3; do echo $n; sleep 0.5; done") as made:
        assert logs("--follow", made.object_id) == ("1\n2\n3\n", "")
        made.wait()
        assert logs(made.object_id) == ("1\n2\n3\n", "")


def test_the_owner_terminates(modal, server, living):
    def make():
        return modal.Sandbox.create(app=app_of(modal), image=modal.Image.debian_slim())

    first, others = make(), [make(), make()]
    assert server.palisade("sandbox", "terminate", first.object_id).stdout == f"{first.object_id}\n"
    assert first.poll() == 137
    failed = server.palisade("sandbox", "terminate", "sb-unknown", check=False)
    assert failed.returncode == 1 and "sb-unknown" in failed.stderr
    ended = server.palisade("sandbox", "terminate", "--all").stdout.split()
    assert {one.object_id for one in [living, *others]} <= set(ended)
    assert all(one.poll() == 137 for one in [living, *others])
    assert server.palisade("sandbox", "list", "--json").stdout == ""
