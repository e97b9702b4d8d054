"""Queues as the official client uses them."""

import asyncio
import concurrent.futures
import os
import queue as stdlib
import subprocess
import sys
import threading
import time
import uuid

import pytest

import serving


@pytest.fixture
def q(modal):
    """A queue that lives as long as its test."""
    with modal.Queue.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def name():
    """A name that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}"


def test_items_leave_in_the_order_in_which_they_came(q):
    q.put("a")
    q.put_many([1, None, {"k": [b"v"]}])
    assert q.len() == 4
    assert q.get() == "a"
    assert q.get_many(2) == [1, None]
    assert q.get_many(9) == [{"k": [b"v"]}]
    assert q.get(block=False) is None
    assert q.get_many(5, block=False) == []


def test_partitions_are_lists_of_their_own(modal, q):
    q.put("default")
    q.put_many(["x", "y"], partition="p")
    q.put("z", partition="ü" * 32)
    assert [q.len(), q.len(partition="p"), q.len(total=True)] == [1, 2, 4]
    assert q.get(partition="p") == "x"
    assert q.get(partition="ü" * 32) == "z"
    assert q.get() == "default"
    assert q.get(partition="p") == "y"
    with pytest.raises(modal.exception.InvalidError):
        q.put("x", partition="p" * 65)


def test_a_partition_ends_after_its_time(modal, q):
    q.put("short", partition="p", partition_ttl=1)
    q.put("long", partition="q", partition_ttl=60)
    q.put("default")
    assert q.len(total=True) == 3
    time.sleep(1.2)
    assert q.get(block=False, partition="p") is None
    assert list(q.iterate(partition="p")) == []
    assert q.len(total=True) == 2
    q.put("again", partition="p")
    assert q.get(partition="p") == "again"
    with pytest.raises(modal.exception.InvalidError, match="partition_ttl"):
        q.put("x", partition_ttl=24 * 3600 + 1)


def test_waiting_ends_with_an_item(q):
    timer = threading.Timer(0.5, lambda: q.put_many(["a", "b", "c"]))
    timer.start()
    began = time.monotonic()
    assert q.get(timeout=30) == "a"
    assert 0.4 < time.monotonic() - began < 5
    assert q.get_many(5, timeout=30) == ["b", "c"]
    timer.join()


def test_waiting_ends_with_its_time(q):
    began = time.monotonic()
    with pytest.raises(stdlib.Empty):
        q.get(timeout=0.5)
    with pytest.raises(stdlib.Empty):
        q.get_many(3, timeout=0.5)
    assert 1.0 <= time.monotonic() - began < 10


def test_iterating_takes_nothing(q):
    q.put_many(list(range(250)))
    q.put("other", partition="p")
    assert list(q.iterate()) == list(range(250))
    assert list(q.iterate(partition="p")) == ["other"]
    assert q.len() == 250
    timer = threading.Timer(0.3, lambda: q.put("late", partition="p"))
    timer.start()
    assert list(q.iterate(partition="p", item_poll_timeout=2)) == ["other", "late"]
    timer.join()


def test_clearing(q):
    q.put_many([1, 2])
    q.put_many([3], partition="p")
    q.put_many([4], partition="q")
    q.clear(partition="p")
    assert [q.len(), q.len(partition="p"), q.len(partition="q")] == [2, 0, 1]
    q.clear(all=True)
    assert q.len(total=True) == 0
    q.put(5)
    q.clear()
    assert q.get(block=False) is None


def test_a_full_partition_makes_puts_wait_or_fail(q):
    q.put_many(list(range(5_000)))
    with pytest.raises(stdlib.Full):
        q.put("one more", block=False)
    began = time.monotonic()
    with pytest.raises(stdlib.Full):
        q.put_many(["one", "more"], timeout=3)
    assert time.monotonic() - began < 10
    q.put("elsewhere", partition="p", block=False)
    timer = threading.Timer(0.5, lambda: q.get_many(10))
    timer.start()
    q.put("one more", timeout=20)
    timer.join()
    assert q.len() == 4_991
    assert q.get_many(5_000) == [*range(10, 5_000), "one more"]


def test_what_never_fits_is_refused_at_once(modal, q):
    began = time.monotonic()
    with pytest.raises(modal.exception.InvalidError, match="1048576"):
        q.put(b"x" * (1 << 20))
    with pytest.raises(modal.exception.InvalidError, match="never fit"):
        q.put_many([0] * 5_001)
    assert time.monotonic() - began < 10
    assert q.len() == 0


def test_named_queues(modal, name):
    with pytest.raises(modal.exception.NotFoundError):
        modal.Queue.from_name(name).hydrate()
    made = modal.Queue.from_name(name, create_if_missing=True)
    made.put("a")
    found = modal.Queue.from_name(name)
    assert found.get() == "a"
    assert found.object_id == made.object_id
    assert found.info().name == name
    by_id = modal.Queue.from_id(made.object_id)
    by_id.put("b")
    assert made.get() == "b"
    modal.Queue.objects.delete(name)
    with pytest.raises(modal.exception.NotFoundError):
        made.put("c")
    with pytest.raises(modal.exception.NotFoundError):
        modal.Queue.from_name(name).hydrate()
    with pytest.raises(modal.exception.NotFoundError):
        modal.Queue.objects.delete(name)
    modal.Queue.objects.delete(name, allow_missing=True)


def test_objects(modal, name):
    names = [f"{name}-{n:03}" for n in range(120)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(modal.Queue.objects.create, names))
    try:
        with pytest.raises(modal.exception.AlreadyExistsError):
            modal.Queue.objects.create(names[0])
        modal.Queue.objects.create(names[0], allow_existing=True)
        listed = [one.name for one in modal.Queue.objects.list()]
        assert set(names) <= set(listed) and len(listed) == len(set(listed))
        dates = [one.info().created_at for one in modal.Queue.objects.list(max_objects=20)]
        assert len(dates) == 20 and dates == sorted(dates, reverse=True)
        assert modal.Queue.objects.list(created_before="2020-01-01") == []
        modal.Queue.from_name(names[0]).put_many([1, 2, 3])
        command = [serving.MODAL, "queue", "list", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
        assert done.returncode == 0 and names[0] in done.stdout, done.stdout + done.stderr
    finally:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(modal.Queue.objects.delete, names))


def test_many_at_once_lose_nothing(q):
    count, received = 400, []

    async def take(n: int) -> None:
        # Every second one gives up after a while, at some moment, and asks again.
        while len(received) < count:
            patience = 0.02 * (n % 7 + 1) if n % 2 else 5
            try:
                received.append(await q.get.aio(timeout=patience))
            except stdlib.Empty:
                await asyncio.sleep(0)

    async def put(n: int) -> None:
        for item in range(n, count, 4):
            await q.put.aio(item)

    async def everything() -> None:
        await asyncio.gather(*[take(n) for n in range(12)], *[put(n) for n in range(4)])

    asyncio.run(everything())
    assert sorted(received) == list(range(count))


WAITER = """
import modal, sys
queue = modal.Queue.from_id(sys.argv[1])
queue.hydrate()
print("waiting", flush=True)
queue.get()
"""


def test_a_caller_that_dies_while_it_waits_takes_nothing(q):
    waiter = subprocess.Popen(
        [sys.executable, "-c", WAITER, q.object_id],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    assert waiter.stdout.readline() == "waiting\n"
    time.sleep(0.5)
    waiter.kill()
    waiter.communicate()
    time.sleep(0.3)
    q.put("a")
    assert q.get(timeout=10) == "a"


def test_a_caller_that_gives_up_while_it_waits_takes_nothing(q):
    async def give_up() -> None:
        for _ in range(5):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(q.get.aio(), timeout=0.2)
        await asyncio.sleep(0.3)
        await q.put.aio("a")
        assert await q.get.aio(timeout=10) == "a"

    asyncio.run(give_up())


def test_an_ephemeral_queue_says_that_it_lives(modal):
    with modal.Queue.ephemeral(_heartbeat_sleep=0.1) as short_lived:
        time.sleep(0.5)
        short_lived.put(1)
        assert short_lived.get() == 1


CLIENT = """
import modal, sys
queue = modal.Queue.from_name("kept", create_if_missing=True)
print({command}, flush=True)
"""


def in_client(server: serving.Server, command: str) -> str:
    """What one command of a client prints, in a process of its own."""
    done = server.run(sys.executable, "-c", CLIENT.format(command=command), timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_what_was_put_survives_a_kill_of_the_server(fresh_server):
    server = fresh_server(images=False)
    in_client(server, "queue.put_many(list(range(100)))")
    assert in_client(server, "queue.get_many(10)") == str(list(range(10)))
    server.restart(kill=True)
    assert in_client(server, "queue.get_many(1000)") == str(list(range(10, 100)))
    assert in_client(server, "queue.len(total=True)") == "0"
