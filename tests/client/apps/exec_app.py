"""Functions whose containers stay for a while, to run commands in them: each in its own app."""

import os
import time
from pathlib import Path

import modal

open_app = modal.App("exec-open")
closed_app = modal.App("exec-closed")
stopped_app = modal.App("exec-stopped")
single_app = modal.App("exec-single")


def look() -> list[str]:
    """Leaves a trace, and tells which variables there are."""
    Path("/tmp/mine").write_text("of the function\n")
    print("said by the function")
    return sorted(os.environ)


@open_app.function(secrets=[modal.Secret.from_dict({"KEPT": "secret-value"})], timeout=300)
def stay(seconds: float) -> list[str]:
    """Stays."""
    names = look()
    time.sleep(seconds)
    return names


def restricted(app, **more):
    """The settings of untrusted code."""
    return app.function(restrict_modal_access=True, block_network=True, timeout=300, **more)


@restricted(closed_app)
def stay_closed(seconds: float) -> list[str]:
    """Stays, and reaches nothing."""
    names = look()
    time.sleep(seconds)
    return names


@restricted(stopped_app)
def stay_until_stopped() -> None:
    """Stays."""
    look()
    time.sleep(250)


@restricted(single_app, single_use_containers=True)
def stay_once() -> None:
    """Stays until somebody writes a file, and ends with its container."""
    look()
    while not Path("/tmp/over").exists():
        time.sleep(0.1)
