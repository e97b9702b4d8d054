"""A function whose containers are used once, and what one finds of the others."""

import os
import random
import time
import uuid

import modal

app = modal.App("single-app")

seen_here: list[int] = []


@app.function(
    single_use_containers=True, restrict_modal_access=True, block_network=True, timeout=120
)
def look(number: int) -> dict:
    """Looks for traces of other inputs, then leaves as many as it can."""
    import subprocess
    import threading

    traces = []
    for folder in ("/tmp", "/root", "/dev/shm", "/var/tmp"):
        traces += [f"{folder}/{name}" for name in os.listdir(folder) if "trace" in name]
    if "TRACE" in os.environ:
        traces.append("environment")
    processes = [pid for pid in os.listdir("/proc") if pid.isdigit()]
    commands = []
    for pid in processes:
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                commands.append(file.read().replace("\0", " ").strip())
        except OSError:
            continue
    found = {
        "number": number,
        "traces": traces,
        "module": list(seen_here),
        "commands": commands,
        "python_random": random.random(),
        "uuid": str(uuid.uuid4()),
        "urandom": os.urandom(16).hex(),
        "boot": time.clock_gettime(time.CLOCK_MONOTONIC),
        "hash": hash("a text"),
    }
    seen_here.append(number)
    os.environ["TRACE"] = str(number)
    for folder in ("/tmp", "/root", "/dev/shm", "/var/tmp"):
        with open(f"{folder}/trace-{number}", "w") as file:
            file.write("x" * 1_000)
    subprocess.Popen(["sleep", "86400"], start_new_session=True)
    subprocess.Popen(["sh", "-c", "trap '' TERM INT HUP; (sleep 86399 &) ; sleep 86398"])
    threading.Thread(target=time.sleep, args=(86_400,), daemon=True).start()
    return found
