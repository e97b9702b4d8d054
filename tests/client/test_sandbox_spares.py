"""Supervisors that wait for a sandbox: what they are worth is lost with them, and nothing else."""

import os
import signal
from pathlib import Path

import pytest

import serving
from sandbox_kit import all_supervisors, client_of, groups, ran, spares, supervisors

# How many are left when further ones are made.
FEW = 2


def waiting(server) -> dict[str, int]:
    """Those that wait, by their names."""
    made = all_supervisors(server).items()
    return {folder.name: pid for pid, folder in made if folder.exists()}


def groups_of(names) -> list[Path]:
    """Control groups of that name, wherever they are."""
    return [path for path in Path("/sys/fs/cgroup").rglob("palisade/*/*") if path.name in names]


@pytest.fixture
def place(fresh_server, monkeypatch):
    """A server with supervisors that wait, and a way to make sandboxes on it."""
    server = fresh_server()
    modal, client = client_of(server, monkeypatch)
    app = modal.App.lookup("spares", create_if_missing=True, client=client)

    def create():
        return modal.Sandbox.create(app=app, image=modal.Image.debian_slim(), client=client,
                                    block_network=True)

    create().terminate()
    serving.eventually(lambda: len(waiting(server)) > FEW and not supervisors(server), 20,
                       "some wait")
    return server, create


@pytest.mark.log_allows("a supervisor that waited for a sandbox is gone")
def test_a_sandbox_starts_when_those_that_wait_were_killed(place):
    server, create = place
    killed = waiting(server)
    assert groups_of(killed)
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    serving.eventually(lambda: not set(killed) & set(waiting(server)), 5, "they are dead")
    made = [create() for _ in range(len(killed) + 1)]
    assert [ran(one, "echo", "well") for one in made] == ["well\n"] * len(made)
    for one in made:
        one.terminate()
    serving.eventually(lambda: not groups(server) and not supervisors(server), 20, "all are gone")
    # What was left of the killed ones is gone, too, and others wait.
    assert groups_of(killed) == []
    assert not spares(server) & set(killed)
    serving.eventually(lambda: len(waiting(server)) > FEW, 10, "others wait")


@pytest.mark.parametrize("kill", [True, False])
def test_those_that_wait_end_with_the_server(place, kill):
    server, create = place
    kept = create()
    names = waiting(server)
    if kill:
        server.kill()
        # Without anybody to tell them.
        serving.eventually(lambda: not set(names) & set(waiting(server)), 10, "they end")
    else:
        assert server.stop() == 0
        assert waiting(server) == {}
        assert groups_of(names) == []
        assert spares(server) == set()
    server.start()
    assert groups_of(names) == []
    assert not spares(server) & set(names)
    # That sandbox has one of them as its own.
    assert len(supervisors(server)) == 1
    assert ran(kept, "echo", "well") == "well\n"
    kept.terminate()
    serving.eventually(lambda: not groups(server) and not supervisors(server), 20, "all is gone")
