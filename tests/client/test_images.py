"""The methods of the client's image builder, each without any registry."""

import sys
import textwrap
import uuid
from pathlib import Path

import pytest

import image_methods
import serving
from image_kit import build, images, layers, log_of

pytestmark = pytest.mark.usefixtures("warm")

NAMES = list(image_methods.methods(__import__("modal"), Path("/")))


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """The user's files."""
    return image_methods.write_work(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def made(modal, work):
    """The methods, with the user's files."""
    return image_methods.methods(modal, work)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_builds_and_builds_once(warm, modal, made, name):
    image, _, _ = made[name]()
    first = build(modal, image)
    before = layers(warm), log_of(warm, first), {one["id"] for one in images(warm)}
    again, _, _ = made[name]()
    assert build(modal, again) == first
    after = layers(warm), log_of(warm, first), {one["id"] for one in images(warm)}
    assert after == before


def test_what_was_built_is_there(warm, modal, made):
    said = image_methods.look_into(modal, made)
    assert {name: text for name, (_, text) in said.items()} == {
        name: make()[2] for name, make in made.items()
    }


def test_what_was_copied_into_nothing_is_all_there_is(warm, modal, made):
    known = layers(warm)
    line = f"COPY --from=python:3.11-slim /etc/debian_version /{uuid.uuid4().hex}/"
    build(modal, modal.Image.from_scratch().dockerfile_commands(line))
    (new,) = layers(warm) - known
    folder = warm.data_dir / serving.IMAGES / "layers" / new / "diff"
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["debian_version"]


def test_a_server_that_forgot_its_images_finds_their_steps(fresh_server, work, made):
    """The same builds by a server that has the layers of the first, and none of its memory."""
    names = [name for name in NAMES if name == "from_dockerfile" or "uv_" in name]
    code = f"""
        import sys, modal, pathlib
        sys.path[:0] = ["tests"]
        import image_methods
        app = modal.App("again")
        with app.run():
            for name in {names!r}:
                image = image_methods.methods(modal, pathlib.Path({str(work)!r}))[name]()[0]
                image.build(app)
    """
    server = fresh_server()
    before = layers(server)
    done = server.run(sys.executable, "-c", textwrap.dedent(code), timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert layers(server) == before
    logs = [log_of(server, image["id"]) for image in images(server)]
    assert len(logs) > len(names)
    assert sum("cached" in log for log in logs) >= len(names)
    assert not any("done in" in log for log in logs), logs
