"""Makes snapshots and mounts, and looks at them again: `make`, `look <made>`, `end <made>`."""

import json
import sys

import modal


def say(sandbox, script: str) -> str:
    process = sandbox.exec("sh", "-c", script)
    output = process.stdout.read()
    assert process.wait() == 0, process.stderr.read()
    return output.strip()


def make() -> dict:
    app = modal.App.lookup("snapshots", create_if_missing=True)
    image = modal.Image.debian_slim(python_version="3.11")
    sandbox = modal.Sandbox.create(app=app, image=image, timeout=240)
    say(sandbox, "mkdir /work; echo old > /work/old; echo kept > /kept")
    snapshot = sandbox.snapshot_filesystem()
    sandbox.mount_image("/mounted", sandbox.snapshot_directory("/work"))
    say(sandbox, "echo new > /mounted/new")
    return {"sandbox": sandbox.object_id, "snapshot": snapshot.object_id}


def look(made: dict) -> dict:
    app = modal.App.lookup("snapshots", create_if_missing=True)
    image = modal.Image.from_id(made["snapshot"])
    fresh = modal.Sandbox.create(app=app, image=image, timeout=60)
    sandbox = modal.Sandbox.from_id(made["sandbox"])
    # What the mounted folder holds now is kept, too, and can be laid elsewhere.
    fresh.mount_image("/again", sandbox.snapshot_directory("/mounted"))
    mounted = say(fresh, "cat /again/old /again/new").replace("\n", " ")
    assert mounted == say(sandbox, "cat /mounted/old /mounted/new").replace("\n", " ")
    kept = say(fresh, "cat /kept")
    fresh.terminate()
    return {"snapshot": kept, "mounted": mounted}


def end(made: dict) -> dict:
    sandbox = modal.Sandbox.from_id(made["sandbox"])
    sandbox.unmount_image("/mounted")
    assert say(sandbox, "ls /mounted") == ""
    sandbox.terminate()
    return {}


if __name__ == "__main__":
    verb, rest = sys.argv[1], [json.loads(word) for word in sys.argv[2:]]
    print(json.dumps({"make": make, "look": look, "end": end}[verb](*rest)))
