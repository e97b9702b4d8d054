"""Times `crun run`, `podman run` and `runsc run` of one command over the same layers. Prints the
figures as JSON. Runs in a mount namespace of its own (see xtask/src/bench_sandboxes.rs).

    python benches/engines.py FOLDER LAYER...      layers are folders, bottom first
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from crun import bundle, quantile

RUNS = 25
COMMAND = ["echo", "there"]
UNIFIED = "/sys/fs/cgroup/unified"


def timed(command, variables=None):
    """Milliseconds until each run of a command has printed and ended."""
    taken = []
    for n in range(RUNS + 2):
        words = [word.replace("%", str(n)) for word in command]
        start = time.perf_counter()
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env={**os.environ, **(variables or {})})
        taken.append((time.perf_counter() - start) * 1_000)
        if done.returncode != 0 or done.stdout != b"there\n":
            raise SystemExit(f"{words} fails: {done.stdout!r} {done.stderr!r}")
    # The first two fill caches.
    return taken[2:]


def main():
    """Measures and prints."""
    folder, layers = Path(sys.argv[1]), sys.argv[2:]
    figures = {}
    if os.path.ismount(UNIFIED):
        # crun refuses hosts with controllers of both versions: hide the empty tree from it, and
        # from podman, which runs it.
        subprocess.run(["umount", UNIFIED], check=True)
    where = bundle(folder, layers, COMMAND)

    def note(name, taken):
        figures[f"{name}_p50_ms"] = quantile(taken, 0.5)
        figures[f"{name}_p99_ms"] = quantile(taken, 0.99)

    runsc = ["runsc", "--rootless=false", "--network=none", "--ignore-cgroups",
             "--platform=ptrace", "--root", str(folder / "runsc"), "run",
             "--bundle", str(where), "palisade-bench-%"]
    note("runsc", timed(runsc))
    # A tree of its own as its root file system; no image store and no network of its making. It
    # asks for higher limits than it may have where this process has no CAP_SYS_RESOURCE.
    limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
    note("podman", timed(["podman", "--root", str(folder / "podman"), "--runroot",
                          str(folder / "podman-run"), "run", "--rm", "--network=none",
                          "--cgroups=disabled", *limits, "--rootfs", str(where / "rootfs"),
                          *COMMAND]))
    note("crun", timed(["crun", "run", "--bundle", str(where), "palisade-bench-%"]))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
