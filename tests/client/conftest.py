"""Real registries with a Python image, and a server that knows them."""

import shutil

import pytest

import serving
from image_kit import build
from registry import Registry


@pytest.fixture(scope="session")
def exported(warm, modal, tmp_path_factory):
    """A base image with Python, as an OCI layout."""
    image_id = build(modal, modal.Image.from_registry("python:3.11-slim-bookworm"))
    folder = tmp_path_factory.mktemp("export") / "python"
    warm.palisade("image", "export", folder, image_id)
    return folder


@pytest.fixture(scope="module")
def open_registry(exported, tmp_path_factory):
    """A registry for everybody, with a Python image."""
    registry = Registry(tmp_path_factory.mktemp("registry") / "open")
    registry.push(exported, "team/python:3.11")
    yield registry
    registry.stop()


@pytest.fixture(scope="module")
def closed_registry(exported, tmp_path_factory):
    """A registry that wants a password."""
    registry = Registry(tmp_path_factory.mktemp("registry") / "closed", closed=True)
    registry.push(exported, "team/python:3.11")
    yield registry
    registry.stop()


@pytest.fixture(scope="module")
def registry_server(open_registry, server, tmp_path_factory):
    """A server that has pulled nothing, and asks the open registry instead of two others."""
    data = server.data_dir.parent / "registry-server"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    serving.share_images(server.data_dir, data)
    mirror = f"=http://{open_registry.host}"
    flags = ["--registry-mirror", f"docker.io{mirror}", "--registry-mirror", f"ghcr.io{mirror}"]
    log = tmp_path_factory.mktemp("log") / "server.log"
    made = serving.Server(data, log, flags).start()
    yield made
    assert made.stop() == 0, made.last_words()
    shutil.rmtree(data)
