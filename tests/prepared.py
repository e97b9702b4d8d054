"""What `run_function` runs: in a module of its own, because its container gets that one alone."""

from pathlib import Path


def prepare(text: str):
    """Leaves a file."""
    Path("/prepared").write_text(text)
