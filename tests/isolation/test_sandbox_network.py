"""What a sandbox reaches under each network policy: every cell of the table in
docs/networking.md, tried from inside against hosts that the test makes."""

import json
import os
import sys

import pytest

from world import BEYOND, HOST, NAMES, PORT, PUBLIC, SECOND, SIX

pytestmark = pytest.mark.usefixtures("warm")

REFUSED_SECONDS_MAX = 4.0
METADATA = "169.254.169.254"
TABLE = {"listed.test": SECOND, "other.test": PUBLIC, "inside.test": "10.50.0.5"}

TARGETS = [
    # Before any name is resolved, and after.
    ["early-tcp", SECOND, PORT],
    *[[kind, name, 0] for kind in ("dns-udp", "dns-tcp") for name in TABLE],
    *[["tcp", host, PORT] for host in (PUBLIC, SECOND, HOST, METADATA, "10.50.0.5", SIX[0])],
    *[["udp", host, PORT] for host in (PUBLIC, SECOND, HOST, METADATA)],
    *[["icmp", host, 0] for host in (PUBLIC, METADATA, SIX[0])],
    # Asking a resolver past ours.
    ["dns-udp", "past.test", NAMES], ["dns-tcp", "past.test", NAMES],
]

POLICIES = {
    "blocked": {"block_network": True},
    "open": {},
    "ranges": {"outbound_cidr_allowlist": [f"{SECOND}/32"]},
    "names": {"outbound_domain_allowlist": ["listed.test"]},
    "nothing": {"outbound_cidr_allowlist": []},
    # What is listed does not open what is closed.
    "everything": {"outbound_cidr_allowlist": ["0.0.0.0/0"]},
}


@pytest.fixture
def asked(world, tmp_path):
    """The names that the resolver of the world was asked for, so far."""
    resolver = world.resolve(TABLE)
    os.set_blocking(resolver.stdout.fileno(), False)
    names = []

    def look():
        names.extend((resolver.stdout.read() or b"").decode().split())
        return names

    return look


@pytest.fixture
def found(world, fresh_server, tmp_path, asked):
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(f"nameserver {NAMES}\n")
    own = f"mount --bind {resolv_conf} /etc/resolv.conf && exec \"$@\""
    prefix = [*world.enter(world.host), "unshare", "--mount", "sh", "-c", own, "sh"]
    server = fresh_server(prefix=prefix)
    wanted = {"targets": TARGETS, "policies": POLICIES, "public": PUBLIC, "second": SECOND,
              "port": PORT}
    app = "tests/isolation/apps/sandbox_network_app.py"
    done = server.run(sys.executable, app, json.dumps(wanted), timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def reached(cells: dict) -> set[str]:
    """The targets that answered."""
    addresses = set(TABLE.values())
    return {target for target, (said, _) in cells.items() if said == "answer" or said in addresses}


def test_every_cell_of_the_table(found, asked):
    neighbour = f"tcp {found['neighbour']}"
    public = {f"{kind} {PUBLIC}" for kind in ("tcp", "udp")}
    second = {f"{kind} {SECOND}" for kind in ("tcp", "udp")}
    early = {f"early-tcp {SECOND}"}
    icmp = {f"icmp {PUBLIC}"}
    names = {f"{kind} {name}" for kind in ("dns-udp", "dns-tcp") for name in TABLE
             if name != "inside.test"}
    listed = {name for name in names if "listed.test" in name}
    # A program may have no socket for ICMP; that is no way out, nor does anything need it.
    expected = {
        "blocked": set(),
        "open": early | public | second | names,
        "ranges": early | second,
        "names": listed | second,
        "nothing": set(),
        "everything": early | public | second,
        "changed to ranges": early | second,
        "changed to names": listed | second,
    }
    for policy, cells in expected.items():
        got = reached(found[policy])
        loose = icmp if policy in ("open", "everything") else set()
        assert got - loose == cells, policy
        assert neighbour not in got, policy
        late = {target: cell for target, cell in found[policy].items()
                if target not in got and cell[1] > REFUSED_SECONDS_MAX}
        assert late == {}, f"{policy}: what is closed is refused, not left to time out"
    assert (found["cut"], found["kept"]) == ("cut", "kept")
    # A question that is not passed on carries nothing out: `open` asked by both ways, and it and
    # `everything` may ask a resolver past ours; nobody else asked for what is not listed.
    counted = {name: asked().count(name) for name in ("other.test", "inside.test", "past.test")}
    assert counted == {"other.test": 2, "inside.test": 2, "past.test": 4}
