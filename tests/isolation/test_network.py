"""What a container reaches: the public internet if it may, never the host or anything near it.

The server runs in a network namespace that stands for the host; another stands for everything
beyond it. No packet leaves the two.
"""

import json
import subprocess
import sys
import time

import pytest

import serving
from world import BEYOND, HOST, NEAR, PORT, PUBLIC, SIX

pytestmark = pytest.mark.usefixtures("warm")

REFUSED_SECONDS_MAX = 1.0


@pytest.fixture
def found(world, fresh_server):
    """What containers of a server on the world's host found."""
    server = fresh_server(prefix=world.enter(world.host))
    own_port = int(server.url.rsplit(":", 1)[1])
    targets = [(address, PORT) for address in [PUBLIC, *BEYOND, *NEAR, *SIX]]
    targets += [(address, own_port) for address in NEAR] + [(HOST, 22), (HOST, 53)]
    # The answerers are there: from the host all but the local ones of others answer.
    check = [*world.enter(world.host), sys.executable, "-c",
             "import socket, sys\n"
             "for host in sys.argv[1:]: socket.create_connection((host, 7777), 3).close()",
             PUBLIC, *BEYOND, *NEAR, "2001:db8:1::9", "fd00:1::9"]
    subprocess.run(check, check=True)
    app = "tests/isolation/apps/network_app.py"
    done = server.run(serving.MODAL, "run", app, "--targets", json.dumps(targets),
                      "--name", world.abstract)
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith('{"open"'))
    return json.loads(line)


def test_what_is_reached(found):
    """One test, since its server costs seconds: each part names what it looks at."""
    public = f"{PUBLIC} {PORT}"
    opened = found["open"]["targets"]
    assert opened.pop(public)[0] == "answer"
    reached = {target: got for target, got in opened.items() if got[0] == "answer"}
    assert reached == {}, "the host, private addresses and IPv6 are closed"
    slow = {target: got for target, got in opened.items() if got[1] > REFUSED_SECONDS_MAX}
    assert slow == {}, "what is closed is refused at once"

    around = found["open"]["around"]
    tried = {target.split()[0] for target in around}
    assert found["neighbour"] in tried, "the neighbour's address was tried"
    reached = {target: got for target, got in around.items()
               if got[0] == "neighbour" or got[1] > REFUSED_SECONDS_MAX}
    assert reached == {}, "containers do not reach each other"

    blocked = found["blocked"]
    assert blocked["interfaces"] == ["lo"]
    assert blocked["routes"] == []
    # Its own loopback is its own: nobody listens there.
    reached = {target: got for target, got in blocked["targets"].items()
               if got[0] == "answer" or got[1] > REFUSED_SECONDS_MAX}
    assert reached == {}
    assert found["open"]["abstract"] != "reached"
    assert blocked["abstract"] != "reached"


def test_the_worlds_host_is_left_as_it_was(world, fresh_server):
    def links():
        command = [*world.enter(world.host), "ip", "-o", "link"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def tables():
        command = [*world.enter(world.host), "nft", "list", "ruleset"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    before = links(), tables()
    server = fresh_server(prefix=world.enter(world.host))
    assert server.stop() == 0
    time.sleep(0.2)
    assert (links(), tables()) == before
