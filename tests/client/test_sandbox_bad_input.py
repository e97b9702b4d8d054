"""What cannot be done is said clearly, by name, and costs nothing that is there."""

import uuid

import pytest
from modal_proto import api_pb2, task_command_router_pb2

import raw_client
from raw_client import NOT_FOUND, OK, PERMISSION_DENIED, ROUTER, UNAUTHENTICATED, send
from sandbox_kit import app_of, ran, sandbox, shell

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture(scope="module")
def living(modal, warm):
    """A sandbox that must live through all of this."""
    with sandbox(modal, timeout=900, name="living") as made:
        shell(made, "echo kept > /kept")
        yield made
        assert shell(made, "cat /kept") == "kept\n"


def refused(modal, text: str, *args, kind="InvalidError", **options):
    """A sandbox that is not made, for a reason that holds `text`."""
    options = {"app": app_of(modal), "image": modal.Image.debian_slim(), **options}
    with pytest.raises(getattr(modal.exception, kind), match=text):
        modal.Sandbox.create(*args, **options)


def test_an_unknown_image(modal, living):
    image = modal.Image.from_id("im-0000000000000000000000")
    refused(modal, "im-0000000000000000000000", image=image, kind="NotFoundError")


@pytest.mark.parametrize("name", ["with space", "a" * 65, "slash/ed", "ünï", ""])
def test_bad_names(modal, living, name):
    refused(modal, "(?i)name", name=name)


def test_a_name_that_is_taken(modal, living):
    refused(modal, "living", name="living", kind="AlreadyExistsError")


def test_too_long_arguments(modal, living):
    refused(modal, "(?i)arg", "echo", "x" * 70_000)
    with pytest.raises(modal.exception.InvalidError, match="(?i)arg"):
        living.exec("echo", "x" * 70_000)


def test_networks_that_contradict_themselves(modal, living):
    refused(modal, "(?i)block_network", block_network=True, outbound_cidr_allowlist=["1.1.1.0/24"])
    refused(modal, "(?i)block_network|port", block_network=True, unencrypted_ports=[80])
    refused(modal, "1.1.1.1/24", outbound_cidr_allowlist=["1.1.1.1/24"])
    refused(modal, "not-a-range", outbound_cidr_allowlist=["not-a-range"])
    refused(modal, "a..b", outbound_domain_allowlist=["a..b"])


@pytest.mark.parametrize("port", [0, 70_000, -1])
def test_bad_ports(modal, living, port):
    with pytest.raises((modal.exception.InvalidError, ValueError), match="(?i)port|range"):
        modal.Sandbox.create(app=app_of(modal), image=modal.Image.debian_slim(),
                             unencrypted_ports=[port])


@pytest.mark.parametrize("timeout", [0, -5, 100_000])
def test_bad_timeouts(modal, living, timeout):
    with pytest.raises((modal.exception.InvalidError, ValueError), match="(?i)timeout|range"):
        modal.Sandbox.create(app=app_of(modal), image=modal.Image.debian_slim(), timeout=timeout)


def test_more_memory_than_there_is(modal, living):
    refused(modal, "(?i)memory", memory=1 << 24)


@pytest.mark.parametrize("options", [
    {"gpu": "T4"}, {"custom_domain": "example.test"}, {"include_oidc_identity_token": True},
    {"_experimental_enable_snapshot": True}, {"region": "us-east"}, {"cloud": "aws"},
])
def test_what_cannot_be_had_is_refused_by_name(modal, living, options):
    text = next(iter(options)).removeprefix("_experimental_").split("_")[0]
    with pytest.raises(modal.exception.Error, match=f"(?i){text}"):
        modal.Sandbox.create(app=app_of(modal), image=modal.Image.debian_slim(), **options)


def test_a_working_folder_that_is_not_absolute(modal, living):
    refused(modal, "(?i)workdir", workdir="not/absolute")


def test_stdin_after_its_end(modal, living):
    process = living.exec("cat")
    process.stdin.write("one")
    process.stdin.write_eof()
    process.stdin.drain()
    with pytest.raises((ValueError, EOFError, modal.exception.Error)):
        process.stdin.write("two")
        process.stdin.drain()
    assert process.stdout.read() == "one"


def test_what_cannot_be_executed(modal, living):
    with pytest.raises(modal.exception.Error, match="no-such-program"):
        living.exec("no-such-program").wait()
    with pytest.raises(modal.exception.Error, match="/no/such/folder"):
        living.exec("true", workdir="/no/such/folder").wait()
    with pytest.raises(modal.exception.Error, match="(?i)permission|/etc/passwd"):
        living.exec("/etc/passwd").wait()


def test_a_sandbox_that_has_ended(modal, living):
    with sandbox(modal, "sh", "-c", "echo last words; exit 3") as made:
        made.wait()
        assert made.returncode == 3
        assert made.stdout.read() == "last words\n"
        with pytest.raises(modal.exception.Error, match="(?i)ended|finished|not found"):
            made.exec("true").wait()


@pytest.mark.parametrize("path", ["relative", "/with\0nul", "/etc/../../../../etc/hostname/x"])
def test_bad_paths(modal, living, path):
    with pytest.raises((modal.exception.Error, ValueError, OSError)):
        living.filesystem.read_bytes(path)


def test_links_lead_nowhere_outside(modal, living):
    shell(living, "ln -sf ../../../../../../../../proc/1/root/etc/shadow /out; "
                  "ln -sf /../../../../work /up")
    with pytest.raises((modal.exception.Error, OSError)):
        living.filesystem.read_bytes("/up/main/README.md")
    # The root of process 1 is the sandbox's own root.
    assert ran(living, "sh", "-c", "cat /proc/1/root/kept 2>/dev/null || echo closed") in (
        "kept\n", "closed\n")


def test_a_router_token_opens_its_own_sandbox_only(modal, server, living):
    def access(made):
        request = api_pb2.SandboxGetCommandRouterAccessRequest(sandbox_id=made.object_id)
        return raw_client.ask(server, "SandboxGetCommandRouterAccess", request)

    def start(task: str, token: str) -> int:
        body = task_command_router_pb2.TaskExecStartRequest(
            task_id=task, exec_id=str(uuid.uuid4()), command_args=["true"])
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return send(server, "TaskExecStart", body.SerializeToString(), service=ROUTER,
                    **headers)[0]

    with sandbox(modal) as other:
        task = living._get_task_id()
        mine, theirs = access(living).jwt, access(other).jwt
        assert start(task, mine) == OK
        assert start(task, theirs) in (NOT_FOUND, PERMISSION_DENIED)
        changed = mine[:-6] + ("AAAAAA" if mine[-6:] != "AAAAAA" else "BBBBBB")
        for token in ("", "x", "not.a.token", changed):
            assert start(task, token) == UNAUTHENTICATED, token
        assert start("ta-" + "0" * 22 + "V", mine) in (NOT_FOUND, PERMISSION_DENIED)
