"""Queues, dicts and secrets from inside containers that are not restricted."""

import uuid

import pytest

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture(scope="module")
def app(modal, warm):
    import objects_app

    with objects_app.app.run():
        yield objects_app


def test_items_go_in_and_out_of_a_container(app, modal):
    with modal.Queue.ephemeral() as inbox, modal.Queue.ephemeral() as outbox:
        call = app.double.spawn(inbox, outbox)
        for n in range(20):
            inbox.put(n)
            assert outbox.get(timeout=60) == n * 2
        inbox.put(None)
        assert call.get(timeout=60) == 20


def test_a_container_finds_a_dict_by_its_name(app, modal):
    name = f"test-{uuid.uuid4().hex[:12]}"
    counts = modal.Dict.from_name(name, create_if_missing=True)
    try:
        counts["salt"] = 5
        assert app.count.remote(name, ["salt", "pepper", "pepper"]) == 2
        assert dict(counts.items()) == {"salt": 6, "pepper": 2}
    finally:
        modal.Dict.objects.delete(name)


def test_a_container_is_given_its_secrets(app):
    assert app.flavour.remote() == "salt"
