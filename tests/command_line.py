"""The client's own command, as a person runs it: with pipes, or on a terminal."""

import contextlib
import os
import pty
import select
import subprocess
import time

import serving


def modal_says(server, *words: str, code: int = 0) -> str:
    """What a command of the client prints."""
    done = server.run(serving.MODAL, *words, COLUMNS="200")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


class Terminal:
    """A program on a terminal, as a person at a keyboard has it."""

    def __init__(self, server, *command: str):
        self.ours, theirs = pty.openpty()
        env = {**os.environ, **server.env, "TERM": "xterm"}
        subprocess.run(["stty", "rows", "33", "cols", "111"], stdin=theirs, check=True)
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs,
                                        env=env, cwd=serving.REPOSITORY, start_new_session=True)
        os.close(theirs)
        self.seen = ""

    def type(self, text: str) -> None:
        """Presses keys."""
        os.write(self.ours, text.encode())

    def shows(self, text: str, seconds: float = 60) -> None:
        """Waits until it shows a text."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {self.seen!r}"
            if select.select([self.ours], [], [], left)[0]:
                try:
                    self.seen += os.read(self.ours, 65_536).decode(errors="replace")
                except OSError:
                    assert text in self.seen, f"no {text!r} in {self.seen!r}"

    def end(self) -> int:
        """Waits for the program's end; returns its code."""
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.ours], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self.ours, 65_536).decode(errors="replace")
        os.close(self.ours)
        return self.process.returncode
