"""An argument of a chosen size."""

import modal

app = modal.App("big-app")


@app.function(block_network=True)
def size(data: bytes) -> int:
    """The size of what arrived."""
    return len(data)


@app.local_entrypoint()
def main(mib: int) -> None:
    """Sends so many MiB."""
    assert size.remote(b"x" * (mib << 20)) == mib << 20
