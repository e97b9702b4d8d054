"""Calling functions in every way that the client has."""

import asyncio
import hashlib
import time

import pytest

import serving

pytestmark = pytest.mark.usefixtures("warm")

MIB = 1 << 20


@pytest.fixture(scope="module")
def app(modal, warm):
    import calls_app

    with calls_app.app.run():
        yield calls_app


def test_remote(app):
    assert app.square.remote(7) == 49
    assert app.add.remote(1, b=2, c=3) == 6


def test_a_container_is_used_again(app):
    assert app.where.remote() == app.where.remote()


def test_remote_from_async_code(app):
    async def both():
        return await asyncio.gather(app.square.remote.aio(3), app.square_later.remote.aio(4))

    assert asyncio.run(both()) == [9, 16]


def test_generators(app):
    assert list(app.count.remote_gen(5)) == [0, 1, 2, 3, 4]
    assert list(app.count.remote_gen(0)) == []
    assert list(app.count_later.remote_gen(300)) == list(range(300))


def test_a_generator_that_fails_gives_what_it_had_first(app):
    got = []
    with pytest.raises(app.OwnError, match="after the last"):
        for number in app.count.remote_gen(-3):
            got.append(number)
    assert got == [0, 1, 2]


def test_exceptions_keep_their_type_values_and_place(app):
    import traceback

    with pytest.raises(app.OwnError) as caught:
        app.fail_if_odd.remote(3)
    assert caught.value.number == 3
    assert caught.value.args == ("odd", 3)
    text = "".join(traceback.format_exception(caught.value))
    assert "fail_if_odd" in text


def test_map_keeps_the_order(app):
    assert list(app.square.map(range(100))) == [x * x for x in range(100)]


def test_map_of_two_iterables(app):
    assert list(app.add.map([1, 2, 3], [10, 20, 30], kwargs={"c": 100})) == [111, 122, 133]


def test_unordered_map(app):
    results = list(app.square.map(range(50), order_outputs=False))
    assert sorted(results) == [x * x for x in range(50)]


def test_unordered_map_gives_the_quick_first(app):
    naps = [(2.0, 1), (0.0, 2), (0.0, 3)]
    results = list(app.nap.starmap(naps, order_outputs=False))
    assert sorted(results) == [1, 2, 3]
    assert results[-1] == 1


def test_starmap_and_for_each(app):
    assert list(app.add.starmap([(1, 2), (3, 4)])) == [3, 7]
    assert app.square.for_each(range(5)) is None


def test_map_with_exceptions(app, modal):
    results = list(app.fail_if_odd.map(range(4), return_exceptions=True))
    assert results[0] == 0 and results[2] == 2
    assert isinstance(results[1], app.OwnError) and results[1].number == 1
    with pytest.raises(app.OwnError):
        list(app.fail_if_odd.map(range(4)))


@pytest.mark.timeout(300)
def test_two_thousand_inputs(app):
    results = list(app.square.map(range(2_000)))
    assert results == [x * x for x in range(2_000)]


def test_spawn_and_get(app, modal):
    call = app.nap.spawn(1.5, 42)
    with pytest.raises(TimeoutError):
        call.get(timeout=0)
    assert call.get(timeout=60) == 42
    # The result stays.
    assert call.get(timeout=0) == 42
    assert modal.FunctionCall.from_id(call.object_id).get(timeout=1) == 42


def test_spawned_exceptions_come_with_get(app):
    call = app.fail_if_odd.spawn(5)
    with pytest.raises(app.OwnError):
        call.get(timeout=60)


def test_gather(app, modal):
    calls = [app.square.spawn(x) for x in range(5)]
    assert modal.FunctionCall.gather(*calls) == [0, 1, 4, 9, 16]


def test_cancel_of_a_running_call(app, modal):
    call = app.nap.spawn(600)
    with pytest.raises(TimeoutError):
        call.get(timeout=3)
    started = time.monotonic()
    call.cancel()
    with pytest.raises(modal.exception.Error) as caught:
        call.get(timeout=30)
    assert not isinstance(caught.value, modal.exception.OutputExpiredError)
    assert time.monotonic() - started < 10
    # The container goes on with others.
    assert app.nap.remote(0, 7) == 7


def test_cancel_of_waiting_calls(app, modal):
    blocking = [app.nap.spawn(3) for _ in range(2)]
    waiting = app.nap.spawn(0, 1)
    waiting.cancel()
    with pytest.raises(modal.exception.Error):
        waiting.get(timeout=2)
    for call in blocking:
        assert call.get(timeout=60) == 0


def test_cancel_with_its_container(app, modal):
    call = app.nap.spawn(600)
    with pytest.raises(TimeoutError):
        call.get(timeout=3)
    call.cancel(terminate_containers=True)
    with pytest.raises(modal.exception.Error):
        call.get(timeout=30)
    assert app.nap.remote(0, 8) == 8


def test_retries_are_counted(app):
    assert app.succeed_third.remote() == 3


def test_retries_end(app):
    with pytest.raises(RuntimeError, match="attempt 2"):
        app.never_succeed.remote()


@pytest.mark.parametrize("size", [3 * MIB, 64 * MIB])
def test_big_arguments(app, size):
    data = bytes(range(256)) * (size // 256)
    assert app.measure.remote(data) == (size, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("size", [3 * MIB, 64 * MIB])
def test_big_results(app, size):
    result = app.produce.remote(size)
    assert len(result) == size
    assert len(set(result[:: 64 * 1024])) == 1


def test_big_results_of_spawned_calls(app):
    assert len(app.produce.spawn(100_000).get(timeout=60)) == 100_000


def test_inputs_share_a_container_if_it_says_so(app):
    app.together.remote(0)
    started = time.monotonic()
    assert list(app.together.map([1.0] * 8)) == [1.0] * 8
    assert time.monotonic() - started < 6


def test_a_function_calls_another(app):
    assert app.outer.remote(6) == 37


def test_environment_and_secrets(app):
    assert app.environment.remote("SET") == "by env"
    assert app.environment.remote("TOKEN") is None
    assert app.secret.remote() == "from a secret"


def test_a_result_that_cannot_be_sent_is_an_error(app):
    with pytest.raises(Exception, match="(?i)pickle|serializ"):
        app.unpicklable.remote()


def test_stopping_the_app_ends_its_containers(modal, warm):
    import timeouts_app

    with timeouts_app.app.run():
        call = timeouts_app.hang.spawn("sleep")
        serving.eventually(
            lambda: any(b"_container_entrypoint" in _command(pid)
                        for pid in serving.container_processes(warm)),
            20, "the container runs",
        )
    assert call.object_id.startswith("fc-")


def _command(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""
