"""What the tests of sandboxes share: making and ending them, and looking at what they leave."""

import contextlib
import hashlib
import os
import re
import subprocess
from pathlib import Path

import serving

APP = "sandbox-tests"
# What a link of /proc to a namespace says; those to sockets and pipes look alike.
NAMESPACE = r"(cgroup|ipc|mnt|net|pid|time|user|uts):\[\d+\]$"


def app_of(modal, name: str = APP):
    """The app of the tests' sandboxes."""
    return modal.App.lookup(name, create_if_missing=True)


def client_of(server: serving.Server, monkeypatch):
    """The client's module, and a client of a server of the test's own."""
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    import modal

    return modal, modal.Client.from_credentials(server.env["MODAL_TOKEN_ID"],
                                                server.env["MODAL_TOKEN_SECRET"])


@contextlib.contextmanager
def sandbox(modal, *args, **options):
    """A sandbox that is gone after the block."""
    options.setdefault("app", app_of(modal))
    options.setdefault("image", modal.Image.debian_slim())
    made = modal.Sandbox.create(*args, **options)
    try:
        yield made
    finally:
        made.terminate()


def ran(made, *command, **options) -> str:
    """Runs a command inside and returns what it printed; fails if it fails."""
    process = made.exec(*command, **options)
    out, err = process.stdout.read(), process.stderr.read()
    assert process.wait() == 0, f"{command}: {process.returncode}\n{out}{err}"
    return out


def shell(made, script: str, **options) -> str:
    """As [`ran`], for a shell's script."""
    return ran(made, "sh", "-c", script, **options)


def group_parent(server: serving.Server) -> str:
    """The control group above those of the server's sandboxes."""
    worker = os.path.realpath(server.data_dir / "worker")
    return f"palisade/{hashlib.sha256(worker.encode()).hexdigest()[:12]}-s"


def spares(server: serving.Server) -> set[str]:
    """Names of supervisors that wait for a sandbox, with what will build its container."""
    folder = server.data_dir / "worker/spares"
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def groups(server: serving.Server) -> list[Path]:
    """Control groups of the server's sandboxes, in whichever hierarchies there are."""
    tops = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    parents = {os.path.realpath(top / group_parent(server)) for top in tops}
    found = [Path(one) for one in parents if Path(one).is_dir()]
    below = [entry for one in found for entry in one.iterdir() if entry.is_dir()]
    waiting = spares(server)
    return [entry for entry in below if entry.name not in waiting]


def processes(server: serving.Server) -> list[int]:
    """Processes that run as an id of a container, in control groups of a server: other servers of
    this machine have theirs."""
    found = []
    last = serving.FIRST_ID + serving.IDS_EACH * serving.RANGES_MAX
    group = "/" + group_parent(server).removesuffix("-s")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, TypeError):
            status = (process / "status").read_text()
            uid = int(re.search(r"^Uid:\s+(\d+)", status, re.M)[1])
            in_container = serving.FIRST_ID <= uid < last
            if in_container and group in (process / "cgroup").read_text():
                found.append(int(process.name))
    return found


def all_supervisors(server: serving.Server) -> dict[int, Path]:
    """Supervisors that a server has made: the folder in which each was."""
    found = {}
    made = Path(os.path.realpath(server.data_dir / "worker/spares"))
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            name, folder, *_ = [*cmdline.read_bytes().split(b"\0"), b""]
            folder = Path(os.fsdecode(folder))
            if name == b"palisade-supervisor" and folder.parent == made:
                found[int(cmdline.parent.name)] = folder
    return found


def supervisors(server: serving.Server) -> list[int]:
    """Those that hold a sandbox, whose folder theirs is by now."""
    return [pid for pid, folder in all_supervisors(server).items() if not folder.exists()]


def namespaces() -> set[str]:
    """Namespaces of this machine that a process is in, or holds open."""
    found = set()
    for link in [*Path("/proc").glob("[0-9]*/ns/*"), *Path("/proc").glob("[0-9]*/fd/*")]:
        # Processes and descriptors come and go.
        with contextlib.suppress(OSError):
            if re.match(NAMESPACE, name := os.readlink(link)):
                found.add(name)
    return found


def firewall_lines() -> int:
    """Lines of all rules, and of the lists of addresses in them."""
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True)
    return len(rules.stdout.splitlines())


def kernel_state(server: serving.Server) -> dict[str, int]:
    """How much of each kind a server's sandboxes could leave behind."""
    words = ["ip", "-o", "link", "show"]
    links = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    folder = server.data_dir / "worker/sandboxes"
    running = [one for one in folder.glob("*/sock")] if folder.is_dir() else []
    scratch = [one for one in (server.data_dir / "worker/disk").rglob("*")
               if one.name.startswith("ta-")]
    return {
        "processes": len(processes(server)),
        "supervisors": len(supervisors(server)),
        "groups": len(groups(server)),
        "mounts": Path("/proc/mounts").read_text().count("palisade"),
        "interfaces": len(re.findall(r"^\d+: pal", links, re.M)),
        "namespaces": len(namespaces()),
        "firewall": firewall_lines(),
        "sockets": len(running),
        "scratch folders": len(scratch),
    }


def private_bytes(pid: int) -> int:
    """Memory that goes with a process, in bytes; none if it has gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    kinds = re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", rollup, re.M)
    return sum(map(int, kinds)) << 10
