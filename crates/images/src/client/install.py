"""Puts one version of the client into /pkg and what it requires into /__modal/deps.

Runs inside a build step, with the image's own Python. Arguments: the client's version, and the
builder version whose list of requirements counts.
"""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

PKG = pathlib.Path("/pkg")
DEPS = pathlib.Path("/__modal/deps")
IN_PKG = "synchronicity"

SITECUSTOMIZE = '''\
"""Lets the client find what it requires, after everything that the image itself has."""

import importlib.machinery
import importlib.util
import os
import sys

if "/__modal/deps" not in sys.path:
    sys.path.append("/__modal/deps")


def _run_next():
    """Python runs only the first module of this name; the image may have one of its own."""
    here = os.path.dirname(os.path.abspath(__file__))
    paths = [path for path in sys.path if os.path.abspath(path) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", paths)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_run_next()
'''


def pip(verb, *arguments, may_fail=False):
    """Runs pip for wheels only. Says whether it succeeded."""
    options = ["--quiet", "--no-cache-dir", "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", verb, *options, *arguments]
    kwargs = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} if may_fail else {}
    ended = subprocess.run(command, check=False, **kwargs)
    if ended.returncode and not may_fail:
        sys.exit(f"pip {verb} fails for {' '.join(arguments)}")
    return ended.returncode == 0


def install(target, *arguments, may_fail=False):
    return pip("install", "--no-compile", "--target", str(target), *arguments, may_fail=may_fail)


def requirements(metadata):
    """The requirements of a package that count for this Python, by name."""
    found = {}
    for text in metadata.get_all("Requires-Dist") or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def pinned(builder):
    """The client's own list of exact versions for a builder version."""
    # Clients before 1.1 keep the lists in another folder.
    paths = [path for name in ("builder", "requirements")
             for path in (PKG / "modal" / name).glob("20*.txt")]
    path = next((path for path in paths if path.stem == builder), None)
    if path is None:
        names = sorted(path.stem for path in paths)
        sys.exit(f"this client has no list of requirements for the builder version {builder}; "
                 f"it has {', '.join(names)}")
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    pins = [Requirement(line) for line in lines if line]
    return [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]


def loosen(pin, wanted):
    """A pin that the index lacks, as widely as the client itself requires the package."""
    name = canonicalize_name(pin.name)
    specifiers = ",".join(str(r.specifier) for r in wanted.get(name, []) if str(r.specifier))
    print(f"{pin.name}{pin.specifier} is not to be had; {pin.name}{specifiers} will do",
          flush=True)
    return f"{pin.name}{specifiers}"


def install_pins(pins, wanted):
    texts = [f"{pin.name}{pin.specifier}" for pin in pins]
    if install(DEPS, "--no-deps", *texts, may_fail=True):
        return
    # Some exact version is missing. Find out which, and let pip choose those.
    shutil.rmtree(DEPS, ignore_errors=True)
    chosen = []
    with tempfile.TemporaryDirectory() as scratch:
        for pin, text in zip(pins, texts):
            is_there = pip("download", "--no-deps", "--dest", scratch, text, may_fail=True)
            chosen.append(text if is_there else loosen(pin, wanted))
    install(DEPS, *chosen)


def main():
    version, builder = sys.argv[1:]
    install(PKG, "--no-deps", f"modal=={version}")
    [distribution] = importlib.metadata.distributions(path=[str(PKG)])
    wanted = requirements(distribution.metadata)
    for requirement in wanted.get(IN_PKG, []):
        install(PKG, "--no-deps", f"{requirement.name}{requirement.specifier}")
    # The rest of the list is what real containers have; command line tools are not in it.
    install_pins(pinned(builder), wanted)
    for useless in [PKG / "bin", PKG / "modal_docs", DEPS / "bin"]:
        shutil.rmtree(useless, ignore_errors=True)
    (PKG / "sitecustomize.py").write_text(SITECUSTOMIZE)
    # Hashes are not checked again: the layer never changes, and its times mean nothing.
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash",
         str(PKG), str(DEPS)],
        check=False,
    )
    environment = {**os.environ, "PYTHONPATH": "/root:/pkg", "MODAL_IS_REMOTE": "1"}
    code = "import modal, modal._container_entrypoint"
    if subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode:
        sys.exit(f"the client {version} does not start with the packages above")


main()
