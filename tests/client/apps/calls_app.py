"""Functions for the tests of calls."""

import asyncio
import os
import threading
import time

import modal

app = modal.App("calls-app")


def few():
    """The settings of most functions here; one decorator of the client serves one function."""
    return app.function(block_network=True, max_containers=2, timeout=120)


class OwnError(Exception):
    """An exception that only the user's code knows."""

    def __init__(self, text: str, number: int):
        super().__init__(text, number)
        self.number = number


@few()
def square(x: int) -> int:
    """Squares."""
    return x * x


@few()
def add(a: int, b: int = 0, *, c: int = 0) -> int:
    """Adds."""
    return a + b + c


@few()
async def square_later(x: int) -> int:
    """Squares, asynchronously."""
    await asyncio.sleep(0.01)
    return x * x


@few()
def count(n: int):
    """Yields numbers; complains about negative ones."""
    for number in range(abs(n)):
        yield number
    if n < 0:
        raise OwnError("after the last", n)


@few()
async def count_later(n: int):
    """Yields numbers, asynchronously."""
    for number in range(n):
        await asyncio.sleep(0)
        yield number


@few()
def fail_if_odd(x: int) -> int:
    """Fails for odd numbers."""
    if x % 2:
        raise OwnError("odd", x)
    return x


@few()
def measure(data: bytes) -> tuple[int, str]:
    """The size and the digest of what arrived."""
    import hashlib

    return len(data), hashlib.sha256(data).hexdigest()


@few()
def produce(size: int) -> bytes:
    """So many bytes."""
    return os.urandom(1) * size


@few()
def nap(seconds: float, value: int = 0) -> int:
    """Sleeps, then answers."""
    time.sleep(seconds)
    return value


@few()
def where() -> tuple[str, int]:
    """Which container, and which process."""
    return os.environ.get("MODAL_TASK_ID", ""), os.getpid()


attempts_file = "/tmp/attempts"


def _attempt() -> int:
    with open(attempts_file, "a") as file:
        file.write("x")
    return os.path.getsize(attempts_file)


@app.function(block_network=True, max_containers=1, retries=2)
def succeed_third() -> int:
    """Fails twice; the container stays and counts."""
    attempt = _attempt()
    if attempt < 3:
        raise RuntimeError(f"attempt {attempt}")
    return attempt


@app.function(
    block_network=True,
    max_containers=1,
    retries=modal.Retries(max_retries=1, initial_delay=0.0),
)
def never_succeed() -> None:
    """Fails always, and says how often."""
    raise RuntimeError(f"attempt {_attempt()}")


@app.function(block_network=True, max_containers=1)
@modal.concurrent(max_inputs=8)
async def together(seconds: float) -> float:
    """Sleeps beside others in the same container."""
    await asyncio.sleep(seconds)
    return seconds


@app.function(block_network=True)
def outer(x: int) -> int:
    """Calls another function from inside a container."""
    return square.remote(x) + 1


@app.function(block_network=True)
def unpicklable():
    """Returns what cannot be sent."""
    return threading.Lock()


@app.function(block_network=True, env={"SET": "by env"})
def environment(name: str) -> str | None:
    """One variable."""
    return os.environ.get(name)


@app.function(block_network=True, secrets=[modal.Secret.from_dict({"TOKEN": "from a secret"})])
def secret() -> str:
    """What a secret brings."""
    return os.environ["TOKEN"]
