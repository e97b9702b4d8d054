"""An image whose step fails."""

import modal

app = modal.App("broken-image")
image = modal.Image.debian_slim().run_commands("echo these are the step\\'s own words && false")


@app.function(image=image)
def nothing() -> None:
    """Is never reached."""


@app.local_entrypoint()
def main() -> None:
    """Calls it."""
    nothing.remote()
