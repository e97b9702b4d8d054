"""Functions that meet a host's limits. Few containers: each takes seconds in a virtual machine."""

import modal

app = modal.App("host-app")

TIMEOUT_SECONDS = 12


@app.function(
    restrict_modal_access=True, block_network=True, timeout=300, cpu=(0.25, 0.5), memory=(256, 512)
)
def run(source: str):
    """Runs source and returns its `result`, on half a processor."""
    namespace = {}
    exec(source, namespace)
    return namespace["result"]


@app.function(restrict_modal_access=True, block_network=True, timeout=300, memory=(128, 256))
def eat(mebibytes: int) -> int:
    """Fills memory."""
    return len([bytes([number % 256]) * (1 << 20) for number in range(mebibytes)])


@app.function(
    restrict_modal_access=True, block_network=True, timeout=300, single_use_containers=True
)
def once(number: int) -> dict:
    """Says what it finds of others, and leaves traces."""
    import os

    with open("/proc/1/stat") as file:
        started = file.read().rsplit(") ", 1)[1].split()[19]
    found = {
        "number": number,
        "container": (os.readlink("/proc/self/ns/pid"), started),
        "traces": [name for name in os.listdir("/tmp") if "trace" in name],
        "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
    }
    with open(f"/tmp/trace-{number}", "w") as file:
        file.write("trace")
    os.posix_spawn("/bin/sleep", ["sleep", "86400"], {})
    return found


@app.function(
    restrict_modal_access=True,
    block_network=True,
    timeout=TIMEOUT_SECONDS,
    startup_timeout=300,
    retries=0,
)
def hang() -> None:
    """Leaves children that ignore signals, in sessions of their own, and never returns."""
    import subprocess
    import time

    script = "trap '' TERM INT HUP; (setsid sleep 3599 &); sleep 3598"
    subprocess.Popen(["sh", "-c", script], start_new_session=True)
    time.sleep(3_600)
