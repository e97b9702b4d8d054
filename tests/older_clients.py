"""Older releases of the official client, each in an environment of its own."""

import subprocess

import serving

# What `cargo xtask test` makes: xtask/src/venv.rs.
CLIENTS = serving.TARGET / "older-clients"
VERSIONS = (serving.REPOSITORY / "tests/older/versions.txt").read_text().split()


def python_of(version: str) -> str:
    """The interpreter that has a release of the client."""
    python = CLIENTS / version / "bin/python"
    assert python.exists(), f"no {python}: run `cargo xtask test`, which makes it"
    words = [python, "-c", "import modal; print(modal.__version__)"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == version
    return str(python)
