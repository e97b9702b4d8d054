"""What a container reaches: the public internet if it may, never the host or anything near it.

The server runs in a network namespace that stands for the host; another stands for everything
beyond it. No packet leaves the two.
"""

import json
import os
import subprocess
import sys
import time

import pytest

import serving

pytestmark = pytest.mark.usefixtures("warm")

PUBLIC = "203.0.113.9"
HOST = "198.51.100.2"
PORT = 7_777
REFUSED_SECONDS_MAX = 1.0

# Addresses that answer beyond the host: only the rules keep a container from them.
BEYOND = ["10.50.0.5", "172.20.1.1", "192.168.7.7", "169.254.169.254", "100.64.3.3"]
# Of the host itself; what it answers at is bound to all its addresses.
NEAR = [HOST, "127.0.0.1", "10.77.0.1", "169.254.7.7"]
SIX = ["2001:db8:1::9", "fd00:1::9", "::1", "fe80::1"]

ANSWERER = """
import socket, sys
socks = [socket.create_server(("", int(sys.argv[1])), family=socket.AF_INET6,
                              dualstack_ipv6=True)]
if len(sys.argv) > 2:
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\\0" + sys.argv[2])
    abstract.listen()
print("ready", flush=True)
while True:
    peer, _ = socks[0].accept()
    with peer:
        peer.sendall(b"answer")
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class World:
    """Two network namespaces with a cable between them."""

    def __init__(self):
        self.host, self.beyond = (f"palisade-{os.getpid()}-{name}" for name in ("host", "net"))
        self.answerers: list[subprocess.Popen] = []
        self.abstract = f"palisade-test-{os.getpid()}"

    def enter(self, name: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{name}", "--"]

    def make(self) -> None:
        for name in (self.host, self.beyond):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", self.host, "link", "add", "up0", "type", "veth", "peer", "name", "in0",
           "netns", self.beyond)
        addresses = {
            (self.host, "up0"): [f"{HOST}/24", "2001:db8:1::2/64", "fd00:1::2/64"],
            (self.host, "lo"): [f"{address}/32" for address in NEAR[2:]],
            (self.beyond, "in0"): ["198.51.100.1/24", "2001:db8:1::9/64", "fd00:1::9/64"],
            (self.beyond, "lo"): [f"{address}/32" for address in [PUBLIC, *BEYOND]],
        }
        for (name, interface), some in addresses.items():
            for address in some:
                options = ["nodad"] if ":" in address else []
                ip("-n", name, "addr", "add", address, "dev", interface, *options)
        ip("-n", self.host, "link", "set", "up0", "up")
        ip("-n", self.beyond, "link", "set", "in0", "up")
        ip("-n", self.host, "route", "add", "default", "via", "198.51.100.1")
        # An answer must find its way back also if the host did not hide the container's address.
        ip("-n", self.beyond, "route", "add", "default", "via", HOST)
        self.answer(self.host, self.abstract)
        self.answer(self.beyond)

    def answer(self, name: str, *more: str) -> None:
        process = subprocess.Popen(
            [*self.enter(name), sys.executable, "-c", ANSWERER, str(PORT), *more],
            stdout=subprocess.PIPE,
        )
        self.answerers.append(process)
        assert process.stdout.readline() == b"ready\n"

    def remove(self) -> None:
        for process in self.answerers:
            process.kill()
            process.wait()
            process.stdout.close()
        for name in (self.host, self.beyond):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture(scope="module")
def world():
    made = World()
    try:
        made.make()
        yield made
    finally:
        made.remove()


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
