"""A function on an image that only a registry has."""

import modal

app = modal.App("alpine")


@app.function(image=modal.Image.from_registry("alpine:3.20", add_python=None))
def nothing():
    """Does nothing."""


@app.local_entrypoint()
def main():
    """Calls it."""
    nothing.remote()
