"""Times sandboxes of the official client, on the server that the environment names. Prints the
figures as JSON."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import modal

CREATES = 40
EXECS = 200
# At a time; each makes as many sandboxes as are at once alive then, but at least these.
WIDTHS = (1, 8, 32)
PER_WIDTH_MIN = 32


def quantile(times, share):
    """The value below which the share of `times` lies."""
    times = sorted(times)
    return times[min(len(times) - 1, int(len(times) * share))]


def main():
    """Measures and prints."""
    app = modal.App.lookup("bench-sandboxes", create_if_missing=True)
    options = {"app": app, "image": modal.Image.debian_slim(), "block_network": True,
               "cpu": 0.01, "memory": 32}

    def first_output(_=None):
        """From the call to create until the first exec's output is there, in milliseconds."""
        start = time.perf_counter()
        made = modal.Sandbox.create(**options)
        created = time.perf_counter()
        process = made.exec("echo", "there")
        assert process.stdout.read() == "there\n"
        done = time.perf_counter()
        made.terminate()
        return (created - start) * 1_000, (done - start) * 1_000

    def entrypoint(_=None):
        """The same for a sandbox whose own program prints."""
        start = time.perf_counter()
        made = modal.Sandbox.create("echo", "there", **options)
        assert made.stdout.read() == "there\n"
        done = time.perf_counter()
        made.terminate()
        return (done - start) * 1_000

    for _ in range(3):
        first_output()
    figures = {}
    created, first = zip(*[first_output() for _ in range(CREATES)], strict=True)
    figures["create_p50_ms"], figures["create_p99_ms"] = quantile(created, 0.5), quantile(
        created, 0.99)
    figures["first_p50_ms"], figures["first_p99_ms"] = quantile(first, 0.5), quantile(first, 0.99)
    own = [entrypoint() for _ in range(CREATES)]
    figures["entrypoint_p50_ms"] = quantile(own, 0.5)
    figures["entrypoint_p99_ms"] = quantile(own, 0.99)

    made = modal.Sandbox.create(**options)
    taken = []
    for _ in range(EXECS):
        start = time.perf_counter()
        process = made.exec("echo", "there")
        assert process.stdout.read() == "there\n"
        assert process.wait() == 0
        taken.append((time.perf_counter() - start) * 1_000)
    made.terminate()
    figures["exec_p50_ms"], figures["exec_p99_ms"] = quantile(taken, 0.5), quantile(taken, 0.99)

    for width in WIDTHS:
        count = max(width, PER_WIDTH_MIN)
        with ThreadPoolExecutor(width) as pool:
            start = time.perf_counter()
            alive = list(pool.map(lambda _: modal.Sandbox.create(**options), range(count)))
            figures[f"creates_{width}_per_s"] = count / (time.perf_counter() - start)
            list(pool.map(lambda one: one.terminate(), alive))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
