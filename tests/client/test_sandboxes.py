"""The life of sandboxes as the official client sees it: made, found, listed, waited for, ended."""

import logging
import time
import uuid

import pytest
from modal_proto import api_pb2

import raw_client
from serving import eventually

pytestmark = [pytest.mark.usefixtures("warm"), pytest.mark.timeout(240)]


@pytest.fixture
def app(server, modal):
    """An app of its own, which takes its sandboxes along."""
    app = modal.App.lookup(f"boxes-{uuid.uuid4().hex[:8]}", create_if_missing=True)
    yield app
    stop(server, app)


def stop(server, app):
    """Ends an app."""
    source = api_pb2.APP_STOP_SOURCE_CLI
    request = api_pb2.AppStopRequest(app_id=app.app_id, source=source)
    raw_client.ask(server, "AppStop", request)


@pytest.fixture
def create(modal, app):
    """Creates a small sandbox in the app."""

    def create(*args, **options):
        options = {"app": app, "image": modal.Image.debian_slim(), "timeout": 60} | options
        return modal.Sandbox.create(*args, **options)

    return create


def ids(sandboxes) -> set[str]:
    return {sandbox.object_id for sandbox in sandboxes}


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_its_program_decides_the_code(create, script, code):
    sandbox = create("sh", "-c", script)
    sandbox.wait()
    assert (sandbox.returncode, sandbox.poll()) == (code, code)


def test_the_client_has_nothing_to_warn_of(create):
    """It warns of TLS that it cannot verify: on loopback its commands go without."""
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("modal-client").addHandler(handler)
    try:
        assert create().exec("echo", "well").stdout.read() == "well\n"
    finally:
        logging.getLogger("modal-client").removeHandler(handler)
    assert [line for line in said if "TLS" in line] == []


def test_it_ends_in_time(modal, create):
    sandbox = create("sleep", "100", timeout=2)
    began = time.monotonic()
    with pytest.raises(modal.exception.SandboxTimeoutError):
        sandbox.wait()
    assert 1 < time.monotonic() - began < 10
    assert sandbox.returncode == 124


def test_it_ends_when_it_is_idle(create):
    sandbox = create(idle_timeout=2)
    eventually(lambda: sandbox.poll() is not None, 20, "it lives though it is idle")
    assert sandbox.returncode == 124


def test_without_a_program_it_lives_until_it_is_terminated(modal, create):
    sandbox = create()
    assert sandbox.poll() is None
    began = time.monotonic()
    sandbox.terminate()
    assert time.monotonic() - began < 5
    assert sandbox.poll() == 137
    with pytest.raises(modal.exception.SandboxTerminatedError):
        sandbox.wait()
    sandbox.wait(raise_on_termination=False)
    sandbox.terminate()


def test_it_is_found_by_id_and_by_name(modal, app, create):
    name = f"one-{uuid.uuid4().hex[:8]}"
    sandbox = create(name=name)
    assert modal.Sandbox.from_id(sandbox.object_id).poll() is None
    assert modal.Sandbox.from_name(app.name, name).object_id == sandbox.object_id
    with pytest.raises(modal.exception.AlreadyExistsError, match=name):
        create(name=name)
    sandbox.terminate()
    with pytest.raises(modal.exception.NotFoundError):
        modal.Sandbox.from_name(app.name, name)
    found = modal.Sandbox.from_name(app.name, name, include_terminated=True)
    assert (found.object_id, found.poll()) == (sandbox.object_id, 137)
    again = create(name=name)
    assert modal.Sandbox.from_name(app.name, name).object_id == again.object_id
    for unknown in (sandbox.object_id[:-4] + "xxxx", "sb-" + "x" * 22, "sb-nothing"):
        with pytest.raises(modal.exception.NotFoundError, match="sandbox"):
            modal.Sandbox.from_id(unknown)


def test_lists_and_labels(modal, app, create):
    sandboxes = [create(tags={"n": str(n), "all": "yes"}) for n in range(3)]
    ended = create("true", tags={"n": "0"})
    ended.wait()
    assert ids(modal.Sandbox.list(app_id=app.app_id)) == ids(sandboxes)
    found = modal.Sandbox.list(app_id=app.app_id, tags={"n": "1", "all": "yes"})
    assert ids(found) == ids(sandboxes[1:2])
    assert not ids(modal.Sandbox.list(app_id=app.app_id, tags={"n": "1", "all": "no"}))
    sandboxes[2].set_tags({"other": "tag"})
    assert sandboxes[2].get_tags() == {"other": "tag"}
    found = modal.Sandbox.list(app_id=app.app_id, tags={"all": "yes"})
    assert ids(found) == ids(sandboxes[:2])
    with pytest.raises(modal.exception.InvalidError, match="tags"):
        sandboxes[0].set_tags({"x": "y" * 64})


def test_what_it_is_given(modal, create):
    named = f"named-{uuid.uuid4().hex[:8]}"
    modal.Secret.objects.create(named, {"A": "kept", "B": "kept", "C": "kept"})
    secrets = [modal.Secret.from_name(named), modal.Secret.from_dict({"B": "passed"})]
    try:
        sandbox = create(
            "sh", "-c", "echo $A $B $C $D $MODAL_SANDBOX_ID; pwd",
            secrets=secrets, env={"C": "env", "D": "env"}, workdir="/tmp",
        )
        sandbox.wait()
        words = f"kept passed env env {sandbox.object_id}\n/tmp\n"
        assert sandbox.stdout.read() == words
    finally:
        modal.Secret.objects.delete(named)


def test_its_app_takes_it_along(server, modal, app, create):
    sandbox = create()
    stop(server, app)
    eventually(lambda: sandbox.poll() == 137, 20, "it lives without its app")
    with pytest.raises(modal.exception.ConflictError, match="has ended"):
        create()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "."),
        ({"timeout": 24 * 3_600 + 1}, "timeout"),
        ({"idle_timeout": 0}, "idle_timeout"),
        ({"name": "a b"}, "name"),
        ({"name": "a" * 65}, "64"),
        ({"workdir": "here"}, "workdir"),
        ({"memory": 1 << 24}, "memory"),
        ({"memory": (128, 1 << 24)}, "memory"),
        ({"cpu": 1_000.0}, "cpu"),
        ({"gpu": "T4"}, "gpu"),
        ({"region": "us-east"}, "region"),
        ({"cloud": "aws"}, "cloud"),
        ({"runtime": "vm"}, "runtime"),
        ({"encrypted_ports": [0]}, "port 0"),
        ({"unencrypted_ports": [70_000]}, "port 70000"),
        ({"encrypted_ports": [80], "h2_ports": [80]}, "twice"),
        ({"encrypted_ports": [80], "block_network": True}, "block_network"),
        ({"outbound_cidr_allowlist": ["10.0.0.1/8"]}, "write 10.0.0.0/8"),
        ({"outbound_cidr_allowlist": ["1.2.3.4"]}, "1.2.3.4/32"),
        ({"outbound_domain_allowlist": ["a.*.com"]}, "front only"),
        ({"outbound_cidr_allowlist": [], "block_network": True}, "block_network"),
        ({"inbound_cidr_allowlist": ["x"]}, "no range"),
        ({"experimental_options": {"made_up": True}}, "made_up"),
        ({"custom_domain": "example.com"}, "custom_domain"),
        ({"include_oidc_identity_token": True}, "include_oidc_identity_token"),
        ({"env": {"A B": "x"}}, "A B"),
    ],
)
def test_what_cannot_be_kept_is_refused(modal, app, create, options, words):
    errors = (modal.exception.InvalidError, ValueError)
    with pytest.raises(errors, match=words):
        create("true", **options)
    assert not ids(modal.Sandbox.list(app_id=app.app_id)), "it runs all the same"


def test_arguments_that_no_program_can_be_given(modal, server, app, create):
    with pytest.raises(modal.exception.InvalidError, match="65536"):
        create("echo", "x" * 70_000)
    # The server says so, too, whatever the client lets pass.
    request = api_pb2.SandboxCreateV2Request(app_id=app.app_id)
    request.definition.timeout_secs = 10
    request.definition.entrypoint_args.extend(["echo", "x" * 70_000])
    status, text = raw_client.send(server, "SandboxCreateV2", request.SerializeToString())
    assert status == raw_client.INVALID and "entrypoint_args" in text


@pytest.mark.log_allows("a sandbox could not be started")
def test_what_is_not_there(modal, create):
    with pytest.raises(modal.exception.NotFoundError, match="im-unknown"):
        create("true", image=modal.Image.from_id("im-unknown"))
    with pytest.raises(modal.exception.Error, match="no-such-program"):
        create("no-such-program")
