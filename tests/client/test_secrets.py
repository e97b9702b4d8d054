"""Secrets as the official client uses them, from outside containers."""

import os
import subprocess
import uuid

import pytest

import serving


@pytest.fixture
def name():
    """A name that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}"


def test_named_secrets(modal, name):
    with pytest.raises(modal.exception.NotFoundError):
        modal.Secret.from_name(name).hydrate()
    modal.Secret.objects.create(name, {"A": "1", "B": "2"})
    try:
        with pytest.raises(modal.exception.AlreadyExistsError):
            modal.Secret.objects.create(name, {"C": "3"})
        modal.Secret.objects.create(name, {"C": "3"}, allow_existing=True)
        secret = modal.Secret.from_name(name, required_keys=["A", "B"])
        secret.hydrate()
        assert secret.info().name == name
        with pytest.raises(modal.exception.NotFoundError, match="C"):
            modal.Secret.from_name(name, required_keys=["A", "C"]).hydrate()
        secret.update({"A": "4", "C": "5"})
        modal.Secret.from_name(name, required_keys=["A", "B", "C"]).hydrate()
    finally:
        modal.Secret.objects.delete(name)
    with pytest.raises(modal.exception.NotFoundError):
        modal.Secret.from_name(name).hydrate()
    with pytest.raises(modal.exception.NotFoundError):
        modal.Secret.objects.delete(name)
    modal.Secret.objects.delete(name, allow_missing=True)


def test_what_no_program_can_be_given_is_refused(modal, name):
    for env in ({"A=B": "x"}, {"": "x"}, {"A": "x\0"}, {"A": "x" * (128 << 10)}):
        with pytest.raises(modal.exception.InvalidError, match="env_dict"):
            modal.Secret.objects.create(name, env)
    modal.Secret.objects.delete(name, allow_missing=True)


def test_unnamed_secrets(modal):
    secret = modal.Secret.from_dict({"A": "1", "B": None})
    secret.hydrate()
    assert secret.object_id.startswith("st-")
    assert secret.object_id not in [one.object_id for one in modal.Secret.objects.list()]


def test_objects(modal, name):
    modal.Secret.objects.create(name, {"A": "hidden"})
    try:
        listed = [one for one in modal.Secret.objects.list() if one.name == name]
        assert len(listed) == 1
        command = [serving.MODAL, "secret", "list"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
        assert done.returncode == 0 and name in done.stdout.replace("\n", ""), done.stdout
        assert "hidden" not in done.stdout
        assert modal.Secret.objects.list(created_before="2020-01-01") == []
    finally:
        modal.Secret.objects.delete(name)
