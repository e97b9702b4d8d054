"""Machines that reach nothing, and room on the disk: images and the client come from files, and
layers go that nobody needs."""

import json
import os
import subprocess
import sys
import uuid

import pytest

from image_kit import images
from serving import MODAL

pytestmark = pytest.mark.usefixtures("warm")

# A package of Debian's Python 3.11 has pip; the tests' own environment has it for sure.
PIP = [sys.executable, "-m", "pip"]


@pytest.fixture
def nowhere():
    """A network namespace with nothing but its own loopback."""
    name = f"pal-nowhere-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield ["nsenter", f"--net=/run/netns/{name}", "--"]
    subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The client's wheels, as an operator gets them."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [*PIP, "download", "--quiet", "--only-binary", ":all:", "-d", folder, "modal==1.6.4"]
    subprocess.run(command, check=True, timeout=600)
    return folder


def test_a_machine_that_reaches_nothing_runs_functions(
    server, fresh_server, nowhere, wheels, tmp_path
):
    ready = [image for image in images(server) if image["state"] == "ready"]
    slim = next(i["id"] for i in ready if any("debconf" in line for line in i["commands"]))
    exported = tmp_path / "exported"
    server.palisade("image", "export", exported, slim)
    again = server.palisade("image", "export", exported, slim, check=False)
    assert again.returncode != 0 and "is there already" in again.stderr

    offline = fresh_server(images=False, prefix=nowhere, start=False)
    # Without a server the command does it itself; with one, the server does.
    done = offline.palisade("image", "import", exported, "--steps")
    assert "palisade.local/exported:" in done.stdout, done.stdout
    offline.start()
    done = offline.palisade("client", "import", wheels, "--json")
    assert json.loads(done.stdout)["wheels"] > 10
    done = offline.palisade("client", "import", exported, check=False)
    assert done.returncode != 0 and "pip download" in done.stderr

    done = offline.run(MODAL, "run", "examples/restricted.py", timeout=600)
    assert "Result: 55" in done.stdout, done.stdout + done.stderr + offline.last_words()
    # What was not imported cannot be made, and the error says what to do.
    done = offline.run(MODAL, "run", "tests/client/apps/alpine_app.py")
    assert done.returncode != 0
    assert "palisade image import" in done.stdout + done.stderr, done.stdout + done.stderr


def test_pruning_takes_what_nobody_needs(fresh_server, monkeypatch):
    server, mark = fresh_server(), uuid.uuid4().hex
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    script = f"""
import modal, time
app = modal.App("prune")
slim = modal.Image.debian_slim()
used = slim.run_commands("echo {mark} > /used")

@app.function(image=used, serialized=True, block_network=True)
def used_one(n):
    import os
    time.sleep(n)
    return open("/used").read().strip(), os.path.exists("/usr/bin/gcc")

with app.run():
    call = used_one.spawn(0)
    print(call.get(), flush=True)
    print("running", flush=True)
    input()
    print(used_one.remote(0), flush=True)
"""
    unused = "import modal; a = modal.App.lookup('unused', create_if_missing=True); " \
        f"modal.Image.debian_slim().run_commands('echo {mark} > /unused').build(a)"
    done = server.run(sys.executable, "-c", unused)
    assert done.returncode == 0, done.stderr
    running = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, **server.env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in running.stdout:
        if "running" in line:
            break
    pruned = json.loads(server.palisade("image", "prune", "--keep", "0", "--json").stdout)
    assert pruned["layers"] >= 1 and pruned["images"] >= 1 and pruned["left_bytes"] > 0
    again = json.loads(server.palisade("image", "prune", "--keep", "0", "--json").stdout)
    assert again["layers"] == 0, "what is used stays"
    output, _ = running.communicate("\n", timeout=60)
    assert f"('{mark}', True)" in output, output
    # What went is made again.
    done = server.run(sys.executable, "-c", unused)
    assert done.returncode == 0, done.stderr
    listed = images(server)
    states = [i["state"] for i in listed if any("/unused" in line for line in i["commands"])]
    assert states == ["ready", "failed"], listed
    wrong = server.palisade("image", "prune", "--keep", "5GB", check=False)
    assert wrong.returncode != 0 and "20GiB" in wrong.stderr
