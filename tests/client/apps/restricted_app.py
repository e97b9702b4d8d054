"""Restricted functions that try what they may not."""

import time

import modal

app = modal.App("restricted-app")


def restricted(function):
    """The settings of most functions here; one decorator of the client serves one function."""
    settings = {"restrict_modal_access": True, "block_network": True, "timeout": 60}
    return app.function(**settings)(function)


@app.function()
def open_to_all(x: int) -> int:
    """A function without restrictions, as a target."""
    return x


@app.function(block_network=True)
def slow_truth() -> str:
    """Takes its time to answer."""
    time.sleep(6)
    return "true"


def _attempts() -> dict:
    """What code may try through the client; each raises if the server refuses."""

    def sandbox():
        return modal.Sandbox.create("true", app=modal.App.lookup("other", create_if_missing=True))

    return {
        "queue_put": lambda: modal.Queue.from_name("q", create_if_missing=True).put(1),
        "queue_get": lambda: modal.Queue.from_name("q").get(block=False),
        "queue_ephemeral": lambda: modal.Queue.ephemeral().__enter__(),
        "dict_put": lambda: modal.Dict.from_name("d", create_if_missing=True).put("a", 1),
        "dict_get": lambda: modal.Dict.from_name("d").get("a"),
        "function_by_name": lambda: modal.Function.from_name("restricted-app", "f").remote(1),
        "function_of_the_app": lambda: open_to_all.remote(1),
        "function_spawn": lambda: open_to_all.spawn(1),
        "function_map": lambda: list(open_to_all.map([1, 2])),
        "sandbox": sandbox,
        "secret": lambda: modal.Secret.from_name("s").hydrate(),
        "volume": lambda: modal.Volume.from_name("v", create_if_missing=True).listdir("/"),
        "app": lambda: modal.App.lookup("other", create_if_missing=True),
        "call_by_id": lambda: modal.FunctionCall.from_id("fc-" + "1" * 22).get(timeout=1),
        "environment": lambda: modal.Environment.from_name("main").hydrate(),
        "tunnel": lambda: modal.forward(8000).__enter__(),
    }


@restricted
def attempt(name: str) -> tuple[str, str]:
    """Tries one thing; returns the type and text of what it raised."""
    try:
        answer = _attempts()[name]()
    except BaseException as error:
        return f"{type(error).__module__}.{type(error).__name__}", str(error)
    return "no error", repr(answer)


@restricted
def attempt_unhandled() -> None:
    """Lets the refusal through to the caller."""
    modal.Queue.from_name("q", create_if_missing=True).put(1)


@restricted
def names() -> list[str]:
    """All that can be tried."""
    return list(_attempts())


def on_the_socket(calls: list[tuple[str, bytes]]) -> dict[str, tuple[int, str]]:
    """Sends raw requests through the container's own socket: path -> (status, message).

    A status of -1 is an answer that is no gRPC; -2 is none within ten seconds.
    """
    import asyncio
    import os
    import threading

    from grpclib.client import Channel
    from grpclib.const import Cardinality
    from grpclib.exceptions import GRPCError

    class Raw:
        """Bytes as they are, in place of a message and its codec."""

        __content_subtype__ = "proto"

        def encode(self, message, _type):
            return message

        def decode(self, data, _type):
            return data

    async def one(channel, path, body) -> tuple[int, str]:
        async def talk():
            async with channel.request(path, Cardinality.UNARY_STREAM, bytes, bytes) as stream:
                await stream.send_message(body, end=True)
                answer = await stream.recv_message()
                await stream.recv_trailing_metadata()
                return (0, repr(answer))

        try:
            return await asyncio.wait_for(talk(), 10)
        except GRPCError as error:
            return error.status.value, str(error.message)
        except TimeoutError:
            return -2, "no answer"
        except Exception as error:
            return -1, f"{type(error).__name__}: {error}"

    async def all_of_them():
        path = os.environ["MODAL_SERVER_URL"].removeprefix("unix://")
        channel = Channel(path=path, codec=Raw())
        try:
            return {name: await one(channel, name, body) for name, body in calls}
        finally:
            channel.close()

    # A thread of its own: the function may run inside an event loop.
    result = {}
    thread = threading.Thread(target=lambda: result.update(asyncio.run(all_of_them())))
    thread.start()
    thread.join()
    return result


@app.function(restrict_modal_access=True, block_network=True, timeout=170)
def sweep(calls: list[tuple[str, bytes]]) -> dict[str, tuple[int, str]]:
    """Sends raw requests from a restricted container."""
    return on_the_socket(calls)


@restricted
def other_protocols() -> dict[str, str]:
    """Speaks something else than the client's protocol to the socket: what comes back."""
    import os
    import socket

    path = os.environ["MODAL_SERVER_URL"].removeprefix("unix://")
    requests = {
        "http1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "http1_blob": b"GET /blobs/x HTTP/1.1\r\nHost: x\r\n\r\n",
        "garbage": bytes(range(256)) * 8,
    }
    answers = {}
    for name, request in requests.items():
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(path)
            try:
                sock.sendall(request)
                answers[name] = sock.recv(4096).decode("latin-1")
            except OSError as error:
                answers[name] = f"OSError: {error}"
    return answers


@restricted
def socket_folder() -> dict[str, list[str]]:
    """What lies beside the container's socket, and which sockets are anywhere."""
    import os
    import stat

    path = os.environ["MODAL_SERVER_URL"].removeprefix("unix://")
    found = []
    for folder, folders, files in os.walk("/"):
        folders[:] = [name for name in folders if f"{folder}/{name}" not in ("//proc", "//sys")]
        for name in files:
            try:
                mode = os.lstat(os.path.join(folder, name)).st_mode
            except OSError:
                continue
            if stat.S_ISSOCK(mode):
                found.append(os.path.join(folder, name))
    abstract = [line.split()[-1] for line in open("/proc/net/unix") if "@" in line]
    return {"beside": os.listdir(os.path.dirname(path)), "sockets": found, "abstract": abstract}
