"""A call that does nothing: it makes the base image and the client's files."""

import modal

app = modal.App("warm")


@app.function()
def nothing() -> None:
    """Does nothing."""


@app.local_entrypoint()
def main() -> None:
    """Calls it."""
    nothing.remote()
