"""Sandboxes as older official clients use them: tests/older/sandbox.py, run by each of them. What
they do not do by themselves stands here as plain requests.
"""

import contextlib
import hashlib
import os

import pytest
from google.protobuf import empty_pb2
from google.protobuf.unknown_fields import UnknownFieldSet
from modal_proto import api_pb2

import raw_client
from image_kit import build
from older_clients import VERSIONS, python_of
from sandbox_kit import client_of, sandbox, shell
from serving import eventually

PARTS = """
    the_entrypoint programs output standard_input a_timeout files folders a_watch a_snapshot its_end
""".split()
STDOUT, STDERR = api_pb2.FILE_DESCRIPTOR_STDOUT, api_pb2.FILE_DESCRIPTOR_STDERR

pytestmark = [pytest.mark.usefixtures("warm"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def image_id(warm, modal):
    return build(modal, modal.Image.debian_slim())


@pytest.mark.parametrize("version", VERSIONS)
def test_sandboxes(server, image_id, version):
    # Some take no certificate on trust, not even on loopback.
    trusted = server.env.get("PALISADE_CA_FILE", "")
    words = [python_of(version), "tests/older/sandbox.py"]
    done = server.run(*words, timeout=240, IMAGE_ID=image_id, SSL_CERT_FILE=trusted)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == PARTS, done.stdout + done.stderr


@pytest.fixture(scope="module")
def task(server, modal):
    """The container of a sandbox."""
    with sandbox(modal) as made:
        yield task_of(server, made)


def task_of(server, made) -> str:
    request = api_pb2.SandboxGetTaskIdRequest(sandbox_id=made.object_id)
    return raw_client.ask(server, "SandboxGetTaskId", request).task_id


def started(server, task, *command, key="", **options) -> str:
    """Starts a program; returns its id."""
    request = api_pb2.ContainerExecRequest(task_id=task, command=command, **options)
    headers = {"x-idempotency-key": key}
    return raw_client.ask(server, "ContainerExec", request, **headers).exec_id


def output(server, exec_id, fd=STDOUT, after=0, timeout=20) -> tuple[bytes, int | None]:
    """What a stream brings, and the exit code if it has come."""
    request = api_pb2.ContainerExecGetOutputRequest(
        exec_id=exec_id, file_descriptor=fd, last_batch_index=after, timeout=timeout,
        get_raw_bytes=True)
    batches = raw_client.ask(server, "ContainerExecGetOutput", request)
    data = b"".join(item.message_bytes for batch in batches for item in batch.items)
    assert not batches or batches[-1].batch_index == after + len(data)
    codes = [batch.exit_code for batch in batches if batch.HasField("exit_code")]
    return data, codes[0] if codes else None


def piece(exec_id, data, index, eof=False):
    message = api_pb2.RuntimeInputMessage(message=data, message_index=index, eof=eof)
    return api_pb2.ContainerExecPutInputRequest(exec_id=exec_id, input=message)


def put(server, exec_id, data, index, eof=False) -> None:
    raw_client.ask(server, "ContainerExecPutInput", piece(exec_id, data, index, eof))


def waited(server, exec_id, timeout=20):
    request = api_pb2.ContainerExecWaitRequest(exec_id=exec_id, timeout=timeout)
    return raw_client.ask(server, "ContainerExecWait", request)


def test_a_call_that_is_sent_again_starts_one_program(server, task):
    script = "echo x >> /ran; cat"
    first = started(server, task, "sh", "-c", script, key="the key")
    assert started(server, task, "sh", "-c", script, key="the key") == first
    assert started(server, task, "sh", "-c", script, key="another") != first
    # Standard input, too, in the order of its numbers.
    for index, data in [(1, b"a"), (2, b"b"), (2, b"b"), (3, b"b")]:
        put(server, first, data, index)
    put(server, first, b"", 4, eof=True)
    assert output(server, first) == (b"abb", 0)
    both = started(server, task, "cat", "/ran")
    assert output(server, both) == (b"x\nx\n", 0)


def test_input_that_was_given_up_goes_on_where_it_stopped(server, task):
    exec_id = started(server, task, "sh", "-c", "sleep 4; sha256sum")
    data = os.urandom(1 << 20)
    request = piece(exec_id, data, 1, eof=True)
    with pytest.raises(TimeoutError):
        # The pipe is full, and nobody reads it yet.
        raw_client.send(
            server, "ContainerExecPutInput", request.SerializeToString(), seconds=1.5)
    put(server, exec_id, data, 1, eof=True)
    said = f"{hashlib.sha256(data).hexdigest()}  -\n"
    assert output(server, exec_id) == (said.encode(), 0)


def test_streams_are_read_from_any_byte_and_end_in_time(server, task):
    exec_id = started(server, task, "sh", "-c", "echo one; echo two >&2; sleep 4; exit 6")
    assert output(server, exec_id, after=1, timeout=0.5) == (b"ne\n", None)
    assert not waited(server, exec_id, timeout=0).completed
    assert output(server, exec_id, STDERR) == (b"two\n", 6)
    assert output(server, exec_id, after=4) == (b"", 6)
    answer = waited(server, exec_id)
    assert (answer.completed, answer.exit_code) == (True, 6)


def test_streams_go_where_they_are_sent(server, task):
    nowhere, joined = api_pb2.EXEC_OUTPUT_OPTION_DEVNULL, api_pb2.EXEC_OUTPUT_OPTION_STDOUT
    script = ("sh", "-c", "echo out; echo err >&2")
    exec_id = started(server, task, *script, stdout_output=nowhere)
    assert (output(server, exec_id), output(server, exec_id, STDERR)) == ((b"", 0), (b"err\n", 0))
    exec_id = started(server, task, *script, stderr_output=joined)
    assert output(server, exec_id) == (b"out\nerr\n", 0)
    pty = api_pb2.PTYInfo(enabled=True, winsz_rows=7, winsz_cols=70, env_term="xterm")
    exec_id = started(server, task, "sh", "-c", "stty size; echo $TERM >&2", pty_info=pty)
    assert output(server, exec_id) == (b"7 70\r\nxterm\r\n", 0)
    assert output(server, exec_id, STDERR) == (b"", 0)


@pytest.mark.parametrize("rpc, request_, status, words", [
    ("ContainerExec", {"terminate_container_on_exit": True}, raw_client.INVALID, "terminate_"),
    ("ContainerExec", {"stdout_output": 3}, raw_client.INVALID, "stdout_output"),
    ("ContainerExec", {"command": []}, raw_client.INVALID, "command"),
    ("ContainerExec", {"secret_ids": ["st-none"]}, raw_client.NOT_FOUND, "st-none"),
    ("ContainerFilesystemExec", {}, raw_client.INVALID, "oneof"),
])
def test_what_cannot_be_done_is_refused(server, task, rpc, request_, status, words):
    given = {"task_id": task}
    if rpc == "ContainerExec":
        given["command"] = ["true"]
    request = getattr(api_pb2, rpc + "Request")(**given | request_)
    answer = raw_client.send(server, rpc, request.SerializeToString())
    assert answer[0] == status and words in answer[1], answer


def test_programs_that_are_not_there_are_not_found(server, task):
    for exec_id in ["", "x", ":", "ta-x:p-1", f"{task}:p-none"]:
        request = api_pb2.ContainerExecWaitRequest(exec_id=exec_id)
        answer = raw_client.send(server, "ContainerExecWait", request.SerializeToString())
        assert answer[0] == raw_client.NOT_FOUND, (exec_id, answer)


def on_file(server, task, **asked):
    """Starts work on a file."""
    request = api_pb2.ContainerFilesystemExecRequest(task_id=task, **asked)
    return raw_client.ask(server, "ContainerFilesystemExec", request)


def test_programs_and_open_files_outlive_the_server(fresh_server, monkeypatch):
    server = fresh_server()
    modal, client = client_of(server, monkeypatch)
    with contextlib.ExitStack() as stack:
        app = modal.App.lookup("older", create_if_missing=True, client=client)
        made = stack.enter_context(sandbox(modal, app=app, client=client))
        task = task_of(server, made)
        exec_id = started(server, task, "sh", "-c", "echo before; cat; exit 3")
        assert output(server, exec_id, timeout=0.5) == (b"before\n", None)
        put(server, exec_id, b"typed ", 1)
        opened = on_file(server, task, file_open_request={"path": "/file", "mode": "w"})
        file = {"file_descriptor": opened.file_descriptor}
        on_file(server, task, file_write_request={**file, "data": b"first "})
        server.restart(kill=True)
        put(server, exec_id, b"again", 2, eof=True)
        assert output(server, exec_id, after=7) == (b"typed again", 3)
        assert waited(server, exec_id).exit_code == 3
        on_file(server, task, file_write_request={**file, "data": b"second"})
        on_file(server, task, file_close_request=file)
        assert shell(made, "sleep 1; cat /file") == "first second"


def followed(server, exec_id) -> tuple[bytes, list[str], bool]:
    """What work on files says, its errors, and whether its end has come."""
    # Newer clients do not know its messages; the request is as that for a program's output.
    request = api_pb2.ContainerExecGetOutputRequest(exec_id=exec_id).SerializeToString()
    batches = raw_client.stream(server, "ContainerFilesystemExecGetOutput", request)
    data, error, eof = 1, 2, 4
    fields = [field for batch in batches
              for field in UnknownFieldSet(empty_pb2.Empty.FromString(batch))]
    said = b"".join(field.data for field in fields if field.field_number == data)
    errors = [str(field.data) for field in fields if field.field_number == error]
    return said, errors, fields[-1].field_number == eof


# Stops the file tool wherever it is to write, until /go is there; then has it go on.
STOPPER = """
import glob, os, signal
stopped = set()
print("ready", flush=True)
while not os.path.exists("/go"):
    for name in glob.glob("/proc/[0-9]*/cmdline"):
        process = int(name.split("/")[2])
        if process in stopped or process == os.getpid():
            continue
        try:
            if b'{"WriteOn":' in open(name, "rb").read():
                os.kill(process, signal.SIGSTOP)
                stopped.add(process)
        except OSError:
            pass
for process in stopped:
    os.kill(process, signal.SIGCONT)
print(len(stopped))
"""


def test_a_write_that_is_given_up_is_gone_on_with(server, task):
    opened = on_file(server, task, file_open_request={"path": "/large", "mode": "w"})
    file = {"file_descriptor": opened.file_descriptor}
    stopper = started(server, task, "python3", "-uc", STOPPER)
    eventually(lambda: output(server, stopper, timeout=0.5)[0] == b"ready\n", 20, "it is ready")
    data = bytes(range(256)) * (16 << 12)
    request = api_pb2.ContainerFilesystemExecRequest(
        task_id=task, file_write_request={**file, "data": data})
    headers = {"x-idempotency-key": "a write"}
    with pytest.raises(TimeoutError):
        raw_client.send(server, "ContainerFilesystemExec", request.SerializeToString(), 3,
                        **headers)
    # Nobody waits for the file meanwhile.
    seek = on_file(server, task, file_seek_request={**file, "offset": 0})
    assert followed(server, seek.exec_id) == (b"", [], True)
    started(server, task, "touch", "/go")
    assert output(server, stopper, after=6) == (b"1\n", 0)
    again = raw_client.ask(server, "ContainerFilesystemExec", request, **headers)
    assert followed(server, again.exec_id) == (b"", [], True)
    checked = started(server, task, "sh", "-c", "wc -c < /large; sha256sum < /large")
    said, code = output(server, checked)
    assert (said.split()[:2], code) == (
        [b"%d" % len(data), hashlib.sha256(data).hexdigest().encode()], 0)
    on_file(server, task, file_close_request=file)


def test_work_in_a_sandbox_that_has_ended_ends(server, modal):
    with sandbox(modal) as made:
        task = task_of(server, made)
        watch = on_file(server, task, file_watch_request={"path": "/tmp"})
        made.terminate()
        for _ in range(2):
            said, errors, eof = followed(server, watch.exec_id)
            assert (said, eof) == (b"", True) and "the sandbox has ended" in errors[0]


# Fills a watch's output with what is no event.
FLOOD = """
import glob, os
for name in glob.glob("/proc/[0-9]*/cmdline"):
    if str(os.getpid()) not in name and b'{"Watch":' in open(name, "rb").read():
        stdout = os.open(name.replace("cmdline", "fd/1"), os.O_WRONLY)
for _ in range(1_000):
    os.write(stdout, b"{}\\n")
os.write(stdout, b"x" * 70_000)
"""


def test_a_watch_that_says_what_is_no_event_is_over(server, modal):
    with sandbox(modal) as made:
        task = task_of(server, made)
        watch = on_file(server, task, file_watch_request={"path": "/tmp"})
        flood = started(server, task, "python3", "-c", FLOOD)
        assert output(server, flood, STDERR) == (b"", 0)
        said, errors, eof = followed(server, watch.exec_id)
        assert (said, eof) == (b"{}\n\n" * 1_000, True)
        assert len(errors) == 1 and "no event" in errors[0]


def test_a_watch_that_nobody_reads_ends(server, task):
    on_file(server, task, file_watch_request={"path": "/tmp"})

    def watches() -> bool:
        exec_id = started(server, task, "sh", "-c", "sleep 2; cat /proc/[0-9]*/cmdline")
        return b'{"Watch":' in output(server, exec_id)[0]

    assert watches()
    eventually(lambda: not watches(), 60, "the watch has ended")
