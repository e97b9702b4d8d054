"""Long work in one sandbox: nothing is lost, whatever happens to the server meanwhile."""

import hashlib
import random

import pytest

from sandbox_kit import app_of, client_of, ran, shell

EXECS = 500
# A server that is started again finds the sandboxes of its predecessor.
ALLOWED = "earlier run|left behind|lost"


@pytest.mark.timeout(600)
@pytest.mark.log_allows(ALLOWED)
def test_five_hundred_execs_two_snapshots_and_a_restart(fresh_server, monkeypatch):
    server = fresh_server()
    modal, client = client_of(server, monkeypatch)
    app = modal.App.lookup("long-work", create_if_missing=True, client=client)
    made = modal.Sandbox.create(app=app, image=modal.Image.debian_slim(), timeout=3_600,
                                client=client)
    chain = hashlib.sha256(b"start").hexdigest()
    ran(made, "sh", "-c", f"mkdir /work; printf {chain} > /work/0")
    images = {}
    chance = random.Random(7)
    for step in range(1, EXECS + 1):
        # Each command reads what the one before wrote, and writes its own.
        salt = chance.randbytes(4).hex()
        script = (f"printf %s%s $(cat /work/{step - 1}) {salt} | sha256sum | cut -d' ' -f1 "
                  f"| tr -d '\\n' | tee /work/{step}")
        chain = hashlib.sha256((chain + salt).encode()).hexdigest()
        assert shell(made, script) == chain, step
        if step in (150, 350):
            images[step] = (made.snapshot_filesystem(), chain)
        if step == 250:
            server.restart(kill=True)
    assert len(shell(made, "ls /work").split()) == EXECS + 1
    for step, (image, expected) in images.items():
        copy = modal.Sandbox.create(app=app, image=image, client=client)
        assert shell(copy, f"cat /work/{step}") == expected
        assert len(shell(copy, "ls /work").split()) == step + 1
        copy.terminate()
    again = modal.Sandbox.from_id(made.object_id, client=client)
    assert shell(again, f"cat /work/{EXECS}") == chain
    made.terminate()


@pytest.mark.usefixtures("warm")
def test_what_one_exec_leaves_the_next_one_finds(modal):
    made = modal.Sandbox.create(app=app_of(modal), image=modal.Image.debian_slim())
    try:
        shell(made, "echo kept > /tmp/file; (setsid sleep 300 >/dev/null 2>&1 &)")
        assert shell(made, "cat /tmp/file") == "kept\n"
        assert "sleep\x00300" in shell(made, "cat /proc/[0-9]*/cmdline")
    finally:
        made.terminate()
