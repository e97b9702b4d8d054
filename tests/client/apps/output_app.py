"""Restricted output: functions that send pickles to their caller all the same."""

import os
import pickle

import modal

app = modal.App("output-app")
CAREFUL = {
    "restrict_modal_access": True,
    "block_network": True,
    "single_use_containers": True,
    "_experimental_restrict_output": True,
    "timeout": 60,
}


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: str):
        """`path` is the caller's."""
        self.path = path

    def __reduce__(self):
        """What pickle does in its place."""
        return os.mkdir, (self.path,)


def lie(path: str, status: int, data_format: int) -> None:
    """From here on every output is a trap of that status and format."""
    from modal._runtime.container_io_manager import _ContainerIOManager

    send, trap = _ContainerIOManager._send_outputs, pickle.dumps(Trap(path))

    async def send_traps(self, io_context, outputs):
        for output in outputs:
            output.data_format = data_format
            output.result.status = status
            output.result.data = trap
            output.result.exception = "a trap"
            output.result.serialized_tb = trap
            output.result.tb_line_cache = trap
        await send(self, io_context, outputs)

    _ContainerIOManager._send_outputs = send_traps


@app.function(**CAREFUL)
def honest(x: int) -> dict:
    """Results that CBOR expresses, and an exception."""
    if x < 0:
        raise ValueError(f"{x} is negative")
    return {"x": x, "list": [1, 2.5, None, b"bytes"]}


@app.function(**CAREFUL)
def result(path: str, status: int, data_format: int) -> int:
    """Sends a trap as its result."""
    lie(path, status, data_format)
    return 1


@app.function(timeout=60)
def open_result(path: str, status: int, data_format: int) -> int:
    """The same without restricted output."""
    lie(path, status, data_format)
    return 1


@app.function(**CAREFUL)
def stream(path: str, data_format: int):
    """Yields a trap."""
    from modal._runtime.container_io_manager import _ContainerIOManager

    put = _ContainerIOManager.put_data_out

    async def put_trap(self, call, token, index, _, messages):
        traps = [pickle.dumps(Trap(path)) for _ in messages]
        await put(self, call, token, index, data_format, traps)

    _ContainerIOManager.put_data_out = put_trap
    yield 1
