"""Much data through many execs: whole, in order, and without filling the server's memory."""

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandbox_kit import private_bytes, sandbox, shell, supervisors

pytestmark = pytest.mark.usefixtures("warm")

EXECS = 64
EACH_BYTES = 32 << 20
CHUNK_BYTES = 1 << 20
# What the server and the supervisor may use for all of them: see docs/limits.md.
MEMORY_BYTES_MAX = 768 << 20


class Peak:
    """The largest memory of some processes while the block runs."""

    def __init__(self, pids):
        self.pids, self.most, self.over = pids, 0, threading.Event()

    def _watch(self):
        while not self.over.wait(0.2):
            self.most = max(self.most, sum(private_bytes(pid) for pid in self.pids))

    def __enter__(self):
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def test_sixty_four_execs_stream_in_and_out(modal, server, capsys):
    data = os.urandom(EACH_BYTES)
    expected = hashlib.sha256(data).hexdigest()
    with sandbox(modal, memory=512, timeout=900) as made:
        def one(_):
            process = made.exec("cat", text=False)
            hasher = hashlib.sha256()

            def read():
                for part in process.stdout:
                    hasher.update(part)

            reader = threading.Thread(target=read)
            reader.start()
            for at in range(0, EACH_BYTES, CHUNK_BYTES):
                process.stdin.write(data[at:at + CHUNK_BYTES])
                process.stdin.drain()
            process.stdin.write_eof()
            process.stdin.drain()
            reader.join()
            assert process.wait() == 0
            return hasher.hexdigest()

        with Peak([server.pid, *supervisors(server)]) as peak, ThreadPoolExecutor(EXECS) as pool:
            hashes = list(pool.map(one, range(EXECS)))
    with capsys.disabled():
        print(f"\n{EXECS} execs, {EACH_BYTES >> 20} MiB in and out each: server and supervisor "
              f"used {peak.most >> 20} MiB at most")
    assert hashes == [expected] * EXECS
    assert peak.most < MEMORY_BYTES_MAX


def test_a_gigabyte_of_output_comes_whole(modal):
    script = "import sys, hashlib\nblock = bytes(range(256)) * 4096\nfor n in range(1024):\n" \
             "    sys.stdout.buffer.write(block)\n"
    block = bytes(range(256)) * 4096
    expected = hashlib.sha256(block * 1024).hexdigest()
    with sandbox(modal, memory=256) as made:
        process = made.exec("python3", "-c", script, text=False)
        hasher, length = hashlib.sha256(), 0
        for part in process.stdout:
            hasher.update(part)
            length += len(part)
        assert process.wait() == 0
    assert length == 1 << 30
    assert hasher.hexdigest() == expected


def test_what_nobody_reads_is_kept(modal, server):
    # Some clients wait for a program's end before they read what it has printed.
    with sandbox(modal) as made, Peak([server.pid, *supervisors(server)]) as peak:
        process = made.exec("sh", "-c", "yes | head -c 400000000 | tee /copy >&2; touch /done")
        assert process.wait() == 0
        expected = shell(made, "ls /done; sha256sum /copy").split()
        hasher = hashlib.sha256()
        for part in process.stderr:
            hasher.update(part.encode())
        assert expected[:2] == ["/done", hasher.hexdigest()]
    assert peak.most < MEMORY_BYTES_MAX


def test_a_program_that_reads_no_more(modal):
    with sandbox(modal) as made:
        process = made.exec("sh", "-c", "head -c 10 >/dev/null; exec <&-; sleep 1; exit 5")
        with pytest.raises(modal.exception.ConflictError, match="reads no more|has ended"):
            for _ in range(100):
                process.stdin.write(bytes(CHUNK_BYTES))
                process.stdin.drain()
        # Whoever is told so finds how it ended.
        assert process.poll() == 5
