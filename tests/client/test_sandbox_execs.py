"""Programs in sandboxes, and what they read and write, with the official client."""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def app(warm, modal):
    return modal.App.lookup("sandbox-execs", create_if_missing=True)


@pytest.fixture(scope="module")
def sandbox(modal, app):
    made = modal.Sandbox.create(app=app, image=modal.Image.debian_slim(), timeout=900)
    yield made
    made.terminate()


def run(sandbox, *command, **settings):
    """What a command says, and its code."""
    process = sandbox.exec(*command, **settings)
    return process.stdout.read(), process.stderr.read(), process.wait()


def running(*command: str) -> int:
    """How many processes of this machine run a command."""
    wanted = b"\0".join(word.encode() for word in command) + b"\0"
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue
    return lines.count(wanted)


def test_output_errors_and_codes(sandbox):
    assert run(sandbox, "echo", "hello") == ("hello\n", "", 0)
    script = "echo out; echo err >&2; exit 7"
    assert run(sandbox, "sh", "-c", script) == ("out\n", "err\n", 7)
    assert run(sandbox, "sh", "-c", "kill -TERM $$") == ("", "", 128 + 15)


def test_input_has_an_end(sandbox):
    process = sandbox.exec("cat")
    process.stdin.write("one\n")
    process.stdin.drain()
    process.stdin.write("two")
    process.stdin.write_eof()
    process.stdin.drain()
    assert (process.stdout.read(), process.wait()) == ("one\ntwo", 0)
    process = sandbox.exec("true")
    assert process.wait() == 0
    process.stdin.write("late")
    with pytest.raises(Exception, match="stdin is closed"):
        process.stdin.drain()


def test_bytes_are_not_touched(sandbox):
    data = bytes(range(256)) * 1_000
    process = sandbox.exec("cat", text=False)
    process.stdin.write(data)
    process.stdin.write_eof()
    process.stdin.drain()
    assert process.stdout.read() == data


def test_what_cannot_be_started_is_said(modal, sandbox):
    invalid = modal.exception.InvalidError
    with pytest.raises(invalid, match="no-such-program"):
        sandbox.exec("no-such-program")
    with pytest.raises(invalid, match="/etc/passwd"):
        sandbox.exec("/etc/passwd")
    with pytest.raises(invalid, match="/no/such/folder"):
        sandbox.exec("ls", workdir="/no/such/folder")
    with pytest.raises(invalid, match="NUL"):
        sandbox.exec("echo", "a\0b")
    assert run(sandbox, "pwd", workdir="/etc") == ("/etc\n", "", 0)


def test_variables_in_their_order(modal, app):
    secret = modal.Secret.from_dict({"A": "secret", "B": "secret"})
    made = modal.Sandbox.create(
        app=app, image=modal.Image.debian_slim().env({"A": "image", "C": "image"}), secrets=[secret]
    )
    try:
        own = modal.Secret.from_dict({"B": "exec"})
        named = f"execs-{uuid.uuid4().hex[:8]}"
        modal.Secret.objects.create(named, {"D": "named"})
        secrets = [own, modal.Secret.from_name(named)]
        out, _, _ = run(made, "sh", "-c", "echo $A $B $C $D $E", secrets=secrets, env={"E": "env"})
        assert out == "secret exec image named env\n"
    finally:
        made.terminate()


def test_a_terminal(sandbox):
    out, _, code = run(sandbox, "sh", "-c", "tty; stty size; echo ${TERM:+set}", pty=True)
    terminal, size, term, _ = out.split("\r\n")
    assert (terminal[:9], len(size.split()), term, code) == ("/dev/pts/", 2, "set", 0)


def test_a_timeout_ends_the_whole_tree(sandbox):
    mark = f"31{uuid.uuid4().int % 10**6}"
    tree = f"sleep {mark} & (setsid sleep {mark} &); trap '' TERM; sleep {mark}"
    other = sandbox.exec("sleep", "600")
    started = time.monotonic()
    process = sandbox.exec("sh", "-c", tree, timeout=2)
    time.sleep(1)
    assert running("sleep", mark) == 3
    assert process.wait() in (-1, 128 + 9)
    assert time.monotonic() - started < 5
    time.sleep(1)
    assert running("sleep", mark) == 0
    assert other.poll() is None


def test_background_programs_hold_nothing_up(sandbox):
    started = time.monotonic()
    out, _, code = run(sandbox, "sh", "-c", "(sleep 30; echo late) & echo early")
    assert (out, code) == ("early\n", 0)
    assert time.monotonic() - started < 5


def test_many_at_once(sandbox):
    def one(number):
        return run(sandbox, "sh", "-c", f"sleep 0.2; echo {number}")

    with ThreadPoolExecutor(32) as pool:
        said = list(pool.map(one, range(300)))
    assert said == [(f"{number}\n", "", 0) for number in range(300)]


def test_input_that_nobody_reads_holds_up_nobody_else(sandbox):
    deaf = [sandbox.exec("sleep", "60") for _ in range(20)]

    def write(process):
        process.stdin.write(b"x" * (8 << 20))
        try:
            process.stdin.drain()
        except Exception:  # noqa: BLE001 (it ends when its program does)
            pass

    threads = [threading.Thread(target=write, args=(one,), daemon=True) for one in deaf]
    [thread.start() for thread in threads]
    time.sleep(1)
    test_input_has_an_end(sandbox)
    test_output_errors_and_codes(sandbox)


def test_the_sandboxes_own_streams(modal, app):
    made = modal.Sandbox.create(
        "sh", "-c", "echo started; cat; echo bye >&2; exit 3",
        app=app, image=modal.Image.debian_slim(), timeout=300,
    )
    made.stdin.write("into it\n")
    made.stdin.write_eof()
    made.stdin.drain()
    assert made.stdout.read() == "started\ninto it\n"
    assert made.stderr.read() == "bye\n"
    made.wait()
    assert made.returncode == 3
    # After the end, and from its beginning again.
    again = modal.Sandbox.from_id(made.object_id)
    assert again.stdout.read() == "started\ninto it\n"
    with pytest.raises(modal.exception.NotFoundError, match="has ended"):
        again.exec("ls")


def test_what_says_that_it_is_ready(modal, app):
    probe = modal.Probe.with_exec("test", "-e", "/tmp/ready", interval_ms=100)
    made = modal.Sandbox.create(
        "sh", "-c", "sleep 1; touch /tmp/ready; sleep 300",
        app=app, image=modal.Image.debian_slim(), readiness_probe=probe, timeout=300,
    )
    made.wait_until_ready(timeout=30)
    assert run(made, "ls", "/tmp/ready")[2] == 0
    made.terminate()
    probe = modal.Probe.with_tcp(8_000, interval_ms=100)
    made = modal.Sandbox.create(
        "sh", "-c", "sleep 1; exec python3 -m http.server 8000",
        app=app, image=modal.Image.debian_slim(), readiness_probe=probe, timeout=300,
    )
    with pytest.raises(modal.exception.TimeoutError):
        made.wait_until_ready(timeout=0.2)
    made.wait_until_ready(timeout=30)
    made.terminate()
