"""A server that is killed loses no call."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter

import pytest

import serving

CALLS = 2_000


# What a server says that finds a predecessor's containers.
ALLOWED = "lost|left behind|earlier run"


@pytest.mark.timeout(500)
@pytest.mark.log_allows(ALLOWED)
def test_no_spawned_call_is_lost_when_the_server_is_killed(fresh_server, tmp_path, capsys):
    server = fresh_server()
    ids = tmp_path / "ids.json"
    run = [serving.MODAL, "run", "-d", "tests/client/apps/recovery_app.py::spawn"]
    done = server.run(*run, "--count", str(CALLS), "--path", str(ids), timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads(ids.read_text())) == CALLS
    server.kill()
    before = len(runs(server))
    server.start()
    results = take(server, ids)
    assert [number for number, _ in results] == list(range(CALLS))
    executions = {execution for _, execution in results}
    assert len(executions) == CALLS, "two calls got one execution's result"
    counted = Counter(runs(server))
    twice = [number for number, times in counted.items() if times > 1]
    with capsys.disabled():
        print(f"\n{CALLS} calls, killed after {before} had run: {len(twice)} ran twice")
    # No more than the containers that were at work, each with the input that it had.
    assert len(twice) <= 2 + 2, twice


def runs(server: serving.Server) -> list[int]:
    """The numbers that containers said they ran, from the log that the server keeps."""
    path = server.data_dir / "palisade.db"
    database = sqlite3.connect(path)
    try:
        rows = database.execute("SELECT data FROM logs ORDER BY seq").fetchall()
    finally:
        database.close()
    text = b"".join(row[0] for row in rows).decode(errors="replace")
    return [int(number) for number in re.findall(r"ran (\d+)\n", text)]


@pytest.mark.timeout(300)
@pytest.mark.log_allows(ALLOWED)
def test_a_map_survives_a_kill_of_the_server(fresh_server, tmp_path):
    server = fresh_server()
    path, count = tmp_path / "results.json", 500
    run = [serving.MODAL, "run", "tests/client/apps/recovery_app.py::map_all"]
    client = subprocess.Popen(
        [*run, "--count", str(count), "--path", str(path)],
        env={**os.environ, **server.env},
        cwd=serving.REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        begun = path.with_name(path.name + ".begun")
        # All inputs are sent by then: sending, the client gives up a refused call within a second.
        serving.eventually(begun.exists, 60, "the first results are there")
        server.restart(kill=True)
        _, errors = client.communicate(timeout=200)
    finally:
        client.kill()
        client.communicate()
    # Its exit code says nothing: the client's reader of logs fails on the first refused connection
    # (modal 1.6.4), and `modal run` reports that after the function that was to be run is done.
    assert path.exists(), errors[-3_000:]
    assert [number for number, _ in json.loads(path.read_text())] == list(range(count))


@pytest.mark.log_allows(ALLOWED)
def test_a_killed_server_leaves_nothing_that_its_successor_does_not_end(fresh_server):
    server = fresh_server()
    client = subprocess.Popen(
        [serving.MODAL, "run", "-d", "tests/client/apps/timeouts_app.py::hang", "--way", "sleep"],
        env={**os.environ, **server.env},
        cwd=serving.REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        serving.eventually(lambda: serving.container_processes(server), 60, "a container runs")
        before = set(serving.container_processes(server))
        server.kill()
        time.sleep(1)
        server.start()
    finally:
        client.kill()
        client.wait()
    serving.eventually(
        lambda: not [pid for pid in before if os.path.exists(f"/proc/{pid}/exe")],
        10, "the old containers' processes are gone",
    )


def take(server: serving.Server, ids) -> list:
    """The results, taken by a process that did not make the calls."""
    script = serving.REPOSITORY / "tests/client/apps/recovery_get.py"
    done = server.run(sys.executable, str(script), str(ids), timeout=300)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr
    return json.loads(done.stdout)
