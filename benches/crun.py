"""Times `crun run` of the same Python with the same imports, over the same layers, beside a plain
subprocess. Prints one JSON object. Runs in a mount namespace of its own (see xtask/src/bench.rs).

    python benches/crun.py FOLDER LAYER...      layers are folders, bottom first
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

RUNS = 25
IMPORTS = "import modal._container_entrypoint"
UNIFIED = "/sys/fs/cgroup/unified"


def quantile(times, q):
    """The value below which the share `q` of `times` lies."""
    times = sorted(times)
    return times[min(len(times) - 1, int(len(times) * q))]


def timed(command):
    """Milliseconds of each run of a command."""
    taken = []
    for n in range(RUNS + 2):
        start = time.perf_counter()
        subprocess.run([word.replace("%", str(n)) for word in command], check=True,
                       stdin=subprocess.DEVNULL)
        taken.append((time.perf_counter() - start) * 1_000)
    # The first two fill caches.
    return taken[2:]


def bundle(folder, layers, command):
    """A bundle over the layers that runs a command; gives its folder."""
    for name in ("upper", "work", "rootfs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    options = ",".join([
        "lowerdir=" + ":".join(reversed(layers)),
        f"upperdir={folder}/upper", f"workdir={folder}/work",
    ])
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, folder / "rootfs"],
                   check=True)
    subprocess.run(["crun", "spec"], cwd=folder, check=True)
    path = folder / "config.json"
    spec = json.loads(path.read_text())
    spec["process"]["terminal"] = False
    spec["process"]["args"] = command
    spec["process"]["env"] += ["PYTHONPATH=/root:/pkg", "MODAL_IS_REMOTE=1"]
    # What this process may have; crun refuses to raise it.
    spec["process"].pop("rlimits", None)
    spec["root"] = {"path": "rootfs", "readonly": False}
    path.write_text(json.dumps(spec))
    return folder


def main():
    """Measures and prints."""
    folder, layers = Path(sys.argv[1]), sys.argv[2:]
    if os.path.ismount(UNIFIED):
        # crun refuses hosts with controllers of both versions: hide the empty tree from it.
        subprocess.run(["umount", UNIFIED], check=True)
    where = bundle(folder, layers, ["python", "-c", IMPORTS])
    runs = timed(["crun", "run", "--bundle", str(where), "palisade-bench-%"])
    plain = timed([sys.executable, "-c", IMPORTS])
    print(json.dumps({
        "crun_p50_ms": quantile(runs, 0.5), "crun_p99_ms": quantile(runs, 0.99),
        "subprocess_p50_ms": quantile(plain, 0.5), "subprocess_p99_ms": quantile(plain, 0.99),
    }))


if __name__ == "__main__":
    main()
