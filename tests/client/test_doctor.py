"""`palisade doctor`: says what the machine offers, and leaves nothing behind."""

import json
import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
BINARY = os.environ.get("PALISADE_BIN", str(TARGET / "debug/palisade"))

KEYS = [
    "kernel", "root", "capabilities", "user_namespaces", "overlay", "seccomp", "proc", "cgroups",
    "open_files", "disk_space", "disk_limit", "network", "resolver", "base_images", "container",
    "fallbacks",
]  # fmt: skip


def doctor(data_dir, *options, prefix=(), **variables):
    """Runs it; it ends by itself in seconds."""
    return subprocess.run(
        [*prefix, BINARY, "doctor", "--data-dir", str(data_dir), *options],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def points(done):
    """The points of a report in JSON, by key."""
    return {point["key"]: point for point in json.loads(done.stdout)["points"]}


def left_behind(data_dir):
    """What a trial could leave: mounts, folders, control groups."""
    mounts = Path("/proc/self/mounts").read_text()
    groups = Path("/sys/fs/cgroup").glob("**/palisade/doctor-*")
    return "palisade-doctor" in mounts, list(data_dir.glob("*")), list(groups)


def test_functions_can_run_here(tmp_path):
    done = doctor(tmp_path, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["can_run"] is True and report["server_runs"] is False
    found = points(done)
    assert list(found) == KEYS
    assert found["container"]["state"] == "ok" and found["disk_limit"]["state"] != "missing"
    assert left_behind(tmp_path) == (False, [], [])


def test_text_ends_with_the_verdict(tmp_path):
    done = doctor(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("functions can run here")
    assert [line.split()[1] for line in lines if line[:1].strip()][: len(KEYS)] == KEYS


def test_a_missing_program_is_named_with_its_package(tmp_path):
    done = doctor(tmp_path, "--json", PATH="/nonexistent")
    assert done.returncode == 1
    assert json.loads(done.stdout)["can_run"] is False
    network = points(done)["network"]
    assert network["state"] == "missing" and "nftables" in network["remedy"]


def test_without_root_it_says_so_and_tries_nothing(tmp_path):
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]
    reached = subprocess.run([*nobody, BINARY, "--version"], capture_output=True)
    if reached.returncode != 0:
        pytest.skip("nobody may not reach the binary's folder")
    done = doctor(tmp_path, "--json", prefix=nobody)
    assert done.returncode == 1
    found = points(done)
    assert found["root"]["state"] == "missing" and "sudo" in found["root"]["remedy"]
    assert found["container"]["state"] == "unknown"


def test_what_a_killed_doctor_left_goes_with_the_next(tmp_path):
    for seconds in ("0.2", "0.4"):
        doctor(tmp_path, prefix=["timeout", "-s", "KILL", seconds])
    assert doctor(tmp_path).returncode == 0
    assert left_behind(tmp_path) == (False, [], [])
