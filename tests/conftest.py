"""One server for all tests, others for tests that end theirs, and a look at their logs."""

import os
import shutil
import sys
from pathlib import Path

import pytest

import serving

DATA = serving.TARGET / "test-data"

# What clients print into a pipe comes when they print it.
os.environ["PYTHONUNBUFFERED"] = "1"

# Lines of the log that any test may cause.
ALWAYS_ALLOWED: list[str] = []


@pytest.fixture(scope="session")
def server():
    """The server that most tests share. Its images stay for the next run."""
    if not serving.BINARY.exists():
        pytest.fail(f"no {serving.BINARY}: build it (cargo build -p palisade) or set PALISADE_BIN")
    DATA.mkdir(parents=True, exist_ok=True)
    log = DATA / "server.log"
    log.unlink(missing_ok=True)
    served = serving.Server(serving.cleared(DATA / "shared"), log).start()
    os.environ.update(served.env)
    yield served
    served.end_sandboxes()
    assert served.stop() == 0, served.last_words()


@pytest.fixture(scope="session")
def modal(server):
    """The client, imported when the environment leads it to the server."""
    import modal

    return modal


@pytest.fixture(scope="session")
def warm(server):
    """Makes the base image, which takes minutes the first time, outside any test's time."""
    done = server.run(serving.MODAL, "run", "tests/client/apps/warm_app.py", timeout=1_200)
    assert done.returncode == 0, done.stdout + done.stderr
    return server


@pytest.fixture
def fresh_server(server, tmp_path, request):
    """Makes servers that a test may end as it likes: each has a data directory of its own.

    `images=True` gives it the images of the shared server, so that it need not make them again;
    further settings are those of `serving.Server`.
    """
    made = []

    def make(images=True, data_dir: Path | None = None, start=True, **settings):
        if images:
            request.getfixturevalue("warm")
        directory = data_dir or DATA / f"fresh-{os.getpid()}-{len(made)}"
        if not data_dir:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
        if images:
            serving.share_images(server.data_dir, directory)
        fresh = serving.Server(directory, tmp_path / f"server-{len(made)}.log", **settings)
        made.append((fresh, data_dir))
        request.node.palisade_servers = [(one, 0) for one, _ in made]
        return fresh.start() if start else fresh

    yield make
    for fresh, given in made:
        if fresh.process and fresh.process.poll() is None:
            fresh.end_sandboxes()
            assert fresh.stop() == 0, fresh.last_words()
        if not given:
            shutil.rmtree(fresh.data_dir)


@pytest.fixture(autouse=True)
def complaints(request):
    """Fails a test during which a server complained, unless the test says that it will."""
    uses_server = "server" in request.fixturenames
    shared = request.getfixturevalue("server") if uses_server else None
    since = shared.log_size() if shared else 0
    if shared:
        request.node.palisade_servers = [(shared, since)]
    yield
    allowed = [mark.args[0] for mark in request.node.iter_markers("log_allows")] + ALWAYS_ALLOWED
    for one, start in getattr(request.node, "palisade_servers", []):
        lines = one.complaints(start, allowed)
        assert not lines, "the server complains:\n" + "\n".join(lines)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Adds to a failure the server's log of that time, and how to see it again."""
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    for one, since in getattr(item, "palisade_servers", []):
        lines = one.log_since(since).splitlines() if one.log.exists() else []
        text = "\n".join([f"whole log: {one.log}", *lines[-60:]])
        report.sections.append(("the server's log during this test", text))
    again = f"PALISADE_BIN={serving.BINARY} {sys.executable} -m pytest '{item.nodeid}'"
    report.sections.append(("to see it again, as root", f"cd {item.config.rootpath} && {again}"))
