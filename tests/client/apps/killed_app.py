"""Builds that take a while: a pull, steps, and a function's run."""

import os
import time

import modal

app = modal.App("killed")
# Inside, neither is there, and nothing is built.
reference, mark = os.environ.get("REFERENCE", "none"), os.environ.get("MARK", "")


def prepare(text):
    """Writes a lot, slowly."""
    for n in range(20):
        with open(f"/prepared-{n}", "wb") as file:
            file.write(text.encode() * 10_000)
        time.sleep(0.05)


steps = [f"head -c 3000000 /dev/urandom > /made-{n}; sleep 0.3; echo {mark}" for n in range(3)]
image = modal.Image.from_registry(reference).run_commands(*steps[:2]).run_commands(steps[2])
image = image.run_function(prepare, args=(mark,))


@app.function(image=image, block_network=True)
def look():
    """What is there of what was made."""
    names = sorted(os.listdir("/"))
    return sum(name.startswith("made-") for name in names), sum("prepared" in n for n in names)


@app.local_entrypoint()
def main():
    """Prints what was found."""
    print("found", look.remote())
