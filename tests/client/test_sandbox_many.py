"""Many sandboxes at once: made in one burst, all at work, all gone without a trace."""

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import serving
from sandbox_kit import client_of, kernel_state, private_bytes, ran, supervisors

MANY = int(os.environ.get("PALISADE_SANDBOXES", "60"))
KILLED = 50
# One of so many has an open network.
OPEN_EACH = 10
ALLOWED = "earlier run|left behind|lost"


def quantile(times: list[float], share: float) -> float:
    times = sorted(times)
    return times[min(len(times) - 1, int(len(times) * share))]


def available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no MemAvailable")


@pytest.mark.timeout(900)
@pytest.mark.log_allows(ALLOWED)
def test_a_burst_of_sandboxes_each_answers_and_all_are_gone(fresh_server, monkeypatch, capsys):
    server = fresh_server()
    modal, client = client_of(server, monkeypatch)
    app = modal.App.lookup("many", create_if_missing=True, client=client)
    image = modal.Image.debian_slim()
    first = modal.Sandbox.create(app=app, image=image, client=client)
    first.terminate()
    serving.eventually(lambda: not supervisors(server), 20, "the first one is gone")
    before, memory = kernel_state(server), available_bytes()

    def create(number):
        start = time.perf_counter()
        # Some have an interface and rules of their own.
        made = modal.Sandbox.create(app=app, image=image, client=client, cpu=0.001, memory=16,
                                    block_network=number % OPEN_EACH > 0, timeout=1_800)
        return made, time.perf_counter() - start

    def answer(numbered):
        number, made = numbered
        start = time.perf_counter()
        assert ran(made, "echo", str(number)) == f"{number}\n"
        return time.perf_counter() - start

    with ThreadPoolExecutor(32) as pool:
        start = time.perf_counter()
        made, created = zip(*pool.map(create, range(MANY)), strict=True)
        took = time.perf_counter() - start
        each = (memory - available_bytes()) / MANY
        holders = [private_bytes(pid) for pid in supervisors(server)]
        assert len(holders) == MANY
        answered = list(pool.map(answer, enumerate(made)))
        assert len(list(modal.Sandbox.list(app_id=app.app_id, client=client))) == MANY
        list(pool.map(lambda one: one.terminate(), made))
    serving.eventually(lambda: not supervisors(server), 60, "all supervisors are gone")
    deadline = time.monotonic() + 30
    while (left := kernel_state(server)) != before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == before
    with capsys.disabled():
        print(f"\n{MANY} sandboxes in {took:.1f} s: create p50 {quantile(created, 0.5):.3f} s, "
              f"p99 {quantile(created, 0.99):.3f} s; exec p50 {quantile(answered, 0.5):.3f} s, "
              f"p99 {quantile(answered, 0.99):.3f} s; memory of an idle one {each / 2**20:.2f} "
              f"MiB, of that its supervisor {statistics.median(holders) / 2**20:.2f} MiB private")


@pytest.mark.timeout(600)
@pytest.mark.log_allows(ALLOWED)
def test_sandboxes_outlive_a_killed_server(fresh_server, monkeypatch):
    server = fresh_server()
    modal, client = client_of(server, monkeypatch)
    app = modal.App.lookup("outliving", create_if_missing=True, client=client)
    options = {"app": app, "image": modal.Image.debian_slim(), "client": client, "cpu": 0.001,
               "memory": 16, "block_network": True}

    def create(number):
        # The last one is to end by its deadline while no server is there.
        timeout = 25 if number == KILLED - 1 else 900
        made = modal.Sandbox.create(name=f"one-{number}", timeout=timeout, **options)
        ran(made, "sh", "-c", f"echo {number} > /mine")
        return made

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(create, range(KILLED)))
        start = time.monotonic()
        server.kill()
        time.sleep(2)
        server.start()

        def check(number):
            for found in (modal.Sandbox.from_id(made[number].object_id, client=client),
                          modal.Sandbox.from_name("outliving", f"one-{number}", client=client)):
                assert found.object_id == made[number].object_id
                assert ran(found, "cat", "/mine") == f"{number}\n"
            return found

        found = list(pool.map(check, range(KILLED - 1)))
        late = modal.Sandbox.from_id(made[-1].object_id, client=client)
        with pytest.raises(modal.exception.SandboxTimeoutError):
            late.wait()
        assert late.returncode == 124
        assert time.monotonic() - start < 60
        list(pool.map(lambda one: one.terminate(), found))
    for one in found[:3]:
        one.wait(raise_on_termination=False)
        assert one.returncode == 137
    serving.eventually(lambda: not supervisors(server), 30, "all supervisors are gone")
