"""Restricted functions reach nothing of the server but their own inputs and outputs."""

import re

import pytest
from modal_proto import api_pb2, task_command_router_pb2

pytestmark = pytest.mark.usefixtures("warm")

# What a restricted container needs to live and to work: see docs/wire.md.
OPEN = {
    "ClientHello",
    "ContainerHello",
    "ContainerHeartbeat",
    "TaskResult",
    "FunctionGetInputs",
    "FunctionPutOutputs",
    "FunctionCallGetDataIn",
    "FunctionCallPutDataOut",
    "FunctionGetDynamicConcurrency",
    "BlobCreate",
    "BlobGet",
}

UNAUTHENTICATED = 16
CLIENT = "/modal.client.ModalClient/"
ROUTER = "/modal.task_command_router.TaskCommandRouter/"

ATTEMPTS = [
    "queue_put",
    "queue_get",
    "queue_ephemeral",
    "dict_put",
    "dict_get",
    "function_by_name",
    "function_of_the_app",
    "function_spawn",
    "function_map",
    "sandbox",
    "secret",
    "volume",
    "app",
    "call_by_id",
    "environment",
    "tunnel",
]


@pytest.fixture(scope="module")
def app(modal, warm):
    import restricted_app

    with restricted_app.app.run():
        yield restricted_app


@pytest.mark.parametrize("name", ATTEMPTS)
def test_the_client_is_refused_with_auth_error(app, name):
    kind, text = app.attempt.remote(name)
    assert kind == "modal.exception.AuthError", text
    assert "restricted" in text


def test_every_attempt_is_tested(app):
    assert app.names.remote() == ATTEMPTS


def test_the_caller_sees_the_same_auth_error(app, modal):
    with pytest.raises(modal.exception.AuthError, match="restricted"):
        app.attempt_unhandled.remote()


def names_of(file, service: str) -> list[str]:
    return [method.name for method in file.DESCRIPTOR.services_by_name[service].methods]


def test_every_other_rpc_is_refused_on_the_socket(app):
    """Requests of an attacker who does not use the client: all names that there are."""
    client = names_of(api_pb2, "ModalClient")
    assert len(client) > 280
    assert set(client) >= OPEN
    closed = [CLIENT + name for name in client if name not in OPEN]
    closed += [ROUTER + name for name in names_of(task_command_router_pb2, "TaskCommandRouter")]
    answers = app.sweep.remote([(path, b"") for path in closed])
    assert len(answers) == len(closed)
    let_in = {path: got for path, got in answers.items() if got[0] != UNAUTHENTICATED}
    assert not let_in
    silent = {path: got for path, got in answers.items() if "restricted" not in got[1]}
    assert not silent


def test_names_that_do_not_exist_are_refused(app):
    paths = [
        CLIENT + "NoSuchThing",
        CLIENT,
        CLIENT + "AppCreate/",
        CLIENT + "appcreate",
        "/modal.client.ModalClient//AppCreate",
        "//modal.client.ModalClient/AppCreate",
        "/x/../modal.client.ModalClient/AppCreate",
        "/modal.client.Other/AppCreate",
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/palisade.worker.Worker/Join",
        "/",
        "/" + "a" * 5_000,
    ]
    answers = app.sweep.remote([(path, b"") for path in paths])
    assert len(answers) == len(paths)
    # 0 would be an answer; -2 would be a request that hangs.
    assert not {path: got for path, got in answers.items() if got[0] in (0, -2)}


def test_other_protocols_get_nothing(app):
    answers = app.other_protocols.remote()
    assert len(answers) == 3
    for name, answer in answers.items():
        # A refusal of gRPC is a page too, but an empty one.
        refused = "grpc-status: 16\r\n" in answer and answer.endswith("\r\n\r\n")
        assert refused or not re.match(r"HTTP/1\.1 2\d\d", answer), (name, answer)


def test_only_its_own_socket_is_there(app):
    found = app.socket_folder.remote()
    assert found["beside"] == ["sock"]
    assert len(found["sockets"]) == 1, found
    assert found["abstract"] == []


@pytest.fixture(scope="module")
def foreign(modal, warm, app):
    """Another app's call, input and blob: a restricted container must not reach any."""
    import restricted_app
    from modal._utils.async_utils import synchronizer  # noqa: F401

    call = restricted_app.open_to_all.spawn(41)
    assert call.get() == 41
    return call.object_id


def test_ids_of_others_are_not_found(app, foreign):
    """Requests that the gate lets in, with the ids of somebody else."""
    outputs = api_pb2.FunctionPutOutputsRequest(
        outputs=[
            api_pb2.FunctionPutOutputsItem(
                input_id="in-1234567890123456789012",
                result=api_pb2.GenericResult(status=1, data=b"forged"),
                data_format=1,
            )
        ]
    )
    chunk = api_pb2.DataChunk(index=1, data_format=1, data=b"forged")
    calls = {
        "BlobGet": api_pb2.BlobGetRequest(blob_id="bl-1234567890123456789012"),
        "FunctionPutOutputs": outputs,
        "FunctionCallGetDataIn": api_pb2.FunctionCallGetDataRequest(function_call_id=foreign),
        "FunctionCallPutDataOut": api_pb2.FunctionCallPutDataRequest(
            function_call_id=foreign, data_chunks=[chunk]
        ),
        "FunctionGetInputs": api_pb2.FunctionGetInputsRequest(
            function_id="fu-1234567890123456789012"
        ),
    }
    sent = [(CLIENT + name, message.SerializeToString()) for name, message in calls.items()]
    answers = app.sweep.remote(sent)
    found = {path.removeprefix(CLIENT): got for path, got in answers.items()}
    NOT_FOUND, INVALID = 5, 3
    for name in ("BlobGet", "FunctionCallGetDataIn", "FunctionCallPutDataOut", "FunctionGetInputs"):
        assert found[name][0] in (NOT_FOUND, INVALID), found
    # An answer for an unknown input may be swallowed like a late one, but changes nothing.
    assert found["FunctionPutOutputs"][0] in (0, NOT_FOUND, INVALID), found
