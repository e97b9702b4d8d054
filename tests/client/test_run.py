"""`modal run`: output, logs, exceptions and exit codes."""

import json
import os
import re
import subprocess

import pytest

import serving
from serving import MODAL, REPOSITORY

pytestmark = pytest.mark.usefixtures("warm")


def modal_run(server, target: str, *arguments: str, **variables: str):
    return server.run(MODAL, "run", target, *arguments, **variables)


def test_the_restricted_example_prints_its_result(server):
    done = modal_run(server, "examples/restricted.py")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert "Result: 55" in lines, done.stdout
    # What the container saw of the machine.
    uid_map = next(line for line in lines if line.startswith("uid_map:")).split()
    assert uid_map[1] == "0" and int(uid_map[2]) >= 1_000_000, uid_map
    assert [line for line in lines if line.startswith("interfaces:")] == ["interfaces: lo"]
    status = {m[1]: m[2] for line in lines if (m := re.match(r"status: (\w+):\s+(\w+)", line))}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    # capabilities(7): NET_ADMIN 12, SYS_MODULE 16, SYS_PTRACE 19, SYS_ADMIN 21, SYS_BOOT 22.
    for name in ("CapEff", "CapPrm", "CapBnd"):
        for dangerous in (12, 16, 19, 21, 22):
            assert not int(status[name], 16) & 1 << dangerous, (name, status)


def test_a_function_can_be_named(server):
    done = modal_run(server, "tests/client/apps/run_app.py::add", "--a", "2", "--b", "40")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 + 40" in done.stdout


def test_the_first_run_says_what_it_waits_for(fresh_server):
    """The client's package is prepared when the first function starts, which takes a while."""
    server = fresh_server()
    images = server.data_dir / serving.IMAGES
    for key in (images / "keys").iterdir():
        layers = json.loads(key.read_text())["layers"]
        diff = images / "layers" / layers[0] / "diff" if len(layers) == 1 else None
        if diff and list(diff.glob("**/modal_proto")):
            key.unlink()
    text = "the client's package 1.6.4 for Python 3.11 is prepared, once"
    first = modal_run(server, "tests/client/apps/warm_app.py")
    assert first.returncode == 0 and text in first.stdout, first.stdout + first.stderr
    second = modal_run(server, "tests/client/apps/warm_app.py")
    assert second.returncode == 0 and text not in second.stdout, second.stdout + second.stderr


def test_a_detached_run_ends_with_its_work(server):
    """The client reads the logs of a detached app to their end, and warns if they have none."""
    done = modal_run(server, "-d", "tests/client/apps/warm_app.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Timed out" not in done.stdout + done.stderr


def test_output_arrives_in_order_and_to_the_last_line(server):
    done = modal_run(server, "tests/client/apps/run_app.py::print_lines")
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = [int(number) for number in re.findall(r"^line (\d+)$", done.stdout, re.M)]
    assert numbers == list(range(200))
    assert "the very last words" in done.stdout


def test_output_is_live(server):
    """A line is shown while the function that printed it still runs."""
    process = subprocess.Popen(
        [MODAL, "run", "tests/client/apps/run_app.py::print_and_wait"],
        env={**os.environ, **server.env, "PYTHONUNBUFFERED": "1"},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for line in process.stdout:
            if "before the wait" in line:
                break
        else:
            pytest.fail("the line never came")
        assert process.poll() is None
        rest = process.stdout.read()
        assert "after the wait" in rest
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_standard_error_is_shown_too(server):
    done = modal_run(server, "tests/client/apps/run_app.py::print_error")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on standard error" in done.stdout + done.stderr


def test_an_exception_ends_the_run_with_its_type_and_place(server):
    done = modal_run(server, "tests/client/apps/run_app.py::fail_deep")
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "ZeroDivisionError" in output
    assert "division by zero" in output
    # The traceback leads to the line in the user's file.
    assert "def divide" in output or "in divide" in output or "return 1 / zero" in output, output


def test_sys_exit_in_the_local_part_is_the_exit_code(server):
    done = modal_run(server, "tests/client/apps/run_app.py::leave")
    assert done.returncode == 7, done.stdout + done.stderr


def test_a_container_that_dies_is_an_error_that_says_so(server):
    done = modal_run(server, "tests/client/apps/run_app.py::die")
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert re.search(r"exit|died|ended|terminat", output, re.I), output
