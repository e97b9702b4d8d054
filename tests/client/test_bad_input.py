"""What is wrong is refused with words that help; the server goes on."""

import asyncio
import base64
import hashlib
import os
import subprocess

import aiohttp
import grpclib
import pytest
from modal_proto import api_pb2

import raw_client
import serving
from raw_client import EXHAUSTED, INVALID, NOT_FOUND, OUT_OF_RANGE, UNAUTHENTICATED, UNIMPLEMENTED
from raw_client import send

pytestmark = pytest.mark.usefixtures("warm")

def run_example(server, **variables):
    """A whole run of the example, to see how the client tells its user."""
    return server.run(serving.MODAL, "run", "tests/client/apps/warm_app.py", **variables)


def test_a_wrong_secret_is_refused(server):
    done = run_example(server, MODAL_TOKEN_SECRET="as-wrong")
    assert done.returncode == 1
    assert "token" in (done.stdout + done.stderr).lower()
    headers = {"x-modal-token-secret": "as-wrong"}
    assert send(server, "AppList", b"", **headers)[0] == UNAUTHENTICATED


def test_a_token_goes_with_its_file(fresh_server):
    server = fresh_server(images=False)
    old = dict(server.env)
    assert server.stop() == 0
    (server.data_dir / "token.json").unlink()
    server.start()
    assert server.env["MODAL_TOKEN_ID"] != old["MODAL_TOKEN_ID"]
    headers = {
        "x-modal-token-id": old["MODAL_TOKEN_ID"],
        "x-modal-token-secret": old["MODAL_TOKEN_SECRET"],
    }
    assert send(server, "AppList", b"", **headers)[0] == UNAUTHENTICATED
    assert send(server, "AppList", b"")[0] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"x-modal-token-id": "ak-nobody"},
        {"x-modal-token-id": "", "x-modal-token-secret": ""},
        {"x-modal-token-id": "' OR 1=1 --", "x-modal-token-secret": "x" * 5_000},
        # Saying that one is a container makes nobody one.
        {"x-modal-client-type": "3", "x-modal-token-id": "", "x-modal-token-secret": ""},
    ],
)
def test_nobody_gets_in(server, changes):
    status, text = send(server, "AppList", b"", **changes)
    assert status == UNAUTHENTICATED
    assert server.env["MODAL_TOKEN_SECRET"] not in text


def test_unknown_ids_are_not_found(server, modal):
    digits = "1234567890123456789012"
    with pytest.raises(modal.exception.NotFoundError):
        modal.FunctionCall.from_id(f"fc-{digits}").get(timeout=1)
    with pytest.raises(modal.exception.NotFoundError):
        modal.Function.from_name("no-such-app", "f").remote()
    requests = {
        "AppHeartbeat": api_pb2.AppHeartbeatRequest(app_id=f"ap-{digits}"),
        "FunctionMap": api_pb2.FunctionMapRequest(function_id=f"fu-{digits}"),
        "ImageJoinStreaming": api_pb2.ImageJoinStreamingRequest(image_id=f"im-{digits}", timeout=1),
        "BlobGet": api_pb2.BlobGetRequest(blob_id=f"bl-{digits}"),
        "FunctionCallCancel": api_pb2.FunctionCallCancelRequest(function_call_id=f"fc-{digits}"),
    }
    for rpc, request in requests.items():
        status, text = send(server, rpc, request.SerializeToString())
        assert status == NOT_FOUND, (rpc, status, text)
        assert digits in text, text


@pytest.mark.parametrize("bad", ["", "x", "fu-", "ap-1234567890123456789012", "fu-" + "z" * 9_000,
                                 "fu-../../etc/passwd", "fu-\x00"])
def test_ids_of_a_wrong_form_are_refused(server, bad):
    request = api_pb2.FunctionMapRequest(function_id=bad).SerializeToString()
    status, text = send(server, "FunctionMap", request)
    assert status in (INVALID, NOT_FOUND), (status, text)


@pytest.mark.parametrize("body", [b"\xff" * 64, b"\x0a\xff\xff\xff\xff\x0f", b"\x00", b"\x0a\x05a"])
def test_garbage_is_refused(server, body):
    status, text = send(server, "AppCreate", body)
    assert status == INVALID, (status, text)


def test_a_message_beyond_the_limit_is_refused(server):
    request = b"\x0a" + b"\xff\xff\xff\x38" + b"x" * (119 << 20)
    try:
        status, text = send(server, "AppCreate", request, seconds=60)
    except (grpclib.exceptions.StreamTerminatedError, ConnectionError):
        # The server need not read it to its end.
        return
    assert status in (INVALID, EXHAUSTED, OUT_OF_RANGE), (status, text)


def test_a_file_with_a_wrong_hash_is_refused(server):
    other = hashlib.sha256(b"two").hexdigest()
    request = api_pb2.MountPutFileRequest(data=b"one", sha256_hex=other)
    status, text = send(server, "MountPutFile", request.SerializeToString())
    assert status == INVALID, (status, text)
    assert "sha256" in text or "hash" in text, text
    # It is not there now either.
    asked = api_pb2.MountBatchedCheckExistenceRequest(sha256_hex_hashes=[request.sha256_hex])
    assert send(server, "MountBatchedCheckExistence", asked.SerializeToString())[0] == 0


def test_an_upload_with_a_wrong_hash_is_refused(server, modal):
    """The body of a blob must be what was announced."""
    announced, sent = b"a" * 1_000, b"b" * 1_000

    def digest(algorithm) -> str:
        return base64.b64encode(algorithm(announced).digest()).decode()

    request = api_pb2.BlobCreateRequest(
        content_md5=digest(hashlib.md5),
        content_sha256_base64=digest(hashlib.sha256),
        content_length=len(announced),
    )
    answer = raw_client.ask(server, "BlobCreate", request)

    async def upload():
        url = answer.upload_urls.items[0] if answer.upload_urls.items else answer.upload_url
        async with aiohttp.ClientSession() as session:
            wrong = await session.put(url, data=sent)
            short = await session.put(url, data=announced[:500])
            right = await session.put(url, data=announced)
            # A client that does not hear of its success sends again.
            again = await session.put(url, data=announced)
            assert (again.status, again.headers["ETag"]) == (200, right.headers["ETag"])
            assert 400 <= (await session.put(url, data=sent)).status < 500
            forged = await session.put(url[:-4] + "AAAA", data=announced)
            return wrong.status, short.status, right.status, forged.status

    wrong, short, right, forged = asyncio.run(upload())
    assert 400 <= wrong < 500
    assert 400 <= short < 500
    assert right == 200
    assert 400 <= forged < 500


def test_an_unknown_rpc_is_unimplemented(server):
    assert send(server, "NoSuchThing", b"")[0] == UNIMPLEMENTED


def test_unserved_things_say_so(server, modal):
    with pytest.raises(modal.exception.UnimplementedError, match="not served"):
        modal.Volume.from_name("v", create_if_missing=True).listdir("/")


def define(modal, **settings):
    """Defines and calls a function with these settings."""
    app = modal.App("bad-app")

    def nothing():
        return None

    function = app.function(serialized=True, **settings)(nothing)
    with app.run():
        return function.remote()


def test_a_gpu_is_refused_by_name(server, modal):
    with pytest.raises(modal.exception.Error, match="(?i)gpu"):
        define(modal, gpu="H100")


def test_more_memory_than_there_is_is_refused(server, modal):
    with pytest.raises(modal.exception.Error, match="(?i)memory"):
        define(modal, memory=300_000)


def test_a_larger_disk_than_there_is_is_refused(server, modal):
    with pytest.raises(modal.exception.Error, match="(?i)disk"):
        define(modal, ephemeral_disk=3 << 20)


def test_a_region_is_refused_by_name(server, modal):
    with pytest.raises(modal.exception.Error, match="(?i)region"):
        define(modal, region="us-east")


def test_an_unsupported_python_is_refused_with_those_that_are_there(server, modal):
    with pytest.raises(modal.exception.Error) as caught:
        define(modal, image=modal.Image.debian_slim(python_version="3.12"))
    assert "3.12" in str(caught.value)
    assert "3.11" in str(caught.value)


def test_an_image_step_that_fails_shows_its_output(server):
    done = server.run(serving.MODAL, "run", "tests/client/apps/broken_image_app.py")
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "these are the step's own words" in output


def test_a_module_that_does_not_import_is_an_error_that_names_it(server):
    done = server.run(serving.MODAL, "run", "tests/client/apps/import_app.py")
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "ModuleNotFoundError" in output
    assert "no_such_module" in output


def test_an_argument_over_the_limit_is_refused(fresh_server):
    server = fresh_server(flags=["--payload-bytes-max", str(8 << 20)])
    done = server.run(serving.MODAL, "run", "tests/client/apps/big_app.py", "--mib", "9")
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "8388608" in output or "8 MiB" in output, output
    done = server.run(serving.MODAL, "run", "tests/client/apps/big_app.py", "--mib", "7")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_second_server_on_the_same_data_is_refused(server):
    command = [str(serving.BINARY), "serve", "--data-dir", str(server.data_dir),
               "--listen", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert done.stdout == ""
    assert str(server.data_dir) in done.stderr
    assert run_example(server).returncode == 0


def test_a_port_in_use_is_named(server, tmp_path):
    listen = server.url.removeprefix("http://")
    command = [str(serving.BINARY), "serve", "--data-dir", str(tmp_path / "d"), "--listen", listen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert listen in done.stderr


def test_a_corrupt_database_is_refused_by_its_name(fresh_server):
    server = fresh_server(images=False)
    assert server.stop() == 0
    database = server.data_dir / "palisade.db"
    assert database.exists()
    database.write_bytes(b"this is no database " * 1_000)
    for rest in ("-wal", "-shm"):
        database.with_name(database.name + rest).unlink(missing_ok=True)
    done = subprocess.run(server.command(), capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "palisade.db" in done.stderr
    # It was not thrown away.
    assert database.read_bytes().startswith(b"this is no database")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "palisade-test", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.log_allows("(?i)space|full|disk")
def test_a_full_disk_is_an_error_and_not_the_end(small_disk, fresh_server):
    server = fresh_server(images=False, data_dir=small_disk / "data", start=False)
    (small_disk / "data").mkdir(mode=0o700)
    server.start()
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(b"\0" * (1 << 20))
                file.flush()
        except OSError:
            pass
    data = b"x" * (1 << 20)
    request = api_pb2.MountPutFileRequest(data=data, sha256_hex=hashlib.sha256(data).hexdigest())
    status, text = send(server, "MountPutFile", request.SerializeToString())
    assert status == EXHAUSTED, (status, text)
    assert "space" in text or "disk" in text, text
    filler.unlink()
    assert send(server, "MountPutFile", request.SerializeToString()) == (0, "")


def test_after_all_this_the_server_is_well(server):
    done = run_example(server)
    assert done.returncode == 0, done.stdout + done.stderr
    assert os.path.exists(f"/proc/{server.pid}")
