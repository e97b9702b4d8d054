"""Images from a real registry: open, with a password, behind a mirror; and what cannot be had."""

import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from registry import PASSWORD, USER, layout
from serving import MODAL

pytestmark = pytest.mark.usefixtures("warm")


PROGRAM = '''
import modal, sys
app = modal.App("pulled")
{image}

@app.function(image=image, serialized=True, block_network=True)
def look():
    import os, sys
    return sys.version_info[:2], sorted(os.listdir("/made")) if os.path.exists("/made") else []

with modal.enable_output(), app.run():
    print("found", look.remote())
'''


def run(server, image: str, **variables: str):
    """Runs a function of an image that a piece of code makes."""
    return server.run(sys.executable, "-c", PROGRAM.format(image=image), timeout=300, **variables)


def test_an_image_is_pulled_once(registry_server, open_registry):
    reference, mark = f"{open_registry.host}/team/python:3.11", uuid.uuid4().hex
    image = f'image = modal.Image.from_registry("{reference}")'
    image += f'.run_commands("mkdir -p /made/{mark}")'
    before = open_registry.pulled().total()
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: run(registry_server, image), range(2)))
    for done in both:
        assert f"found ((3, 11), ['{mark}'])" in done.stdout, done.stdout + done.stderr
    pulled = open_registry.pulled().total() - before
    # A configuration and the layers, each once.
    assert 2 <= pulled <= 3, open_registry.log()
    done = run(registry_server, image.replace("mkdir", "mkdir -v"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert open_registry.pulled().total() - before == pulled, "the layers are there"


def test_a_password_comes_from_a_secret_and_opens_for_nobody_else(
    registry_server, closed_registry
):
    reference = f"{closed_registry.host}/team/python:3.11"
    keys = f'{{"REGISTRY_USERNAME": "{USER}", "REGISTRY_PASSWORD": "%s"}}'
    image = f'image = modal.Image.from_registry("{reference}", secret=%s)'
    without = run(registry_server, image.replace(", secret=%s", ""))
    assert without.returncode != 0, without.stdout
    assert "REGISTRY_USERNAME" in without.stdout + without.stderr, without.stdout + without.stderr
    wrong = run(registry_server, image % f"modal.Secret.from_dict({keys % 'guess'})")
    assert wrong.returncode != 0 and "guess" not in wrong.stdout + wrong.stderr
    right = run(registry_server, image % f"modal.Secret.from_dict({keys % PASSWORD})")
    assert "found ((3, 11), [])" in right.stdout, right.stdout + right.stderr
    # The layers are here now; who cannot open the registry still does not get the image.
    again = run(registry_server, image.replace(", secret=%s", "") + ".env({'A': 'b'})")
    assert again.returncode != 0, again.stdout
    assert PASSWORD not in registry_server.log_since(0)


def test_names_of_other_registries_come_from_the_mirror(registry_server, open_registry, tmp_path):
    tools = {"uv": b"#!/bin/sh\necho mirrored\n"}
    open_registry.push(layout(tmp_path / "tools", [tools]), "astral-sh/tools:latest")
    open_registry.push(
        layout(tmp_path / "other", [{"other": b"x"}, {"other": b"y"}], Cmd=["/other"]),
        "library/other:1",
    )
    mark = uuid.uuid4().hex
    image = f'''
image = modal.Image.debian_slim().dockerfile_commands(
    "COPY --from=ghcr.io/astral-sh/tools:latest /uv /made/{mark}",
    "COPY --from=other:1 /other /made/other",
    "RUN grep -q y /made/other",
)
'''
    done = run(registry_server, image)
    assert f"'{mark}'" in done.stdout and "'other'" in done.stdout, done.stdout + done.stderr


def test_a_dockerfile_may_begin_with_an_image_of_a_registry(
    registry_server, open_registry, tmp_path
):
    (tmp_path / "data.txt").write_text("data")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(
        "ARG TAG=3.11\n"
        f"FROM {open_registry.host}/team/python:$TAG AS first\n"
        "RUN mkdir -p /made/first\n"
        f"FROM {open_registry.host}/team/python:$TAG\n"
        "COPY --from=first /made/first /made/copied\n"
        "COPY data.txt /made/data.txt\n"
    )
    image = f'image = modal.Image.from_dockerfile("{dockerfile}", context_dir="{tmp_path}")'
    done = run(registry_server, image)
    assert "found ((3, 11), ['copied', 'data.txt'])" in done.stdout, done.stdout + done.stderr


def test_what_runs_no_functions_says_so(registry_server, open_registry, tmp_path):
    open_registry.push(layout(tmp_path / "bare", [{"bin/sh": b"#!"}]), "team/bare:1")
    image = 'image = modal.Image.from_registry("{open_registry.host}/team/{name}:1")'
    done = run(registry_server, image.format(open_registry=open_registry, name="bare"))
    output = done.stdout + done.stderr
    assert done.returncode != 0 and "add_python" in output, output
    done = run(registry_server, image.format(open_registry=open_registry, name="none"))
    assert done.returncode != 0 and "team/none:1" in done.stdout + done.stderr


def test_the_command_line_pulls_and_builds(registry_server, open_registry, tmp_path):
    name = f"pulled-{uuid.uuid4().hex[:8]}"
    reference = f"{open_registry.host}/team/python:3.11"
    done = registry_server.run(MODAL, "image", "pull", reference, "--name", name)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "Dockerfile").write_text(f"FROM {reference}\nRUN mkdir -p /made/cli\n")
    done = registry_server.run(MODAL, "image", "build", str(tmp_path), "-t", f"{name}:built")
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(registry_server, f'image = modal.Image.from_name("{name}:built")')
    assert "found ((3, 11), ['cli'])" in done.stdout, done.stdout + done.stderr
