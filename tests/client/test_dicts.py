"""Dicts as the official client uses them."""

import os
import subprocess
import sys
import time
import uuid

import pytest

import serving


@pytest.fixture
def d(modal):
    """A dict that lives as long as its test."""
    with modal.Dict.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def name():
    """A name that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}"


def test_reading_and_writing(d):
    d["a"] = 1
    d[2] = "two"
    d[("t", 3)] = None
    assert [d["a"], d[2], d[("t", 3)]] == [1, "two", None]
    d["a"] = 4
    assert d.get("a") == 4
    assert d.get("missing") is None
    assert d.get("missing", "default") == "default"
    with pytest.raises(KeyError):
        d["missing"]
    assert "a" in d and "missing" not in d
    assert d.contains(2) and not d.contains("2")
    assert d.len() == 3


def test_put_says_whether_it_wrote(d):
    assert d.put("a", 1) is True
    assert d.put("a", 2) is True
    assert d.put("a", 3, skip_if_exists=True) is False
    assert d.put("b", 4, skip_if_exists=True) is True
    assert [d["a"], d["b"]] == [2, 4]


def test_taking_out(d):
    d.update({"a": 1, "b": 2}, c=3)
    assert d.pop("a") == 1
    with pytest.raises(KeyError):
        d.pop("a")
    assert d.pop("a", "default") == "default"
    del d["b"]
    with pytest.raises(KeyError):
        del d["b"]
    assert list(d.items()) == [("c", 3)]
    d.clear()
    assert d.len() == 0


def test_contents(d):
    expected = {n: "v" * n for n in range(1_500)}
    d.update(expected)
    assert d.len() == 1_500
    assert dict(d.items()) == expected
    assert sorted(d.keys()) == sorted(expected)
    assert sorted(d.values()) == sorted(expected.values())


def test_large_values(modal, d):
    large = os.urandom(30 << 20)
    d["large"] = large
    assert d["large"] == large
    assert next(iter(d.values())) == large
    with pytest.raises(modal.exception.InvalidError):
        d["larger"] = b"x" * (97 << 20)
    with pytest.raises(modal.exception.InvalidError, match="10001 entries"):
        d.update({n: 0 for n in range(10_001)})


def test_named_dicts(modal, name):
    with pytest.raises(modal.exception.NotFoundError):
        modal.Dict.from_name(name).hydrate()
    made = modal.Dict.from_name(name, create_if_missing=True)
    made["a"] = 1
    found = modal.Dict.from_name(name)
    assert found["a"] == 1
    assert found.object_id == made.object_id
    assert found.info().name == name
    assert modal.Dict.from_id(made.object_id)["a"] == 1
    modal.Dict.objects.delete(name)
    with pytest.raises(modal.exception.NotFoundError):
        made["a"]
    with pytest.raises(modal.exception.NotFoundError):
        modal.Dict.objects.delete(name)
    modal.Dict.objects.delete(name, allow_missing=True)
    again = modal.Dict.from_name(name, create_if_missing=True)
    assert again.len() == 0 and again.object_id != made.object_id
    modal.Dict.objects.delete(name)


def test_objects(modal, name):
    modal.Dict.objects.create(name)
    with pytest.raises(modal.exception.AlreadyExistsError):
        modal.Dict.objects.create(name)
    modal.Dict.objects.create(name, allow_existing=True)
    assert name in [one.name for one in modal.Dict.objects.list()]
    assert modal.Dict.objects.list(created_before="2020-01-01") == []
    modal.Dict.from_name(name)["key"] = "value"
    for command in (["list"], ["get", name, "key"], ["items", name]):
        command = [serving.MODAL, "dict", *command]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "value" in done.stdout
    modal.Dict.objects.delete(name)
    assert name not in [one.name for one in modal.Dict.objects.list()]


def test_an_ephemeral_dict_says_that_it_lives(modal):
    with modal.Dict.ephemeral(_heartbeat_sleep=0.1) as short_lived:
        time.sleep(0.5)
        short_lived["a"] = 1
        assert short_lived["a"] == 1


CLIENT = """
import modal, sys
kept = modal.Dict.from_name("kept", create_if_missing=True)
print({command}, flush=True)
"""


def in_client(server: serving.Server, command: str) -> str:
    """What one command of a client prints, in a process of its own."""
    done = server.run(sys.executable, "-c", CLIENT.format(command=command), timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_what_was_written_survives_a_kill_of_the_server(fresh_server):
    server = fresh_server(images=False)
    in_client(server, "kept.update({n: n * n for n in range(100)})")
    assert in_client(server, "kept.pop(7)") == "49"
    server.restart(kill=True)
    left = {n: n * n for n in range(100) if n != 7}
    assert in_client(server, "dict(sorted(kept.items()))") == str(left)
