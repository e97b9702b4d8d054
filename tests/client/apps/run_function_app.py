"""Images that a function's run makes: `MODE` says which is looked into."""

import json
import os
import time
import uuid

import modal

app = modal.App("run-function")
mode = os.environ.get("MODE", "prepared")
mark = os.environ.get("MARK", "")


def prepare(name, *, text):
    """Adds and removes files, and prints."""
    os.makedirs("/data", exist_ok=True)
    with open(f"/data/{name}", "w") as file:
        file.write(f"{text} {uuid.uuid4().hex}")
    if os.path.exists("/etc/debian_version"):
        os.remove("/etc/debian_version")
    print("prepared", text, os.environ.get("KEY"))


def fail(text):
    """Raises."""
    print("before the end")
    raise LookupError(f"no model of {text}")


def linger(text):
    """Takes a while."""
    print("lingers", text, flush=True)
    time.sleep(6)
    with open("/lingered", "w") as file:
        file.write(text)


slim = modal.Image.debian_slim()
arguments = {"args": ("a",), "kwargs": {"text": mark}}
image = slim
if mode in ("prepared", "above"):
    image = slim.run_function(prepare, **arguments)
if mode == "above":
    # Whatever is of the run but not of the image would be listed.
    paths = "/root/* /pkg /__modal /run/palisade/door /run/palisade/arguments"
    listed = image.run_commands(f"ls -d {paths} > /data/listed || true")
    image = listed.run_function(
        prepare, args=("c",), kwargs={"text": mark}, env={"KEY": "for the run"}
    )
if mode == "fail":
    image = slim.run_function(fail, args=(mark,))
if mode == "linger":
    image = slim.run_function(linger, args=(mark,))


@app.function(image=image, block_network=True)
def look():
    """What is there of what was made."""
    found = {}
    for name in os.listdir("/data") if os.path.exists("/data") else ():
        with open(f"/data/{name}") as file:
            found[name] = file.read()
    found["debian_version"] = os.path.exists("/etc/debian_version")
    found["lingered"] = os.path.exists("/lingered")
    found["env"] = "KEY" in os.environ
    return found


@app.local_entrypoint()
def main():
    """Prints what was found."""
    print("found", json.dumps(look.remote()))
