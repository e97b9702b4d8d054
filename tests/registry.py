"""A real registry on loopback (Debian's docker-registry), and images to fill it with."""

import hashlib
import io
import json
import re
import socket
import subprocess
import tarfile
import time
from collections import Counter
from pathlib import Path

USER, PASSWORD = "me", "open sesame"

# As htpasswd writes it: docker-registry takes bcrypt alone.
HTPASSWD = "me:$2y$04$Gwbu9FnDcEWNKJ6lkHW1neH7iK6QPzCGY0Jldp5IkQtQDKxD9yCpu\n"


class Registry:
    """A running registry; `log` tells what was asked of it."""

    def __init__(self, folder: Path, closed: bool = False):
        """Starts it; `closed` wants the user and password above."""
        folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.host, self.closed, self._log = f"127.0.0.1:{self.port}", closed, folder / "log"
        (folder / "htpasswd").write_text(HTPASSWD)
        auth = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
        config = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": self.host},
            **({"auth": auth} if closed else {}),
        }
        # YAML takes JSON.
        (folder / "config.yml").write_text(json.dumps(config))
        with self._log.open("w") as log:
            command = ["docker-registry", "serve", str(folder / "config.yml")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", self.port)):
            assert time.monotonic() < until and self.process.poll() is None, self.log()
            time.sleep(0.05)

    def log(self) -> str:
        """What it was asked for."""
        return self._log.read_text()

    def pulled(self) -> Counter[str]:
        """How often each blob was asked for: layers, and configurations."""
        return Counter(re.findall(r'"GET /v2/[^ ]*/blobs/(sha256:[0-9a-f]+)', self.log()))

    def push(self, layout: Path, name: str) -> str:
        """Pushes the image of an OCI layout; returns its reference."""
        target = f"docker://{self.host}/{name}"
        creds = ["--dest-creds", f"{USER}:{PASSWORD}"] if self.closed else []
        command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
        subprocess.run([*command, *creds, f"oci:{layout}", target], check=True, timeout=300)
        return f"{self.host}/{name}"

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait(20)


def layers_of(layout: Path) -> set[str]:
    """The digests of the layers of an OCI layout's image."""
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((layout / "blobs/sha256" / digest).read_text())
    return {layer["digest"] for layer in manifest["layers"]}


def layout(folder: Path, layers: list[dict[str, bytes]], **config) -> Path:
    """An OCI layout of one image: each layer maps paths to contents; all files can be executed."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    packed, ids = [], []
    for files in layers:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content), 0o755
                archive.addfile(entry, io.BytesIO(content))
        data = buffer.getvalue()
        ids.append("sha256:" + hashlib.sha256(data).hexdigest())
        packed.append(put(data, "application/vnd.oci.image.layer.v1.tar"))
    description = {
        "os": "linux",
        "architecture": "amd64",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": ids},
    }
    text = json.dumps(description).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(text, "application/vnd.oci.image.config.v1+json"),
        "layers": packed,
    }
    entry = put(json.dumps(manifest).encode(), manifest["mediaType"])
    index = {"schemaVersion": 2, "manifests": [entry]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder
