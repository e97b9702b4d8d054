"""Files of sandboxes as the official client reaches them: `Sandbox.filesystem`."""

import hashlib
import os
import re
import threading
from pathlib import Path

import pytest

import serving

MIB = 1 << 20

# What the server may need more while a large file streams through it.
STREAM_BYTES_MAX = 256 * MIB


@pytest.fixture(scope="module")
def app(warm, modal):
    """The app that the sandboxes of this module belong to."""
    return modal.App.lookup("sandbox-files", create_if_missing=True)


@pytest.fixture(scope="module")
def sandbox(modal, app):
    """A sandbox that most tests share; each works in a folder of its own."""
    made = modal.Sandbox.create(app=app, image=modal.Image.debian_slim(), timeout=900)
    yield made
    made.terminate()


@pytest.fixture
def fs(sandbox):
    """The files of the shared sandbox."""
    return sandbox.filesystem


@pytest.fixture
def work(fs, request):
    """A new folder in the shared sandbox."""
    path = f"/work/{re.sub(r'[^a-z0-9]+', '-', request.node.name)}"
    fs.make_directory(path)
    return path


def run(sandbox, *command: str) -> str:
    """Runs a command in the sandbox; returns its output."""
    process = sandbox.exec(*command)
    output = process.stdout.read()
    assert process.wait() == 0, process.stderr.read()
    return output


def sha256(path: Path) -> str:
    """The hash of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def server_bytes(server) -> int:
    """The memory of the server and of the processes that it started, containers left out."""
    total = 0
    for pid in [server.pid, *serving.descendants(server.pid)]:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        if int(re.search(r"^Uid:\s+(\d+)", status, re.M)[1]) < serving.FIRST_ID:
            size = re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)
            total += int(size[1]) * 1024 if size else 0
    return total


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00\xff\r\n", os.urandom(MIB + 1), bytes(20 * MIB)],
    ids=["empty", "binary", "1M", "20M"],
)
def test_bytes_come_back_as_they_were_written(fs, work, data):
    fs.write_bytes(data, f"{work}/new/folder/file")
    assert fs.read_bytes(f"{work}/new/folder/file") == data
    fs.write_bytes(b"other", f"{work}/new/folder/file")
    assert fs.read_bytes(f"{work}/new/folder/file") == b"other"
    assert [entry.name for entry in fs.list_files(f"{work}/new/folder")] == ["file"]


def test_programs_and_the_client_see_the_same_files(sandbox, fs, work):
    fs.write_text("☃\n", f"{work}/text")
    assert run(sandbox, "cat", f"{work}/text") == "☃\n"
    run(sandbox, "sh", "-c", f"printf made > {work}/made; chmod 4711 {work}/made")
    assert fs.read_text(f"{work}/made") == "made"
    fs.write_text("new", f"{work}/made")
    expected = run(sandbox, "stat", "-c", "%a %f %s %U %G %Y", f"{work}/made").split()
    info = fs.stat(f"{work}/made")
    assert [info.permissions, f"{info.mode:x}", str(info.size)] == expected[:3]
    assert [info.owner, info.group, str(int(info.modified_time))] == expected[3:]
    assert info.permissions == "4711"


@pytest.mark.timeout(600)
def test_a_gibibyte_is_copied_in_and_out(server, sandbox, fs, work, tmp_path):
    block = os.urandom(MIB)
    with (tmp_path / "up").open("wb") as file:
        for number in range(1024):
            file.write(number.to_bytes(8, "little") + block[8:])
    expected = sha256(tmp_path / "up")
    before = server_bytes(server)
    fs.copy_from_local(tmp_path / "up", f"{work}/large")
    assert run(sandbox, "sha256sum", f"{work}/large").split()[0] == expected
    fs.copy_to_local(f"{work}/large", tmp_path / "down")
    assert sha256(tmp_path / "down") == expected
    assert server_bytes(server) - before < STREAM_BYTES_MAX
    fs.remove(f"{work}/large")


def test_folders_are_listed_made_and_removed(modal, sandbox, fs, work):
    make = "mkdir b; echo x > a; ln -s a c; ln -s /nowhere d; mkfifo e"
    run(sandbox, "sh", "-c", f"cd {work}; {make}")
    listed = fs.list_files(work)
    assert [(entry.name, entry.type.value, entry.symlink_target) for entry in listed] == [
        ("a", "file", None),
        ("b", "directory", None),
        ("c", "symlink", "a"),
        ("d", "symlink", "/nowhere"),
        ("e", "file", None),
    ]
    assert [entry.path for entry in listed] == [f"{work}/{name}" for name in "abcde"]
    fs.make_directory(f"{work}/b/c/d")
    fs.make_directory(f"{work}/b/c/d")
    fs.make_directory(f"{work}/b/e", create_parents=False)
    fs.remove(f"{work}/c")
    assert fs.read_text(f"{work}/a") == "x\n"
    with pytest.raises(modal.exception.SandboxFilesystemDirectoryNotEmptyError):
        fs.remove(f"{work}/b")
    fs.remove(f"{work}/b", recursive=True)
    assert [entry.name for entry in fs.list_files(work)] == ["a", "d", "e"]


def test_every_failure_has_its_own_exception(modal, sandbox, fs, work):
    fs.write_text("kept", f"{work}/file")
    error = modal.exception
    missing, file, below = f"{work}/missing", f"{work}/file", f"{work}/file/below"
    tool = "/__modal/.bin/modal-sandbox-fs-tools"
    rows = [
        (lambda: fs.read_bytes(missing), error.SandboxFilesystemNotFoundError),
        (lambda: fs.read_text(work), error.SandboxFilesystemIsADirectoryError),
        (lambda: fs.write_text("", work), error.SandboxFilesystemIsADirectoryError),
        (lambda: fs.write_text("", below), error.SandboxFilesystemNotADirectoryError),
        (lambda: fs.write_text("", f"{below}/more"), error.SandboxFilesystemNotADirectoryError),
        (lambda: fs.write_text("", tool), error.SandboxFilesystemPermissionError),
        (lambda: fs.list_files(missing), error.SandboxFilesystemNotFoundError),
        (lambda: fs.list_files(file), error.SandboxFilesystemNotADirectoryError),
        (lambda: fs.stat(missing), error.SandboxFilesystemNotFoundError),
        (lambda: fs.stat(below), error.SandboxFilesystemNotADirectoryError),
        (lambda: fs.remove(missing), error.SandboxFilesystemNotFoundError),
        (lambda: fs.make_directory(file), error.SandboxFilesystemPathAlreadyExistsError),
        (lambda: fs.make_directory(below), error.SandboxFilesystemNotADirectoryError),
        (
            lambda: fs.make_directory(f"{missing}/x", create_parents=False),
            error.SandboxFilesystemNotFoundError,
        ),
        (lambda: next(fs.watch(missing)), error.SandboxFilesystemNotFoundError),
        (lambda: fs.read_text("relative"), error.InvalidError),
    ]
    for number, (act, kind) in enumerate(rows):
        with pytest.raises(kind) as raised:
            act()
        # The path stands in the message, once.
        assert str(raised.value).count("/missing") <= 1, (number, str(raised.value))
    for path in [f"{work}/a\0b", f"{work}/{'x' * 300}"]:
        with pytest.raises(error.SandboxFilesystemError):
            fs.read_text(path)
    run(sandbox, "truncate", "-s", "6G", f"{work}/sparse")
    with pytest.raises(error.SandboxFilesystemFileTooLargeError):
        fs.read_bytes(f"{work}/sparse")
    assert fs.read_text(file) == "kept"


def test_links_that_lead_out_lead_nowhere(modal, sandbox, fs, work, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    up = "../" * 40
    for number, target in enumerate([str(secret), f"{up}{secret}", f"/proc/1/root{secret}"]):
        run(sandbox, "ln", "-s", target, f"{work}/link-{number}")
        with pytest.raises(modal.exception.SandboxFilesystemError):
            fs.read_text(f"{work}/link-{number}")
        with pytest.raises(modal.exception.SandboxFilesystemError):
            fs.read_text(f"{work}/{up}{secret}")
    fs.write_text("of the sandbox", f"{work}/link-0")
    assert secret.read_text() == "of the host"
    assert fs.read_text(str(secret)) == "of the sandbox"


def test_every_name_can_be_listed_and_used(sandbox, fs, work):
    make = "import os, sys; open(sys.argv[1].encode() + b'/a\\xff\\n\"', 'w').write('content')"
    run(sandbox, "python3", "-c", make, work)
    (entry,) = fs.list_files(work)
    # As os.fsdecode would have it.
    assert entry.name == os.fsdecode(b'a\xff\n"')
    assert fs.read_text(entry.path) == "content"
    fs.write_text("new", entry.path)
    fs.remove(entry.path)
    assert fs.list_files(work) == []


def test_a_full_disk_is_said(modal, app):
    sandbox = modal.Sandbox.create(app=app, image=modal.Image.debian_slim(), timeout=300)
    fill = "while fallocate -l $size /all-$n; do n=$((n+1)); done"
    try:
        sandbox.filesystem.write_bytes(bytes(MIB), "/kept")
        run(sandbox, "sh", "-c", f"n=0; for size in 256M 16M 1M; do {fill}; done 2>&1")
        with pytest.raises(modal.exception.SandboxFilesystemError, match="no space is left"):
            sandbox.filesystem.write_bytes(os.urandom(64 * MIB), "/kept")
        assert sandbox.filesystem.stat("/kept").size == MIB
    finally:
        sandbox.terminate()


def test_a_watch_tells_what_happens(modal, sandbox, fs, work):
    kinds = modal.types.FileWatchEventType
    seen, began = [], threading.Event()

    def watch() -> None:
        for event in fs.watch(work, recursive=True, timeout=60):
            seen.append((event.type, event.paths))
            began.set()
            if event.paths == [f"{work}/end"] and event.type == kinds.Create:
                return

    thread = threading.Thread(target=watch)
    thread.start()
    # Nobody says when a watch has begun: something happens until it is seen.
    number = 0
    while not began.wait(0.2):
        number += 1
        fs.write_text("", f"{work}/begin-{number}")
        assert number < 100, "the watch never begins"
    begun = len(seen)
    # The pause: what is moved out of a folder before that is watched has never been in it.
    changes = "mkdir -p a/b; sleep 1; echo x > a/b/c; mv a/b/c a/d; rm a/d; touch end"
    run(sandbox, "sh", "-c", f"cd {work}; {changes}")
    thread.join(60)
    assert not thread.is_alive()
    told = [one for one in seen[begun:] if one[0] != kinds.Access]
    for event in [
        (kinds.Create, [f"{work}/a"]),
        (kinds.Create, [f"{work}/a/b"]),
        (kinds.Create, [f"{work}/a/b/c"]),
        (kinds.Modify, [f"{work}/a/b/c", f"{work}/a/d"]),
        (kinds.Remove, [f"{work}/a/d"]),
    ]:
        assert told.count(event) == 1, (event, told)


def test_a_watch_ends_after_its_time(fs, work):
    assert list(fs.watch(work, timeout=1)) == []


def test_files_of_an_image_without_anything(modal, app):
    image = modal.Image.from_scratch()
    sandbox = modal.Sandbox.create(app=app, image=image, timeout=300)
    try:
        files = sandbox.filesystem
        files.write_text("content", "/new/file")
        assert files.read_text("/new/file") == "content"
        info = files.stat("/new/file")
        assert (info.owner, info.group) == ("0", "0")
        assert "new" in [entry.name for entry in files.list_files("/")]
        files.remove("/new", recursive=True)
    finally:
        sandbox.terminate()


def test_a_sandbox_that_has_ended_says_so(modal, app):
    sandbox = modal.Sandbox.create(app=app, image=modal.Image.debian_slim(), timeout=300)
    sandbox.filesystem.write_text("", "/file")
    sandbox.terminate()
    sandbox.wait(raise_on_termination=False)
    with pytest.raises(modal.exception.NotFoundError, match="unavailable"):
        sandbox.filesystem.read_text("/file")
