"""The methods of the client's image builder, each without any registry."""

import sys
import textwrap
import uuid
from pathlib import Path

import pytest

import serving
from image_kit import build, images, layers, log_of, package_index, wheel

pytestmark = pytest.mark.usefixtures("warm")

DOCKERFILE = """
    ARG BASE=python:3.11-slim-bookworm
    FROM debian:sid-slim AS unused
    RUN exit 1

    FROM $BASE AS build
    ARG WHAT=default
    RUN mkdir -p /out/sub && echo "$WHAT" > /out/sub/what && ln -s sub/what /out/link
    RUN chown -R daemon:daemon /out && chmod 750 /out/sub

    FROM build AS tools
    COPY --from=build /out /tools

    FROM $BASE
    COPY --from=tools /tools/ /copied
    COPY --from=1 --chown=mail /out/link /followed
    COPY kept.txt* skipped.txt* /context/
    RUN --mount=type=bind,source=kept.txt,target=/tied/kept.txt \\
        --mount=type=bind,from=tools,source=/tools,target=/tied/tools \\
        --mount=type=tmpfs,target=/tied/memory \\
        --mount=type=secret,id=NONE \\
        cat /tied/kept.txt /tied/tools/sub/what > /bound && echo x > /tied/memory/x
"""

PROJECT = """
    [project]
    name = "project"
    version = "1"
    requires-python = ">=3.11"
    dependencies = ["six"]
    [project.optional-dependencies]
    extra = ["toolz"]
    [dependency-groups]
    group = ["iniconfig"]
"""

BARE_PROJECT = """
    [project]
    name = "bare"
    version = "1"
    requires-python = ">=3.11"
"""

BARE_LOCK = """
    version = 1
    requires-python = ">=3.11"

    [[package]]
    name = "bare"
    version = "1"
    source = { virtual = "." }
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """The user's files."""
    folder = tmp_path_factory.mktemp("work")

    def write(name: str, text: str):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())

    write("requirements.txt", "six\n")
    write("project/pyproject.toml", PROJECT)
    write("bare/pyproject.toml", BARE_PROJECT)
    write("bare/uv.lock", BARE_LOCK)
    write("docker/Dockerfile", DOCKERFILE)
    write("docker/Dockerfile.dockerignore", "skipped.*\n")
    write("docker/kept.txt", "kept\n")
    write("docker/skipped.txt", "skipped\n")
    write("folder/a/b.txt", "b\n")
    wheel(folder / "wheels", "palisade_early", "2.0rc1")
    wheel(folder / "wheels", "palisade_early", "1.0")
    return folder


def importing(*names: str) -> str:
    """A command that fails unless the image has these modules, and says OK."""
    return f"python -c 'import {', '.join(names)}; print(\"OK\")'"


def early() -> str:
    """A command that says which of the test's own packages is installed."""
    return "python -c 'import palisade_early as e; print(e.VERSION)'"


def methods(modal, work: Path) -> dict:
    """Each method: how an image is made by it, a command, and what that prints."""
    base = modal.Image.debian_slim()
    index = package_index()
    wheels = base.add_local_dir(work / "wheels", "/wheels", copy=True)
    docker = work / "docker"
    lines = ["ARG WORD", "COPY note.txt /note", "RUN echo $WORD $(cat /note) > /said"]
    note = {"note.txt": str(work / "folder/a/b.txt")}
    copied = "cat /copied/link /bound /followed; stat -c '%a %U' /copied/sub /followed; " \
        "readlink /copied/link; ls /context /tied 2>&1"
    nothing = "ls: cannot access '/tied': No such file or directory"
    settings = base.env({"A": "it's $HOME"}).workdir("/w").run_commands("echo \"$A\" > said")
    return {
        "from_registry": lambda: (
            modal.Image.from_registry("python:3.11-slim", setup_dockerfile_commands=["ENV B=1"]),
            "echo $B", "1"),
        "from_dockerfile": lambda: (
            modal.Image.from_dockerfile(
                docker / "Dockerfile", context_dir=docker, build_args={"WHAT": "given"}),
            copied,
            "given\nkept\ngiven\ngiven\n750 daemon\n644 mail\nsub/what\n"
            f"{nothing}\n/context:\nkept.txt"),
        "dockerfile_commands": lambda: (
            base.dockerfile_commands(lines, context_files=note, build_args={"WORD": "word"}),
            "cat /said", "word b"),
        "pip_install": lambda: (
            base.pip_install("toolz", index_url=index, extra_index_url=index),
            importing("toolz"), "OK"),
        "pip_install(find_links)": lambda: (
            wheels.pip_install(
                "palisade-early", find_links="/wheels", extra_options="--no-index"),
            early(), "1.0"),
        "pip_install(pre)": lambda: (
            wheels.pip_install("palisade-early", find_links="/wheels", pre=True),
            early(), "2.0rc1"),
        "pip_install_from_requirements": lambda: (
            base.pip_install_from_requirements(str(work / "requirements.txt")),
            importing("six"), "OK"),
        "pip_install_from_pyproject": lambda: (
            base.pip_install_from_pyproject(
                str(work / "project/pyproject.toml"), optional_dependencies=["extra"]),
            importing("six", "toolz"), "OK"),
        "uv_pip_install": lambda: (
            base.uv_pip_install("toolz", requirements=[str(work / "requirements.txt")]),
            importing("six", "toolz"), "OK"),
        "uv_pip_install(uv_version)": lambda: (
            wheels.uv_pip_install(
                "palisade-early", uv_version="0.8.3", find_links="/wheels", pre=True),
            "/.uv/uv --version | cut -c-8; " + early(), "uv 0.8.3\n2.0rc1"),
        "uv_sync": lambda: (
            base.uv_sync(str(work / "project"), extras=["extra"], groups=["group"]),
            importing("six", "toolz", "iniconfig"), "OK"),
        "uv_sync(frozen)": lambda: (
            base.uv_sync(str(work / "bare")), "command -v python", "/.uv/.venv/bin/python"),
        "apt_install": lambda: (base.apt_install("tree"), "tree --version | cut -c-6", "tree v"),
        "env, workdir, run_commands": lambda: (settings, "cat said; pwd", "it's $HOME\n/w"),
        "shell": lambda: (
            base.shell(["/bin/bash", "-c"]).run_commands("echo ${BASH_VERSION:0:1} > /shell"),
            "cat /shell", "5"),
        "entrypoint, cmd": lambda: (
            base.entrypoint(["/usr/bin/env", "D=3"]).cmd(["sleep", "1"]), "echo $D", "3"),
        "add_local_dir(copy)": lambda: (
            base.add_local_dir(work / "folder", "/there", copy=True), "cat /there/a/b.txt", "b"),
        "add_local_file": lambda: (
            base.add_local_file(work / "folder/a/b.txt", "/b.txt"), "cat /b.txt", "b"),
        "add_local_python_source": lambda: (
            base.add_local_python_source("serving"), importing("serving"), "OK"),
    }


NAMES = list(methods(__import__("modal"), Path("/")))


@pytest.fixture(scope="module")
def made(modal, work):
    """The methods, with the user's files."""
    return methods(modal, work)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_builds_and_builds_once(warm, modal, made, name):
    image, _, _ = made[name]()
    first = build(modal, image)
    before, at = layers(warm), warm.log_size()
    again, _, _ = made[name]()
    assert build(modal, again) == first
    assert layers(warm) == before
    assert "Step" not in warm.log_since(at)


def teller():
    """The function, made here so that it is pickled by value."""

    def tell(command: str) -> str:
        import subprocess

        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True)
        return (done.stderr + done.stdout).strip()

    return tell


def test_what_was_built_is_there(warm, modal, made):
    """One app with a function of each image."""
    app = modal.App("methods", include_source=False)
    functions = {}
    for at, name in enumerate(NAMES):
        image, command, wanted = made[name]()
        settings = {"image": image, "serialized": True, "name": f"tell{at}", "cpu": 0.1}
        functions[name] = app.function(**settings)(teller()), command, wanted
    with app.run():
        calls = {name: one.spawn(command) for name, (one, command, _) in functions.items()}
        said = {name: call.get(timeout=120) for name, call in calls.items()}
    assert said == {name: wanted for name, (_, _, wanted) in functions.items()}


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
        sys.path[:0] = ["tests", "tests/client"]
        import test_images
        app = modal.App("again")
        with app.run():
            for name in {names!r}:
                image = test_images.methods(modal, pathlib.Path({str(work)!r}))[name]()[0]
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
