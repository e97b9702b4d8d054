"""Functions that do not end by themselves. `main` prints one JSON line for each."""

import json
import os
import subprocess
import sys
import time

import modal

app = modal.App("timeouts-app")

TIMEOUT_SECONDS = 3


def _sleep() -> None:
    time.sleep(3_600)


def _busy() -> None:
    while True:
        pass


def _child() -> None:
    # Twice removed, in a session of its own.
    script = "trap '' TERM INT HUP; (setsid sleep 3599 &); sleep 3598"
    subprocess.run(["sh", "-c", script], start_new_session=True)


def _ignore() -> None:
    import signal

    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    deadline = time.monotonic() + 3_600
    while time.monotonic() < deadline:
        time.sleep(1)


def _stuck() -> None:
    import re

    # One call into C that holds the interpreter's lock for ever.
    re.match(r"(a+)+$", "a" * 64 + "b")


WAYS = {"sleep": _sleep, "busy": _busy, "child": _child, "ignore": _ignore, "stuck": _stuck}


@app.function(timeout=TIMEOUT_SECONDS, startup_timeout=60, block_network=True)
def hang(way: str) -> None:
    """Says when it begins, then never returns."""
    print(f"began {way} {time.time()}", flush=True)
    WAYS[way]()


@app.function(timeout=TIMEOUT_SECONDS, startup_timeout=60, block_network=True, retries=0)
def quick() -> int:
    """Stays below its timeout, but not by much."""
    time.sleep(TIMEOUT_SECONDS - 1)
    return os.getpid()


@app.local_entrypoint()
def main() -> None:
    """Calls all at once, and prints how each ended and when."""
    from concurrent.futures import ThreadPoolExecutor

    def one(way: str) -> dict:
        try:
            answer = hang.remote(way)
        except Exception as error:
            kind, text = type(error).__name__, str(error)
        else:
            kind, text = "no error", repr(answer)
        return {"way": way, "kind": kind, "text": text, "ended": time.time()}

    with ThreadPoolExecutor(len(WAYS)) as pool:
        for ended in pool.map(one, WAYS):
            print(json.dumps(ended), file=sys.stderr)
