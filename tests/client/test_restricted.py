"""Restricted functions reach nothing of the server but their own inputs and outputs."""

import base64
import hashlib
import pickle
import re
import urllib.request

import pytest
from modal_proto import api_pb2, task_command_router_pb2

import raw_client
from raw_client import CLIENT, INVALID, NOT_FOUND, OK, ROUTER, UNAUTHENTICATED

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


def forge(app, calls: dict) -> dict[str, tuple[int, str]]:
    """Sends messages from a restricted container, past the client: name -> status and text."""
    sent = [(CLIENT + name, message.SerializeToString()) for name, message in calls.items()]
    answers = app.sweep.remote(sent)
    return {path.removeprefix(CLIENT): got for path, got in answers.items()}


def blob_of_the_user(server) -> str:
    """A blob that the client uploads for somebody else."""
    data = b"a secret of somebody else"
    request = api_pb2.BlobCreateRequest(
        content_md5=base64.b64encode(hashlib.md5(data).digest()).decode(),
        content_sha256_base64=base64.b64encode(hashlib.sha256(data).digest()).decode(),
        content_length=len(data),
    )
    answer = raw_client.ask(server, "BlobCreate", request)
    url = answer.upload_urls.items[0]
    put = urllib.request.Request(url, data=data, method="PUT")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(put) as done:
        assert done.status == 200
    blob_id = answer.blob_ids[0]
    got = raw_client.ask(server, "BlobGet", api_pb2.BlobGetRequest(blob_id=blob_id))
    assert got.download_url
    return blob_id


def test_what_belongs_to_others_is_not_found(app, server):
    """Requests that the gate lets in, with ids that exist and are somebody else's."""
    call = app.open_to_all.spawn(41)
    assert call.get() == 41
    chunk = api_pb2.DataChunk(index=1, data_format=1, data=b"forged")
    found = forge(app, {
        "BlobGet": api_pb2.BlobGetRequest(blob_id=blob_of_the_user(server)),
        "FunctionCallGetDataIn": api_pb2.FunctionCallGetDataRequest(
            function_call_id=call.object_id
        ),
        "FunctionCallPutDataOut": api_pb2.FunctionCallPutDataRequest(
            function_call_id=call.object_id, data_chunks=[chunk]
        ),
        "FunctionGetInputs": api_pb2.FunctionGetInputsRequest(
            function_id=app.open_to_all.object_id
        ),
    })
    assert len(found) == 4
    wrong = {name: got for name, got in found.items() if got[0] not in (NOT_FOUND, INVALID)}
    assert wrong == {}


def test_an_answer_for_somebody_elses_input_changes_nothing(app, server):
    """The forged result comes while the true one is being made."""
    arguments = pickle.dumps(((), {}))
    request = api_pb2.FunctionMapRequest(
        function_id=app.slow_truth.object_id,
        function_call_type=api_pb2.FUNCTION_CALL_TYPE_UNARY,
        function_call_invocation_type=api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC,
        pipelined_inputs=[
            api_pb2.FunctionPutInputsItem(
                idx=0, input=api_pb2.FunctionInput(args=arguments, data_format=1)
            )
        ],
    )
    made = raw_client.ask(server, "FunctionMap", request)
    forged = api_pb2.FunctionPutOutputsItem(
        input_id=made.pipelined_inputs[0].input_id,
        result=api_pb2.GenericResult(status=1, data=pickle.dumps("forged")),
        data_format=1,
    )
    found = forge(app, {"FunctionPutOutputs": api_pb2.FunctionPutOutputsRequest(outputs=[forged])})
    assert found["FunctionPutOutputs"][0] in (OK, NOT_FOUND, INVALID), found
    assert modal_call(made.function_call_id).get(timeout=60) == "true"


def modal_call(call_id: str):
    import modal

    return modal.FunctionCall.from_id(call_id)
