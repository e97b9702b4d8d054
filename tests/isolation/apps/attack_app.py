"""A container in which attacks run: restricted, without a network, as any untrusted code."""

import modal

app = modal.App("attack-app")


@app.function(restrict_modal_access=True, block_network=True, timeout=60)
def attack(source: str):
    """Runs the source of one attack and returns its `result`."""
    namespace = {}
    exec(source, namespace)
    return namespace["result"]


@app.function(restrict_modal_access=True, block_network=True, timeout=60, memory=(128, 256))
def small(source: str):
    """The same, in a container of 256 MiB."""
    namespace = {}
    exec(source, namespace)
    return namespace["result"]
