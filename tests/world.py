"""Two network namespaces for the tests: one stands for the host, another for all that is beyond
it. No packet leaves the two."""

import json
import os
import subprocess
import sys

PUBLIC = "203.0.113.9"
# A second public host, and one that resolves names.
SECOND, NAMES = "203.0.113.20", "203.0.113.53"
HOST = "198.51.100.2"
PORT = 7_777

# Addresses that answer beyond the host: only the rules keep a container from them.
BEYOND = ["10.50.0.5", "172.20.1.1", "192.168.7.7", "169.254.169.254", "100.64.3.3"]
# Of the host itself; what it answers at is bound to all its addresses.
NEAR = [HOST, "127.0.0.1", "10.77.0.1", "169.254.7.7"]
SIX = ["2001:db8:1::9", "fd00:1::9", "::1", "fe80::1"]

ANSWERER = """
import socket, sys, threading
socks = [socket.create_server(("", int(sys.argv[1])), family=socket.AF_INET6,
                              dualstack_ipv6=True)]
if sys.argv[2]:
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\\0" + sys.argv[2])
    abstract.listen()
def datagrams(address):
    # A socket for each address: an answer must come from the one that was asked.
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, int(sys.argv[1])))
    while True:
        _, peer = sock.recvfrom(100)
        sock.sendto(b"answer", peer)
def hold(peer):
    with peer:
        peer.sendall(b"answer")
        while peer.recv(100):
            peer.sendall(b"answer")
for address in sys.argv[3:]:
    threading.Thread(target=datagrams, args=[address], daemon=True).start()
print("ready", flush=True)
while True:
    peer, _ = socks[0].accept()
    threading.Thread(target=hold, args=[peer], daemon=True).start()
"""

# Answers A questions for the names of its table, by UDP and TCP; prints each name that is asked.
RESOLVER = """
import json, socket, struct, sys, threading
table = json.loads(sys.argv[2])
def answer(query):
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    name = ".".join(labels).lower()
    kind, = struct.unpack_from("!H", query, at + 1)
    print(name, flush=True)
    question = query[12:at + 5]
    known = name in table
    found = [socket.inet_aton(table[name])] if known and kind == 1 else []
    head = query[:2] + struct.pack("!HHHHH", 0x8580 | (0 if known else 3), 1, len(found), 0, 0)
    records = b"".join(struct.pack("!HHHIH", 0xc00c, 1, 1, 5, 4) + one for one in found)
    return head + question + records
def streams():
    server = socket.create_server((sys.argv[1], 53))
    while True:
        peer, _ = server.accept()
        with peer:
            length, = struct.unpack("!H", peer.recv(2))
            said = answer(peer.recv(length))
            peer.sendall(struct.pack("!H", len(said)) + said)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind((sys.argv[1], 53))
threading.Thread(target=streams, daemon=True).start()
print("ready", flush=True)
while True:
    query, peer = datagrams.recvfrom(4096)
    datagrams.sendto(answer(query), peer)
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
            (self.beyond, "lo"): [f"{address}/32" for address in [PUBLIC, SECOND, NAMES, *BEYOND]],
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
        self.answer(self.host, self.abstract, NEAR)
        self.answer(self.beyond, "", [PUBLIC, SECOND, *BEYOND])

    def answer(self, name: str, abstract: str, addresses: list[str]) -> None:
        process = subprocess.Popen(
            [*self.enter(name), sys.executable, "-c", ANSWERER, str(PORT), abstract, *addresses],
            stdout=subprocess.PIPE,
        )
        self.answerers.append(process)
        assert process.stdout.readline() == b"ready\n"

    def resolve(self, table: dict[str, str]) -> subprocess.Popen:
        """Answers for these names at NAMES; each asked name is a line of its output."""
        process = subprocess.Popen(
            [*self.enter(self.beyond), sys.executable, "-c", RESOLVER, NAMES, json.dumps(table)],
            stdout=subprocess.PIPE,
        )
        self.answerers.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    def remove(self) -> None:
        for process in self.answerers:
            process.kill()
            process.wait()
            process.stdout.close()
        for name in (self.host, self.beyond):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
