"""Sandboxes as an older official client uses them: run by its own Python, with the settings of the
server and the id of an image with Python. Each part prints its name when it is through."""

import io
import os
import threading
import time

import modal
from grpclib.exceptions import GRPCError

VERSION = tuple(int(part) for part in modal.__version__.split(".")[:2])
# The first release whose programs run through the command router.
ROUTED = (1, 1)
# Errors come as the client's own exceptions, or as gRPC has them.
REFUSED = (modal.exception.Error, GRPCError)

app = modal.App.lookup("older-clients", create_if_missing=True)
image = modal.Image.from_id(os.environ["IMAGE_ID"])


def made(*arguments, **options):
    return modal.Sandbox.create(*arguments, app=app, image=image, timeout=120, **options)


def raises(kinds, act, *words):
    """What `act` raises, which must be of these kinds and say these words."""
    try:
        act()
    except kinds as error:
        said = str(error)
        assert all(word in said for word in words), said
        return error
    raise AssertionError(f"no {kinds}")


def the_entrypoint():
    box = made("sh", "-c", "echo out; echo err >&2; read line; echo got $line; exit 3")
    box.stdin.write("this\n")
    box.stdin.write_eof()
    box.stdin.drain()
    box.wait()
    assert (box.returncode, box.stdout.read()) == (3, "out\ngot this\n")
    assert box.stderr.read() == "err\n"
    assert modal.Sandbox.from_id(box.object_id).poll() == 3


def programs(box):
    process = box.exec("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (process.stdout.read(), process.stderr.read()) == ("out\n", "err\n")
    assert (process.wait(), process.returncode) == (7, 7)
    secret = modal.Secret.from_dict({"WHO": "older"})
    process = box.exec("sh", "-c", "echo $WHO; pwd", workdir="/usr", secrets=[secret])
    assert process.stdout.read() == "older\n/usr\n"
    process = box.exec("sh", "-c", "kill -9 $$")
    assert process.wait() == 137
    raises(REFUSED, lambda: box.exec("no-such-program"), "no-such-program")
    raises(REFUSED, lambda: box.exec("true", workdir="/no/such"), "/no/such")


def output(box):
    # As it comes, by lines, as bytes, and more than one message holds.
    process = box.exec("sh", "-c", "echo first; sleep 1; echo second; sleep 60", bufsize=1)
    lines, begun = iter(process.stdout), time.monotonic()
    assert next(lines) == "first\n"
    assert process.poll() is None
    assert next(lines) == "second\n"
    assert time.monotonic() - begun < 20
    process = box.exec("sh", "-c", "printf '\\377\\000x'", text=False)
    assert process.stdout.read() == b"\xff\x00x"
    process = box.exec("sh", "-c", "for byte in 342 230 203; do printf \\\\$byte; sleep 0.3; done")
    assert process.stdout.read() == "☃"
    script = "import sys; sys.stdout.write(''.join(f'{n} ünï☃\\n' for n in range(100_000)))"
    process = box.exec("python3", "-c", script)
    assert process.stdout.read() == "".join(f"{n} ünï☃\n" for n in range(100_000))
    assert process.wait() == 0
    # The stream ends before the program does.
    process = box.exec("sh", "-c", "exec >&- 2>&-; sleep 1; exit 5")
    assert (process.stdout.read(), process.wait()) == ("", 5)


def standard_input(box):
    process = box.exec("cat")
    for piece in ("one ", "two ", "two ", "three"):
        process.stdin.write(piece)
        process.stdin.drain()
    process.stdin.write_eof()
    process.stdin.drain()
    assert (process.stdout.read(), process.wait()) == ("one two two three", 0)
    process = box.exec("sha256sum")
    for number in range(10):
        process.stdin.write(f"{number}\n" * 20_000)
        process.stdin.drain()
    process.stdin.write_eof()
    process.stdin.drain()
    script = "for n in $(seq 0 9); do yes $n | head -n 20000; done | sha256sum"
    assert process.stdout.read() == box.exec("sh", "-c", script).stdout.read()
    process = box.exec("true")
    process.wait()
    if VERSION < ROUTED:
        process.stdin.write("late")
        raises(ValueError, process.stdin.drain, "stdin")


def a_timeout(box):
    begun = time.monotonic()
    process = box.exec("sh", "-c", "echo begun; sleep 61", timeout=2)
    code = process.wait()
    assert code == (137 if VERSION < ROUTED else -1), code
    assert time.monotonic() - begun < 30
    running = box.exec("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout.read()
    assert "sleep 300" in running and "sleep 61" not in running, running


def files(box):
    file = box.open("/new", "w")
    file.write("one\ntwo\n")
    file.write("three")
    file.flush()
    file.close()
    raises(ValueError, lambda: file.write("x"), "closed")
    with box.open("/new") as file:
        assert (file.readline(), file.read(2), file.read()) == ("one\n", "tw", "o\nthree")
        assert (file.read(), file.readline()) == ("", "")
        file.seek(-5, 2)
        assert file.read() == "three"
        file.seek(4)
        file.seek(1, 1)
        assert file.readlines() == ["wo\n", "three"]
        raises(io.UnsupportedOperation, lambda: file.write("x"))
        # It is the same file when it has no name any more.
        file.seek(0)
        box.rm("/new")
        assert file.read() == "one\ntwo\nthree"
    with box.open("/new", "ab+") as file:
        file.write(b"first")
        file.seek(0)
        file.write(b" last")
        file.seek(0)
        assert file.read() == b"first last"
    with box.open("/new", "r+") as file:
        file.write("FIRST")
    assert box.exec("cat", "/new").stdout.read() == "FIRST last"
    raises(OSError, lambda: box.open("/new", "x"), "/new")
    large = bytes(range(256)) * 80_000
    with box.open("/large", "wb") as file:
        file.write(large)
    with box.open("/large", "rb") as file:
        assert file.read(1_000_000) == large[:1_000_000]
        assert file.read() == large[1_000_000:]
    if VERSION < (1, 4):
        with box.open("/bytes", "w") as file:
            file.write("hello world")
            modal.file_io.replace_bytes(file, b"goodbye", 0, 5)
            modal.file_io.delete_bytes(file, 7, 9)
        assert box.exec("cat", "/bytes").stdout.read() == "goodbyeorld"
        with box.open("/bytes") as file:
            raises(OSError, lambda: modal.file_io.delete_bytes(file, 0, 1), "writing")
    assert hasattr(modal.Sandbox, "filesystem") == (VERSION >= (1, 4))
    if VERSION >= (1, 4):
        box.filesystem.write_bytes(large, "/made/here/large")
        assert box.filesystem.read_bytes("/made/here/large") == large
        assert [entry.name for entry in box.filesystem.list_files("/made/here")] == ["large"]
        box.filesystem.remove("/made", recursive=True)
        raises(REFUSED, lambda: box.filesystem.read_text("/made/here/large"), "/made/here/large")


def folders(box):
    raises(FileNotFoundError, lambda: box.mkdir("/a/b/c"), "No such file or directory", "/a/b/c")
    box.mkdir("/a/b/c", parents=True)
    box.open("/a/ü", "w").close()
    assert box.ls("/a") == ["b", "ü"]
    raises(FileExistsError, lambda: box.mkdir("/a"), "/a")
    raises(FileNotFoundError, lambda: box.ls("/none"), "No such file or directory: /none")
    raises(NotADirectoryError, lambda: box.ls("/a/ü"), "/a/ü")
    raises(FileNotFoundError, lambda: box.open("/none"), "No such file or directory: /none")
    raises(IsADirectoryError, lambda: box.open("/a"), "/a")
    raises(IsADirectoryError, lambda: box.open("/a", "w"), "/a")
    raises(FileNotFoundError, lambda: box.rm("/none"), "/none")
    raises(OSError, lambda: box.rm("/a"), "recursive", "/a")
    box.rm("/a", recursive=True)
    assert "a" not in box.ls("/")


def a_watch(box):
    box.mkdir("/watched")
    seen = []

    def watch():
        seen.extend(box.watch("/watched", timeout=6))

    watching = threading.Thread(target=watch)
    watching.start()
    time.sleep(2)
    box.exec("sh", "-c", "cd /watched; echo 1 > new; mv new other; rm other").wait()
    watching.join(60)
    told = [(event.type.value, path) for event in seen for path in event.paths]
    for event in [("Create", "/watched/new"), ("Modify", "/watched/other"),
                  ("Remove", "/watched/other")]:
        assert event in told, told
    raises(FileNotFoundError, lambda: list(box.watch("/none", timeout=1)), "/none")


def a_snapshot(box):
    box.exec("sh", "-c", "echo kept > /kept").wait()
    kept = box.snapshot_filesystem()
    assert kept.object_id.startswith("im-")
    other = modal.Sandbox.create(app=app, image=kept, timeout=60)
    process = other.exec("cat", "/kept")
    assert (process.stdout.read(), process.wait()) == ("kept\n", 0)
    other.terminate()


def its_end(box):
    process = box.exec("sleep", "300")
    box.terminate()
    # Whoever reads is not left waiting.
    if VERSION < ROUTED:
        assert process.stdout.read() == ""
    else:
        raises(REFUSED, process.stdout.read, "ended")
    raises(modal.exception.SandboxTerminatedError, box.wait)
    assert box.returncode == 137
    raises(REFUSED, lambda: box.exec("true").wait(), "ended")
    raises(REFUSED, lambda: box.ls("/"), "ended")
    raises(REFUSED, box.snapshot_filesystem, "ended")


PARTS = [
    programs, output, standard_input, a_timeout, files, folders, a_watch, a_snapshot, its_end,
]


def main():
    the_entrypoint()
    print("the_entrypoint", flush=True)
    box = made("sleep", "300")
    for part in PARTS:
        part(box)
        print(part.__name__, flush=True)


main()
