"""Looks at the network from inside: prints one JSON object. Started by test_network.py."""

import json
import socket
import sys
import time

import modal

app = modal.App("network-app")

NEIGHBOUR_PORT = 9_999


def reach(targets: list[tuple[str, int]]) -> dict[str, tuple[str, float]]:
    """Connects: target -> (what was said or the error's name, seconds)."""
    import errno

    found = {}
    for host, port in targets:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        started = time.monotonic()
        try:
            with socket.socket(family) as sock:
                sock.settimeout(5)
                sock.connect((host, port))
                said = sock.recv(100).decode()
        except TimeoutError:
            said = "timed out"
        except OSError as error:
            said = errno.errorcode.get(error.errno, str(error))
        found[f"{host} {port}"] = (said, time.monotonic() - started)
    return found


def own_address() -> str:
    """The address that a packet to the internet would have."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("203.0.113.9", 9))
        return sock.getsockname()[0]


def abstract(name: str) -> str:
    """Connects to an abstract socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        code = sock.connect_ex(b"\0" + name.encode())
    return "reached" if code == 0 else str(code)


def interfaces() -> list[str]:
    """Names of all network interfaces."""
    return [name for _, name in socket.if_nameindex()]


@app.function(timeout=60, single_use_containers=True)
def stay() -> str:
    """Answers at a port for a while; returns its address."""
    address = own_address()
    with socket.create_server(("0.0.0.0", NEIGHBOUR_PORT)) as server:
        server.settimeout(1)
        print("listening", flush=True)
        end = time.monotonic() + 12
        while time.monotonic() < end:
            try:
                peer, _ = server.accept()
                with peer:
                    peer.sendall(b"neighbour")
            except TimeoutError:
                continue
    return address


@app.function(timeout=60, single_use_containers=True)
def look(targets: list[tuple[str, int]], name: str) -> dict:
    """Tries all targets, the addresses around its own, and an abstract socket."""
    own = own_address()
    start, last = own.rsplit(".", 1)
    around = [f"{start}.{n}" for n in range(max(int(last) - 6, 0), min(int(last) + 7, 256))]
    around = [(address, NEIGHBOUR_PORT) for address in around if address != own]
    return {
        "own": own,
        "targets": reach(targets),
        "around": reach(around),
        "abstract": abstract(name),
        "interfaces": interfaces(),
    }


@app.function(timeout=60, block_network=True)
def look_blocked(targets: list[tuple[str, int]], name: str) -> dict:
    """The same where there is no network."""
    return {
        "targets": reach(targets),
        "abstract": abstract(name),
        "interfaces": interfaces(),
        "routes": open("/proc/net/route").read().splitlines()[1:],
    }


@app.local_entrypoint()
def main(targets: str, name: str) -> None:
    """Runs all and prints what they found."""
    where = [tuple(target) for target in json.loads(targets)]
    neighbour = stay.spawn()
    time.sleep(4)
    found = {"open": look.remote(where, name), "blocked": look_blocked.remote(where, name)}
    found["neighbour"] = neighbour.get(timeout=60)
    print(json.dumps(found), file=sys.stderr)
