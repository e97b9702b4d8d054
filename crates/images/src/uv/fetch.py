"""Puts the programs of a release of uv at the top: run by a build step as `fetch.py RELEASE`.

RELEASE is what stands after the name in a requirement: `==0.8.3`, or nothing for the newest.
"""

import os
import shutil
import subprocess
import sys
import tempfile

folder = tempfile.mkdtemp()
options = ["--no-deps", "--only-binary", ":all:", "--no-compile", "--quiet", "--target", folder]
done = subprocess.run([sys.executable, "-m", "pip", "install", *options, "uv" + sys.argv[1]])
if done.returncode:
    sys.exit(done.returncode)
for name in ("uv", "uvx"):
    shutil.move(os.path.join(folder, "bin", name), "/" + name)
    os.chmod("/" + name, 0o755)
subprocess.run(["/uv", "--version"], check=True)
