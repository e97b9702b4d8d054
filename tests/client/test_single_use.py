"""Single-use containers: one input each, and nothing of one reaches another."""

import pytest

import serving

pytestmark = pytest.mark.usefixtures("warm")

INPUTS = 200


@pytest.fixture(scope="module")
def seen(modal, warm):
    import single_app

    with single_app.app.run():
        results = list(single_app.look.map(range(INPUTS)))
        # Children that were left behind do not keep a container alive.
        serving.eventually(
            lambda: serving.nothing_runs(warm), 15, "all containers are gone with their children"
        )
    return results


@pytest.mark.timeout(900)
def test_results_come_in_order(seen):
    assert [one["number"] for one in seen] == list(range(INPUTS))


def test_no_container_finds_traces_of_another(seen):
    assert [one["number"] for one in seen if one["traces"] or one["module"]] == []


def test_no_container_sees_processes_of_another(seen):
    for one in seen:
        assert not [command for command in one["commands"] if "sleep" in command], one
        assert len(one["commands"]) <= 3, one


@pytest.mark.parametrize("source", ["python_random", "uuid", "urandom"])
def test_randomness_never_repeats(seen, source):
    assert len({one[source] for one in seen}) == INPUTS


def test_hashes_are_salted_anew(seen):
    assert len({one["hash"] for one in seen}) > INPUTS // 2
