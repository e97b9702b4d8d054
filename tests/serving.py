"""A real `palisade serve` process, and what a client needs to reach it."""

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
# The `modal` command of the running Python.
MODAL = str(Path(sys.executable).parent / "modal")
BINARY = Path(os.environ.get("PALISADE_BIN", TARGET / "debug/palisade"))

READY_SECONDS_MAX = 60
STOP_SECONDS_MAX = 30
READY = re.compile(r"palisade is ready at (https?://[0-9.]+:([0-9]+)) \(data in (.+)\)$")

# What a data directory keeps between runs: it costs minutes, and holds nothing of a test.
IMAGES = "worker/images"

LEVEL = re.compile(r"\b(WARN|ERROR)\b|panicked at")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

# The first host id of containers, and how many ids each has: see docs/limits.md.
FIRST_ID, IDS_EACH, RANGES_MAX = 1_879_048_192, 65_536, 4_096


def cleared(data_dir: Path) -> Path:
    """The data directory as if new, but for the images."""
    aside = data_dir.with_name(data_dir.name + "-images")
    if not aside.exists() and (data_dir / IMAGES).exists():
        (data_dir / IMAGES).rename(aside)
    if data_dir.exists():
        shutil.rmtree(data_dir)
    (data_dir / IMAGES).parent.mkdir(parents=True)
    if aside.exists():
        aside.rename(data_dir / IMAGES)
    return data_dir


def share_images(source: Path, target: Path) -> None:
    """Links the files of an image store to another: they are never written to again."""
    (target / IMAGES).parent.mkdir(parents=True)
    subprocess.run(["cp", "-al", source / IMAGES, target / IMAGES], check=True)


class Server:
    """A server on a data directory of its own; the port stays the same when it starts again."""

    def __init__(self, data_dir: Path, log: Path, flags=(), prefix=(), host="127.0.0.1"):
        """`flags` go to the server, which listens at `host`; `prefix` is a command that runs it,
        and its clients.
        """
        self.data_dir, self.log = data_dir, log
        self.flags, self.prefix = list(flags), list(prefix)
        self.process: subprocess.Popen[str] | None = None
        self.url, self.env = "", {}
        self._host, self._listen = host, f"{host}:0"

    def command(self) -> list[str]:
        """What starts it. setpriv: should pytest die, the server ends."""
        serve = [str(BINARY), "serve", "--data-dir", str(self.data_dir), "--listen", self._listen]
        death = ["setpriv", "--pdeathsig", "TERM", "--"]
        return [*self.prefix, *death, *serve, *self.flags]

    def start(self) -> "Server":
        """Starts it and waits until it is ready; fails with its last words if it is not."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        timer = _kill_later(self.process, READY_SECONDS_MAX)
        line = self.process.stdout.readline().rstrip("\n")
        timer.cancel()
        ready = READY.match(line)
        if not ready:
            self.kill()
            raise AssertionError(f"the server is not ready: {line!r}\n{self.last_words()}")
        self.url = ready[1]
        self._listen = f"{self._host}:{ready[2]}"
        self.env = self._environment()
        return self

    def _environment(self) -> dict[str, str]:
        pairs = {}
        for line in self.palisade("env").stdout.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["export"]:
                pairs.update(word.split("=", 1) for word in words[1:])
        return pairs

    @property
    def pid(self) -> int:
        """The process of the server."""
        return self.process.pid

    def kill(self) -> None:
        """Ends it as a power cut would."""
        if self.process and self.process.poll() is None:
            self.process.kill()
        self._reap()

    def stop(self) -> int:
        """Ends it with SIGTERM; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            words = self.last_words()
            raise AssertionError(f"the server does not end on SIGTERM\n{words}") from None
        return self._reap()

    def _reap(self) -> int:
        code = self.process.wait(STOP_SECONDS_MAX)
        self.process.stdout.close()
        return code

    def restart(self, kill: bool = False) -> "Server":
        """Starts it again, on the same port and data."""
        if kill:
            self.kill()
        else:
            assert self.stop() == 0, self.last_words()
        return self.start()

    def log_size(self) -> int:
        """How long the log is now."""
        return self.log.stat().st_size if self.log.exists() else 0

    def log_since(self, size: int) -> str:
        """The log from `size` on."""
        with self.log.open("rb") as log:
            log.seek(size)
            return COLOUR.sub("", log.read().decode(errors="replace"))

    def last_words(self, lines: int = 40) -> str:
        """The end of the log."""
        return "\n".join(self.log_since(0).splitlines()[-lines:]) if self.log.exists() else ""

    def complaints(self, since: int, allowed: list[str]) -> list[str]:
        """The lines of the log that someone should look at, but for those that a test expects."""
        lines = [line for line in self.log_since(since).splitlines() if LEVEL.search(line)]
        return [line for line in lines if not any(re.search(one, line) for one in allowed)]

    def run(self, *command: str, timeout: float = 120, **variables: str):
        """Runs a program with this server's settings; returns what it printed and its code."""
        return subprocess.run(
            [*self.prefix, *command],
            cwd=REPOSITORY,
            env={**os.environ, **self.env, **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def end_sandboxes(self) -> None:
        """Ends those that live: they would outlive the server."""
        if any((self.data_dir / "worker/sandboxes").glob("*/sock")):
            self.palisade("sandbox", "terminate", "--all")

    def palisade(self, *words: object, check: bool = True):
        """Runs a command of the binary on this server's data; returns as `run`, and fails if it
        does, unless told not to."""
        command = [str(BINARY), *map(str, words), "--data-dir", str(self.data_dir)]
        done = self.run(*command, timeout=300)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done


def _kill_later(process: subprocess.Popen, seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    return timer


def container_processes(server: Server) -> list[int]:
    """Processes below the server that run as an id of a container."""
    found = []
    for pid in descendants(server.pid):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        uid = int(re.search(r"^Uid:\s+(\d+)", status, re.M)[1])
        if FIRST_ID <= uid < FIRST_ID + IDS_EACH * RANGES_MAX:
            found.append(pid)
    return found


def container_groups(server: Server) -> list[Path]:
    """Control groups of the server's containers, in whichever hierarchies there are."""
    worker = os.path.realpath(server.data_dir / "worker")
    parent = f"palisade/{hashlib.sha256(worker.encode()).hexdigest()[:12]}"
    tops = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    parents = {os.path.realpath(top / parent) for top in tops if (top / parent).is_dir()}
    return [entry for one in parents for entry in Path(one).iterdir() if entry.is_dir()]


def nothing_runs(server: Server) -> bool:
    """No container of the server is left."""
    return not container_processes(server) and not container_groups(server)


def descendants(root: int) -> list[int]:
    """All processes that a process started, and theirs."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(") ", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
    family = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        if not more:
            return sorted(family - {root})
        family |= more


def eventually(condition, seconds: float, what: str):
    """Waits until `condition()` holds and returns it; fails with `what` when it does not."""
    deadline = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
