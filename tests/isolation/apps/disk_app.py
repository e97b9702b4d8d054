"""Writes until it may not."""

import errno

import modal

app = modal.App("disk-app")


@app.function(block_network=True, restrict_modal_access=True)
def fill() -> str:
    """Writes up to a gigabyte; says what stopped it, and when."""
    written = 0
    try:
        with open("/root/filler", "wb") as file:
            for _ in range(1_024):
                file.write(b"\0" * (1 << 20))
                file.flush()
                written += 1
    except OSError as error:
        return f"stopped by {errno.errorcode[error.errno]} after {written} MiB"
    return f"wrote {written} MiB"


@app.local_entrypoint()
def main() -> None:
    """Says what happened."""
    print(fill.remote())
