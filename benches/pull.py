"""Pulls an image of 1 GiB in 20 layers from a registry on loopback, by three programs in turn.

python3 benches/pull.py FOLDER PULL_PROGRAM: all of it lies below FOLDER, on one file system, and
is removed at the end. Each time includes writing all to the disk (sync). Prints the figures as
JSON.
"""

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

LAYERS = 20
LAYER_BYTES = (1 << 30) // LAYERS
# Sizes of files, over and over: many small ones and a few large, as in installed packages.
SIZES = [700, 3_000, 12_000, 60_000, 250_000]
RUNS = 3


def layer(number):
    """A layer's tar: folders of files that gzip to about half."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        size, count = 0, 0
        while size < LAYER_BYTES:
            if count % 40 == 0:
                folder = tarfile.TarInfo(f"layer{number}/folder{count // 40}")
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(folder)
            content = os.urandom(SIZES[count % len(SIZES)] // 2).hex().encode()
            entry = tarfile.TarInfo(f"layer{number}/folder{count // 40}/file{count}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
            size += len(content)
            count += 1
    return buffer.getvalue()


class Registry:
    """Debian's docker-registry, with one image in it."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
            "http": {"addr": f"127.0.0.1:{self.port}"},
        }
        # JSON is YAML.
        (folder / "registry.yml").write_text(json.dumps(config))
        command = ["docker-registry", "serve", folder / "registry.yml"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit("docker-registry does not start")

    def send(self, method, url, body=b"", kind="application/octet-stream"):
        """One request; gives where the answer leads."""
        headers = {"Content-Type": kind}
        request = urllib.request.Request(url, data=body, method=method, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request).headers.get("Location")

    def push_blob(self, data):
        """Pushes bytes, and describes them."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        base = f"http://127.0.0.1:{self.port}/v2/bench/blobs/uploads/"
        place = self.send("POST", base)
        self.send("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", data)
        return {"digest": digest, "size": len(data)}

    def push(self):
        """Pushes the image; gives its bytes, unpacked and packed."""
        diff_ids, layers, unpacked = [], [], 0
        for number in range(LAYERS):
            tar = layer(number)
            unpacked += len(tar)
            diff_ids.append("sha256:" + hashlib.sha256(tar).hexdigest())
            kind = "application/vnd.oci.image.layer.v1.tar+gzip"
            layers.append({"mediaType": kind, **self.push_blob(gzip.compress(tar, 6))})
        arch = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
        config = {
            "os": "linux",
            "architecture": arch,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": f"layer {number}"} for number in range(LAYERS)],
        }
        config = self.push_blob(json.dumps(config).encode())
        config["mediaType"] = "application/vnd.oci.image.config.v1+json"
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}
        url = f"http://127.0.0.1:{self.port}/v2/bench/manifests/latest"
        self.send("PUT", url, json.dumps(manifest).encode(), kind)
        return unpacked, sum(layer["size"] for layer in layers)


def timed(folder, commands):
    """Seconds that the commands take, with a sync at the end; and of the processors."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    os.sync()
    before, started = os.times(), time.monotonic()
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{command} fails: {done.stderr[-2000:]}")
    os.sync()
    wall, after = time.monotonic() - started, os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])
    shutil.rmtree(folder)
    os.sync()
    return wall, cpu


def main():
    folder, pull = Path(sys.argv[1]), sys.argv[2]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    registry = Registry(folder)
    try:
        unpacked, packed = registry.push()
        name = f"127.0.0.1:{registry.port}/bench:latest"
        work = folder / "work"
        policy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
        ways = {
            "palisade": [[pull, str(work / "store"), name]],
            "skopeo_umoci": [
                [*policy, f"docker://{name}", f"oci:{work}/oci:bench"],
                ["umoci", "unpack", "--image", f"{work}/oci:bench", f"{work}/bundle"],
            ],
            "podman": [
                [
                    *["podman", "--root", f"{work}/root", "--runroot", f"{work}/run"],
                    *["--storage-driver", "overlay", "pull", "--quiet", "--tls-verify=false", name],
                ]
            ],
        }
        times = {way: [] for way in ways}
        for _ in range(RUNS):
            for way, commands in ways.items():
                times[way].append(timed(work, commands))
                print(f"{way}: {times[way][-1][0]:.2f} s", file=sys.stderr)
        figures = {"unpacked_mib": unpacked / (1 << 20), "packed_mib": packed / (1 << 20)}
        for way, pairs in times.items():
            figures[f"{way}_s"] = statistics.median(wall for wall, _ in pairs)
            figures[f"{way}_cpu_s"] = statistics.median(cpu for _, cpu in pairs)
        print(json.dumps(figures))
    finally:
        registry.process.terminate()
        registry.process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
