"""Requests past the client, as an attacker or a broken client would send them."""

import asyncio
from contextlib import asynccontextmanager

from grpclib.client import Channel, UnaryStreamMethod
from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError
from modal_proto import api_grpc

CLIENT = "/modal.client.ModalClient/"
ROUTER = "/modal.task_command_router.TaskCommandRouter/"

# Statuses of gRPC.
OK, INVALID, NOT_FOUND, EXHAUSTED, OUT_OF_RANGE, UNIMPLEMENTED = 0, 3, 5, 8, 11, 12
CONFLICT = 9
PERMISSION_DENIED, UNAUTHENTICATED = 7, 16


class Bytes:
    """Messages are bytes already."""

    __content_subtype__ = "proto"

    def encode(self, message, _type):
        """As it is."""
        return message

    def decode(self, data, _type):
        """As it is."""
        return data


def metadata(server, **changes: str) -> dict[str, str]:
    """The headers of a client; a change to nothing leaves one out."""
    headers = {
        "x-modal-client-type": "1",
        "x-modal-client-version": "1.6.4",
        "x-modal-token-id": server.env["MODAL_TOKEN_ID"],
        "x-modal-token-secret": server.env["MODAL_TOKEN_SECRET"],
    } | changes
    return {name: value for name, value in headers.items() if value}


def channel(server, **settings) -> Channel:
    """A connection to the server's port."""
    host, port = server.url.removeprefix("http://").split(":")
    return Channel(host, int(port), **settings)


def send(server, rpc: str, body: bytes, seconds: float = 30, service: str = CLIENT,
         **changes) -> tuple[int, str]:
    """One request: its status and the text of the refusal."""

    async def talk():
        connection = channel(server, codec=Bytes())
        headers = metadata(server, **changes)
        kind = (Cardinality.UNARY_STREAM, bytes, bytes)
        try:
            async with connection.request(service + rpc, *kind, metadata=headers) as stream:
                await stream.send_message(body, end=True)
                await stream.recv_message()
                await stream.recv_trailing_metadata()
            return OK, ""
        except GRPCError as error:
            return error.status.value, str(error.message)
        finally:
            connection.close()

    return asyncio.run(asyncio.wait_for(talk(), seconds))


def stream(server, rpc: str, body: bytes, seconds: float = 60) -> list[bytes]:
    """All answers of a stream, for rpcs that the client of today does not know."""

    async def talk():
        connection = channel(server, codec=Bytes())
        kind = (Cardinality.UNARY_STREAM, bytes, bytes)
        try:
            async with connection.request(CLIENT + rpc, *kind, metadata=metadata(server)) as sent:
                await sent.send_message(body, end=True)
                return [message async for message in sent]
        finally:
            connection.close()

    return asyncio.run(asyncio.wait_for(talk(), seconds))


@asynccontextmanager
async def stub(server):
    """The generated stub of the client's service."""
    connection = channel(server)
    try:
        yield api_grpc.ModalClientStub(connection)
    finally:
        connection.close()


def ask(server, rpc: str, request, **changes):
    """One request that is granted: its answer, or all answers of a stream."""

    async def talk():
        async with stub(server) as service:
            method, headers = getattr(service, rpc), metadata(server, **changes)
            if isinstance(method, UnaryStreamMethod):
                async with method.open(metadata=headers) as stream:
                    await stream.send_message(request, end=True)
                    return [message async for message in stream]
            return await method(request, metadata=headers)

    return asyncio.run(asyncio.wait_for(talk(), 30))
