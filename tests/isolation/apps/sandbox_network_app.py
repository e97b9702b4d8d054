"""Makes sandboxes with one network policy each and tries everything from inside: prints one JSON
object. Started by test_sandbox_network.py with its targets as JSON."""

import json
import sys

import modal

# Runs inside: tries each target, prints what was met.
PROBE = r"""
import errno, json, socket, struct, sys, time
def dns(kind, name, server):
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = b"\x12\x34" + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + question + b"\0\0\1\0\1"
    if kind == "dns-udp":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(3)
            sock.connect((server, 53))
            sock.send(query)
            said = sock.recv(4096)
    else:
        with socket.create_connection((server, 53), 3) as sock:
            sock.sendall(struct.pack("!H", len(query)) + query)
            said = sock.recv(4096)[2:]
    code, count = said[3] & 15, struct.unpack("!H", said[6:8])[0]
    return socket.inet_ntoa(said[-4:]) if code == 0 and count else f"code {code}, {count} answers"
def attempt(kind, host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if kind.startswith("dns"):
        server = port or next((line.split()[1] for line in open("/etc/resolv.conf")
                               if line.startswith("nameserver")), None)
        return dns(kind, host, server) if server else "no resolver"
    if kind in ("tcp", "early-tcp"):
        with socket.socket(family) as sock:
            sock.settimeout(3)
            sock.connect((host, port))
            return sock.recv(100).decode()
    if kind == "udp":
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1)
            sock.connect((host, port))
            sock.send(b"?")
            return sock.recv(100).decode()
    kinds = [socket.SOCK_DGRAM, socket.SOCK_RAW]
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    for way in kinds:
        try:
            sock = socket.socket(family, way, protocol)
        except OSError as error:
            failed = error
            continue
        with sock:
            sock.settimeout(1)
            head = b"\x08\0" + b"\xf7\xfd" + b"\0\1\0\1"
            sock.sendto(head, (host, 0))
            sock.recv(100)
            return "answer"
    raise failed
found = {}
for kind, host, port in json.loads(sys.argv[1]):
    started = time.monotonic()
    try:
        said = attempt(kind, host, port)
    except TimeoutError:
        said = "timed out"
    except OSError as error:
        said = errno.errorcode.get(error.errno, str(error))
    found[f"{kind} {host}"] = (said, time.monotonic() - started)
print(json.dumps(found))
"""

# Keeps a connection, says what becomes of it.
HOLDER = r"""
import os, socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
sock.recv(100)
os.write(1, b"held")
try:
    while True:
        sock.sendall(b"?")
        if not sock.recv(100):
            break
        time.sleep(0.2)
except OSError:
    pass
os.write(1, b"cut")
"""

# Answers at a port for its neighbours.
NEIGHBOUR = r"""
import socket
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.connect(("203.0.113.9", 9))
server = socket.create_server(("0.0.0.0", 7777))
print(probe.getsockname()[0], flush=True)
while True:
    peer, _ = server.accept()
    peer.sendall(b"answer")
    peer.close()
"""


def words(process):
    """What a program says, word by word: a line and its end may come apart."""
    for piece in process.stdout:
        yield from piece.split()


def main() -> None:
    wanted = json.loads(sys.argv[1])
    app = modal.App.lookup("sandbox-network", create_if_missing=True)
    options = {"app": app, "image": modal.Image.debian_slim()}
    neighbour = modal.Sandbox.create("python3", "-uc", NEIGHBOUR, **options)
    address = next(iter(neighbour.stdout)).strip()
    targets = [*wanted["targets"], ["tcp", address, wanted["port"]]]

    def look(made) -> dict:
        process = made.exec("python3", "-c", PROBE, json.dumps(targets))
        said, wrong = process.stdout.read(), process.stderr.read()
        assert process.wait() == 0, wrong
        return json.loads(said)

    found = {"neighbour": address}
    for name, policy in wanted["policies"].items():
        made = modal.Sandbox.create(**policy, **options)
        found[name] = look(made)
        made.terminate()
    # One that is changed while it runs.
    made = modal.Sandbox.create(**options)
    public, second, port = wanted["public"], wanted["second"], str(wanted["port"])
    cut = made.exec("python3", "-uc", HOLDER, public, port)
    kept = made.exec("python3", "-uc", HOLDER, second, port)
    cut_words, kept_words = words(cut), words(kept)
    assert next(cut_words) == next(kept_words) == "held"
    change = made._experimental_set_outbound_network_policy
    change(outbound_cidr_allowlist=[f"{second}/32"])
    found["cut"] = next(cut_words)
    found["kept"] = "kept" if kept.poll() is None else "cut"
    found["changed to ranges"] = look(made)
    change(outbound_cidr_allowlist=[], outbound_domain_allowlist=["listed.test"])
    found["changed to names"] = look(made)
    made.terminate()
    neighbour.terminate()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
