"""A module that imports what its container has not."""

import modal

app = modal.App("import-app")

if not modal.is_local():
    import no_such_module  # noqa: F401


@app.function(block_network=True)
def nothing() -> None:
    """Is never reached."""


@app.local_entrypoint()
def main() -> None:
    """Calls it."""
    nothing.remote()
