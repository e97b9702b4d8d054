"""What of the user's files is in a container, and where its writes go."""

import hashlib
from pathlib import Path

import pytest

from serving import IMAGES

pytestmark = pytest.mark.usefixtures("warm")

HERE = Path(__file__).resolve().parent
DATA = HERE / "apps/source_data.txt"
INSIDE = "/data/source_data.txt"


def looker():
    """The function, made here so that it is pickled by value: its file is nowhere inside."""

    def look(marker: str, name: str) -> dict:
        """Lists all files, finds those with `marker`, then writes wherever it can."""
        import os

        found = []
        for folder, folders, files in os.walk("/"):
            if folder == "/":
                folders[:] = [name for name in folders if name not in ("proc", "sys", "dev")]
            found += [os.path.join(folder, file) for file in files]
        texts = []
        for path in found:
            try:
                with open(path, "rb") as file:
                    if marker.encode() in file.read(4 << 20):
                        texts.append(path)
            except OSError:
                continue
        with open("/data/source_data.txt") as file:
            before = file.read()
        writes = {}
        for target in ("/data/source_data.txt", "/etc/passwd", "/pkg/modal/__init__.py", "/new"):
            try:
                with open(target, "a") as file:
                    file.write(f"# written by {name}\n")
                writes[target] = "written"
            except OSError as error:
                writes[target] = type(error).__name__
        return {"files": found, "texts": texts, "before": before, "writes": writes}

    return look


@pytest.fixture(scope="module")
def looks(modal, warm):
    """Two containers, one after the other; the first wrote wherever it could."""
    app = modal.App("source-app", include_source=False)
    image = modal.Image.debian_slim().add_local_file(DATA, INSIDE)
    function = app.function(
        image=image, serialized=True, single_use_containers=True, block_network=True
    )(looker())
    marker = DATA.read_text().split()[-1]
    with app.run():
        return [function.remote(marker, name) for name in ("first", "second")]


def test_only_the_file_that_was_added_is_there(looks):
    first = looks[0]
    assert first["texts"] == [INSIDE]
    names = {path.name for path in HERE.rglob("*.py")} - {"__init__.py", "conftest.py"}
    ours = [path for path in first["files"] if Path(path).name in names]
    assert ours == []
    sent = [path for path in first["files"] if path.startswith("/root/")]
    assert [path for path in sent if not Path(path).name.startswith(".")] == []


def test_writes_are_the_containers_own(looks):
    first, second = looks
    assert first["writes"][INSIDE] == "written"
    assert second["before"] == first["before"] == DATA.read_text()
    assert "/new" not in second["files"]


def test_the_servers_copies_are_untouched(looks, warm):
    """Whatever the containers wrote is in no file of the data directory."""
    blobs = warm.data_dir / "blobs"
    kept = [path for top in (blobs, warm.data_dir / IMAGES) for path in top.rglob("*")
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20]
    assert len(kept) > 100
    wrong = [path for path in kept if b"# written by" in path.read_bytes()[-200:]]
    assert wrong == []
    digest = hashlib.sha256(DATA.read_bytes()).hexdigest()
    same = [path for path in kept if hashlib.sha256(path.read_bytes()).hexdigest() == digest]
    assert same, "the server has the file that was uploaded"


def test_include_source_brings_the_module_alone(modal, warm):
    import run_app

    with run_app.app.run():
        assert run_app.add.remote(1, 2) == 3


def test_a_serialized_function_needs_no_file(modal, warm):
    app = modal.App("serialized-app")

    def where() -> list[str]:
        import os

        return sorted(os.listdir("/root"))

    function = app.function(serialized=True, block_network=True)(where)
    with app.run():
        assert [name for name in function.remote() if not name.startswith(".")] == []
