"""The methods of the client's image builder: how each is used, and what its image then has."""

import subprocess
import textwrap
from pathlib import Path

from pip._internal.models.index import PyPI

from image_kit import package_index, wheel
from prepared import prepare

DEBIAN = "python:3.11-slim-bookworm"

STAGES = """
    ARG BASE
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

ONE_STAGE = """
    ARG BASE
    FROM $BASE
    COPY kept.txt* skipped.txt* /context/
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

# Poetry reads nothing of pip's settings, and of its own index more than mirrors have: the project
# names one.
POETRY_PROJECT = """
    [tool.poetry]
    name = "poems"
    version = "1"
    description = ""
    authors = []
    [tool.poetry.dependencies]
    python = "^3.11"
    six = "*"
    [[tool.poetry.source]]
    name = "host"
    url = "INDEX"
"""


def write_work(folder: Path) -> Path:
    """Writes the user's files that the methods take."""

    def write(name: str, text: str):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())

    write("requirements.txt", "six\n")
    write("project/pyproject.toml", PROJECT)
    write("bare/pyproject.toml", BARE_PROJECT)
    write("bare/uv.lock", BARE_LOCK)
    write("docker/Stages", STAGES)
    write("docker/OneStage", ONE_STAGE)
    write("docker/.dockerignore", "skipped.*\n")
    write("docker/kept.txt", "kept\n")
    write("docker/skipped.txt", "skipped\n")
    write("folder/a/b.txt", "b\n")
    index = package_index() or PyPI.simple_url
    write("poetry/pyproject.toml", POETRY_PROJECT.replace("INDEX", index))
    wheel(folder / "wheels", "palisade_early", "2.0rc1")
    wheel(folder / "wheels", "palisade_early", "1.0")
    return folder


def importing(*names: str) -> str:
    """A command that fails unless the image has these modules, and says OK."""
    return f"python -c 'import {', '.join(names)}; print(\"OK\")'"


def early() -> str:
    """A command that says which of the test's own packages is installed."""
    return "python -c 'import palisade_early as e; print(e.VERSION)'"


def methods(modal, work: Path, name: str = DEBIAN, secret=None) -> dict:
    """Each method: how an image is made by it, a command, and what that prints.

    They build on the image that FROM has under a name; the secret opens its registry.
    """
    if name == DEBIAN:
        base = modal.Image.debian_slim()
    else:
        base = modal.Image.from_registry(name, secret=secret)
    made = {
        **starting(modal, work, name, secret),
        **installing(base, work),
        **setting(base),
        **adding(base, work),
    }
    if secret is not None:
        # The client itself takes a registry's secret for Dockerfiles of one stage alone.
        del made["from_dockerfile"]
    return made


def starting(modal, work: Path, name: str, secret) -> dict:
    """Methods that name an image of a registry."""
    docker = work / "docker"
    copied = "cat /copied/link /bound /followed; stat -c '%a %U' /copied/sub /followed; " \
        "readlink /copied/link; ls /context /tied 2>&1"
    nothing = "ls: cannot access '/tied': No such file or directory"
    return {
        "from_registry": lambda: (
            modal.Image.from_registry(
                name, secret=secret, setup_dockerfile_commands=["ENV B=1"]),
            "echo $B", "1"),
        "from_dockerfile": lambda: (
            modal.Image.from_dockerfile(
                docker / "Stages", context_dir=docker,
                build_args={"BASE": name, "WHAT": "given"}),
            copied,
            "given\nkept\ngiven\ngiven\n750 daemon\n644 mail\nsub/what\n"
            f"{nothing}\n/context:\nkept.txt"),
        "from_dockerfile(registry_secret)": lambda: (
            modal.Image.from_dockerfile(
                docker / "OneStage", context_dir=docker, build_args={"BASE": name},
                registry_secret=secret),
            "ls /context", "kept.txt"),
    }


def installing(base, work: Path) -> dict:
    """Methods that install packages."""
    index = package_index()
    wheels = base.add_local_dir(work / "wheels", "/wheels", copy=True)
    return {
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
        "poetry_install_from_file": lambda: (
            base.poetry_install_from_file(
                str(work / "poetry/pyproject.toml"), ignore_lockfile=True),
            importing("six"), "OK"),
        "apt_install": lambda: (base.apt_install("tree"), "tree --version | cut -c-6", "tree v"),
    }


def setting(base) -> dict:
    """Methods that run commands and set something."""
    settings = base.env({"A": "it's $HOME"}).workdir("/w").run_commands("echo \"$A\" > said")
    return {
        "env, workdir, run_commands": lambda: (settings, "cat said; pwd", "it's $HOME\n/w"),
        "shell": lambda: (
            base.shell(["/bin/bash", "-c"]).run_commands("echo ${BASH_VERSION:0:1} > /shell"),
            "cat /shell", "5"),
        "entrypoint, cmd": lambda: (
            base.entrypoint(["/usr/bin/env", "D=3"]).cmd(["sleep", "1"]), "echo $D", "3"),
        "run_function": lambda: (
            base.run_function(prepare, args=("ready",)), "cat /prepared", "ready"),
    }


def adding(base, work: Path) -> dict:
    """Methods that bring the user's files."""
    lines = ["ARG WORD", "COPY note.txt /note", "RUN echo $WORD $(cat /note) > /said"]
    note = {"note.txt": str(work / "folder/a/b.txt")}
    made = {
        "dockerfile_commands": lambda: (
            base.dockerfile_commands(lines, context_files=note, build_args={"WORD": "word"}),
            "cat /said", "word b"),
    }
    for copy, suffix in ((False, ""), (True, "(copy)")):
        made |= {
            f"add_local_dir{suffix}": lambda copy=copy: (
                base.add_local_dir(work / "folder", "/there", copy=copy),
                "cat /there/a/b.txt", "b"),
            f"add_local_file{suffix}": lambda copy=copy: (
                base.add_local_file(work / "folder/a/b.txt", "/b.txt", copy=copy),
                "cat /b.txt", "b"),
            f"add_local_python_source{suffix}": lambda copy=copy: (
                base.add_local_python_source("serving", copy=copy), importing("serving"), "OK"),
        }
    return made


def teller():
    """The function, made here so that it is pickled by value."""

    def tell(command: str) -> str:
        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True)
        return (done.stderr + done.stdout).strip()

    return tell


def look_into(modal, made: dict, proof: str = "true") -> dict:
    """One app with a function of each image: its image's id, and what its command printed.

    `proof` is a command that succeeds in all of them.
    """
    app = modal.App("methods", include_source=False)
    images, functions = {}, {}
    for at, (name, make) in enumerate(made.items()):
        images[name], command, _ = make()
        settings = {"image": images[name], "serialized": True, "name": f"tell{at}", "cpu": 0.1}
        function = app.function(**settings)(teller())
        functions[name] = function, f"{proof} || echo no proof; {command}"
    with app.run():
        calls = {name: function.spawn(command) for name, (function, command) in functions.items()}
        said = {name: call.get(timeout=150) for name, call in calls.items()}
    return {name: [images[name].object_id, said[name]] for name in made}
