"""`Image.run_function`: what a function leaves in its files becomes the image."""

import json
import os
import re
import signal
import subprocess
import uuid

import pytest

import serving
from serving import MODAL

pytestmark = pytest.mark.usefixtures("warm")

APP = "tests/client/apps/run_function_app.py"


def look(server, mode: str, mark: str):
    """What a run printed, and what a container of the image found."""
    done = server.run(MODAL, "run", APP, MODE=mode, MARK=mark)
    found = re.search(r"^found (.*)$", done.stdout, re.MULTILINE)
    return done.stdout + done.stderr, json.loads(found[1]) if found else None


def test_what_it_leaves_is_in_the_image_once(server):
    mark = uuid.uuid4().hex
    output, first = look(server, "prepared", mark)
    assert first and first["a"].startswith(mark), output
    assert f"prepared {mark} None" in output, "what it printed is shown"
    assert not first["debian_version"], "what it removed is gone"
    output, again = look(server, "prepared", mark)
    assert again == first, "it did not run again"
    assert "prepared" not in output
    output, above = look(server, "above", mark)
    assert above, output
    assert f"prepared {mark} for the run" in output
    assert above["a"] == first["a"] and above["c"].startswith(mark)
    assert above["listed"] == "", "its source and the client were there for the run only"
    assert not above["env"], "its variables are for the run only"


def test_one_that_fails_says_why_and_leaves_nothing(server):
    mark = uuid.uuid4().hex
    for _ in range(2):
        output, found = look(server, "fail", mark)
        assert found is None, output
        assert "before the end" in output and f"no model of {mark}" in output, output


def lingering(server, mark: str):
    """A client whose image is being made."""
    client = subprocess.Popen(
        [MODAL, "run", APP],
        env={**os.environ, **server.env, "MODE": "linger", "MARK": mark},
        cwd=serving.REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in client.stdout:
        if f"lingers {mark}" in line:
            return client
    raise AssertionError(f"the build did not begin: {client.wait()}")


def test_it_goes_on_after_the_server_was_killed(fresh_server):
    server, mark = fresh_server(), uuid.uuid4().hex
    first = lingering(server, mark)
    server.restart(kill=True)
    # This client gives up; the build does not.
    first.communicate(timeout=120)
    output, found = look(server, "linger", mark)
    assert found and found["lingered"], output


def test_it_is_made_for_whoever_still_waits(server):
    mark = uuid.uuid4().hex
    first = lingering(server, mark)
    second = lingering(server, mark)
    # With its app the first one's function ends, in the middle of its work.
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    output, _ = second.communicate(timeout=120)
    assert '"lingered": true' in output, output


def test_no_command_changes_what_it_leaves(server):
    making = lingering(server, uuid.uuid4().hex)
    listed = json.loads(server.run(MODAL, "container", "list", "--json").stdout)
    (task,) = [row["container_id"] for row in listed if row["app_name"] == "run-function"]
    done = server.run(MODAL, "container", "exec", "--no-pty", task, "--", "touch", "/mine")
    assert done.returncode == 1
    assert "run commands in a sandbox of the image" in done.stdout + done.stderr
    output, _ = making.communicate(timeout=120)
    assert '"lingered": true' in output, output
