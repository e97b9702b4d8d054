"""Timeouts end whatever runs, soon, with everything that it started."""

import json
import re

import pytest

import serving

pytestmark = pytest.mark.usefixtures("warm")

GRACE_SECONDS = 3


@pytest.fixture(scope="module")
def hung(warm):
    """The client's output of five functions that hang at the same time."""
    done = warm.run(serving.MODAL, "run", "tests/client/apps/timeouts_app.py")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_five_at_once_end_within_their_time(hung):
    import timeouts_app

    began = {way: float(at) for way, at in re.findall(r"began (\w+) ([\d.]+)", hung.stdout)}
    lines = [line for line in hung.stderr.splitlines() if line.startswith('{"way"')]
    ended = {one["way"]: one for one in map(json.loads, lines)}
    assert set(began) == set(ended) == set(timeouts_app.WAYS)
    for way, end in ended.items():
        assert end["kind"] == "FunctionTimeoutError", end
        took = end["ended"] - began[way]
        limit = timeouts_app.TIMEOUT_SECONDS
        assert limit - 0.5 < took < limit + GRACE_SECONDS, (way, took)


def test_nothing_is_left_of_them(hung, warm):
    serving.eventually(lambda: serving.nothing_runs(warm), 10, "processes and groups are gone")


def test_the_error_says_the_timeout(hung):
    assert re.search(r"timeout of 3 s|3 s", hung.stderr)


def test_below_the_timeout_nothing_happens(modal, warm):
    import timeouts_app

    with timeouts_app.app.run():
        assert timeouts_app.quick.remote() > 0


def test_another_container_takes_the_next_input(modal, warm):
    import timeouts_app

    with timeouts_app.app.run():
        with pytest.raises(modal.exception.FunctionTimeoutError):
            timeouts_app.hang.remote("sleep")
        assert timeouts_app.quick.remote() > 0
