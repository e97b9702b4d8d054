"""Functions for the tests of `modal run`."""

import sys
import time

import modal

app = modal.App("run-app")


@app.function()
def add(a: int, b: int) -> int:
    """Adds, aloud."""
    print(f"{a} + {b} = {a + b}")
    return a + b


@app.function()
def print_lines() -> None:
    """Prints many lines at once."""
    for number in range(200):
        print(f"line {number}")
    print("the very last words", end="")


@app.function()
def print_and_wait() -> None:
    """Prints, waits, prints."""
    print("before the wait")
    time.sleep(4)
    print("after the wait")


@app.function()
def print_error() -> None:
    """Prints to standard error."""
    print("on standard error", file=sys.stderr)


def divide(zero: int) -> float:
    """Fails."""
    return 1 / zero


@app.function()
def fail_deep() -> float:
    """Fails below itself."""
    return divide(0)


@app.function()
def die() -> None:
    """Ends the process without an answer."""
    import os

    os._exit(3)


@app.local_entrypoint()
def leave() -> None:
    """Ends the local part with a code."""
    sys.exit(7)
