"""Calls that outlive their caller and the server."""

import json
import os
import time
import uuid

import modal

app = modal.App("recovery-app")


@app.function(block_network=True, max_containers=2)
def note(number: int) -> tuple[int, str]:
    """Its number, and a name for this very execution; says so in the log too."""
    print(f"ran {number}", flush=True)
    time.sleep(0.02)
    return number, str(uuid.uuid4())


@app.local_entrypoint()
def spawn(count: int, path: str) -> None:
    """Spawns so many calls and writes down their ids."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda number: note.spawn(number).object_id, range(count)))
    with open(path + ".new", "w") as file:
        json.dump(ids, file)
    os.rename(path + ".new", path)


@app.local_entrypoint()
def map_all(count: int, path: str) -> None:
    """Maps, and writes down what came, in the order in which it came."""
    results = []
    for result in note.map(range(count)):
        results.append(result)
        if len(results) == 50:
            open(path + ".begun", "w").close()
    with open(path, "w") as file:
        json.dump(results, file)
