"""Snapshots of sandboxes' files with the official client: all of a sandbox, one folder, images that
are laid into a running one."""

import json
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from pathlib import Path

import pytest
from modal_proto import api_pb2

import raw_client
import serving

pytestmark = [pytest.mark.usefixtures("warm"), pytest.mark.timeout(300)]

# All that counts of a tree: a line for each entry with its type, mode, owner, time, content, names
# of the same file, attributes.
DESCRIBE = textwrap.dedent("""
    import hashlib, os, stat, sys
    top, first = sys.argv[1], {}
    for folder, folders, files in os.walk(top):
        folders.sort()
        for path in [folder] + [os.path.join(folder, name) for name in sorted(files)] + [
            os.path.join(folder, name) for name in folders
            if os.path.islink(os.path.join(folder, name))
        ]:
            facts = os.lstat(path)
            names = first.setdefault(facts.st_ino, path) if not stat.S_ISDIR(facts.st_mode) else ""
            content = ""
            if stat.S_ISREG(facts.st_mode):
                content = hashlib.sha256(open(path, "rb").read()).hexdigest()
            elif stat.S_ISLNK(facts.st_mode):
                content = os.readlink(path)
            attributes = []
            if not stat.S_ISLNK(facts.st_mode):
                for name in sorted(os.listxattr(path)):
                    attributes.append((name, os.getxattr(path, name)))
            print(repr(path), repr(names), oct(facts.st_mode), facts.st_uid, facts.st_gid,
                  facts.st_mtime_ns, repr(content), attributes)
""")

# Everything that a tree can hold, below /work.
FILL = textwrap.dedent("""
    import os, struct
    os.makedirs("/work/folder/below")
    os.chdir("/work")
    open("file", "wb").write(os.urandom(100_000))
    open("folder/program", "wb").write(b"program" * 10_000)
    os.chown("folder/program", 1234, 65534)
    os.chmod("folder/program", 0o6751)
    os.setxattr("file", "user.note", b"any\\xff\\x00")
    os.link("file", "folder/again")
    os.symlink("/nowhere/else", "link")
    os.symlink("file", "folder/below/inside")
    os.mkfifo("pipe")
    with open("sparse", "wb") as sparse:
        sparse.truncate(64 << 20)
        sparse.seek(32 << 20)
        sparse.write(b"middle")
    open(b"no \\xff utf8", "w").write("x")
    os.chmod("folder/below", 0o1700)
    os.utime("file", ns=(1, 981173106987654321))
    # What the image brings: changed, deleted, replaced.
    os.remove("/etc/debian_version")
    open("/etc/issue", "a").write("changed")
    import shutil
    shutil.rmtree("/usr/share/doc")
    os.makedirs("/usr/share/doc/anew")
""")


@pytest.fixture
def app(server, modal):
    """An app of its own, which takes its sandboxes along."""
    app = modal.App.lookup(f"snaps-{uuid.uuid4().hex[:8]}", create_if_missing=True)
    yield app
    stop(server, app)


def stop(server, app):
    source = api_pb2.APP_STOP_SOURCE_CLI
    request = api_pb2.AppStopRequest(app_id=app.app_id, source=source)
    raw_client.ask(server, "AppStop", request)


@pytest.fixture
def create(modal, app):
    """Creates a small sandbox in the app; all are gone at the end."""
    made = []

    def create(*args, **options):
        image = modal.Image.debian_slim(python_version="3.11")
        options = {"app": app, "image": image, "timeout": 240} | options
        made.append(modal.Sandbox.create(*args, **options))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.terminate()


def run(sandbox, *args) -> str:
    """Runs a program to its good end; its output."""
    process = sandbox.exec(*args)
    output = process.stdout.read()
    code = process.wait()
    assert code == 0, f"{args}: {code}: {process.stderr.read()}"
    return output


def python(sandbox, script: str, *args) -> str:
    return run(sandbox, "python3", "-c", script, *args)


def describe(sandbox, path: str) -> str:
    return python(sandbox, DESCRIBE, path)


def test_a_snapshot_holds_every_file_as_it_is(create):
    first = create()
    python(first, FILL)
    wanted = describe(first, "/work")
    assert wanted.count("\n") == 11, wanted
    image = first.snapshot_filesystem()
    # What comes after it is no part of it.
    run(first, "sh", "-c", "echo late > /work/late; rm /work/file")
    second = create(image=image)
    assert describe(second, "/work") == wanted
    shown = run(second, "sh", "-c", "ls /usr/share/doc; cat /etc/issue; ls /etc/*_version || :")
    assert shown.startswith("anew\n")
    assert "changed" in shown and "debian_version" not in shown.split("changed")[1]
    blocks = run(second, "stat", "-c", "%b", "/work/sparse")
    assert int(blocks) < 1_000, "holes stay holes"
    # Nothing of the machinery lies in it as a file.
    assert run(second, "sh", "-c", "cat /etc/hosts").strip()


def test_copies_of_copies_are_the_same(create):
    sandbox = create()
    python(sandbox, FILL)
    wanted = describe(sandbox, "/work")
    for round in range(4):
        image = sandbox.snapshot_filesystem()
        sandbox.terminate()
        sandbox = create(image=image)
        assert describe(sandbox, "/work") == wanted, f"round {round}"
        run(sandbox, "sh", "-c", f"echo {round} >> /rounds")
    assert run(sandbox, "cat", "/rounds") == "0\n1\n2\n3\n"


def test_files_that_were_laid_over_the_image_are_part_of_it(modal, create, tmp_path):
    (tmp_path / "local.txt").write_text("local")
    image = modal.Image.debian_slim(python_version="3.11")
    image = image.add_local_file(tmp_path / "local.txt", "/data/local.txt")
    first = create(image=image)
    assert run(first, "cat", "/data/local.txt") == "local"
    second = create(image=first.snapshot_filesystem())
    assert run(second, "cat", "/data/local.txt") == "local"


# Keeps two files equal: writes both under a lock that is a third file.
WRITER = textwrap.dedent("""
    import mmap, os, time
    os.makedirs("/pair", exist_ok=True)
    os.chdir("/pair")
    size = 1 << 20
    for name in "ab":
        open(name, "wb").write(bytes(size))
    # Through a mapping: no time of the file tells that it was written.
    maps = [mmap.mmap(os.open(name, os.O_RDWR), size) for name in "ab"]
    n = 0
    while True:
        n += 1
        word = n.to_bytes(8, "little")
        at = (n * 4096 * 7) % size
        for map in maps:
            map[at:at + 8] = word
            map[0:8] = word
        with open("next", "wb") as next:
            next.write(word * 1000)
        os.rename("next", "both")
        open("log", "ab").write(word)
""")


def test_a_snapshot_under_load_is_of_one_moment(create):
    sandbox = create("python3", "-c", WRITER, cpu=1)
    run(sandbox, "sh", "-c", "while ! [ -s /pair/log ]; do sleep 0.1; done")
    seen = []
    for _ in range(4):
        image = sandbox.snapshot_filesystem()
        check = create(image=image)
        counts = python(check, textwrap.dedent("""
            read = lambda name: open("/pair/" + name, "rb").read()
            number = lambda word: int.from_bytes(word[:8], "little")
            a, b, both, log = read("a"), read("b"), read("both"), read("log")
            words = [log[at:at + 8] for at in range(0, len(log), 8)]
            assert [number(word) for word in words] == list(range(1, len(words) + 1)), "log"
            assert both == both[:8] * 1000, "a half-written file was seen under its name"
            # In the order in which they are written: a, b, both, log.
            order = [number(a), number(b), number(both), len(words)]
            assert order == sorted(order, reverse=True) and order[0] - order[-1] <= 1, order
            print(order[0])
        """))
        seen.append(int(counts))
        check.terminate()
    assert seen == sorted(set(seen)), "each later one holds more"
    assert sandbox.poll() is None


def test_snapshots_share_what_did_not_change(server, create):
    sandbox = create()
    script = "import os; [open(f'/big{n}', 'wb').write(os.urandom(8 << 20)) for n in range(8)]"
    python(sandbox, script)
    sandbox.snapshot_filesystem()
    layers = server.data_dir / "worker/images/layers"
    before = used(layers)
    run(sandbox, "sh", "-c", "echo small > /small; echo more >> /big0")
    image = sandbox.snapshot_filesystem()
    grown = used(layers) - before
    assert 8 << 20 <= grown < 12 << 20, f"{grown >> 20} MiB for one changed file of 8 MiB"
    sums = run(sandbox, "sh", "-c", "cat /big* | sha256sum")
    assert run(create(image=image), "sh", "-c", "cat /big* | sha256sum") == sums


def used(folder: Path) -> int:
    du = subprocess.run(["du", "-sxB1", folder], capture_output=True, text=True, check=True)
    return int(du.stdout.split()[0])


def test_a_folder_is_kept_and_laid_into_another(modal, create):
    first = create()
    python(first, FILL)
    wanted = describe(first, "/work")
    image = first.snapshot_directory("/work")
    second = create()
    run(second, "sh", "-c", "mkdir /work; echo own > /work/own")
    second.mount_image("/work", image)
    assert describe(second, "/work") == wanted
    # What is written there is the sandbox's own.
    run(second, "sh", "-c", "echo new > /work/new; rm /work/file; chown 5:6 /work/new")
    # The same changes are the same layer, with the times of the first: another run's, here.
    run(second, "touch", "-d", "@77", "/work/new", "/work")
    third = create()
    third.mount_image("/deep/er/work", modal.Image.from_id(image.object_id))
    assert describe(third, "/deep/er/work").replace("/deep/er", "") == wanted
    # A mounted folder's snapshot holds the changes.
    again = second.snapshot_directory("/work")
    changed = describe(second, "/work")
    assert changed != wanted
    third.mount_image("/other", again)
    assert describe(third, "/other").replace("/other", "/work") == changed
    # One that holds mounted images, too.
    run(second, "sh", "-c", "mkdir -p /all; echo x > /all/x")
    second.mount_image("/all/below", again)
    both = second.snapshot_directory("/all")
    third.mount_image("/both", both)
    assert run(third, "cat", "/both/x", "/both/below/new") == "x\nnew\n"
    second.unmount_image("/work")
    assert run(second, "sh", "-c", "cat /work/*") == "own\n"
    with pytest.raises(modal.exception.Error):
        second.unmount_image("/work")


def test_an_empty_image_takes_files(modal, create):
    sandbox = create()
    sandbox.mount_image("/fresh", modal.Image.from_scratch())
    run(sandbox, "sh", "-c", "echo x > /fresh/x")
    assert run(sandbox, "cat", "/fresh/x") == "x\n"
    image = sandbox.snapshot_directory("/fresh")
    other = create()
    other.mount_image("/there", image)
    assert run(other, "cat", "/there/x") == "x\n"


def test_what_cannot_be_is_refused(modal, create):
    sandbox = create()
    error = modal.exception.Error
    with pytest.raises(error, match="/nowhere"):
        sandbox.snapshot_directory("/nowhere")
    with pytest.raises(error, match="etc/issue"):
        sandbox.snapshot_directory("/etc/issue")
    image = sandbox.snapshot_directory("/etc")
    with pytest.raises(error, match="/"):
        sandbox.mount_image("/", image)
    with pytest.raises(error, match="/etc/issue"):
        sandbox.mount_image("/etc/issue", image)
    with pytest.raises(error, match="image"):
        sandbox.mount_image("/x", modal.Image.from_id("im-" + "0" * 22))
    with pytest.raises(error):
        sandbox.unmount_image("/proc")
    with pytest.raises(error, match="encrypt"):
        sandbox.mount_image("/x", image, _experimental_encryption_key=b"0" * 32)
    # A link leads nowhere else than for a program inside.
    run(sandbox, "sh", "-c", "ln -s /../../../.. /up; ln -s /proc/self/root/etc /magic")
    listed = run(create_with(sandbox, create, "/up/etc"), "cat", "/got/issue")
    assert listed == run(sandbox, "cat", "/etc/issue")
    with pytest.raises(error):
        sandbox.snapshot_directory("/magic")
    sandbox.terminate()
    with pytest.raises(error):
        sandbox.snapshot_filesystem()


def create_with(sandbox, create, path):
    """A sandbox that has another one's folder at /got."""
    other = create()
    other.mount_image("/got", sandbox.snapshot_directory(path))
    return other


def test_one_ends_at_once_while_its_files_are_copied(create):
    sandbox = create()
    python(sandbox, "open('/large', 'wb').truncate(40 << 30)")
    other = create()
    failure = []

    def keep():
        try:
            sandbox.snapshot_filesystem()
        except Exception as error:
            failure.append(error)

    keeper = threading.Thread(target=keep)
    keeper.start()
    time.sleep(1)
    began = time.monotonic()
    sandbox.terminate()
    assert time.monotonic() - began < 5
    keeper.join(60)
    assert failure, "no image of half a sandbox"
    assert run(other, "echo", "alive") == "alive\n"


def test_snapshots_and_mounts_survive_the_server(fresh_server):
    server = fresh_server()

    def phase(*words) -> dict:
        script = serving.REPOSITORY / "tests/client/apps/snapshots_app.py"
        done = server.run(sys.executable, str(script), *words, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    made = json.dumps(phase("make"))
    try:
        server.restart(kill=True)
        assert phase("look", made) == {"snapshot": "kept", "mounted": "old new"}
        # Neither a running server nor the command alone removes what is in use or cannot be made
        # again.
        server.palisade("image", "prune", "--keep", "0")
        server.stop()
        server.palisade("image", "prune", "--keep", "0")
        server.start()
        assert phase("look", made) == {"snapshot": "kept", "mounted": "old new"}
    finally:
        phase("end", made)
