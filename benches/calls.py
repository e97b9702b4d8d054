"""Times calls of the official client against a running server. Prints one JSON object.

    python benches/calls.py ECHO_PORT
"""

import asyncio
import json
import sys
import time

import grpclib.client
import modal
from google.protobuf.wrappers_pb2 import BytesValue
from modal._utils.async_utils import synchronizer
from modal.client import _Client
from modal_proto import api_pb2

app = modal.App("bench")
image = modal.Image.debian_slim()

WARM_CALLS = 400
PARALLEL_CALLS = 600
PARALLEL_CALLERS = 16
FRESH_CALLS = 40
FRESH_MAPPED = 60
MAPPED = 2_000
ECHOES = 2_000


@app.function(image=image, block_network=True, max_containers=1)
def warm(x):
    """One container, always the same."""
    return x


@app.function(image=image, block_network=True, max_containers=1)
def spent(_):
    """Seconds of processor time that this container's process has used so far."""
    return time.process_time()


@app.function(image=image, block_network=True, max_containers=2)
def mapped(x):
    """As many containers as there are cores."""
    return x


@app.function(image=image, block_network=True, single_use_containers=True)
def fresh(x):
    """A container for each input."""
    return x


def quantile(times, q):
    """The value below which the share `q` of `times` lies."""
    times = sorted(times)
    return times[min(len(times) - 1, int(len(times) * q))]


def timed(function, times):
    """Milliseconds that each of `times` calls takes, one after the other."""
    taken = []
    for n in range(times):
        start = time.perf_counter()
        function(n)
        taken.append((time.perf_counter() - start) * 1_000)
    return taken


def container_cpu():
    """Milliseconds of processor time that a call costs in the container."""
    timed(spent.remote, 20)
    first = spent.remote(0)
    timed(spent.remote, WARM_CALLS - 1)
    return (spent.remote(0) - first) * 1_000 / WARM_CALLS


async def parallel():
    """Calls a second when several callers call at the same time."""
    left = iter(range(PARALLEL_CALLS))

    async def caller():
        for n in left:
            await warm.remote.aio(n)

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(PARALLEL_CALLERS)))
    return PARALLEL_CALLS / (time.perf_counter() - start)


async def echo(port):
    """Milliseconds of unary echoes of 1 KiB by the client's own gRPC library, over TCP."""
    channel = grpclib.client.Channel("127.0.0.1", port)
    method = grpclib.client.UnaryUnaryMethod(channel, "/bench.Echo/Echo", BytesValue, BytesValue)
    message = BytesValue(value=bytes(1_024))
    taken = []
    for _ in range(ECHOES):
        start = time.perf_counter()
        await method(message)
        taken.append((time.perf_counter() - start) * 1_000)
    channel.close()
    return taken


@synchronizer.create_blocking
async def stub_echo(port):
    """Milliseconds of the same echoes by the official client's own stub, with all that it adds."""
    client = _Client(f"http://127.0.0.1:{port}", api_pb2.CLIENT_TYPE_CLIENT, ("ak-echo", "as-echo"))
    await client._open()
    # Request and answer are of one form: a string in field 1.
    message = api_pb2.BlobGetRequest(blob_id="x" * 1_024)
    taken = []
    for _ in range(ECHOES):
        start = time.perf_counter()
        answer = await client._stub.BlobGet(message)
        taken.append((time.perf_counter() - start) * 1_000)
        assert len(answer.download_url) == 1_024
    await client.close()
    return taken


def main():
    """Measures and prints."""
    found = {}
    port = int(sys.argv[1])
    echoes, stub_echoes = asyncio.run(echo(port)), stub_echo(port)
    with app.run():
        timed(warm.remote, 20)
        client = time.process_time()
        calls = timed(warm.remote, WARM_CALLS)
        found["client_cpu_ms"] = (time.process_time() - client) * 1_000 / WARM_CALLS
        found["container_cpu_ms"] = container_cpu()
        found["warm_p50_ms"] = quantile(calls, 0.5)
        found["warm_p99_ms"] = quantile(calls, 0.99)
        found["warm_sequential_per_s"] = 1_000 * len(calls) / sum(calls)
        found["warm_parallel_per_s"] = asyncio.run(parallel())
        list(mapped.map(range(50)))
        start = time.perf_counter()
        assert list(mapped.map(range(MAPPED))) == list(range(MAPPED))
        found["map_per_s"] = MAPPED / (time.perf_counter() - start)
        calls = timed(fresh.remote, FRESH_CALLS)
        found["fresh_p50_ms"] = quantile(calls, 0.5)
        found["fresh_p99_ms"] = quantile(calls, 0.99)
        start = time.perf_counter()
        assert list(fresh.map(range(FRESH_MAPPED))) == list(range(FRESH_MAPPED))
        found["fresh_map_per_s"] = FRESH_MAPPED / (time.perf_counter() - start)
    echoes += asyncio.run(echo(port))
    stub_echoes += stub_echo(port)
    found["echo_p50_ms"] = quantile(echoes, 0.5)
    found["echo_p99_ms"] = quantile(echoes, 0.99)
    found["stub_echo_p50_ms"] = quantile(stub_echoes, 0.5)
    found["stub_echo_p99_ms"] = quantile(stub_echoes, 0.99)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
