"""Names of images, and what the command line says of images."""

import json
import time
import uuid
from datetime import datetime, timedelta, timezone

import pytest

from serving import MODAL

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def build(modal):
    """Builds a small image of its own; returns it built."""

    def build(mark: str):
        app = modal.App.lookup("image-names", create_if_missing=True)
        image = modal.Image.debian_slim().run_commands(f"echo built {mark} | tee /mark")
        return image.build(app)

    return build


def command(server, *words: str):
    done = server.run(MODAL, "image", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_image_is_found_by_its_newest_name(server, modal, build):
    name, marks = f"n-{uuid.uuid4().hex[:8]}", [uuid.uuid4().hex for _ in range(2)]
    first, second = (build(mark) for mark in marks)
    first.publish(name)
    first.publish(f"{name}:v1")
    first.publish(name)
    second.publish(f"main/{name}")

    app = modal.App("named")

    def mark():
        with open("/mark") as file:
            return file.read().split()[1]

    image = modal.Image.from_name(name)
    newest = app.function(image=image, serialized=True, block_network=True)(mark)
    with app.run():
        assert newest.remote() == marks[1]

    listed = json.loads(command(server, "names", "list", "--prefix", name, "--json"))
    ids = {item["tag"]: item["image_id"] for item in listed}
    assert ids == {f"{name}:latest": second.object_id, f"{name}:v1": first.object_id}
    history = json.loads(command(server, "names", "history", name, "--json"))
    assert [item["image_id"] for item in history] == [second.object_id, first.object_id]

    command(server, "names", "delete", f"{name}:latest", "--yes")
    again = server.run(MODAL, "image", "names", "delete", f"{name}:latest", "--yes")
    assert again.returncode != 0 and "not found" in again.stdout + again.stderr
    listed = json.loads(command(server, "names", "list", "--prefix", name, "--json"))
    assert [item["tag"] for item in listed] == [f"{name}:v1"]


def test_bad_names_are_refused(server, modal, build):
    image = build("refused")
    with pytest.raises(modal.exception.NotFoundError, match="environment"):
        image.publish("nowhere/name")
    with pytest.raises(modal.exception.InvalidError, match="allow_public"):
        image.publish("name", experimental_options={"is_public": True})
    app = modal.App("unnamed")
    image = modal.Image.from_name(f"none-{uuid.uuid4().hex}")
    app.function(image=image, serialized=True)(lambda: None)
    with pytest.raises(modal.exception.NotFoundError, match="publish one under that name"):
        with app.run():
            pass


def test_the_log_of_a_build_can_be_read_later(server, build):
    mark = uuid.uuid4().hex
    image = build(mark)
    assert f"built {mark}" in command(server, "logs", image.object_id)
    assert "FROM python:" in command(server, "logs", image.object_id, "--all")
    assert any(f"built {mark}" in entry.message for entry in image.logs.tail(20))


def test_a_deleted_image_starts_nothing_and_is_built_again(server, modal, build):
    import modal.experimental

    mark = uuid.uuid4().hex
    image = build(mark)
    image.publish(f"gone-{mark}")
    modal.experimental.image_delete(image.object_id)
    with pytest.raises(modal.exception.NotFoundError):
        modal.experimental.image_delete(f"im-{'0' * 22}")
    app = modal.App("deleted")
    app.function(image=modal.Image.from_id(image.object_id), serialized=True)(lambda: None)
    with pytest.raises(modal.exception.Error, match="deleted"):
        with app.run():
            pass
    assert build(mark).object_id != image.object_id


def test_what_a_function_printed_can_be_read_later(modal):
    app = modal.App("read-later")

    def shout(text):
        import sys

        print(text)
        print("softly", file=sys.stderr)

    function = app.function(serialized=True, block_network=True)(shout)
    other = app.function(serialized=True, block_network=True, name="other")(lambda: print("other"))
    with app.run():
        function.remote("loudly")
        other.remote()
        deadline = time.monotonic() + 20
        while True:
            printed = "".join(entry.message for entry in function.logs.tail(50))
            if "softly" in printed or time.monotonic() > deadline:
                break
        assert "loudly" in printed and "softly" in printed and "other" not in printed
        since = datetime.now(timezone.utc) - timedelta(minutes=10)
        found = function.logs.fetch(since=since, source="stderr")
        assert "".join(entry.message for entry in found).strip() == "softly"
