"""Builds that fail, that are refused, that meet, that are left alone; secrets; imported Pythons."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import uuid

import pytest

import serving
from image_kit import build, files_with, images, layers, log_of, python_archive

pytestmark = pytest.mark.usefixtures("warm")

# Builds an image by the lines of argument 1, and says its id when the server knows it.
CLIENT = """
    import sys, modal
    app = modal.App("client")
    image = modal.Image.debian_slim().dockerfile_commands(sys.argv[1].splitlines())
    with app.run():
        print("begun", flush=True)
        image.build(app)
        print(image.object_id, flush=True)
"""


def client(server, *lines: str) -> subprocess.Popen:
    """A client of its own that builds an image."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CLIENT), "\n".join(lines)],
        env={**os.environ, **server.env},
        cwd=serving.REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def refused(modal, image) -> str:
    """How a build that cannot be is refused."""
    with pytest.raises(modal.exception.Error) as error:
        build(modal, image)
    return str(error.value)


def test_images_of_registries_are_refused_by_name(modal):
    text = refused(modal, modal.Image.from_registry("registry.invalid/some/image:tag"))
    assert "registry.invalid/some/image:tag" in text
    text = refused(modal, modal.Image.micromamba().micromamba_install("xz"))
    assert "mambaorg/micromamba" in text
    secret = modal.Secret.from_dict
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "c"}
    text = refused(modal, modal.Image.from_aws_ecr("registry.invalid/x", secret(keys)))
    assert "AWS is not served" in text
    keys = {"SERVICE_ACCOUNT_JSON": "{}"}
    image = modal.Image.from_gcp_artifact_registry("registry.invalid/x", secret(keys))
    assert "GCP is not served" in refused(modal, image)
    base = modal.Image.debian_slim()
    text = refused(modal, base.uv_pip_install("six", uv_version="0.8.3-alpine"))
    assert "ghcr.io/astral-sh/uv:0.8.3-alpine" in text and "uv:0.8.3" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ADD https://host.invalid/x /x", ["ADD of https://host.invalid/x", "RUN (curl"]),
        ("RUN --mount=type=ssh true", ["type=ssh", "secrets"]),
        ("RUN --mount=type=bind,target=/x,rw true", ["rw", "read-only"]),
        ("RUN --mount=type=secret,id=NONE,required true", ["NONE", "no secret"]),
        ("RUN --network=host true", ["--network=host", "--network=none"]),
        ("COPY --from=build /x /x", ["build", "image"]),
        ("COPY --from=python:3.11-slim /none /x", ["/none is not in the image python:3.11-slim"]),
        ("ONBUILD RUN true", ["ONBUILD"]),
    ],
)
def test_what_is_not_supported_is_refused_by_name(modal, line, words):
    text = refused(modal, modal.Image.debian_slim().dockerfile_commands(line))
    assert all(word in text for word in [*words, line.split()[0]]), text


def test_a_private_repository_needs_the_network(warm, modal):
    """git is installed; the repository is on a host that nobody has."""
    base = modal.Image.debian_slim()
    secret = modal.Secret.from_dict({"GITLAB_TOKEN": "t0ken"})
    image = base.pip_install_private_repos("gitlab.com/no/where", git_user="me", secrets=[secret])
    text = refused(modal, image)
    assert "$GITLAB_TOKEN@gitlab.com/no/where" in text and "t0ken" not in text


def test_a_step_that_fails_shows_its_output_and_leaves_nothing(warm, modal):
    before, mark = layers(warm), uuid.uuid4().hex
    line = f"RUN echo it is {mark} && touch /left && exit 3"
    image = modal.Image.debian_slim().dockerfile_commands(line)
    text = refused(modal, image)
    assert "exit code 3" in text and mark in text and "step 2 of 2" in text
    failed = next(one for one in images(warm) if any(mark in line for line in one["commands"]))
    assert failed["state"] == "failed"
    assert f"\nit is {mark}\n" in log_of(warm, failed["id"])
    assert layers(warm) == before
    # It is tried again when it is asked for again.
    assert "exit code 3" in refused(modal, modal.Image.debian_slim().dockerfile_commands(line))
    assert layers(warm) == before


def test_two_clients_build_the_same_once(warm, modal):
    mark = uuid.uuid4().hex
    line = f"RUN sleep 1 && echo {mark}-$(cat /proc/sys/kernel/random/uuid) | tee /random"
    same = [client(warm, line) for _ in range(2)]
    other = client(warm, line, "ENV OTHER=1")
    said = [one.communicate(timeout=60)[0].split() for one in [*same, other]]
    first, second, third = (words[-1] for words in said)
    assert first == second != third, said
    known = {one["id"]: one["layers"] for one in images(warm)}
    assert known[first] == known[third], "another image, and the same step: run once"
    logs = log_of(warm, first) + log_of(warm, third)
    assert logs.count(f"\n{mark}-") == 1, logs


def test_a_build_goes_on_without_its_client(warm, modal):
    mark = uuid.uuid4().hex
    line = f"RUN echo {mark} && sleep 2 && touch /{mark}"
    leaving = client(warm, line)

    def building():
        return [one for one in images(warm) if any(mark in line for line in one["commands"])]

    (begun,) = serving.eventually(building, 30, "the build begins")
    leaving.kill()
    leaving.communicate()
    assert begun["state"] in ("waiting", "building")
    serving.eventually(lambda: building()[0]["state"] == "ready", 30, "the build ends")
    base = modal.Image.debian_slim()
    assert build(modal, base.dockerfile_commands(line)) == begun["id"]
    assert log_of(warm, begun["id"]).count(f"\n{mark}\n") == 1


def test_a_forced_build_is_run_again(warm, modal):
    line = f"RUN cat /proc/sys/kernel/random/uuid > /{uuid.uuid4().hex}"
    base = modal.Image.debian_slim()
    first = build(modal, base.dockerfile_commands(line))
    forced = build(modal, base.dockerfile_commands(line, force_build=True))
    known = {one["id"]: one["layers"] for one in images(warm)}
    assert known[first] != known[forced]
    assert build(modal, base.dockerfile_commands(line)) == forced


def test_an_image_is_had_by_its_id(modal):
    image_id = build(modal, modal.Image.debian_slim().env({"BY_ID": "1"}))
    app = modal.App("by-id", include_source=False)

    def look() -> str:
        import os

        return os.environ["BY_ID"]

    image = modal.Image.from_id(image_id)
    function = app.function(image=image, serialized=True)(look)
    with app.run():
        assert function.remote() == "1"
    with image.imports():
        import no_such_module_anywhere  # noqa: F401


def test_secrets_are_in_no_layer_and_in_no_log(warm, modal):
    """A private index that wants a password, as pip would be told of it."""
    known, at = layers(warm), warm.log_size()
    value = f"s3cret-{uuid.uuid4().hex}"
    mark = uuid.uuid4().hex
    line = f"RUN test -n \"$PASSWORD\" && echo ${{#PASSWORD}} > /length-{mark}"

    def built(secrets):
        return modal.Image.debian_slim().dockerfile_commands(line, secrets=secrets)

    def secret(value):
        return [modal.Secret.from_dict({"PASSWORD": value})]

    first = build(modal, built(secret(value)))
    assert build(modal, built(secret(value))) == first, "another secret of the same value"
    second = build(modal, built(secret(value + "-other")))
    assert "cached" not in log_of(warm, second)
    # Without the secret nothing of this is had: the step runs, and fails.
    assert "exit code 1" in refused(modal, built([]))
    had = {one["id"]: one["layers"] for one in images(warm)}
    assert had[first] != had[second]
    new = layers(warm) - known
    assert len(new) == 2 and files_with(warm, new, value) == []
    keys = warm.data_dir / serving.IMAGES / "keys"
    assert all(value not in path.read_text() for path in keys.iterdir())
    assert value not in warm.log_since(at)
    assert value not in log_of(warm, first) + json.dumps(images(warm))


def test_a_secret_may_be_a_file(warm, modal):
    value = f"s3cret-{uuid.uuid4().hex}"
    known = layers(warm)
    lines = [
        "USER root",
        "RUN --mount=type=secret,id=PASSWORD,target=/etc/password "
        "--mount=type=secret,id=PASSWORD "
        f"cmp /etc/password /run/secrets/PASSWORD && wc -c < /etc/password > /{value[7:]}",
    ]
    secret = modal.Secret.from_dict({"PASSWORD": value})
    build(modal, modal.Image.debian_slim().dockerfile_commands(lines, secrets=[secret]))
    new = layers(warm) - known
    folders = [warm.data_dir / serving.IMAGES / "layers" / name / "diff" for name in new]
    files = [path for one in folders for path in one.rglob("*") if path.is_file()]
    assert [path.name for path in files] == [value[7:]]
    assert files_with(warm, new, value) == []


# The others take half a minute each, for their own set of Debian packages.
@pytest.mark.parametrize("version", ["2024.10", "2026.10"])
def test_builder_versions_have_a_default_image(warm, version):
    code = """
        import modal
        app = modal.App("versions")
        with app.run():
            image = modal.Image.debian_slim()
            image.build(app)
    """
    variables = {"MODAL_IMAGE_BUILDER_VERSION": version}
    done = warm.run(sys.executable, "-c", textwrap.dedent(code), timeout=240, **variables)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_imported_python_is_added_to_an_image(warm, modal, tmp_path, monkeypatch):
    # The recipe of older ones makes a link that images with a Python have already.
    monkeypatch.setenv("MODAL_IMAGE_BUILDER_VERSION", "2026.10")
    name = f"cpython-3.11.17+20261021-{os.uname().machine}-unknown-linux-gnu-install_only.tar.gz"
    folder = warm.data_dir / "pythons"
    shutil.rmtree(folder, ignore_errors=True)
    image = modal.Image.from_registry("python:3.11-slim", add_python="3.11")
    text = refused(modal, image)
    assert f"palisade python import {name}" in text

    python_archive(tmp_path / name)
    command = [str(serving.BINARY), "python", "import", str(tmp_path / name)]
    done = warm.run(*command, PALISADE_DATA_DIR=str(warm.data_dir))
    assert done.returncode == 0 and name in done.stdout, done.stderr
    done = warm.run(*command, PALISADE_DATA_DIR=str(warm.data_dir))
    assert done.returncode == 1 and "is there already" in done.stderr
    listed = warm.run(command[0], "python", "list", PALISADE_DATA_DIR=str(warm.data_dir))
    assert listed.stdout == f"{name}\n"

    app = modal.App("add-python", include_source=False)

    def look() -> list:
        import os
        import sys

        import palisade_marker

        facts = os.stat(palisade_marker.__file__)
        link = os.readlink("/usr/local/bin/python3")
        mode = oct(facts.st_mode & 0o777)
        return [sys.prefix, palisade_marker.WHERE, link, mode, int(facts.st_mtime)]

    image = modal.Image.from_registry("python:3.11-slim", add_python="3.11")
    function = app.function(image=image, serialized=True)(look)
    with app.run():
        said = function.remote()
    assert said == ["/usr/local", "imported", "python3.11", "0o640", 1_600_000_000]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Python-3.11.5.tgz", "no archive of python-build-standalone"),
        ("cpython-3.11.5+20230826-s390x-unknown-linux-gnu-install_only.tar.gz", "this machine"),
        ("cpython-3.11.5+20230826-x86_64-unknown-linux-gnu-install_only.tar.gz", "cannot import"),
    ],
)
def test_other_archives_are_refused(warm, tmp_path, name, words):
    (tmp_path / name).write_bytes(b"no archive")
    command = [str(serving.BINARY), "python", "import", str(tmp_path / name)]
    done = warm.run(*command, "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 1 and words in done.stderr, done.stderr
    assert not list((tmp_path / "data").rglob("tree"))
