"""Sandboxes of the older kind: what clients before 1.5 make by default, and newer ones on request.

Their programs' streams come through the control plane.
"""

import uuid

import pytest
from modal_proto import api_pb2

import raw_client
from sandbox_kit import app_of, ran, sandbox
from serving import eventually

pytestmark = pytest.mark.usefixtures("warm", "older")


@pytest.fixture
def older(monkeypatch):
    """The client makes sandboxes of the older kind."""
    monkeypatch.setenv("MODAL_SANDBOX_V2", "0")


def test_it_is_of_the_older_kind(modal):
    with sandbox(modal, "sh", "-c", "echo out; echo err >&2; exit 3") as made:
        assert len(made.object_id) == 3 + 22, made.object_id
        made.wait()
        assert (made.returncode, made.poll()) == (3, 3)
        assert (made.stdout.read(), made.stderr.read()) == ("out\n", "err\n")


def test_programs_and_files(modal):
    with sandbox(modal, env={"WHO": "older"}) as made:
        assert ran(made, "sh", "-c", "echo $WHO; pwd", workdir="/usr") == "older\n/usr\n"
        process = made.exec("cat")
        process.stdin.write("typed")
        process.stdin.write_eof()
        process.stdin.drain()
        assert (process.stdout.read(), process.wait()) == ("typed", 0)
        made.filesystem.write_text("content", "/new/file")
        assert made.filesystem.read_text("/new/file") == "content"
        with pytest.raises(modal.exception.Error, match="no-such-program"):
            made.exec("no-such-program")


def test_what_it_prints_comes_while_it_runs(modal):
    with sandbox(modal, "sh", "-c", "echo first; read line; echo got $line; exit 4") as made:
        lines = iter(made.stdout)
        assert next(lines) == "first\n"
        made.stdin.write("this\n")
        made.stdin.write_eof()
        made.stdin.drain()
        assert next(lines) == "got this\n"
        made.wait()
        assert made.returncode == 4
        assert list(lines) == []


def test_what_is_sent_to_it_comes_whole(modal):
    with sandbox(modal, "sha256sum") as made:
        # In pieces, some of them sent before it runs.
        for number in range(20):
            made.stdin.write(f"{number}\n" * 10_000)
            made.stdin.drain()
        made.stdin.write_eof()
        made.stdin.drain()
        made.wait()
        said = made.stdout.read().split()[0]
    with sandbox(modal) as other:
        script = "for n in $(seq 0 19); do yes $n | head -n 10000; done | sha256sum"
        assert ran(other, "sh", "-c", script).split()[0] == said


def test_what_it_prints_comes_whole(modal):
    script = "for n in range(100_000): print(n, 'ünï☃')"
    with sandbox(modal, "python3", "-c", script) as made:
        made.wait()
        assert made.stdout.read() == "".join(f"{n} ünï☃\n" for n in range(100_000))


def test_characters_are_not_torn(modal):
    # A byte at a time, the second after the first was told.
    script = "for byte in 342 230 203; do printf \\\\$byte; sleep 0.3; done"
    with sandbox(modal, "sh", "-c", script) as made:
        made.wait()
        assert made.stdout.read() == "☃"


def test_it_is_found_listed_and_terminated(modal):
    app, name = app_of(modal), f"older-{uuid.uuid4().hex[:8]}"
    with sandbox(modal, "sleep", "300", name=name, tags={"kind": name}) as made:
        assert modal.Sandbox.from_id(made.object_id).get_tags() == {"kind": name}
        assert modal.Sandbox.from_name(app.name, name).object_id == made.object_id
        made.set_tags({"kind": name, "more": "yes"})
        listed = modal.Sandbox.list(app_id=app.app_id, tags={"more": "yes", "kind": name})
        assert [one.object_id for one in listed] == [made.object_id]
        made.terminate()
        with pytest.raises(modal.exception.SandboxTerminatedError):
            made.wait()
        assert made.returncode == 137
        listed = modal.Sandbox.list(app_id=app.app_id, tags={"kind": name})
        assert list(listed) == []
        with pytest.raises(modal.exception.Error):
            made.exec("true").wait()


def test_it_ends_in_time(modal):
    with sandbox(modal, "sleep", "300", timeout=2) as made:
        with pytest.raises(modal.exception.SandboxTimeoutError):
            made.wait()
        assert made.returncode == 124


def test_its_ports_are_reached(modal):
    serve = ["python3", "-m", "http.server", "8000"]
    with sandbox(modal, *serve, unencrypted_ports=[8000], block_network=False) as made:
        tunnel = made.tunnels()[8000]
        host, port = tunnel.tcp_socket

        def reached():
            import urllib.error
            import urllib.request

            try:
                with urllib.request.urlopen(f"http://{host}:{port}/", timeout=5) as answer:
                    return answer.status == 200
            except (urllib.error.URLError, OSError):
                return False

        eventually(reached, 20, "its port is reached")


def test_stdin_that_nobody_reads_is_refused(modal, server):
    with sandbox(modal, "true") as made:
        made.wait()
        request = api_pb2.SandboxStdinWriteRequest(
            sandbox_id=made.object_id, input=b"late", index=1)
        status, text = raw_client.send(server, "SandboxStdinWrite", request.SerializeToString())
        assert status == raw_client.CONFLICT and "has ended" in text
