"""`kill -9` of the server at any moment of a build: nothing is half made, nothing is left."""

import json
import os
import random
import subprocess
import time
import uuid
from pathlib import Path

import pytest

import serving
from registry import Registry
from serving import MODAL, REPOSITORY

pytestmark = pytest.mark.usefixtures("warm")

# Each of the following is one server's life.
KILLS = int(os.environ.get("PALISADE_KILLS", "6"))
APP = "tests/client/apps/killed_app.py"


@pytest.fixture
def registry(server, modal, tmp_path):
    """A registry with an image of Python that has a few more layers."""
    app = modal.App.lookup("export", create_if_missing=True)
    image = modal.Image.from_registry("python:3.11-slim-bookworm")
    for n in range(4):
        write = f"head -c 2000000 /dev/urandom > /more-{n}/x"
        image = image.run_commands(f"mkdir -p /more-{n} && {write}")
    image = image.build(app)
    exported = tmp_path / "exported"
    server.palisade("image", "export", exported, image.object_id)
    registry = Registry(tmp_path / "registry")
    yield registry.push(exported, "killed/python:3.11")
    registry.stop()


def left_in_kernel(server) -> list[str]:
    """What is there of a server in the kernel."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found = [line for line in mounts if str(server.data_dir) in line]
    groups = serving.container_groups(server)
    found += [str(group) for group in groups if any(path.is_dir() for path in group.iterdir())]
    return found


def test_a_build_goes_on_after_any_kill(registry, fresh_server):
    server = fresh_server(images=False, start=False)
    # Everything but the client's package is made anew: that alone would take a minute.
    source = serving.TARGET / "test-data/shared" / serving.IMAGES
    (server.data_dir / serving.IMAGES).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-al", source, server.data_dir / serving.IMAGES], check=True)
    server.start()
    chance = random.Random(20_251)
    for kill in range(KILLS):
        mark = uuid.uuid4().hex
        variables = {"REFERENCE": registry, "MARK": mark}
        client = subprocess.Popen(
            [MODAL, "run", APP],
            env={**os.environ, **server.env, **variables},
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chance.uniform(0.8, 5.0))
        server.kill()
        client.terminate()
        client.wait(60)
        server.start()
        if kill % 5 == KILLS % 5 or kill == KILLS - 1:
            done = server.run(MODAL, "run", APP, timeout=180, **variables)
            assert "found (3, 20)" in done.stdout, (kill, done.stdout, done.stderr)
    verified = server.palisade("image", "verify", "--json")
    print(f"{KILLS} kills, layers:", json.loads(verified.stdout))
    assert server.stop() == 0, server.last_words()
    assert not left_in_kernel(server)
    assert not list((server.data_dir / serving.IMAGES / "tmp").iterdir())
