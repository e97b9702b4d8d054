"""What tests of images share: a build's log, the layers that are stored, packages to install."""

import asyncio
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pip
from modal_proto import api_pb2

import raw_client
import serving


def build(modal, image):
    """Builds an image in an app of its own; returns its id."""
    app = modal.App("builds")
    with app.run():
        image.build(app)
    return image.object_id


def log_of(server, image_id: str) -> str:
    """All that the build of an image said."""

    async def read():
        request = api_pb2.ImageJoinStreamingRequest(
            image_id=image_id, timeout=30, include_logs_for_finished=True
        )
        lines = []
        async with raw_client.stub(server) as service:
            stream = service.ImageJoinStreaming.open(metadata=raw_client.metadata(server))
            async with stream:
                await stream.send_message(request, end=True)
                async for message in stream:
                    lines += [one.data for one in message.task_logs]
        return "".join(lines)

    return asyncio.run(asyncio.wait_for(read(), 60))


def images(server) -> list[dict]:
    """What `palisade image list` says, newest first."""
    listed = server.palisade("image", "list", "--json").stdout
    return [json.loads(line) for line in listed.splitlines()]


def layers(server) -> set[str]:
    """The layers that are stored."""
    return {path.name for path in (server.data_dir / serving.IMAGES / "layers").iterdir()}


def files_with(server, names: set[str], text: str) -> list[str]:
    """Files of these layers that hold a text, in their names or content."""
    folders = [server.data_dir / serving.IMAGES / "layers" / name for name in names]
    if not folders:
        return []
    found = subprocess.run(
        ["grep", "-rlaF", "--", text, *map(str, folders)], capture_output=True, text=True
    )
    return found.stdout.splitlines()


def wheel(folder: Path, name: str, version: str) -> Path:
    """A package of one module that says its version."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def package_index() -> str | None:
    """The index that this host's pip asks, if it is not pip's own: steps reach that one."""
    command = ["/usr/bin/env", "python3", "-m", "pip", "config", "get", "global.index-url"]
    said = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return said or None


def python_archive(path: Path, links=("python", "python3")) -> None:
    """An archive as those of python-build-standalone, of this host's Python 3.11 and this pip.

    `links` are those beside the program; releases before October 2024 have no `python`.
    """
    program, library = Path("/usr/bin/python3.11"), Path("/usr/lib/python3.11")
    assert program.exists(), "tests take this Python from Debian 12: apt install python3.11"

    def wanted(info: tarfile.TarInfo):
        parts = Path(info.name).parts
        skipped = {"test", "idlelib", "tkinter", "ensurepip", "lib2to3", "EXTERNALLY-MANAGED"}
        return None if skipped & set(parts) or "config-3.11" in info.name else info

    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.add(program, "python/bin/python3.11")
        archive.add(library, "python/lib/python3.11", filter=wanted)
        # Where Debian's Python looks below any prefix.
        packages = "python/lib/python3.11/dist-packages"
        for name in links:
            link = tarfile.TarInfo(f"python/bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "python3.11"
            archive.addfile(link)
        archive.add(Path(pip.__file__).parent, f"{packages}/pip")
        text = b"WHERE = 'imported'\n"
        module = tarfile.TarInfo("python/lib/python3.11/palisade_marker.py")
        module.size, module.mode, module.mtime = len(text), 0o640, 1_600_000_000
        archive.addfile(module, io.BytesIO(text))
