"""Sandboxes as the official JavaScript client uses them: tests/js/sandbox.mjs, part by part."""

import json
import shutil

import pytest

import serving

CLIENT = serving.TARGET / "js"
SCRIPT = serving.REPOSITORY / "tests/js/sandbox.mjs"


@pytest.fixture(scope="module")
def node():
    """The program that runs JavaScript; the client must be there as `cargo xtask test` puts it."""
    program = shutil.which("node")
    assert program, "no node: install Debian's nodejs, or run `cargo xtask test`, which does"
    package = CLIENT / "node_modules/modal/package.json"
    assert package.exists(), f"no {package}: `cargo xtask test` installs it"
    wanted = json.loads((serving.REPOSITORY / "tests/js/package.json").read_text())
    installed = json.loads(package.read_text())["version"]
    assert installed == wanted["dependencies"]["modal"], "`cargo xtask test` installs the other"
    return program


@pytest.mark.parametrize("part", ["life", "exec", "streams", "files", "watch", "snapshot"])
def test_the_javascript_client_works(warm, node, part):
    """The base image is there (`warm`), so none of it takes long."""
    done = warm.run(node, str(SCRIPT), part, timeout=170, PALISADE_JS=str(CLIENT))
    assert done.returncode == 0, done.stdout + done.stderr
