"""The methods of the client's image builder over images of real registries: one for everybody, one
with a password, and one that was imported."""

import json
import re
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import serving
from image_kit import build, images, layers, log_of, python_archive
from image_methods import methods, write_work
from registry import PASSWORD, USER, Registry, layers_of

pytestmark = pytest.mark.usefixtures("warm")

APP = "tests/client/apps/methods_app.py"


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """The user's files."""
    return write_work(tmp_path_factory.mktemp("work"))


@dataclass
class Place:
    """Where FROM finds an image of which its own files tell that it is that one."""

    name: str
    proof: str
    registry: Registry | None = None
    layers: frozenset[str] = frozenset()

    @property
    def secret(self) -> dict | None:
        """What opens its registry."""
        if self.registry and self.registry.closed:
            return {"REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": PASSWORD}
        return None


def marked(server, modal, folder: Path) -> str:
    """Writes an image with Python, as an OCI layout, and gives the command that knows it.

    It has several layers, one of which removes a file, and settings.
    """
    mark = uuid.uuid4().hex
    image = modal.Image.from_registry("python:3.11-slim-bookworm").dockerfile_commands(
        f"RUN mkdir -p /opt/mark && echo {mark} > /opt/mark/mark && rm /etc/issue",
        f"ENV MARK={mark}",
        "WORKDIR /opt/mark",
        'CMD ["python3"]',
    )
    server.palisade("image", "export", folder, build(modal, image))
    return f"test $MARK = {mark} -a $(cat /opt/mark/mark) = {mark} -a ! -e /etc/issue"


@pytest.fixture(scope="module", params=["open", "closed"])
def place(request, warm, modal, tmp_path_factory) -> Place:
    """The image in either registry."""
    registry = request.getfixturevalue(f"{request.param}_registry")
    folder = tmp_path_factory.mktemp("marked") / "image"
    proof = marked(warm, modal, folder)
    name = registry.push(folder, "team/marked:1")
    return Place(name, proof, registry, frozenset(layers_of(folder)))


def client(server, work: Path, place: Place, names: list[str], looks: bool) -> dict:
    """What came of the methods with these names: images' ids, and if it `looks`, what was printed
    in each."""
    told = {
        "work": str(work), "name": place.name, "secret": place.secret, "methods": names,
        "proof": place.proof if looks else None,
    }
    path = str(serving.REPOSITORY / "tests")
    command = [sys.executable, APP, json.dumps(told)]
    done = server.run(*command, timeout=400, PYTHONPATH=path)
    found = re.search("^done (.*)$", done.stdout, re.M)
    assert found, done.stdout + done.stderr
    return json.loads(found[1])


@pytest.fixture
def wanted(modal, work, place) -> dict[str, str]:
    """What is printed in the image of each method."""
    secret = modal.Secret.from_dict(place.secret) if place.secret else None
    made = methods(modal, work, place.name, secret)
    if secret:
        # It takes half a minute, and asks no registry.
        del made["poetry_install_from_file"]
    return {name: make()[2] for name, make in made.items()}


@pytest.mark.timeout(600)
def test_every_method_builds_once_for_two_clients(registry_server, work, place, wanted):
    def by_all(looks: bool) -> dict:
        return client(registry_server, work, place, list(wanted), looks)

    begun, known = place.registry.pulled(), images(registry_server)
    with ThreadPoolExecutor() as pool:
        looking, building = pool.submit(by_all, True), pool.submit(by_all, False)
        looked, ids = looking.result(), building.result()
    assert {name: text for name, (_, text) in looked.items()} == wanted
    assert {name: image_id for name, (image_id, _) in looked.items()} == ids
    pulled = place.registry.pulled()
    # What both registries have is there already the second time.
    times = {pulled[layer] - begun[layer] for layer in place.layers}
    assert times - {0} == {1}, place.registry.log()
    # Each image that was built has one log, in which no step stands twice.
    listed = {image["id"] for image in images(registry_server)}
    built = listed - {image["id"] for image in known}
    assert set(ids.values()) <= built
    logs = [log_of(registry_server, image_id) for image_id in built]
    assert sum(log.count("done in") for log in logs) > 20, "they were built on this very image"
    for log in logs:
        steps = re.findall(r"^Step \d+/\d+: (?!cached|done in)", log, re.M)
        assert len(steps) == len(set(steps)), log

    stored = layers(registry_server)
    assert by_all(False) == ids
    assert layers(registry_server) == stored
    assert {image["id"] for image in images(registry_server)} == listed
    assert place.registry.pulled() == pulled


def test_a_server_that_forgot_its_images_finds_their_steps(
    registry_server, fresh_server, work, place, wanted
):
    server = fresh_server(images=False, start=False, flags=registry_server.flags)
    serving.share_images(registry_server.data_dir, server.data_dir)
    server.start()
    stored, pulled = layers(server), place.registry.pulled()
    client(server, work, place, list(wanted), False)
    assert layers(server) == stored and place.registry.pulled() == pulled
    logs = [log_of(server, image["id"]) for image in images(server)]
    assert sum("cached" in log for log in logs) > 10
    assert not any("done in" in log for log in logs), logs


def run(server, code: str, **variables: str):
    """Runs a program of the client that uses `app`."""
    whole = f"import modal\napp = modal.App('one')\nwith modal.enable_output(), app.run():\n{code}"
    return server.run(sys.executable, "-c", whole, timeout=170, **variables)


def test_a_forced_build_is_run_again(registry_server, place):
    code = f"""
    for force in (False, True, False):
        secret = modal.Secret.from_dict({place.secret!r}) if {place.secret!r} else None
        image = modal.Image.from_registry({place.name!r}, secret=secret)
        line = "cat /proc/sys/kernel/random/uuid > /{uuid.uuid4().hex}"
        print("id", image.run_commands(line, force_build=force).build(app).object_id)
    with image.imports():
        import no_such_module_anywhere
"""
    done = run(registry_server, code)
    ids = re.findall("^id (.*)$", done.stdout, re.M)
    assert done.returncode == 0 and len(ids) == 3, done.stdout + done.stderr
    built = {image["id"]: image["layers"] for image in images(registry_server)}
    assert built[ids[0]] != built[ids[1]] and ids[1] == ids[2]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "modal.Image.micromamba().build(app)",
            ["mambaorg/micromamba", "palisade image import", "--registry-mirror docker.io"],
        ),
        (
            "secret = modal.Secret.from_dict({'GITLAB_TOKEN': 't0ken'})\n"
            "    modal.Image.from_registry(NAME).pip_install_private_repos("
            "'gitlab.com/no/where', git_user='me', secrets=[secret]).build(app)",
            ["$GITLAB_TOKEN@gitlab.com/no/where", "step 4 of 4"],
        ),
        (
            "modal.Image.from_registry(NAME).dockerfile_commands("
            "'COPY --from=docker.io/no/where:1 /x /x').build(app)",
            ["docker.io/no/where:1", "--registry-mirror docker.io"],
        ),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(registry_server, open_registry, code, words):
    name = f"{open_registry.host}/team/python:3.11"
    done = run(registry_server, f"    {code.replace('NAME', repr(name))}\n")
    said = done.stdout + done.stderr
    assert done.returncode != 0 and all(word in said for word in words), said
    assert "t0ken" not in said


def test_packages_are_installed_into_an_imported_image(
    registry_server, modal, warm, work, tmp_path
):
    place = Place("registry.invalid/team/imported:1", marked(warm, modal, tmp_path / "image"))
    registry_server.palisade("image", "import", tmp_path / "image", "--name", place.name)
    made = methods(modal, work, place.name)
    names = [name for name in made if name.startswith(("from_", "pip_", "uv_"))]
    looked = client(registry_server, work, place, names, True)
    wanted = {name: made[name]()[2] for name in names}
    assert {name: text for name, (_, text) in looked.items()} == wanted


RELEASES = {"2025.06": "3.11.5+20230826", "2026.10": "3.11.17+20261021"}


@pytest.fixture(scope="module")
def bare(warm, modal, open_registry, tmp_path_factory) -> str:
    """An image of Debian without Python."""
    image = modal.Image.from_registry("python:3.11-slim-bookworm").dockerfile_commands(
        "RUN rm -r /usr/local/bin/* /usr/bin/python3* /usr/lib/python3*"
    )
    folder = tmp_path_factory.mktemp("bare") / "image"
    warm.palisade("image", "export", folder, build(modal, image))
    return open_registry.push(folder, "team/bare:1")


@pytest.mark.parametrize("version", list(RELEASES))
def test_a_python_is_added_to_an_image_without_one(registry_server, bare, tmp_path, version):
    release = RELEASES[version]
    links = ("python", "python3") if version > "2025.06" else ("python3",)
    machine = "x86_64-unknown-linux-gnu-install_only"
    archive = tmp_path / f"cpython-{release}-{machine}.tar.gz"
    python_archive(archive, links)
    registry_server.palisade("python", "import", archive)
    (tmp_path / "Dockerfile").write_text(f"FROM {bare}\nRUN ! command -v python3\n")
    code = f"""
import modal

app = modal.App("added")
images = [
    modal.Image.from_registry({bare!r}, add_python="3.11"),
    modal.Image.from_dockerfile({str(tmp_path / "Dockerfile")!r}, add_python="3.11"),
]
images.append(images[0].pip_install("toolz").uv_pip_install("six"))


def look():
    import importlib.util
    import os
    import sys

    import palisade_marker

    there = [bool(importlib.util.find_spec(name)) for name in ("toolz", "six")]
    return there + [sys.prefix, palisade_marker.WHERE, os.readlink("/usr/local/bin/python3")]


looks = [
    app.function(image=image, serialized=True, name=f"look{{at}}")(look)
    for at, image in enumerate(images)
]
with modal.enable_output(), app.run():
    print("found", [one.remote() for one in looks])
"""
    variables = {"MODAL_IMAGE_BUILDER_VERSION": version}
    done = registry_server.run(sys.executable, "-c", code, timeout=170, **variables)
    one = ["/usr/local", "imported", "python3.11"]
    wanted = [[False, False, *one], [False, False, *one], [True, True, *one]]
    assert f"found {wanted}" in done.stdout, done.stdout + done.stderr
