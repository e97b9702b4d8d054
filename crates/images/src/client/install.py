"""Puts one version of the client into /pkg and what it requires into /__modal/deps.

Runs inside a build step, with the image's own Python. Arguments: the client's version, and the
builder version whose list of requirements counts. PALISADE_WHEELS may name a folder of wheels: if
the client is among them, no index is asked.
"""

import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys

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


def source(version):
    """Where pip looks: an index, or the folder of wheels that has the client."""
    folder = os.environ.get("PALISADE_WHEELS")
    if folder and list(pathlib.Path(folder).glob(f"modal-{version}-*.whl")):
        return ["--no-index", "--find-links", folder]
    return []


def install(target, *arguments):
    """Installs wheels. Gives what pip says when it fails, and nothing when it does not."""
    options = ["--quiet", "--no-cache-dir", "--only-binary", ":all:", "--no-compile"]
    options += source(sys.argv[1])
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target)]
    ended = subprocess.run([*command, *arguments], check=False, text=True, stderr=subprocess.PIPE)
    return (ended.stderr or "no reason is given\n") if ended.returncode else ""


def install_or_end(target, *arguments):
    said = install(target, *arguments)
    if said:
        sys.exit(f"{said}pip fails to install {' '.join(arguments)}")


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


def loosen(pin, wanted, chosen):
    """Widens a pin that the index lacks to what the client requires. Says whether it could."""
    name = canonicalize_name(pin.name)
    specifiers = ",".join(str(r.specifier) for r in wanted.get(name, []) if str(r.specifier))
    wide = f"{pin.name}{specifiers}"
    if chosen[name] == wide:
        return False
    print(f"{chosen[name]} is not to be had; {wide} will do", flush=True)
    chosen[name] = wide
    return True


def install_pins(pins, wanted):
    """Installs exact versions, and where an index lacks one, what the client can do with."""
    chosen = {canonicalize_name(pin.name): f"{pin.name}{pin.specifier}" for pin in pins}
    exact = dict(chosen)
    for _ in pins:
        # With a version of pip's own choice, what that version requires counts as well.
        options = ["--no-deps"] if chosen == exact else []
        said = install(DEPS, *options, *chosen.values())
        if not said:
            return
        shutil.rmtree(DEPS, ignore_errors=True)
        names = re.findall(r"No matching distribution found for ([A-Za-z0-9._-]+)", said)
        missing = [pin for pin in pins if canonicalize_name(pin.name) in
                   {canonicalize_name(name) for name in names}]
        if not any(loosen(pin, wanted, chosen) for pin in missing):
            sys.exit(f"{said}pip fails to install {' '.join(chosen.values())}")
    install_or_end(DEPS, *chosen.values())


def main():
    version, builder = sys.argv[1:]
    install_or_end(PKG, "--no-deps", f"modal=={version}")
    [distribution] = importlib.metadata.distributions(path=[str(PKG)])
    wanted = requirements(distribution.metadata)
    for requirement in wanted.get(IN_PKG, []):
        install_or_end(PKG, "--no-deps", f"{requirement.name}{requirement.specifier}")
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
